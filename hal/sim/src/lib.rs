//! A simulated machine that implements the HAL, for tests of the core on the host.
//!
//! RAM is words of atomics, physical CPUs are numbers that a test puts on with [`Sim::run_as`], time moves only when a
//! test says so, and everything the core asks of the machine (kicks, timers, upcalls, console text) is recorded. A
//! guest's virtual addresses are its guest-physical ones. A paravirtual guest has no such: its [`SimP2m`], made by
//! [`Sim::new_linear`], stands for its own page tables. [`Faults`] makes chosen allocations fail. No `unsafe`, and
//! every value can be shared by real threads, so a race in the core shows here too.
#![forbid(unsafe_code)]

mod cpus;
mod domain;
mod faults;
mod p2m;
mod ram;
mod tlbs;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use xenolith_hal::{
    ArchTimer, AtomicOp, CpuId, DomId, Errno, Fault, Gfn, GuestPhys, GuestVirt, Hal,
    MachphysMapping, Mfn, Nanos, Order, P2m, PAGE_SIZE, SharedInfoLayout,
};

pub use cpus::{CpuRecord, Moment};
pub use domain::{SimDomain, SimVcpu};
pub use faults::Faults;
pub use p2m::SimP2m;
pub use ram::Ram;
pub use tlbs::Tlbs;

/// How a simulated machine ended: the payload of the unwinding that [`Hal::power_off`] and [`Hal::restart`] start.
/// A test catches it with [`ended_with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// Powered off.
    PowerOff,
    /// Restarted.
    Restart,
}

/// Runs `f` and tells how the machine ended in it; `None` when `f` returned.
pub fn ended_with(f: impl FnOnce()) -> Option<MachineEnd> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(()) => None,
        Err(payload) => match payload.downcast::<MachineEnd>() {
            Ok(end) => Some(*end),
            Err(other) => std::panic::resume_unwind(other),
        },
    }
}

struct Machine {
    ram: Ram,
    cpus: Box<[CpuRecord]>,
    now: AtomicU64,
    console: Mutex<Vec<u8>>,
    machine_to_phys: Mutex<HashMap<Mfn, Gfn>>,
    /// Paravirtual domains whose page tables a test takes apart itself, and whether it is to do so.
    page_tables: Mutex<HashMap<DomId, bool>>,
    /// Frames that no CPU has a translation to any more, since somebody last asked.
    forgotten: Mutex<Vec<u64>>,
    faults: Arc<Faults>,
    tlbs: Tlbs,
}

/// The simulated machine; clones are handles on the same one.
#[derive(Clone)]
pub struct Sim {
    machine: Arc<Machine>,
}

impl Sim {
    /// A machine with `cpus` CPUs and banks of zeroed RAM, each a first frame and a number of frames.
    pub fn new(cpus: u16, banks: &[(Mfn, u64)]) -> Self {
        cpus::install_lock_checker();
        Self {
            machine: Arc::new(Machine {
                ram: Ram::new(banks),
                cpus: (0..cpus).map(|_| CpuRecord::default()).collect(),
                now: AtomicU64::new(0),
                console: Mutex::new(Vec::new()),
                machine_to_phys: Mutex::default(),
                page_tables: Mutex::default(),
                forgotten: Mutex::default(),
                faults: Arc::default(),
                tlbs: Tlbs::new(cpus),
            }),
        }
    }

    /// Four CPUs and 16 MiB of RAM at 1 GiB.
    pub fn small() -> Self {
        Self::new(4, &[(Mfn(0x4_0000), 4096)])
    }

    /// The machine's RAM.
    pub fn ram(&self) -> &Ram {
        &self.machine.ram
    }

    /// The RAM banks that the machine was made with.
    pub fn banks(&self) -> Vec<(Mfn, u64)> {
        self.machine.ram.banks()
    }

    /// How many CPUs it has.
    pub fn cpus(&self) -> u16 {
        self.machine.cpus.len() as u16
    }

    /// What was recorded of a CPU.
    ///
    /// # Panics
    /// When the machine has no such CPU.
    pub fn cpu_record(&self, cpu: CpuId) -> &CpuRecord {
        &self.machine.cpus[cpu.index()]
    }

    /// The TLBs of its CPUs.
    pub fn tlbs(&self) -> &Tlbs {
        &self.machine.tlbs
    }

