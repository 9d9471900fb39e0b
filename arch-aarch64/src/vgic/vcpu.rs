//! One vCPU's part of the virtual interrupt controller: its private interrupts, the queue of what it could take, and what
//! its list registers hold.
//!
//! Invariant: an interrupt is *resident* exactly if [`Lrs`] names a list register for it. While it is, that register
//! knows best what state it is in; it is looked at only when somebody needs to know. A resident interrupt whose list
//! register turns out empty has been handled and is *retired* then.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use xenolith_hal::{
    CpuId,
    sync::{Mutex, Rank},
};

use super::{
    hw::{CpuInterface, Hardware, MAX_LRS, lr_priority, pending_lr, threshold, unlinked},
    queue::{Queue, bits},
};
use crate::gic::{Ppis, Version};

/// Private interrupts: 16 software generated ones, 16 of the CPU's own devices.
pub(super) const PRIVATE: u32 = 32;
/// Priority bits that every implementation has; the others read as zero.
pub(super) const PRIORITY_MASK: u8 = 0xf8;
const RESET_PRIORITY: u8 = 0xa0;

/// What the list registers hold, as last written or read.
#[derive(Default)]
pub(super) struct Lrs {
    /// Registers that were given an interrupt and not found empty since.
    pub(super) used: u32,
    /// Registers whose pending state stands for an asserted line and for nothing else.
    pub(super) from_line: u32,
    /// Registers whose interrupt has a physical one behind it that the guest's deactivation does not reach; it is
    /// deactivated when the register is found empty.
    pub(super) unlinked: u32,
    /// The interrupt in each used register.
    pub(super) intid: [u16; MAX_LRS],
    /// The value of each used register.
    pub(super) value: [u64; MAX_LRS],
}

/// Everything under a vCPU's lock.
pub(super) struct VcpuState {
    // Private interrupts, one bit each.
    pub(super) enabled: u32,
    /// Pending until it reaches a list register: an edge, a software interrupt, a write to `ISPENDR`.
    pub(super) latch: u32,
    /// Asserted lines; pending for as long as they are.
    pub(super) line: u32,
    /// Active as last seen; for what is not resident this is the truth.
    pub(super) active: u32,
    /// Set where the guest says that a line is edge-triggered.
    pub(super) edge: u32,
    pub(super) resident: u32,
    /// Those that need the long way into a list register.
    pub(super) special: u32,
    pub(super) cancel_pending: u32,
    pub(super) cancel_active: u32,
    pub(super) priority: [u8; PRIVATE as usize],
    /// Which list register, for those that are resident.
    pub(super) lr_of: [u8; PRIVATE as usize],
    /// What is written to a list register to make the interrupt pending.
    pub(super) template: [u64; PRIVATE as usize],
    /// GICv2: the vCPUs that sent each software interrupt, one bit each.
    pub(super) senders: [u8; 16],

    /// All ones while the distributor forwards interrupts, else zero.
    pub(super) forward: u32,
    /// All ones while nothing waits beside full list registers and the distributor forwards: what is raised for the
    /// running vCPU may then go straight into a free one without passing by something better.
    pub(super) direct: u32,
    /// Enabled, pending, routed here, and not (or not wholly) in a list register.
    pub(super) queue: Queue,
    pub(super) lrs: Lrs,
    /// The underflow maintenance interrupt is on.
    pub(super) underflow: bool,
    /// Somebody changed the state of resident interrupts: read the list registers back at the next flush.
    pub(super) recheck: bool,
    /// List registers and CPU interface are in the hardware of some CPU.
    pub(super) loaded: bool,
    /// A virtual timer interrupt was taken and may still be active physically.
    pub(super) timer_active: bool,
    pub(super) interface: CpuInterface,
    /// The CPU that last loaded it; physical interrupts follow it there.
    pub(super) cpu: CpuId,
    /// It was loaded on another CPU than before, and its physical interrupts have not followed yet.
    pub(super) moved: bool,
    /// `GICR_WAKER.ProcessorSleep` as the guest wrote it.
    pub(super) asleep: bool,
}

/// One vCPU's part of the virtual interrupt controller.
pub struct VgicVcpu {
    /// A flush has something to do. Written under the lock, read without.
    dirty: AtomicBool,
    /// The virtual timer's interrupt number.
    timer: u32,
    /// What a GICv3 guest writes to `ICC_SGI1R_EL1` to reach only this vCPU, without interrupt number.
    to_self: u64,
    pub(super) state: Mutex<VcpuState>,
}

