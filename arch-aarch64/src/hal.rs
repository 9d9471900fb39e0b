//! The machine as the core sees it.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_hal::{
    ArchTimer, AtomicOp, CacheOp, CpuId, Fault, Features, GuestPhys, GuestVirt, Hal, HeapUse, Mfn,
    Nanos, Order, SharedInfoLayout,
};

use crate::{
    console,
    cpu::{
        self,
        percpu::{self, PerCpu},
    },
    guest::vcpu::{ArchDomain, ArchVcpu},
    irq,
    mm::{
        direct::{self, Direct, RamFrame},
        guest_access,
        hardware::Stage2,
    },
    smccc, timer, with_gic,
};

/// An ARMv8 machine. All its state is in the hardware and in this crate's statics.
#[derive(Clone, Copy, Default)]
pub struct Aarch64;

/// Whether the vCPU's context, its list registers included, is in this CPU's registers.
#[inline]
fn is_loaded_here(vcpu: &ArchVcpu) -> bool {
    PerCpu::try_current()
        .and_then(|cpu| {
            let loaded = cpu.loaded.try_borrow().ok()?;
            Some(core::ptr::eq(&loaded.as_ref()?.vcpu().arch, vcpu))
        })
        .unwrap_or(false)
}

impl Hal for Aarch64 {
    type Vcpu = ArchVcpu;
    type Domain = ArchDomain;
    type P2m = Stage2;
    type Frame = RamFrame;

    const SHARED_INFO: SharedInfoLayout = xenolith_abi::arm::SHARED_INFO;

    const CAPABILITIES: &'static str = "xen-3.0-aarch64 ";
    const FEATURES: Features = Features::ARM_SMCCC_SUPPORTED;
    // What Xen 4.17 says: a number of its own layout that no guest uses.
    const VIRT_START: u64 = 0x20_0000;

    #[inline(always)]
    fn cpu(&self) -> CpuId {
        percpu::cpu_id()
    }

    fn kick(&self, cpu: CpuId) {
        crate::irq::kick(cpu);
    }

    #[inline]
    fn interrupt_waits(&self) -> bool {
        // ISR_EL1.I: a physical IRQ is pending, masked or not.
        cpu::regs::read!("isr_el1") & 1 << 7 != 0
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
        direct::read(mfn, offset, buf)
    }

    #[inline]
    fn write_frame(&self, mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault> {
        direct::write(mfn, offset, buf)
    }

    fn copy_frame(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
        direct::copy(to, from, len)
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
        p2m: &Stage2,
        from: GuestVirt,
        buf: &mut [u8],
    ) -> Result<(), Fault> {
        guest_access::copy_from(p2m, from, buf)
    }

    #[inline(always)]
    fn copy_to_guest(
        &self,
        _: &ArchVcpu,
        p2m: &Stage2,
        to: GuestVirt,
        buf: &[u8],
    ) -> Result<(), Fault> {
        guest_access::copy_to(p2m, to, buf)
    }

    fn raise_upcall(&self, domain: &ArchDomain, vcpu: &ArchVcpu) {
        if is_loaded_here(vcpu)
            && let Some(gic) = irq::gic()
        {
            with_gic!(gic, |hw| vcpu.vgic.raise_here(hw, domain.event_ppi));
            return;
        }
        // The core notifies the vCPU itself.
        domain.vgic.inject(vcpu.index, domain.event_ppi, |_| {});
    }

    fn has_deliverable_interrupt(&self, _: &ArchDomain, vcpu: &ArchVcpu, _upcall: bool) -> bool {
        let Some(gic) = irq::gic() else { return false };
        with_gic!(gic, |hw| vcpu
            .vgic
            .has_deliverable(hw, is_loaded_here(vcpu)))
    }

    fn virtual_timer_fired(
        &self,
        domain: &ArchDomain,
        vcpu: &ArchVcpu,
        timer: ArchTimer,
    ) -> Option<Nanos> {
        match timer {
            // The virtual timer of a vCPU that is on no CPU: once it is loaded, the hardware raises the interrupt.
            ArchTimer::A => {}
            ArchTimer::B => {
                domain
                    .vgic
                    .set_line(vcpu.index, domain.physical_timer_ppi, true, |_| {})
            }
        }
        None
    }

    fn enable_upcalls(&self, _: &ArchDomain, vcpu: &ArchVcpu) {
        vcpu.take_interrupts.store(true, Relaxed);
    }

    fn guest_phys(
        &self,
        _: &ArchVcpu,
        p2m: &Stage2,
        address: GuestVirt,
    ) -> Result<GuestPhys, Fault> {
        guest_access::guest_phys(p2m, address, guest_access::Want::Write)
    }

    fn release_domain(&self, domain: &ArchDomain) {
        if let Some(gic) = irq::gic() {
            with_gic!(gic, |hw| domain.vgic.release(hw));
        }
    }

    fn cache_maintenance(&self, mfn: Mfn, offset: usize, len: usize, op: CacheOp) {
        direct::cache_maintenance(mfn, offset, len, op);
    }

    fn dump_registers(&self, vcpu: &ArchVcpu, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        vcpu.dump_registers(out)
    }

    fn heap_use(&self) -> Option<HeapUse> {
        Some(xenolith_arch_common::heap_use())
    }

    fn console_write(&self, text: &[u8]) {
        console::write(text);
    }

    fn power_off(&self) -> ! {
        smccc::system_off();
        log::error!("the firmware cannot power the machine off");
        cpu::fault::halt()
    }

    fn restart(&self) -> ! {
        smccc::system_reset();
        log::error!("the firmware cannot restart the machine");
        cpu::fault::halt()
    }
}
