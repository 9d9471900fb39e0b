//! Moving interrupts between queue and list registers.
//!
//! A flush first reads the used list registers back: empty ones are retired, and what somebody changed meanwhile
//! (disabled, cancelled, line fallen) is applied. Then queued interrupts go in, best priority first; when all registers
//! are in use, one that waits with a worse priority makes room. If something stays queued the underflow interrupt is
//! switched on, so the guest comes back before it runs dry.

use arrayvec::ArrayVec;

use super::{
    VgicDomain,
    dist::{Dist, NO_LR, bit, word},
    hw::{Hardware, MAX_LRS, lr_priority, pending_lr, with_source},
    queue::bits,
    vcpu::{PRIVATE, VcpuState, VgicVcpu},
};
use crate::gic::Version;

/// Interrupts that left a vCPU's list registers and are to be queued again, perhaps elsewhere.
type Leavers = ArrayVec<u16, MAX_LRS>;

impl VgicDomain {
    /// Before each guest entry on the CPU that has `vcpu` loaded: fills list registers from the queue. One relaxed load
    /// when there is nothing to do.
    #[inline]
    pub fn flush<H: Hardware>(&self, hw: &H, vcpu: usize, notify: impl FnMut(usize)) {
        if let Some(v) = self.vcpus.get(vcpu)
            && v.needs_flush()
            && !v.place_waiting(hw)
        {
            self.synchronize(hw, vcpu, v, notify);
        }
    }

    /// Reads the list registers of the vCPU that this CPU has loaded back into the model and fills them anew. Needed
    /// before pending or active state is read; [`VgicDomain::flush`] does it itself where it must.
    pub(super) fn synchronize<H: Hardware>(
        &self,
        hw: &H,
        index: usize,
        v: &VgicVcpu,
        mut notify: impl FnMut(usize),
    ) {
        let mut leavers = Leavers::new();
        let mut dist = self.dist.lock();
        {
            let mut state = v.state.lock();
            v.set_dirty(false);
            if !state.loaded {
                // Its registers are in memory; the next load takes up what is queued.
                v.set_dirty(true);
                return;
            }
            let mut both = Both {
                dist: &mut dist,
                state: &mut state,
                index,
                timer: v.timer(),
            };
            both.read_back(hw, &mut leavers);
            if core::mem::take(&mut both.state.moved) {
                self.follow(hw, both.dist, index, both.state.cpu);
            }
            both.fill(hw);
        }
        for intid in leavers {
            self.queue_spi(&mut dist, u32::from(intid), &mut notify);
        }
        if v.needs_flush() {
            // What left came straight back to the own queue.
            let mut state = v.state.lock();
            v.set_dirty(false);
            Both {
                dist: &mut dist,
                state: &mut state,
                index,
                timer: v.timer(),
            }
            .fill(hw);
        }
    }

    /// Queues a shared interrupt where it belongs, if it can be taken now.
    pub(super) fn queue_spi(&self, dist: &mut Dist, intid: u32, notify: &mut impl FnMut(usize)) {
        let Some(target) = dist.queue_of(intid) else {
            return;
        };
        let Some(v) = self.vcpus.get(usize::from(target)) else {
            return;
        };
        if let Some(spi) = dist.spi_mut(intid) {
            spi.holder = target;
        }
        let forwarded = {
            let mut state = v.state.lock();
            state.queue.insert(intid);
            v.set_dirty(true);
            state.forward != 0
        };
        if forwarded {
            notify(usize::from(target));
        }
    }

    /// Takes a shared interrupt out of the queue that it is in, and has its list register looked at where it is in one.
    pub(super) fn unqueue_spi(&self, dist: &mut Dist, intid: u32, notify: &mut impl FnMut(usize)) {
        let Some(spi) = dist.spi(intid).copied() else {
            return;
        };
        let holder = usize::from(spi.holder);
        let Some(v) = self.vcpus.get(holder) else {
            return;
        };
        let mut state = v.state.lock();
        state.queue.remove(intid);
        if spi.resident() {
            state.recheck = true;
            v.set_dirty(true);
            drop(state);
            notify(holder);
        }
    }
}