    /// The switch for injected failures.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.machine.faults
    }

    /// Runs `f` with this thread standing for a physical CPU; calls may nest, and a thread starts as CPU 0.
    pub fn run_as<R>(&self, cpu: CpuId, f: impl FnOnce() -> R) -> R {
        assert!(cpu.index() < self.machine.cpus.len(), "no such CPU");
        cpus::run_as(cpu, f)
    }

    /// Runs `f` and, on this thread, `hook` at each moment in it at which the core asks the machine for something in the midst
    /// of a change: whether an interrupt waits, a page table's words, the time of a flush. The core holds no lock then.
    pub fn with_hook<R>(&self, hook: impl Fn(Moment) + 'static, f: impl FnOnce() -> R) -> R {
        cpus::with_hook(std::rc::Rc::new(hook), f)
    }

    /// Moves time forward; returns the CPUs whose timers went off. Their timers are stopped by that.
    pub fn advance(&self, by: Nanos) -> Vec<CpuId> {
        let now = self
            .machine
            .now
            .fetch_add(by.0, SeqCst)
            .saturating_add(by.0);
        (0..)
            .map(CpuId)
            .zip(&self.machine.cpus)
            .filter(|(_, record)| record.expire(Nanos(now)))
            .map(|(cpu, _)| cpu)
            .collect()
    }

    /// Everything written to the console so far; the record is emptied.
    pub fn take_console(&self) -> String {
        let bytes = std::mem::take(&mut *self.console());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// An empty second-level translation that reaches 2^28 frames.
    pub fn new_p2m(&self) -> SimP2m {
        SimP2m::new(1 << 28, self.machine.faults.clone())
    }

    /// The address space of a paravirtual guest: machine frames by virtual page.
    pub fn new_linear(&self) -> SimP2m {
        SimP2m::linear(1 << 28, self.machine.faults.clone())
    }

    fn console(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.machine
            .console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The frames that [`Hal::forget_frame`] was called for since the last call of this.
    pub fn forgotten(&self) -> Vec<u64> {
        let forgotten = self.machine.forgotten.lock();
        std::mem::take(&mut *forgotten.unwrap_or_else(PoisonError::into_inner))
    }

    /// What [`Hal::machine_to_phys`] knows, by machine frame, in no order.
    pub fn known_frames(&self) -> Vec<Mfn> {
        self.phys_table().keys().copied().collect()
    }

    /// The page tables of a paravirtual domain stay until [`Sim::page_tables_are_gone`].
    pub fn keep_page_tables(&self, domain: DomId) {
        self.page_tables().insert(domain, false);
    }

    /// Whether the core wants the page tables dropped that are kept.
    pub fn page_tables_must_go(&self, domain: DomId) -> bool {
        self.page_tables().get(&domain) == Some(&true)
    }

    /// They are.
    pub fn page_tables_are_gone(&self, domain: DomId) {
        self.page_tables().remove(&domain);
    }

    fn page_tables(&self) -> std::sync::MutexGuard<'_, HashMap<DomId, bool>> {
        self.machine
            .page_tables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn phys_table(&self) -> std::sync::MutexGuard<'_, HashMap<Mfn, Gfn>> {
        self.machine
            .machine_to_phys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn this_cpu(&self) -> &CpuRecord {
        self.cpu_record(cpus::current())
    }

    /// Splits a guest range at frame borders and calls `f` with each machine frame, offset and part of the range
    /// while its translation is held.
    fn for_guest_range(
        p2m: &SimP2m,
        at: GuestVirt,
        len: usize,
        write: bool,
        mut f: impl FnMut(Mfn, usize, core::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = GuestPhys(at.0.checked_add(done as u64).ok_or(Fault)?);
            let part = (PAGE_SIZE - at.offset()).min(len - done);
            p2m.with_entry(at.frame(), |entry| {
                let entry = entry.ok_or(Fault)?;
                if entry.kind == xenolith_hal::P2mType::MmioDirect
                    || (write && !entry.kind.writable())
                {
                    return Err(Fault);
                }
                f(entry.mfn, at.offset(), done..done + part)
            })?;
            done += part;
        }
        Ok(())
    }
}

impl Hal for Sim {
    type Vcpu = SimVcpu;
    type Domain = SimDomain;
    type P2m = SimP2m;
    type Frame = Mfn;

    const CAPABILITIES: &'static str = "xen-3.0-sim ";
    const MAX_GRANT_VERSION: u8 = 2;
    const PV: bool = true;
    const PV_SHARED_INFO: SharedInfoLayout = {
        let mut layout = Self::SHARED_INFO;
        layout.vcpu.has_upcall_mask = true;
        layout
    };

    fn cpu(&self) -> CpuId {
        cpus::current()
    }

    fn kick(&self, cpu: CpuId) {
        if let Some(record) = self.machine.cpus.get(cpu.index()) {
            record.kick();
        }
    }

    fn interrupt_waits(&self) -> bool {
        cpus::pass(Moment::Any);
        self.this_cpu().poll_interrupt()
    }

    fn now(&self) -> Nanos {
        Nanos(self.machine.now.load(SeqCst))
    }

    fn set_timer(&self, deadline: Option<Nanos>) {
        self.this_cpu().set_timer(deadline);
    }

    fn read_frame(&self, mfn: Mfn, offset: usize, buf: &mut [u8]) -> Result<(), Fault> {
        self.machine.ram.read(mfn, offset, buf)
    }

    fn write_frame(&self, mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault> {
        self.machine.ram.write(mfn, offset, buf)
    }

    fn copy_frame(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
        let mut buf = [0; PAGE_SIZE];
        let buf = buf.get_mut(..len).ok_or(Fault)?;
        self.read_frame(from.0, from.1, buf)?;
        self.write_frame(to.0, to.1, buf)
    }

    fn zero_frames(&self, first: Mfn, order: Order) {
        for n in 0..1 << order {
            self.machine.ram.zero(first.plus(n));
        }
    }

    fn atomic64(&self, mfn: Mfn, offset: usize, op: AtomicOp<u64>) -> Result<u64, Fault> {
        self.machine.ram.atomic(mfn, offset, 8, op)
    }

    fn atomic32(&self, mfn: Mfn, offset: usize, op: AtomicOp<u32>) -> Result<u32, Fault> {
        let old = self.machine.ram.atomic(mfn, offset, 4, ram::widen(op))?;
        Ok(old as u32)
    }

    fn atomic16(&self, mfn: Mfn, offset: usize, op: AtomicOp<u16>) -> Result<u16, Fault> {
        let old = self.machine.ram.atomic(mfn, offset, 2, ram::widen(op))?;
        Ok(old as u16)
    }

    fn atomic8(&self, mfn: Mfn, offset: usize, op: AtomicOp<u8>) -> Result<u8, Fault> {
        let old = self.machine.ram.atomic(mfn, offset, 1, ram::widen(op))?;
        Ok(old as u8)
    }

    fn frame(&self, mfn: Mfn) -> Option<Mfn> {
        self.read_frame(mfn, 0, &mut [0]).ok().map(|()| mfn)
    }

    fn word32(&self, frame: Mfn, offset: usize, op: AtomicOp<u32>) -> u32 {
        let offset = offset & (PAGE_SIZE - 4);
        self.atomic32(frame, offset, op).expect("RAM")
    }

    fn word16(&self, frame: Mfn, offset: usize, op: AtomicOp<u16>) -> u16 {
        let offset = offset & (PAGE_SIZE - 2);
        self.atomic16(frame, offset, op).expect("RAM")
    }

    fn word64(&self, frame: Mfn, offset: usize, op: AtomicOp<u64>) -> u64 {
        let offset = offset & (PAGE_SIZE - 8);
        self.atomic64(frame, offset, op).expect("RAM")
    }

    fn word8(&self, frame: Mfn, offset: usize, op: AtomicOp<u8>) -> u8 {
        let offset = offset & (PAGE_SIZE - 1);
        self.atomic8(frame, offset, op).expect("RAM")
    }

    fn table(&self, mfn: Mfn) -> Option<&[AtomicU64; PAGE_SIZE / 8]> {
        cpus::pass(Moment::Any);
        self.machine.ram.words(mfn)
    }

    fn tlb_stamp(&self) -> u64 {
        cpus::pass(Moment::Any);
        self.machine.tlbs.stamp()
    }

    fn flush_stale(&self, owner: Option<DomId>, stamp: u64) {
        cpus::pass(Moment::Any);
        self.machine.tlbs.flush_stale(owner, stamp);
    }

    fn relax(&self) {
        cpus::pass(Moment::Waiting);
        std::thread::yield_now();
    }

    fn set_machine_to_phys(&self, mfn: Mfn, pfn: Option<Gfn>) {
        match pfn {
            Some(pfn) => self.phys_table().insert(mfn, pfn),
            None => self.phys_table().remove(&mfn),
        };
    }

    fn machine_to_phys(&self, mfn: Mfn) -> Option<Gfn> {
        self.phys_table().get(&mfn).copied()
    }

    fn forget_frame(&self, mfn: Mfn, owner: DomId) {
        self.machine.tlbs.forget(mfn, owner);
        let forgotten = self.machine.forgotten.lock();
        forgotten
            .unwrap_or_else(PoisonError::into_inner)
            .push(mfn.0);
    }

    fn drop_page_tables(&self, domain: DomId) -> bool {
        match self.page_tables().get_mut(&domain) {
            Some(wanted) => {
                *wanted = true;
                false
            }
            None => true,
        }
    }

    fn machphys_mapping(&self) -> Option<MachphysMapping> {
        Some(MachphysMapping {
            v_start: 0xffff_8000_0000_0000,
            v_end: 0xffff_8000_0040_0000,
            max_mfn: 0x7_ffff,
        })
    }

    fn machphys_frame(&self, index: u64) -> Option<Mfn> {
        (index < 2).then_some(Mfn(index))
    }

    fn copy_from_guest(
        &self,
        _vcpu: &SimVcpu,
        p2m: &SimP2m,
        from: GuestVirt,
        buf: &mut [u8],
    ) -> Result<(), Fault> {
        Self::for_guest_range(p2m, from, buf.len(), false, |mfn, offset, part| {
            self.read_frame(mfn, offset, buf.get_mut(part).ok_or(Fault)?)
        })
    }

    fn copy_to_guest(
        &self,
        _vcpu: &SimVcpu,
        p2m: &SimP2m,
        to: GuestVirt,
        buf: &[u8],
    ) -> Result<(), Fault> {
        Self::for_guest_range(p2m, to, buf.len(), true, |mfn, offset, part| {
            self.write_frame(mfn, offset, buf.get(part).ok_or(Fault)?)
        })
    }

    fn raise_upcall(&self, _domain: &SimDomain, vcpu: &SimVcpu) {
        vcpu.raise();
    }

    fn has_deliverable_interrupt(&self, _domain: &SimDomain, vcpu: &SimVcpu, upcall: bool) -> bool {
        upcall || vcpu.interrupt_pending()
    }

    fn virtual_timer_fired(
        &self,
        _domain: &SimDomain,
        vcpu: &SimVcpu,
        _timer: ArchTimer,
    ) -> Option<Nanos> {
        vcpu.set_interrupt(true);
        None
    }

    fn guest_phys(
        &self,
        _vcpu: &SimVcpu,
        p2m: &SimP2m,
        address: GuestVirt,
    ) -> Result<GuestPhys, Fault> {
        let address = GuestPhys(address.0);
        let entry = p2m.lookup(address.frame()).ok_or(Fault)?;
        match p2m.is_linear() {
            true if !entry.kind.writable() => Err(Fault),
            true => Ok(GuestPhys(entry.mfn.base().0 | address.offset() as u64)),
            false => Ok(address),
        }
    }

    fn open_pirq(&self, domain: &SimDomain, pirq: u32, _: bool) -> Result<(), Errno> {
        match domain.open_pirq(pirq) {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        }
    }

    fn close_pirq(&self, domain: &SimDomain, pirq: u32) {
        domain.close_pirq(pirq);
    }

    fn release_domain(&self, domain: &SimDomain) {
        domain.release();
    }

    fn console_write(&self, text: &[u8]) {
        self.console().extend_from_slice(text);
    }

    fn power_off(&self) -> ! {
        std::panic::resume_unwind(Box::new(MachineEnd::PowerOff))
    }

    fn restart(&self) -> ! {
        std::panic::resume_unwind(Box::new(MachineEnd::Restart))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xenolith_hal::{NoMemory, P2mType, TableFrames};

    struct NoTables;
    impl TableFrames for NoTables {
        fn allocate(&self) -> Result<Mfn, NoMemory> {
            Ok(Mfn(0))
        }
        fn free(&self, _: Mfn) {}
    }

    #[test]
    fn guest_copies_cross_frames_and_honour_rights() {
        let sim = Sim::small();
        let (p2m, vcpu) = (sim.new_p2m(), SimVcpu::default());
        p2m.map(Gfn(1), Mfn(0x4_0005), 1, P2mType::RamRw, &NoTables)
            .unwrap();
        p2m.map(Gfn(2), Mfn(0x4_0003), 1, P2mType::RamRw, &NoTables)
            .unwrap();
        sim.copy_to_guest(&vcpu, &p2m, GuestVirt(0x1ffe), b"abcd")
            .unwrap();
        let mut buf = [0; 2];
        sim.read_frame(Mfn(0x4_0003), 0, &mut buf).unwrap();
        assert_eq!(&buf, b"cd");
        p2m.map(Gfn(2), Mfn(0x4_0003), 1, P2mType::RamRo, &NoTables)
            .unwrap();
        assert_eq!(
            sim.copy_to_guest(&vcpu, &p2m, GuestVirt(0x2000), b"x"),
            Err(Fault)
        );
        sim.copy_from_guest(&vcpu, &p2m, GuestVirt(0x2000), &mut buf)
            .unwrap();
        assert_eq!(
            sim.copy_from_guest(&vcpu, &p2m, GuestVirt(0x2fff), &mut buf),
            Err(Fault)
        );
    }

    #[test]
    fn a_timer_goes_off_once_when_time_passes_it() {
        let sim = Sim::small();
        sim.run_as(CpuId(2), || sim.set_timer(Some(Nanos(100))));
        assert_eq!(sim.advance(Nanos(99)), []);
        assert_eq!(sim.advance(Nanos(1)), [CpuId(2)]);
        assert_eq!(sim.advance(Nanos(500)), []);
    }

    #[test]
    fn power_off_ends_the_run() {
        let sim = Sim::small();
        assert_eq!(ended_with(|| sim.power_off()), Some(MachineEnd::PowerOff));
        assert_eq!(ended_with(|| ()), None);
    }
}
