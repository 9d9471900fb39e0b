//! The machine as the core sees it.

use xenolith_arch_common::{NoP2m, heap_use};
use xenolith_hal::{AtomicOp, CpuId, Fault, GuestVirt, Hal, HeapUse, Mfn, Nanos, Order};

use crate::{
    apic, console,
    cpu::{self, percpu},
    mm::hyp::Direct,
    power, timer,
};

/// An x86-64 machine. All its state is in the hardware and in this crate's statics.
#[derive(Clone, Copy, Default)]
pub struct X86_64;

/// State of a guest, of which there is none yet: no value of this type is ever made.
pub enum NoGuest {}

impl Hal for X86_64 {
    type Vcpu = NoGuest;
    type Domain = NoGuest;
    type P2m = NoP2m;

    #[inline(always)]
    fn cpu(&self) -> CpuId {
        percpu::cpu_id()
    }

    fn kick(&self, cpu: CpuId) {
        if cpu != self.cpu() {
            apic::kick(cpu);
        }
    }

    #[inline]
    fn interrupt_waits(&self) -> bool {
        apic::interrupt_waits()
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
        power::off();
        log::error!("the machine does not power off");
        cpu::fault::halt()
    }

    fn restart(&self) -> ! {
        power::reset();
        log::error!("the machine does not restart");
        cpu::fault::halt()
    }
}
