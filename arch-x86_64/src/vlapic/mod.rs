//! The guest's local interrupt controller, as xAPIC (registers in memory) and x2APIC (MSRs); Intel SDM, volume 3,
//! chapter 11, and AMD64 APM, volume 2, chapter 16.
//!
//! One [`VLapic`] belongs to one vCPU. Any CPU may add to it: [`VLapic::accept`] and [`VLapic::signals`], without a lock.
//! All else is for the CPU that runs the vCPU, or for whoever holds it stopped. Nothing here kicks a vCPU: the sender
//! does, when it is told that something is newly pending, and the owner looks before each entry
//! ([`VLapic::deliverable`], [`Signals::is_pending`]), whatever it has just written.

mod access;
mod destination;
mod lent;
mod message;
pub mod registers;
mod signals;
mod timer;
mod vector_set;

#[cfg(test)]
mod tests;

use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

pub use access::{MSR_END_OF_INTERRUPT, hangs_on_the_unseen};
pub use destination::{deliver, resolve};
pub use lent::{ApicPage, Status};
pub use message::{Delivery, Destination, Message, Trigger};
use registers::{BASE, Base, ERROR, LVT, Lvt, SPURIOUS};
pub use signals::{Pending, Signals};
pub use timer::COUNT_NANOS;
use timer::Timer;
use vector_set::VectorSet;
use xenolith_hal::Nanos;

/// Where the registers of an xAPIC stand in the guest's memory; a guest cannot move them.
pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

/// How the registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Disabled,
    /// Through the page at [`DEFAULT_ADDRESS`].
    XApic,
    /// Through MSRs 0x800 to 0x8ff.
    X2Apic,
}

/// What a write asks of the vCPU's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Call [`VLapic::timer_fired`] at this time, and no more at the one asked for before.
    Timer(Option<Nanos>),
    /// Send the message ([`deliver`]).
    Ipi(Message),
    /// Tell the IOAPICs that the level-triggered interrupt with this vector has been handled.
    Eoi(u8),
    /// The registers are reached another way now; ask [`VLapic::deadline`] again too.
    Mode(Mode),
}

const LVT_ENTRIES: usize = 6;
const TIMER_ENTRY: usize = 0;
const ERROR_ENTRY: usize = 5;
const LVT_AFTER_RESET: u32 = 1 << 16;
const SPURIOUS_AFTER_RESET: u32 = 0xff;

/// The local APIC of one vCPU.
pub struct VLapic {
    /// Requested, not yet taken. Any CPU adds, the owner removes.
    request: VectorSet,
    /// Which of the requested are levels. Any CPU writes.
    level: VectorSet,
    /// INIT, start-up and NMI.
    signals: Signals,
    /// Errors not yet shown in the status register. Any CPU adds.
    new_errors: AtomicU32,
    /// Enabled in hardware and software: interrupts are taken.
    accepting: AtomicBool,
    /// The CPU has requests, those in service and the task priority: what stands here of them is old, but for requests
    /// that came since.
    lent: AtomicBool,
    /// While it is not lent: sets in the page may not be empty.
    page_stale: AtomicBool,
    /// Being handled.
    in_service: VectorSet,
    /// The highest being handled, or 0.
    in_service_top: AtomicU8,
    task_priority: AtomicU8,
    /// Follows from the two before; senders read it to find the lowest priority.
    processor_priority: AtomicU8,
    id: u32,
    base: AtomicU64,
    logical_id: AtomicU32,
    /// All ones: flat; top four bits zero: cluster.
    format: AtomicU32,
    spurious: AtomicU32,
    errors: AtomicU32,
    command: AtomicU32,
    command_high: AtomicU32,
    lvt: [AtomicU32; LVT_ENTRIES],
    timer: Timer,
}

