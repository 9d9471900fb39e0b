//! The machine as the core sees it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_arch_common::{RamFrame, heap_use};
use xenolith_hal::{
    ArchTimer, AtomicOp, CacheOp, CpuId, DomId, E820Entry, Errno, Fault, Features, Gfn, GuestPhys,
    GuestVirt, Hal, HeapUse, MachphysMapping, Mfn, Nanos, Order, PAGE_SIZE, SharedInfoLayout,
    sync::relax,
};

use crate::{
    apic, console,
    cpu::{
        self,
        percpu::{self, PerCpu},
    },
    guest::{
        interrupts, linear,
        vcpu::{ArchDomain, ArchVcpu},
    },
    irq, machine,
    mm::{caches, hardware::Ram, hyp::Direct, machine_to_phys, nested::Nested},
    power,
    pv::{self, access, tables, vcpu::PvVcpu},
    timer,
};

fn pv_guest_phys(pv: &PvVcpu, address: GuestVirt) -> Result<GuestPhys, Fault> {
    let cpu = PerCpu::try_current().ok_or(Fault)?;
    let found = tables::translate(cpu.hv, pv.root().ok_or(Fault)?, address.0);
    found.map(|at| GuestPhys(at.0)).ok_or(Fault)
}

/// An x86-64 machine. All its state is in the hardware and in this crate's statics.
#[derive(Clone, Copy, Default)]
pub struct X86_64;

impl Hal for X86_64 {
    type Vcpu = ArchVcpu;
    type Domain = ArchDomain;
    type P2m = Nested;
    type Frame = RamFrame;

    const VCPU_OP_COMPLETE: bool = true;
    const GUEST_VECTORS: bool = true;
    const NARROW_CALLERS: bool = true;
    const HVM_CALLS: bool = true;
    const MAX_GRANT_VERSION: u8 = 2;
    const PLATFORM_SLEEP: bool = true;
    const SHARED_INFO: SharedInfoLayout = {
        let mut layout = xenolith_abi::x86_64::SHARED_INFO;
        // A guest in hardware virtualization masks upcalls by its CPU's interrupt flag; the byte is for PV.
        layout.vcpu.has_upcall_mask = false;
        layout
    };
    const PV: bool = true;
    const PV_SHARED_INFO: SharedInfoLayout = xenolith_abi::x86_64::SHARED_INFO;
    const NARROW_SHARED_INFO: SharedInfoLayout = {
        let mut layout = xenolith_abi::x86_32::SHARED_INFO;
        layout.vcpu.has_upcall_mask = false;
        layout
    };
    const CAPABILITIES: &'static str = "xen-3.0-x86_64 ";
    const FEATURES: Features = Features::HVM_CALLBACK_VECTOR
        .union(Features::HVM_SAFE_PVCLOCK)
        .union(Features::MEMORY_OP_VNODE_SUPPORTED);
    const VIRT_START: u64 = 0xffff_8000_0000_0000;

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

