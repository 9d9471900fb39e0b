//! A way of running guests: SVM or VMX. The run loop is compiled once for each.

use xenolith_core::VcpuRef;

use super::{hardware::Hardware, regs::GuestRegs, vcpu::ArchVcpu};
use crate::{X86_64, cpu::percpu::PerCpu};

/// One of the CPU vendors' ways.
pub trait Backend: 'static {
    /// A stopped vCPU's state.
    type Hw: Hardware;

    /// The vCPU's state.
    fn hardware(vcpu: &ArchVcpu) -> *mut Self::Hw;

    /// The vCPU will run on this CPU next.
    fn load(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>);

    /// The vCPU runs on this CPU no more.
    fn save(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>);

    /// The CPU has saved a vCPU and loads no other one now.
    fn rest(_: &PerCpu) {}

    /// Runs the guest until it stops.
    ///
    /// # Safety
    /// The vCPU is loaded on this CPU; its registers and state are borrowed by nobody.
    unsafe fn enter(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>, regs: *mut GuestRegs);
}
