//! The machine as the core sees it.

use xenolith_arch_common::{NoP2m, RamFrame, heap_use};
use xenolith_hal::{AtomicOp, CpuId, Fault, GuestVirt, Hal, HeapUse, Mfn, Nanos, Order};

use crate::{
    console,
    cpu::{self, percpu},
    mm::hyp::Direct,
    sbi, timer,
};

/// A RISC-V machine. All its state is in the hardware and in this crate's statics.
#[derive(Clone, Copy, Default)]
pub struct Riscv64;

/// State of a guest, of which there is none yet: no value of this type is ever made.
pub enum NoGuest {}

impl Hal for Riscv64 {
    type Vcpu = NoGuest;
    type Domain = NoGuest;
    type P2m = NoP2m;
    type Frame = RamFrame;

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

    fn copy_from_guest(
        &self,
        vcpu: &NoGuest,
        _: &NoP2m,
        _: GuestVirt,
        _: &mut [u8],
    ) -> Result<(), Fault> {
        match *vcpu {}
    }

    fn copy_to_guest(
        &self,
        vcpu: &NoGuest,
        _: &NoP2m,
        _: GuestVirt,
        _: &[u8],
    ) -> Result<(), Fault> {
        match *vcpu {}
    }

    fn raise_upcall(&self, domain: &NoGuest, _: &NoGuest) {
        match *domain {}
    }

    fn has_deliverable_interrupt(&self, domain: &NoGuest, _: &NoGuest, _: bool) -> bool {
        match *domain {}
    }

    fn release_domain(&self, domain: &NoGuest) {
        match *domain {}
    }

    fn heap_use(&self) -> Option<HeapUse> {
        Some(heap_use())
    }

    fn console_write(&self, text: &[u8]) {
        console::write(text);
    }

    fn power_off(&self) -> ! {
        sbi::system_off();
        log::error!("the firmware cannot power the machine off");
        cpu::fault::halt()
    }

    fn restart(&self) -> ! {
        sbi::system_reset();
        log::error!("the firmware cannot restart the machine");
        cpu::fault::halt()
    }
}