impl VLapic {
    /// The local APIC with this id, as after power-on: on in xAPIC mode, off in software. The one with id 0 belongs to
    /// the boot vCPU, the others wait for their start-up message.
    #[must_use]
    pub fn new(id: u32) -> Self {
        let lapic = Self {
            request: VectorSet::default(),
            level: VectorSet::default(),
            signals: Signals::new(id != 0),
            new_errors: AtomicU32::new(0),
            accepting: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            page_stale: AtomicBool::new(true),
            in_service: VectorSet::default(),
            in_service_top: AtomicU8::new(0),
            task_priority: AtomicU8::new(0),
            processor_priority: AtomicU8::new(0),
            id,
            base: AtomicU64::new(0),
            logical_id: AtomicU32::new(0),
            format: AtomicU32::new(u32::MAX),
            spurious: AtomicU32::new(SPURIOUS_AFTER_RESET),
            errors: AtomicU32::new(0),
            command: AtomicU32::new(0),
            command_high: AtomicU32::new(0),
            lvt: [const { AtomicU32::new(LVT_AFTER_RESET) }; LVT_ENTRIES],
            timer: Timer::new(),
        };
        lapic.reset();
        lapic
    }

    /// As after power-on.
    pub fn reset(&self) {
        let boot = if self.id == 0 {
            BASE::BOOT_CPU::SET
        } else {
            BASE::BOOT_CPU::CLEAR
        };
        let mut base = Base::new(DEFAULT_ADDRESS);
        base.modify(BASE::ENABLE::SET + boot);
        self.base.store(base.get(), Relaxed);
        self.signals.reset(self.id != 0);
        self.init();
    }

    /// As an INIT message leaves it: the registers are reset, the mode and the signals stay.
    pub fn init(&self) {
        self.accepting.store(false, SeqCst);
        self.lent.store(false, Relaxed);
        self.page_stale.store(true, Relaxed);
        self.request.clear();
        self.level.clear();
        self.in_service.clear();
        self.in_service_top.store(0, Relaxed);
        self.task_priority.store(0, Relaxed);
        self.processor_priority.store(0, Relaxed);
        self.logical_id.store(0, Relaxed);
        self.format.store(u32::MAX, Relaxed);
        self.spurious.store(SPURIOUS_AFTER_RESET, Relaxed);
        self.errors.store(0, Relaxed);
        self.new_errors.store(0, Relaxed);
        self.command.store(0, Relaxed);
        self.command_high.store(0, Relaxed);
        for entry in &self.lvt {
            entry.store(LVT_AFTER_RESET, Relaxed);
        }
        self.timer.reset();
        self.derive_logical_id();
    }

    /// The id, all 32 bits.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// INIT, start-up and NMI; any CPU.
    #[must_use]
    pub const fn signals(&self) -> &Signals {
        &self.signals
    }

