//! The machine as the core sees it.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_arch_common::{RamFrame, heap_use};
use xenolith_hal::{
    ArchTimer, AtomicOp, CpuId, Fault, GuestPhys, GuestVirt, Hal, HeapUse, Mfn, Nanos, Order,
};

use crate::{
    console,
    cpu::{
        self,
        percpu::{self, PerCpu},
    },
    guest::{
        interrupts,
        vcpu::{ArchDomain, ArchVcpu},
    },
    mm::{fences::GStage, guest_access, hyp::Direct},
    sbi, timer,
};

/// A RISC-V machine. All its state is in the hardware and in this crate's statics.
#[derive(Clone, Copy, Default)]
pub struct Riscv64;

/// Whether the vCPU's context is in this CPU's registers.
#[inline]
fn is_loaded_here(vcpu: &ArchVcpu) -> bool {
    PerCpu::try_current()
        .and_then(|cpu| {
            let loaded = cpu.loaded.try_borrow().ok()?;
            Some(core::ptr::eq(&loaded.as_ref()?.vcpu().arch, vcpu))
        })
        .unwrap_or(false)
}

impl Hal for Riscv64 {
    type Vcpu = ArchVcpu;
    type Domain = ArchDomain;
    type P2m = GStage;
    type Frame = RamFrame;

    const CAPABILITIES: &'static str = "xen-3.0-riscv64 ";

    #[inline(always)]
    fn cpu(&self) -> CpuId {
        percpu::cpu_id()
    }

    fn kick(&self, cpu: CpuId) {
        if cpu != self.cpu() {
            sbi::kick(cpu);
        }
    }

    #[inline]
    fn interrupt_waits(&self) -> bool {
        cpu::regs::read!("sip") & cpu::regs::read!("sie") != 0
    }

    #[inline]
    fn now(&self) -> Nanos {
        timer::now()
    }

    fn set_timer(&self, deadline: Option<Nanos>) {
        timer::set(deadline);
    }

    #[inline]
    fn read_frame(&self, mfn: Mfn, offset: usize, buf: &mut [u8]) -> Result<(), Fault> {
        Direct::read(mfn, offset, buf)
    }

    #[inline]
    fn write_frame(&self, mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault> {
        Direct::write(mfn, offset, buf)
    }

    fn copy_frame(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
        Direct::copy(to, from, len)
    }

    fn zero_frames(&self, first: Mfn, order: Order) {
        Direct::zero(first, order);
    }

    #[inline]
    fn atomic64(&self, mfn: Mfn, offset: usize, op: AtomicOp<u64>) -> Result<u64, Fault> {
        Direct::atomic64(mfn, offset, op)
    }

    #[inline]
    fn atomic32(&self, mfn: Mfn, offset: usize, op: AtomicOp<u32>) -> Result<u32, Fault> {
        Direct::atomic32(mfn, offset, op)
    }

    #[inline]
    fn atomic16(&self, mfn: Mfn, offset: usize, op: AtomicOp<u16>) -> Result<u16, Fault> {
        Direct::atomic16(mfn, offset, op)
    }

    #[inline]
    fn atomic8(&self, mfn: Mfn, offset: usize, op: AtomicOp<u8>) -> Result<u8, Fault> {
        Direct::atomic8(mfn, offset, op)
    }

    #[inline]
    fn frame(&self, mfn: Mfn) -> Option<Self::Frame> {
        Direct::frame(mfn)
    }

    #[inline(always)]
    fn word32(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u32>) -> u32 {
        Direct::word32(frame, offset, op)
    }

    #[inline(always)]
    fn word16(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u16>) -> u16 {
        Direct::word16(frame, offset, op)
    }

    #[inline(always)]
    fn word64(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u64>) -> u64 {
        Direct::word64(frame, offset, op)
    }

    #[inline(always)]
    fn word8(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u8>) -> u8 {
        Direct::word8(frame, offset, op)
    }

    #[inline(always)]
    fn copy_from_guest(
        &self,
        _: &ArchVcpu,
        _: &GStage,
        from: GuestVirt,
        buf: &mut [u8],
    ) -> Result<(), Fault> {
        guest_access::copy_from(from, buf)
    }

    #[inline(always)]
    fn copy_to_guest(
        &self,
        _: &ArchVcpu,
        _: &GStage,
        to: GuestVirt,
        buf: &[u8],
    ) -> Result<(), Fault> {
        guest_access::copy_to(to, buf)
    }

    fn raise_upcall(&self, domain: &ArchDomain, vcpu: &ArchVcpu) {
        interrupts::raise_event(domain, vcpu);
    }

    fn has_deliverable_interrupt(&self, domain: &ArchDomain, vcpu: &ArchVcpu, _: bool) -> bool {
        interrupts::is_deliverable(domain, vcpu, is_loaded_here(vcpu))
    }

    fn virtual_timer_fired(
        &self,
        domain: &ArchDomain,
        vcpu: &ArchVcpu,
        _: ArchTimer,
    ) -> Option<Nanos> {
        interrupts::timer_fired(domain, vcpu)
    }

    fn enable_upcalls(&self, _: &ArchDomain, vcpu: &ArchVcpu) {
        vcpu.take_interrupts.store(true, Relaxed);
    }

    fn guest_phys(
        &self,
        _: &ArchVcpu,
        p2m: &GStage,
        address: GuestVirt,
    ) -> Result<GuestPhys, Fault> {
        guest_access::guest_phys(p2m, address)
    }

    fn release_domain(&self, _: &ArchDomain) {}

    fn dump_registers(&self, vcpu: &ArchVcpu, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        vcpu.dump_registers(out)
    }

    fn heap_use(&self) -> Option<HeapUse> {
        Some(heap_use())
    }

    fn console_write(&self, text: &[u8]) {
        console::write(text);
    }

    fn power_off(&self) -> ! {
        console::flush();
        sbi::system_off();
        log::error!("the firmware cannot power the machine off");
        cpu::fault::halt()
    }

    fn restart(&self) -> ! {
        console::flush();
        sbi::system_reset();
        log::error!("the firmware cannot restart the machine");
        cpu::fault::halt()
    }
}