impl VgicVcpu {
    pub(super) fn new(version: Version, ppis: Ppis, index: usize) -> Self {
        let mut state = VcpuState {
            enabled: match version {
                // Software interrupts of a GICv2 are always enabled on common parts; guests rely on it.
                Version::V2 => 0xffff,
                Version::V3 => 0,
            },
            latch: 0,
            line: 0,
            active: 0,
            edge: 0xffff,
            resident: 0,
            special: match version {
                Version::V2 => 0xffff,
                Version::V3 => 0,
            },
            cancel_pending: 0,
            cancel_active: 0,
            priority: [0; PRIVATE as usize],
            lr_of: [0; PRIVATE as usize],
            template: [0; PRIVATE as usize],
            senders: [0; 16],
            forward: 0,
            direct: 0,
            queue: Queue::default(),
            lrs: Lrs::default(),
            underflow: false,
            recheck: false,
            loaded: false,
            timer_active: false,
            interface: CpuInterface::default(),
            cpu: CpuId(0),
            moved: false,
            asleep: true,
        };
        for intid in 0..PRIVATE {
            state.set_priority(version, ppis.virtual_timer, intid, RESET_PRIORITY);
        }
        Self {
            dirty: AtomicBool::new(false),
            timer: ppis.virtual_timer & (PRIVATE - 1),
            to_self: super::sgi::to_self(index),
            state: Mutex::new(Rank::VcpuInterrupts, state),
        }
    }

    pub(super) const fn timer(&self) -> u32 {
        self.timer
    }

    #[inline(always)]
    pub(super) const fn to_self(&self) -> u64 {
        self.to_self
    }

