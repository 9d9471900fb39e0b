//! The contract between the neutral core and an architecture.
//!
//! An architecture (or the simulated machine in `hal/sim`) implements [`Hal`] once; the core is generic over it and
//! calls nothing else of the machine. All methods take `&self`: on hardware the implementor is zero-sized, in the
//! simulator it holds the machine.
//!
//! Rules that every implementor keeps:
//! * While a physical CPU executes hypervisor code its interrupts are masked; they are taken only in guest mode or in
//!   [`Hal::idle`]. So no lock of the core is ever wanted by an interrupt that stopped its holder.
//! * Guest memory is untyped. It is reached by copy or by single atomic words, never by reference.
#![no_std]

use core::sync::atomic::AtomicU64;

mod addr;
mod cpu;
mod p2m;
pub mod sync;
mod time;

pub use addr::{Gfn, GuestPhys, GuestVirt, HostPhys, Mfn, Order, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
pub use cpu::{AtomicCpuMask, CpuId, CpuMask, MAX_CPUS};
pub use p2m::{P2m, P2mEntry, P2mError, P2mType, TableFrames};
pub use time::{ArchTimer, Nanos};
pub use xenolith_abi::{
    DomId, Errno,
    memory::{E820Entry, MachphysMapping},
    shared_info::SharedInfoLayout,
    version::Features,
};

/// A guest address could not be read or written: not mapped, not permitted, or not memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The machine ran out of memory (or the domain out of its quota) for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// What the core asks of a machine.
pub trait Hal: Sized + Send + Sync + 'static {
    /// Per-vCPU state of the architecture (registers, virtual interrupt state). Shared: the implementor uses interior
    /// mutability and relies on the core to run a vCPU on one physical CPU at a time.
    type Vcpu: Send + Sync;
    /// Per-domain state of the architecture (virtual interrupt controller, emulated devices).
    type Domain: Send + Sync;
    /// Second-level translation of one domain.
    type P2m: P2m;
    /// A frame that is known to be RAM: [`Hal::frame`] alone makes one. RAM stays RAM, so who keeps one has no access
    /// checked again.
    type Frame: Copy + Send + Sync;

    /// Whether guests start vCPUs and set timers by `vcpu_op` (x86). Where firmware calls and a timer of the CPU do
    /// that (ARM, RISC-V), those operations are refused as Xen refuses them there.
    const VCPU_OP_COMPLETE: bool = false;

    /// The newest format of grant tables that domains are offered unless a tool says less (x86: 2). Nothing of version 2
    /// is compiled into hot paths where this is 1.
    const MAX_GRANT_VERSION: u8 = 1;

    /// Where the guests of this machine find event bits and time in the pages that they share with the core.
    const SHARED_INFO: SharedInfoLayout = xenolith_abi::shared_info::COMMON;

    /// Guest types that such machines run, as tools look for them: names such as `xen-3.0-aarch64`, a blank after each.
    const CAPABILITIES: &'static str = "";

    /// What guests of this machine are offered beside what every translated guest is.
    const FEATURES: Features = Features::empty();

    /// Whether guests choose the interrupt vector of each vCPU's events (x86).
    const GUEST_VECTORS: bool = false;

    /// Whether the control domain puts the machine to sleep by `platform_op`, as kernels on ACPI machines do.
    const PLATFORM_SLEEP: bool = false;

    /// Whether 32-bit code may make hypercalls, with structures in their 32-bit form (x86).
    const NARROW_CALLERS: bool = false;

    /// Whether guests have the calls that Xen gives to guests in x86's hardware virtualization, and only those.
    const HVM_CALLS: bool = false;

    /// The same as [`Hal::SHARED_INFO`] for a domain whose kernel is 32-bit code, where there are such.
    const NARROW_SHARED_INFO: SharedInfoLayout = Self::SHARED_INFO;

    /// Whether there are paravirtual domains: no second level translates for them, and what they call a frame is a frame
    /// of the machine (x86).
    const PV: bool = false;

    /// The same as [`Hal::SHARED_INFO`] for a paravirtual domain. Only the upcall mask may differ.
    const PV_SHARED_INFO: SharedInfoLayout = Self::SHARED_INFO;

    /// First virtual address of the hypervisor, as guests are told it.
    const VIRT_START: u64 = 0;

    // ---- physical CPUs -------------------------------------------------------------------------------------

    /// The CPU that executes this call.
    fn cpu(&self) -> CpuId;

    /// Makes `cpu` leave guest mode or idle soon and look at its pending work. Never waits. A call for the own CPU
    /// is allowed and does nothing: the caller looks at its work before it enters a guest anyway.
    fn kick(&self, cpu: CpuId);

    /// True when an interrupt waits for this CPU: preemptible operations return to let it be handled.
    fn interrupt_waits(&self) -> bool;

    // ---- time ----------------------------------------------------------------------------------------------

    /// Time since the machine started, the same on all CPUs, never going back.
    fn now(&self) -> Nanos;

    /// Programs this CPU's timer; at or after `deadline` the CPU gets [timer work](crate). `None` stops it.
    fn set_timer(&self, deadline: Option<Nanos>);

    /// Wall-clock time at machine start, in nanoseconds since 1970-01-01 UTC; 0 when the machine has no clock.
    fn boot_wallclock(&self) -> Nanos {
        Nanos(0)
    }

    // ---- memory of the machine ------------------------------------------------------------------------------

    /// Copies bytes out of frame `mfn` starting at `offset`. The range must lie in one frame of RAM; the implementor
    /// checks `offset + buf.len() <= PAGE_SIZE` and returns [`Fault`] when it does not or the frame is not RAM.
    fn read_frame(&self, mfn: Mfn, offset: usize, buf: &mut [u8]) -> Result<(), Fault>;

    /// Copies bytes into frame `mfn`; the counterpart of [`Hal::read_frame`].
    fn write_frame(&self, mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault>;

    /// Copies `len` bytes between frames of RAM, each side within one frame.
    fn copy_frame(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault>;

    /// Fills `1 << order` frames with zeroes.
    fn zero_frames(&self, first: Mfn, order: Order);

    /// One atomic operation on an aligned 64-bit word of a frame that a guest may share, with sequentially
    /// consistent order; returns the old value. [`Fault`] when misaligned, outside the frame, or not RAM.
    fn atomic64(&self, mfn: Mfn, offset: usize, op: AtomicOp<u64>) -> Result<u64, Fault>;

    /// The same on an aligned 32-bit word.
    fn atomic32(&self, mfn: Mfn, offset: usize, op: AtomicOp<u32>) -> Result<u32, Fault>;

    /// The same on an aligned 16-bit word.
    fn atomic16(&self, mfn: Mfn, offset: usize, op: AtomicOp<u16>) -> Result<u16, Fault>;

    /// The same on a byte.
    fn atomic8(&self, mfn: Mfn, offset: usize, op: AtomicOp<u8>) -> Result<u8, Fault>;

    /// The frame, if it is RAM.
    fn frame(&self, mfn: Mfn) -> Option<Self::Frame>;

    /// As [`Hal::atomic32`] on the aligned word around an offset, of which only what lies within a frame counts.
    fn word32(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u32>) -> u32;

    /// The same for an aligned 16-bit word.
    fn word16(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u16>) -> u16;

    /// The same for an aligned 64-bit word.
    fn word64(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u64>) -> u64;

    /// The same for a byte.
    fn word8(&self, frame: Self::Frame, offset: usize, op: AtomicOp<u8>) -> u8;

    /// Brings the caches to order with memory for a range within one frame, to the point that devices see. Machines whose
    /// devices see the caches do nothing.
    fn cache_maintenance(&self, mfn: Mfn, offset: usize, len: usize, op: CacheOp) {
        let _ = (mfn, offset, len, op);
    }

    /// A frame as its 64-bit words, if it is RAM and the machine can show it so: what page tables of paravirtual guests are
    /// read and written through. `None` where there are no such guests.
    fn table(&self, mfn: Mfn) -> Option<&[AtomicU64; PAGE_SIZE / 8]> {
        let _ = mfn;
        None
    }

    /// The present moment of the clock that counts flushes of TLBs; 46 bits that never wrap. A translation that was taken
    /// out of a page table before this call may be cached by CPUs that have not flushed since.
    #[inline(always)]
    fn tlb_stamp(&self) -> u64 {
        0
    }

    /// Returns when no CPU uses a translation to a frame of `owner`'s that was taken out of a page table at `stamp` or before;
    /// `None`: of anybody's. CPUs that have flushed since are left alone, and so are those that cannot have one. The caller
    /// holds no lock that another CPU might spin on without [`Hal::relax`].
    fn flush_stale(&self, owner: Option<DomId>, stamp: u64) {
        let _ = (owner, stamp);
    }

    /// One turn of waiting for another CPU's change to a frame record. Serves that CPU's request to flush, if it waits for it.
    #[inline]
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Notes which frame of its paravirtual owner's own numbering a machine frame is, for the table that guests read;
    /// `None` when it is nobody's any more.
    fn set_machine_to_phys(&self, mfn: Mfn, pfn: Option<Gfn>) {
        let _ = (mfn, pfn);
    }

    /// What [`Hal::set_machine_to_phys`] noted.
    fn machine_to_phys(&self, mfn: Mfn) -> Option<Gfn> {
        let _ = mfn;
        None
    }

    /// A frame that `owner` had, and paravirtual domains may have mapped, is about to be cleared, and somebody else gets it. When
    /// this returns, no CPU uses a translation that led to it.
    fn forget_frame(&self, mfn: Mfn, owner: DomId) {
        let _ = (mfn, owner);
    }

    /// A paravirtual domain ends and none of its vCPUs runs: its page tables stop being such, so that nothing of theirs
    /// holds a frame. False when an interrupt waits: it is asked again then. Never asked again once it said true.
    fn drop_page_tables(&self, domain: DomId) -> bool {
        let _ = domain;
        true
    }

    /// Where paravirtual guests see the table of [`Hal::machine_to_phys`].
    fn machphys_mapping(&self) -> Option<MachphysMapping> {
        None
    }

    /// The frame where the `index`-th 2 MiB of that table begin.
    fn machphys_frame(&self, index: u64) -> Option<Mfn> {
        let _ = index;
        None
    }

    /// The machine's own memory map, for the control domain; empty where a device tree tells.
    fn machine_memory_map(&self) -> &[E820Entry] {
        &[]
    }

    // ---- memory of the current guest ------------------------------------------------------------------------

    /// Copies from the address space of the vCPU that this CPU last ran (`vcpu` with its domain's `p2m`), as its
    /// hypercall arguments are written. All or nothing is not promised: on [`Fault`] `buf` may be partly filled.
    fn copy_from_guest(
        &self,
        vcpu: &Self::Vcpu,
        p2m: &Self::P2m,
        from: GuestVirt,
        buf: &mut [u8],
    ) -> Result<(), Fault>;

    /// Copies to the address space of the current vCPU.
    fn copy_to_guest(
        &self,
        vcpu: &Self::Vcpu,
        p2m: &Self::P2m,
        to: GuestVirt,
        buf: &[u8],
    ) -> Result<(), Fault>;

    // ---- domains and vCPUs ----------------------------------------------------------------------------------

    /// Whether the hypercall that the vCPU makes comes from 32-bit code. Asked only where [`Hal::NARROW_CALLERS`] says that
    /// there may be such.
    fn is_narrow(&self, vcpu: &Self::Vcpu) -> bool {
        let _ = vcpu;
        false
    }

    /// The `vcpu_info` of a vCPU is there from now on, until its domain ends. The vCPU is down, or the one that runs here.
    fn info_moved(&self, vcpu: &Self::Vcpu, mfn: Mfn, offset: usize) {
        let _ = (vcpu, mfn, offset);
    }

    /// Marks the event-channel upcall interrupt of a vCPU pending. The core afterwards wakes or kicks it.
    fn raise_upcall(&self, domain: &Self::Domain, vcpu: &Self::Vcpu);

    /// True when the vCPU has an interrupt that its guest would take, so it must not block. `upcall` tells that its
    /// `vcpu_info` says "event pending, not masked".
    fn has_deliverable_interrupt(
        &self,
        domain: &Self::Domain,
        vcpu: &Self::Vcpu,
        upcall: bool,
    ) -> bool;

    /// A timer that the implementor set through the core for a vCPU (a guest's own timer while its vCPU is not on a
    /// CPU, or an emulated one) has run out: the implementor makes the guest's timer interrupt pending. The core
    /// notifies the vCPU afterwards, and sets the timer again if the implementor says when.
    fn virtual_timer_fired(
        &self,
        domain: &Self::Domain,
        vcpu: &Self::Vcpu,
        timer: ArchTimer,
    ) -> Option<Nanos> {
        let _ = (domain, vcpu, timer);
        None
    }

    /// Lets the current vCPU take event upcalls again, where masking them is a matter of the architecture's registers
    /// (the guest asked to block "with events enabled").
    fn enable_upcalls(&self, domain: &Self::Domain, vcpu: &Self::Vcpu) {
        let _ = (domain, vcpu);
    }

    /// Where an address of the current vCPU's address space lies in guest-physical memory, for writing by the kernel
    /// of the guest. The default knows no translation.
    fn guest_phys(
        &self,
        vcpu: &Self::Vcpu,
        p2m: &Self::P2m,
        address: GuestVirt,
    ) -> Result<GuestPhys, Fault> {
        let _ = (vcpu, p2m, address);
        Err(Fault)
    }

    /// Whether the vCPU has registers to start with. Where only firmware calls start vCPUs, nobody asks.
    fn has_start(&self, vcpu: &Self::Vcpu) -> bool {
        let _ = vcpu;
        true
    }

    /// A guest says how it wants to be interrupted for events (`HVM_PARAM_CALLBACK_IRQ`); `false` where the machine
    /// decides that and guests have no say.
    fn set_callback(&self, domain: &Self::Domain, via: u64) -> bool {
        let _ = (domain, via);
        false
    }

    /// A guest chooses the interrupt vector for events of one of its vCPUs; `false` for a number that is no vector. Called
    /// only where [`Hal::GUEST_VECTORS`] says so.
    fn set_upcall_vector(&self, vcpu: &Self::Vcpu, vector: u8) -> bool {
        let _ = (vcpu, vector);
        false
    }

    /// The memory map that a domain booted with, for guests that ask for it (`XENMEM_memory_map`); `None` where guests are
    /// told by a device tree.
    fn memory_map<'d>(&self, domain: &'d Self::Domain) -> Option<&'d [E820Entry]> {
        let _ = domain;
        None
    }

    /// A physical interrupt of a paravirtual domain has a port from now on and may come; `share`: other domains may have it
    /// as well. `EINVAL` for a number that the domain has not got.
    fn open_pirq(&self, domain: &Self::Domain, pirq: u32, share: bool) -> Result<(), Errno> {
        let _ = (domain, pirq, share);
        Err(Errno::EINVAL)
    }

    /// It has none any more and stays away. Called with the lock of an event channel held.
    fn close_pirq(&self, domain: &Self::Domain, pirq: u32) {
        let _ = (domain, pirq);
    }

    /// Called after a vCPU of the domain was told to go (shutdown, crash, destroy): the implementor drops what the
    /// domain holds of the machine (physical interrupts routed to it, ...).
    fn release_domain(&self, domain: &Self::Domain);

    // ---- the machine ----------------------------------------------------------------------------------------

    /// Writes to the machine's console, raw.
    fn console_write(&self, text: &[u8]);

    /// Writes a vCPU's registers for a person to read. It may run meanwhile; then they are those of its last exit.
    fn dump_registers(
        &self,
        _vcpu: &Self::Vcpu,
        _out: &mut dyn core::fmt::Write,
    ) -> core::fmt::Result {
        Ok(())
    }

    /// The guest types of [`Hal::CAPABILITIES`] that this very machine runs.
    fn capabilities(&self) -> &str {
        Self::CAPABILITIES
    }

    /// How much of the hypervisor's heap is used; `None` where nobody counts.
    fn heap_use(&self) -> Option<HeapUse> {
        None
    }

    /// Powers the machine off. If that is impossible, stops this CPU for ever.
    fn power_off(&self) -> !;

    /// Restarts the machine. If that is impossible, stops this CPU for ever.
    fn restart(&self) -> !;
}

/// What [`Hal::heap_use`] says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapUse {
    /// Used, the allocator's own records among it.
    pub used: u64,
    /// In the heap, and not used.
    pub free: u64,
}

/// What [`Hal::cache_maintenance`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOp {
    /// Writes dirty lines back.
    Clean,
    /// Throws lines away. Lines that the range fills in part are written back first.
    Invalidate,
    /// Writes dirty lines back, then throws all away.
    CleanInvalidate,
}

/// An atomic read-modify-write for [`Hal::atomic64`] and its narrower forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp<T> {
    /// Reads.
    Load,
    /// Writes the value, returns the old one.
    Swap(T),
    /// Sets the bits of the value.
    Or(T),
    /// Keeps only the bits of the value.
    And(T),
    /// Writes `new` if the word holds `old`; the returned old value tells.
    Cas {
        /// What the word must hold.
        old: T,
        /// What it gets then.
        new: T,
    },
}