    fn boot_wallclock(&self) -> Nanos {
        timer::boot_wallclock()
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
        Ram.copy(to, from, len)
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

    fn cache_maintenance(&self, mfn: Mfn, offset: usize, len: usize, _: CacheOp) {
        caches::flush(mfn, offset, len);
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

    #[inline]
    fn set_machine_to_phys(&self, mfn: Mfn, pfn: Option<Gfn>) {
        machine_to_phys::set(mfn, pfn);
    }

    #[inline]
    fn machine_to_phys(&self, mfn: Mfn) -> Option<Gfn> {
        machine_to_phys::get(mfn)
    }

    fn machphys_mapping(&self) -> Option<MachphysMapping> {
        machine_to_phys::mapping()
    }

    fn machphys_frame(&self, index: u64) -> Option<Mfn> {
        machine_to_phys::frame(index)
    }

    fn machine_memory_map(&self) -> &[E820Entry] {
        machine::memory_map()
    }

    fn forget_frame(&self, mfn: Mfn, owner: DomId) {
        pv::release::forget_frame(mfn, owner);
    }

    fn drop_page_tables(&self, domain: DomId) -> bool {
        pv::release::drop_page_tables(domain)
    }

    fn tlb_stamp(&self) -> u64 {
        pv::flush::stamp()
    }

    fn flush_stale(&self, owner: Option<DomId>, stamp: u64) {
        if let Some(cpu) = PerCpu::try_current() {
            pv::flush::older(cpu, owner, stamp);
        }
    }

    fn relax(&self) {
        relax();
    }

    #[inline(always)]
    fn table(&self, mfn: Mfn) -> Option<&[AtomicU64; PAGE_SIZE / 8]> {
        Direct::words(mfn)
    }

    #[inline(always)]
    fn copy_from_guest(
        &self,
        vcpu: &ArchVcpu,
        p2m: &Nested,
        from: GuestVirt,
        buf: &mut [u8],
    ) -> Result<(), Fault> {
        if vcpu.pv().is_some() {
            return access::read(from.0, buf);
        }
        linear::copy_from(vcpu, p2m, from, buf)
    }

    #[inline(always)]
    fn copy_to_guest(
        &self,
        vcpu: &ArchVcpu,
        p2m: &Nested,
        to: GuestVirt,
        buf: &[u8],
    ) -> Result<(), Fault> {
        if vcpu.pv().is_some() {
            return access::write(to.0, buf);
        }
        linear::copy_to(vcpu, p2m, to, buf)
    }

    #[inline(always)]
    fn is_narrow(&self, vcpu: &ArchVcpu) -> bool {
        vcpu.narrow.get()
    }

    fn info_moved(&self, vcpu: &ArchVcpu, mfn: Mfn, offset: usize) {
        if let Some(pv) = vcpu.pv() {
            // SAFETY: a page that is registered stays the domain's as long as its vCPUs may run.
            unsafe { pv.set_info(pv::run::info_at(mfn, offset)) }
        }
    }

    fn raise_upcall(&self, _: &ArchDomain, vcpu: &ArchVcpu) {
        // Of a PV guest, the byte that was set is looked at before each entry.
        if vcpu.pv().is_none() {
            interrupts::raise_upcall(vcpu);
        }
    }

    fn has_deliverable_interrupt(
        &self,
        domain: &ArchDomain,
        vcpu: &ArchVcpu,
        upcall: bool,
    ) -> bool {
        match vcpu.pv() {
            Some(pv) => upcall || pv.signals.nmi_waits(),
            None => interrupts::has_deliverable(domain, vcpu, upcall),
        }
    }

    fn virtual_timer_fired(&self, _: &ArchDomain, vcpu: &ArchVcpu, _: ArchTimer) -> Option<Nanos> {
        interrupts::timer_fired(self, vcpu)
    }

    fn guest_phys(
        &self,
        vcpu: &ArchVcpu,
        p2m: &Nested,
        address: GuestVirt,
    ) -> Result<GuestPhys, Fault> {
        if let Some(pv) = vcpu.pv() {
            return pv_guest_phys(pv, address);
        }
        linear::guest_phys(vcpu, p2m, address)
    }

    fn has_start(&self, vcpu: &ArchVcpu) -> bool {
        match vcpu.pv() {
            Some(pv) => pv.has_registers.get(),
            None => !vcpu.lapic.signals().is_waiting_for_start(),
        }
    }

    fn set_callback(&self, domain: &ArchDomain, via: u64) -> bool {
        domain.set_callback(via);
        true
    }

    fn set_upcall_vector(&self, vcpu: &ArchVcpu, vector: u8) -> bool {
        const FIRST: u8 = 16;
        let usable = vector >= FIRST;
        if usable {
            vcpu.upcall_vector.store(vector, Relaxed);
            // What became pending before is told now.
            vcpu.lapic.latch(vector);
        }
        usable
    }

    fn memory_map<'d>(&self, domain: &'d ArchDomain) -> Option<&'d [E820Entry]> {
        domain.pv.is_none().then_some(&domain.memory_map[..])
    }

    fn open_pirq(&self, domain: &ArchDomain, pirq: u32, share: bool) -> Result<(), Errno> {
        let pirqs = domain.pirqs.as_ref().ok_or(Errno::EINVAL)?;
        pirqs.open(self, pirq, share)
    }

    fn close_pirq(&self, domain: &ArchDomain, pirq: u32) {
        if let Some(pirqs) = &domain.pirqs {
            pirqs.close(self, pirq);
        }
    }

    fn release_domain(&self, domain: &ArchDomain) {
        if let (Some(pirqs), Some(cpu)) = (&domain.pirqs, PerCpu::try_current()) {
            pirqs.release(cpu.hv);
        }
        if domain.owns_devices {
            irq::release();
        }
        if let Some(pci) = &domain.pci {
            pci.close();
        }
    }

    fn dump_registers(&self, vcpu: &ArchVcpu, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        vcpu.dump_registers(out)
    }

    fn capabilities(&self) -> &str {
        match machine::virtualization() {
            Some(_) => "xen-3.0-x86_64 hvm-3.0-x86_64 ",
            None => Self::CAPABILITIES,
        }
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