impl VgicVcpu {
    /// Puts what waits into the list registers of this CPU, which has the vCPU loaded, where nothing but private
    /// interrupts wait and no register has to be looked at for another reason. False when it takes more than that:
    /// [`VgicDomain::flush`].
    #[inline]
    pub fn place_waiting<H: Hardware>(&self, hw: &H) -> bool {
        let mut state = self.state.lock();
        if state.recheck || state.moved || state.direct == 0 {
            return false;
        }
        let Some(private) = state.queue.only_private() else {
            return false;
        };
        for intid in bits(private) {
            if !state.place_private(hw, intid) {
                return false;
            }
            state.latch &= !(1 << intid);
            state.queue.remove(intid);
        }
        self.set_dirty(false);
        true
    }
}

/// A vCPU and its domain's shared interrupts, both locked.
struct Both<'a> {
    dist: &'a mut Dist,
    state: &'a mut VcpuState,
    index: usize,
    timer: u32,
}

impl Both<'_> {
    fn enabled(&self, intid: u32) -> bool {
        if intid < PRIVATE {
            self.state.enabled & bit(intid) != 0
        } else {
            self.dist.is_enabled(intid)
        }
    }

    fn line(&self, intid: u32) -> bool {
        if intid < PRIVATE {
            self.state.line & bit(intid) != 0
        } else {
            self.dist.line[word(intid)] & bit(intid) != 0
        }
    }

    fn latched(&mut self, intid: u32) -> &mut u32 {
        if intid < PRIVATE {
            &mut self.state.latch
        } else {
            &mut self.dist.latch[word(intid)]
        }
    }

    fn is_latched(&mut self, intid: u32) -> bool {
        *self.latched(intid) & bit(intid) != 0
    }

    fn set_active(&mut self, intid: u32, active: bool) {
        let word = if intid < PRIVATE {
            &mut self.state.active
        } else {
            &mut self.dist.active[word(intid)]
        };
        *word = *word & !bit(intid) | if active { bit(intid) } else { 0 };
    }

    /// Takes the orders that were left for a resident interrupt: cancel its pending state, cancel its active state.
    fn take_orders(&mut self, intid: u32) -> (bool, bool) {
        let (pending, active) = if intid < PRIVATE {
            (
                &mut self.state.cancel_pending,
                &mut self.state.cancel_active,
            )
        } else {
            (
                &mut self.dist.cancel_pending[word(intid)],
                &mut self.dist.cancel_active[word(intid)],
            )
        };
        let orders = (*pending & bit(intid) != 0, *active & bit(intid) != 0);
        *pending &= !bit(intid);
        *active &= !bit(intid);
        orders
    }

    fn priority(&self, intid: u32) -> u8 {
        if intid < PRIVATE {
            self.state.priority[intid as usize & 31]
        } else {
            self.dist.spi(intid).map_or(u8::MAX, |spi| spi.priority)
        }
    }

    /// The list register that an interrupt is resident in.
    fn register_of(&self, intid: u32) -> Option<usize> {
        if intid < PRIVATE {
            (self.state.resident & bit(intid) != 0)
                .then(|| usize::from(self.state.lr_of[intid as usize & 31]))
        } else {
            self.dist
                .spi(intid)
                .filter(|spi| spi.resident() && usize::from(spi.holder) == self.index)
                .map(|spi| usize::from(spi.lr))
        }
    }

    /// Brings the model up to date with what the guest did, and the list registers with what others did.
    fn read_back<H: Hardware>(&mut self, hw: &H, leavers: &mut Leavers) {
        self.state.recheck = false;
        for n in bits(self.state.lrs.used) {
            let n = n as usize & (MAX_LRS - 1);
            let intid = u32::from(self.state.lrs.intid[n]);
            let was = hw.lr(n);
            let mut now = was;
            let (cancel_pending, cancel_active) = self.take_orders(intid);
            if cancel_active {
                now &= !H::ACTIVE;
            }
            if now & H::PENDING != 0 {
                let from_line = self.state.lrs.from_line & 1 << n != 0;
                if cancel_pending || from_line && !self.line(intid) {
                    now &= !H::PENDING;
                } else if !self.enabled(intid) {
                    now &= !H::PENDING;
                    if !from_line {
                        *self.latched(intid) |= bit(intid);
                        self.remember_sender(intid, now);
                    }
                }
            }
            if now & (H::PENDING | H::ACTIVE) == 0 {
                let ended_here = was & (H::PENDING | H::ACTIVE) != 0;
                if ended_here && was & H::HW != 0 && !self.is_latched(intid) {
                    // The guest gave it up by a register write, not by deactivation.
                    self.deactivate_physical(hw, intid);
                }
                if was != 0 {
                    hw.set_lr(n, 0);
                }
                self.retire(hw, n, intid, leavers);
                continue;
            }
            if now != was {
                hw.set_lr(n, now);
            }
            self.state.lrs.value[n] = now;
            self.set_active(intid, now & H::ACTIVE != 0);
            // Raised again meanwhile: that needs no register, and has to join what waits before the guest takes it.
            if self.state.queue.contains(intid) {
                self.place_again(hw, intid, n);
            }
        }
    }

    fn deactivate_physical<H: Hardware>(&mut self, hw: &H, intid: u32) {
        // A private interrupt's physical side belongs to the executing CPU, which has the vCPU loaded.
        if intid == self.timer {
            self.state.timer_active = false;
            hw.finish_private(intid);
        } else {
            hw.finish_shared(intid);
        }
    }

    /// GICv2: a software interrupt that goes back to waiting keeps its sender.
    fn remember_sender(&mut self, intid: u32, lr: u64) {
        if let Some(senders) = self.state.senders.get_mut(intid as usize)
            && self.state.special & bit(intid) != 0
        {
            *senders |= 1 << (lr >> 10 & 7);
        }
    }

    /// An interrupt's list register turned out empty: the interrupt starts again from its own state.
    fn retire<H: Hardware>(&mut self, hw: &H, n: usize, intid: u32, leavers: &mut Leavers) {
        if self.state.lrs.unlinked & 1 << n != 0 && !self.is_latched(intid) {
            hw.finish_shared(intid);
        }
        self.vacate(n);
        self.set_active(intid, false);
        if intid < PRIVATE {
            self.state.resident &= !bit(intid);
            self.state.queue_private(bit(intid));
            return;
        }
        if let Some(spi) = self.dist.spi_mut(intid) {
            spi.lr = NO_LR;
        }
        self.state.queue.remove(intid);
        if self.dist.pending(intid) {
            leavers.push(intid as u16);
        }
    }

    fn vacate(&mut self, n: usize) {
        let lrs = &mut self.state.lrs;
        lrs.used &= !(1 << n);
        lrs.from_line &= !(1 << n);
        lrs.unlinked &= !(1 << n);
    }

    /// Puts queued interrupts into list registers, best priority first.
    fn fill<H: Hardware>(&mut self, hw: &H) {
        if self.state.forward != 0 {
            while let Some(intid) = self.best_queued() {
                if !self.place(hw, intid) {
                    break;
                }
            }
        }
        let underflow = self.state.forward != 0 && !self.state.queue.is_empty();
        if underflow != self.state.underflow {
            self.state.underflow = underflow;
            self.state.set_direct();
            hw.set_underflow(underflow);
        }
    }

    fn best_queued(&self) -> Option<u32> {
        self.state
            .queue
            .iter()
            .min_by_key(|intid| self.priority(*intid))
    }

    /// Puts one interrupt into a list register and takes it out of the queue. False when no register can take it.
    fn place<H: Hardware>(&mut self, hw: &H, intid: u32) -> bool {
        if let Some(n) = self.register_of(intid) {
            self.place_again(hw, intid, n & (MAX_LRS - 1));
            return true;
        }
        let free = (!self.state.lrs.used).trailing_zeros() as usize;
        let n = if free < hw.lr_count().min(MAX_LRS) {
            free
        } else if let Some(n) = self.worse_waiting(hw, self.priority(intid)) {
            self.evict(hw, n);
            n
        } else {
            return false;
        };
        self.occupy(hw, intid, n);
        true
    }

    /// An interrupt that is in a list register became pending once more.
    fn place_again<H: Hardware>(&mut self, hw: &H, intid: u32, n: usize) {
        let now = hw.lr(n);
        if now & (H::PENDING | H::ACTIVE) == 0 {
            self.occupy(hw, intid, n);
            return;
        }
        self.state.queue.remove(intid);
        if H::VERSION == Version::V2 && intid < 16 {
            // Another sender has to wait; the end of this one brings the guest back here.
            hw.set_lr(n, now | H::EOI);
        } else if now & H::HW != 0 && now & H::PENDING == 0 {
            // Pending and active at once is not allowed for it. It stays latched until its register is empty; only a
            // guest's own write to ISPENDR gets here.
        } else {
            self.state.lrs.from_line &= !(1 << n);
            *self.latched(intid) &= !bit(intid);
            hw.set_lr(n, now | H::PENDING);
            self.state.lrs.value[n] = now | H::PENDING;
        }
    }

    /// Writes a list register for an interrupt that is in none.
    fn occupy<H: Hardware>(&mut self, hw: &H, intid: u32, n: usize) {
        let latched = self.is_latched(intid);
        let mut value = if intid < PRIVATE {
            self.state.template[intid as usize & 31]
        } else {
            let physical = self.dist.hardware[word(intid)] & bit(intid) != 0;
            let linked = physical && (!H::LINKS_ARE_LOCAL || self.taken_here(intid));
            if physical && !linked {
                self.state.lrs.unlinked |= 1 << n;
            }
            pending_lr(
                H::VERSION,
                intid,
                self.priority(intid),
                linked.then_some(intid),
            )
        };
        if self.state.lrs.unlinked & 1 << n != 0 {
            value |= H::EOI;
        }
        if self.line(intid) && value & H::HW == 0 {
            value |= H::EOI;
        }
        let mut waits_more = false;
        if H::VERSION == Version::V2
            && let Some(senders) = self.state.senders.get_mut(intid as usize)
        {
            let sender = senders.trailing_zeros() & 7;
            *senders &= !(1 << sender);
            value = with_source(value, sender as u8);
            if *senders != 0 {
                value |= H::EOI;
                waits_more = true;
            }
        }
        if !waits_more {
            *self.latched(intid) &= !bit(intid);
        }
        hw.set_lr(n, value);
        let lrs = &mut self.state.lrs;
        lrs.used |= 1 << n;
        lrs.from_line &= !(1 << n);
        if !latched {
            lrs.from_line |= 1 << n;
        }
        lrs.intid[n] = intid as u16;
        lrs.value[n] = value;
        self.state.queue.remove(intid);
        if intid < PRIVATE {
            self.state.resident |= bit(intid);
            self.state.lr_of[intid as usize & 31] = n as u8;
        } else if let Some(spi) = self.dist.spi_mut(intid) {
            spi.lr = n as u8;
            spi.holder = self.index as u16;
        }
    }

    fn taken_here(&self, intid: u32) -> bool {
        self.dist
            .spi(intid)
            .is_some_and(|spi| spi.taken_on == self.state.cpu.0)
    }

    /// The list register that waits with the worst priority, if that is worse than `priority`.
    fn worse_waiting<H: Hardware>(&self, hw: &H, priority: u8) -> Option<usize> {
        let (n, worst) = bits(self.state.lrs.used)
            .map(|n| n as usize & (MAX_LRS - 1))
            .map(|n| (n, hw.lr(n)))
            .filter(|(_, value)| value & (H::PENDING | H::ACTIVE) == H::PENDING)
            .map(|(n, value)| (n, lr_priority(H::VERSION, value)))
            .max_by_key(|(_, priority)| *priority)?;
        (worst > priority).then_some(n)
    }

    /// Puts an interrupt that waits in a list register back into the queue.
    fn evict<H: Hardware>(&mut self, hw: &H, n: usize) {
        let intid = u32::from(self.state.lrs.intid[n]);
        let value = hw.lr(n);
        if self.state.lrs.from_line & 1 << n == 0 {
            *self.latched(intid) |= bit(intid);
            self.remember_sender(intid, value);
        }
        self.vacate(n);
        if intid < PRIVATE {
            self.state.resident &= !bit(intid);
        } else if let Some(spi) = self.dist.spi_mut(intid) {
            spi.lr = NO_LR;
        }
        self.state.queue.insert(intid);
    }
}
