//! What guests in hardware virtualization ask of devices and vCPUs by hypercalls (`physdev.h`, `vcpu.h`).

use xenolith_abi::hvm_vcpu::VcpuHvmContext;
use xenolith_core::{Errno, VcpuRef, guest::Caller};
use xenolith_hal::GuestVirt;

use super::start::Start;
use crate::X86_64;

/// `VCPUOP_initialise`: registers for a vCPU that waits for its start. It runs with them once `VCPUOP_up` is called.
pub fn initialise(
    caller: Caller<'_, X86_64>,
    vcpu: &VcpuRef<X86_64>,
    arg: GuestVirt,
) -> Result<i64, Errno> {
    let context: VcpuHvmContext = caller.read(arg)?;
    let mut place = vcpu.arch.start.lock();
    if !vcpu.arch.lapic.signals().is_waiting_for_start() {
        return Err(Errno::EEXIST);
    }
    let start = Start::new(&context, &caller.domain().arch.policy)?;
    // Who is told of them takes them out of their place after this.
    *place = Some(start);
    if vcpu.arch.lapic.signals().give_registers() {
        Ok(0)
    } else {
        Err(Errno::EEXIST)
    }
}

/// Interrupts of a domain in hardware virtualization come through its emulated controllers, which it programs itself, so
/// most operations have nothing to do: devices and interrupts are announced, and that is all.
pub fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
    use xenolith_abi::physdev::PhysdevOp;
    if !caller.domain().config.privileged {
        return Err(Errno::ENOSYS);
    }
    match PhysdevOp::try_from(cmd)? {
        PhysdevOp::PciDeviceAdd
        | PhysdevOp::PciDeviceRemove
        | PhysdevOp::PciMmcfgReserved
        | PhysdevOp::DbgpOp => caller.read::<u32>(arg).map(|_| 0),
        _ => Err(Errno::ENOSYS),
    }
}