    /// How the registers are reached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        let base = self.base();
        match (base.is_set(BASE::ENABLE), base.is_set(BASE::X2APIC)) {
            (false, _) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        }
    }

    fn base(&self) -> Base {
        Base::new(self.base.load(Relaxed))
    }

    /// Whether interrupts are taken: enabled in hardware and by the spurious-interrupt register. Any CPU.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.accepting.load(Relaxed)
    }

    fn derive_accepting(&self) {
        let on =
            self.mode() != Mode::Disabled && SPURIOUS::ENABLE.is_set(self.spurious.load(Relaxed));
        self.accepting.store(on, SeqCst);
    }

    /// An x2APIC's logical id follows from its id (Intel SDM, volume 3, 11.12.10.2).
    fn derive_logical_id(&self) {
        if self.mode() == Mode::X2Apic {
            let logical = (self.id & !0xf) << 12 | 1 << (self.id & 0xf);
            self.logical_id.store(logical, Relaxed);
        }
    }

    /// An interrupt arrives, from any CPU; true when it is newly pending, so that the vCPU must be kicked.
    pub fn accept(&self, vector: u8, trigger: Trigger) -> bool {
        if !self.accepting.load(Relaxed) {
            return false;
        }
        if vector < 16 {
            self.raise_error(ERROR::RECEIVED_ILLEGAL_VECTOR::SET.value);
            return false;
        }
        let level = self.level.contains(vector);
        match trigger {
            Trigger::Level if !level => {
                self.level.insert(vector);
            }
            Trigger::Edge if level => self.level.remove(vector),
            _ => {}
        }
        self.request.insert(vector)
    }

    /// An interrupt of the hypervisor's own, from any CPU: unlike a message it is not lost while the APIC is off, but waits
    /// until it is on. True when it is newly pending.
    pub fn latch(&self, vector: u8) -> bool {
        self.level.remove(vector);
        self.request.insert(vector)
    }

    /// The highest requested vector that the priorities let through; the owner looks before each entry.
    #[must_use]
    #[inline]
    pub fn deliverable(&self) -> Option<u8> {
        let vector = self.request.highest();
        let passes = vector > self.processor_priority.load(Relaxed) | 0xf;
        (passes && self.accepting.load(Relaxed)).then_some(vector)
    }

    /// The highest requested vector, or 0: what a TPR threshold is made from.
    #[must_use]
    pub fn highest_requested(&self) -> u8 {
        self.request.highest()
    }

    /// The class of the highest requested vector if nothing but the task priority keeps it from being taken.
    #[must_use]
    pub fn held_by_task_priority(&self) -> Option<u8> {
        let class = self.request.highest() >> 4;
        let held = class > self.in_service_top.load(Relaxed) >> 4
            && class <= self.task_priority.load(Relaxed) >> 4;
        (held && self.accepting.load(Relaxed)).then_some(class)
    }

    /// The vCPU takes the vector that [`VLapic::deliverable`] told.
    pub fn acknowledge(&self, vector: u8) {
        self.request.remove(vector);
        self.in_service.insert_own(vector);
        self.in_service_top.fetch_max(vector, Relaxed);
        self.derive_priority();
    }

    /// The guest has handled its highest interrupt.
    pub fn end_of_interrupt(&self) -> Effect {
        let vector = self.in_service_top.load(Relaxed);
        if vector == 0 {
            return Effect::None;
        }
        self.in_service.remove_own(vector);
        self.in_service_top
            .store(self.in_service.highest(), Relaxed);
        self.derive_priority();
        if self.level.contains(vector) {
            Effect::Eoi(vector)
        } else {
            Effect::None
        }
    }

    fn derive_priority(&self) {
        let task = self.task_priority.load(Relaxed);
        let service = self.in_service_top.load(Relaxed) & 0xf0;
        let priority = if task & 0xf0 >= service {
            task
        } else {
            service
        };
        self.processor_priority.store(priority, Relaxed);
    }

    /// The task priority as CR8 has it: 0 to 15.
    #[must_use]
    pub fn tpr(&self) -> u8 {
        self.task_priority.load(Relaxed) >> 4
    }

    /// Sets the task priority as a write of CR8 does; higher bits are for the caller to refuse.
    pub fn set_tpr(&self, class: u8) {
        self.set_task_priority(class << 4);
    }

    fn set_task_priority(&self, priority: u8) {
        self.task_priority.store(priority, Relaxed);
        self.derive_priority();
    }

    fn processor_priority(&self) -> u8 {
        self.processor_priority.load(Relaxed)
    }

    /// Notes an error; any CPU.
    fn raise_error(&self, error: u32) {
        self.new_errors.fetch_or(error, Relaxed);
        self.raise_local(ERROR_ENTRY);
    }

    /// The source of an entry of the local vector table fires.
    fn raise_local(&self, entry: usize) {
        let lvt = self.lvt(entry);
        let vector = lvt.read(LVT::VECTOR) as u8;
        if lvt.is_set(LVT::MASKED) {
            return;
        }
        if vector >= 16 {
            self.accept(vector, Trigger::Edge);
        } else if entry == ERROR_ENTRY {
            // Only noted: an error in the entry that tells errors could not be told by it.
            let error = ERROR::RECEIVED_ILLEGAL_VECTOR::SET.value;
            self.new_errors.fetch_or(error, Relaxed);
        } else {
            self.raise_error(ERROR::RECEIVED_ILLEGAL_VECTOR::SET.value);
        }
    }

    fn lvt(&self, entry: usize) -> Lvt {
        Lvt::new(self.lvt[entry].load(Relaxed))
    }

    fn timer_is_periodic(&self) -> bool {
        self.lvt(TIMER_ENTRY).is_set(LVT::PERIODIC)
    }

    /// When [`VLapic::timer_fired`] is to be called; never while the timer's interrupt is masked.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        if self.lvt(TIMER_ENTRY).is_set(LVT::MASKED) {
            return None;
        }
        self.timer.deadline()
    }

    /// The deadline has passed: requests the interrupt and says when to call again. Too early a call does no harm.
    pub fn timer_fired(&self, now: Nanos) -> Option<Nanos> {
        if self.timer.expire(now, self.timer_is_periodic()) {
            self.raise_local(TIMER_ENTRY);
        }
        self.deadline()
    }
}