    /// True when [`VgicDomain::flush`](super::VgicDomain::flush) has work. One relaxed load.
    #[inline(always)]
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.dirty.load(Relaxed)
    }

    /// To be called with the vCPU's lock held, so that a flush that follows sees why.
    #[inline]
    pub(super) fn set_dirty(&self, dirty: bool) {
        self.dirty.store(dirty, Relaxed);
    }

    /// The list registers asked for a look (underflow, or a line-triggered interrupt ended). The look is taken at the
    /// next flush.
    pub fn maintenance(&self) {
        let mut state = self.state.lock();
        state.recheck = true;
        self.set_dirty(true);
    }

    /// Makes a private interrupt pending for the vCPU that this CPU has loaded; straight into a list register where
    /// one is free.
    #[inline]
    pub fn raise_here<H: Hardware>(&self, hw: &H, intid: u32) {
        let intid = intid & (PRIVATE - 1);
        let bit = 1 << intid;
        let mut state = self.state.lock();
        if state.enabled & state.direct & !state.latch & bit != 0 && state.place_private(hw, intid)
        {
            return;
        }
        state.latch_private(intid);
        if state.is_queued_private(bit) {
            self.set_dirty(true);
        }
    }

    /// The physical virtual-timer interrupt came while this vCPU was loaded, and its priority has been dropped. The
    /// guest's own deactivation will deactivate it.
    #[inline]
    pub fn timer_fired<H: Hardware>(&self, hw: &H) {
        let intid = self.timer & (PRIVATE - 1);
        let bit = 1 << intid;
        let mut state = self.state.lock();
        state.timer_active = true;
        if state.enabled & state.direct & !state.latch & bit != 0 && state.place_private(hw, intid)
        {
            return;
        }
        state.latch_private(intid);
        if state.is_queued_private(bit) {
            self.set_dirty(true);
        }
    }

    /// Makes a private interrupt pending from anywhere. True when the vCPU should be woken or made to look.
    #[must_use]
    pub fn raise(&self, intid: u32) -> bool {
        let mut state = self.state.lock();
        state.latch_private(intid & (PRIVATE - 1));
        let look = state.is_queued_private(1 << (intid & (PRIVATE - 1)));
        if look {
            self.set_dirty(true);
        }
        look
    }

    /// GICv2: software interrupt `sgi` from vCPU `sender`, for this vCPU. True when it should be woken or made to look.
    pub(super) fn raise_from(&self, sgi: u32, sender: u8) -> bool {
        if let Some(senders) = self.state.lock().senders.get_mut(sgi as usize) {
            *senders |= 1 << (sender & 7);
        }
        self.raise(sgi)
    }

    /// GICv2: takes back what those vCPUs sent and has not been seen.
    pub(super) fn cancel_senders(&self, sgi: u32, cancelled: u8) {
        let mut state = self.state.lock();
        if let Some(senders) = state.senders.get_mut(sgi as usize) {
            *senders &= !cancelled;
            if *senders == 0 {
                state.latch &= !(1 << sgi);
                state.queue.remove(sgi);
            }
        }
    }

    /// Sets the line of a private interrupt. True when the vCPU should be woken or made to look.
    #[must_use]
    pub fn set_line(&self, intid: u32, asserted: bool) -> bool {
        let intid = intid & (PRIVATE - 1);
        let bit = 1 << intid;
        let mut state = self.state.lock();
        if asserted {
            state.line |= bit;
            state.queue_private(bit);
        } else {
            state.line &= !bit;
            if state.latch & bit == 0 {
                state.queue.remove(intid);
            }
            state.recheck |= state.resident & bit != 0;
        }
        let look = state.recheck || state.is_queued_private(bit);
        if look {
            self.set_dirty(true);
        }
        look
    }

    /// True when the guest has an interrupt that its CPU interface would present, whatever its `PSTATE` masks. `here`
    /// tells that the executing CPU has this vCPU loaded.
    #[must_use]
    pub fn has_deliverable<H: Hardware>(&self, hw: &H, here: bool) -> bool {
        let state = self.state.lock();
        let here = here && state.loaded;
        let threshold = threshold(
            H::VERSION,
            if here {
                hw.vmcr()
            } else {
                state.interface.vmcr
            },
        );
        let in_registers = bits(state.lrs.used).any(|n| {
            let value = if here {
                hw.lr(n as usize)
            } else {
                state.lrs.value[n as usize & (MAX_LRS - 1)]
            };
            value & H::PENDING != 0 && lr_priority(H::VERSION, value) < threshold
        });
        // What is queued beside full list registers has no better priority than they; so for a shared one it is enough
        // to know that it is there.
        in_registers
            || state.forward != 0
                && threshold != 0
                && match state.queue.only_private() {
                    Some(word) => bits(word).any(|i| state.priority[i as usize & 31] < threshold),
                    None => true,
                }
    }

    /// Takes the vCPU off this CPU: its list registers and CPU interface go to memory.
    pub fn save<H: Hardware>(&self, hw: &H) {
        let mut state = self.state.lock();
        if !state.loaded {
            return;
        }
        for n in bits(state.lrs.used) {
            let n = n as usize & (MAX_LRS - 1);
            state.lrs.value[n] = hw.lr(n);
            hw.set_lr(n, 0);
        }
        hw.save_interface(&mut state.interface);
        state.loaded = false;
        if state.timer_active {
            state.timer_active = state.timer_still_active::<H>(self.timer);
            if state.timer_active {
                hw.finish_private(self.timer);
            }
        }
    }

    /// Puts the vCPU on this CPU, whose list registers are empty.
    pub fn load<H: Hardware>(&self, hw: &H, cpu: CpuId) {
        let mut state = self.state.lock();
        if state.loaded {
            return;
        }
        if state.cpu != cpu {
            state.cpu = cpu;
            state.moved = true;
            self.set_dirty(true);
            if H::LINKS_ARE_LOCAL {
                state.unlink_shared::<H>();
            }
        }
        for n in bits(state.lrs.used) {
            let n = n as usize & (MAX_LRS - 1);
            hw.set_lr(n, state.lrs.value[n]);
        }
        if state.timer_active {
            hw.set_active(cpu, self.timer);
        }
        hw.load_interface(&state.interface, state.underflow);
        state.loaded = true;
    }

    /// Gives a vCPU that is about to be switched on a CPU interface as after reset: closed, nothing active. What was
    /// pending stays pending. The vCPU must not be loaded.
    pub fn reset_interface(&self) {
        let mut state = self.state.lock();
        if !state.loaded {
            state.interface = CpuInterface::default();
        }
    }
}

impl VcpuState {
    pub(super) fn set_priority(&mut self, version: Version, timer: u32, intid: u32, priority: u8) {
        let at = intid as usize & 31;
        self.priority[at] = priority & PRIORITY_MASK;
        let physical = (intid == timer).then_some(timer);
        self.template[at] = pending_lr(version, intid, self.priority[at], physical);
    }

    /// After a change of `forward` or `underflow`.
    pub(super) fn set_direct(&mut self) {
        self.direct = if self.underflow { 0 } else { self.forward };
    }

    /// Notes that a private interrupt is pending and queues it where it can be taken.
    #[inline]
    pub(super) fn latch_private(&mut self, intid: u32) {
        self.latch |= 1 << intid;
        self.queue_private(1 << intid);
    }

    /// Queues those of the given private interrupts that can be taken.
    pub(super) fn queue_private(&mut self, candidates: u32) {
        let ready =
            candidates & self.enabled & (self.latch | self.line) & (self.resident | !self.active);
        // A resident interrupt that is pending for its line's sake stays with its list register.
        self.queue
            .insert_private(ready & (self.latch | !self.resident));
    }

    #[inline]
    pub(super) fn is_queued_private(&self, bit: u32) -> bool {
        self.forward != 0 && self.enabled & (self.latch | self.line) & bit != 0
    }

    /// Puts a pending private interrupt into the list registers without looking at anything shared. False when that
    /// takes the long way.
    #[inline]
    pub(super) fn place_private<H: Hardware>(&mut self, hw: &H, intid: u32) -> bool {
        let bit = 1 << intid;
        if (self.special | self.line | self.cancel_pending | self.cancel_active) & bit != 0 {
            return false;
        }
        let at = intid as usize & 31;
        let template = self.template[at];
        if self.resident & bit != 0 {
            let n = usize::from(self.lr_of[at]) & (MAX_LRS - 1);
            let now = hw.lr(n);
            self.lrs.from_line &= !(1 << n);
            let next = if now & (H::PENDING | H::ACTIVE) == 0 {
                template
            } else if now & H::PENDING != 0 {
                return true;
            } else if now & H::HW != 0 {
                return false;
            } else {
                now | H::PENDING
            };
            hw.set_lr(n, next);
            self.lrs.value[n] = next;
            return true;
        }
        if self.active & bit != 0 {
            return false;
        }
        let Some(n) = self.free_lr(hw) else {
            return false;
        };
        hw.set_lr(n, template);
        self.lrs.used |= 1 << n;
        self.lrs.from_line &= !(1 << n);
        self.lrs.intid[n] = intid as u16;
        self.lrs.value[n] = template;
        self.lr_of[at] = n as u8;
        self.resident |= bit;
        true
    }

    /// A list register that is free, or that a private interrupt has left with nothing more to do.
    #[inline]
    fn free_lr<H: Hardware>(&mut self, hw: &H) -> Option<usize> {
        let n = (!self.lrs.used).trailing_zeros() as usize;
        if n < hw.lr_count() {
            return Some(n & (MAX_LRS - 1));
        }
        let left = self.lrs.used & hw.empty_lrs();
        if left == 0 {
            return None;
        }
        let n = left.trailing_zeros() as usize & (MAX_LRS - 1);
        let old = u32::from(self.lrs.intid[n]);
        if old >= PRIVATE {
            return None;
        }
        let bit = 1 << old;
        if (self.special | self.line | self.latch) & bit != 0 {
            return None;
        }
        self.resident &= !bit;
        self.active &= !bit;
        Some(n)
    }

    /// The shared physical interrupts that list registers are linked to were acknowledged by a CPU that the links do not
    /// reach from here.
    fn unlink_shared<H: Hardware>(&mut self) {
        let lrs = &mut self.lrs;
        for n in bits(lrs.used) {
            let at = n as usize & (MAX_LRS - 1);
            let value = lrs.value[at];
            if lrs.intid[at] >= PRIVATE as u16
                && value & H::HW != 0
                && value & (H::PENDING | H::ACTIVE) != 0
            {
                lrs.value[at] = unlinked(H::VERSION, value) | H::EOI;
                lrs.unlinked |= 1 << at;
            }
        }
    }

    /// Whether the timer interrupt that was taken still is active physically, after the list registers were read.
    fn timer_still_active<H: Hardware>(&self, timer: u32) -> bool {
        let bit = 1 << (timer & 31);
        if self.resident & bit != 0 {
            let n = usize::from(self.lr_of[timer as usize & 31]) & (MAX_LRS - 1);
            return self.lrs.value[n] & (H::PENDING | H::ACTIVE) != 0;
        }
        self.latch & bit != 0
    }
}
