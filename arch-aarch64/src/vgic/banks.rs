//! The registers with one bit per interrupt: enable, pending, active. Word 0 is a vCPU's private interrupts, the others
//! are the domain's shared ones.

use super::{
    VgicDomain,
    access::Bank,
    dist::{bit, word},
    hw::{Hardware, MAX_LRS},
    queue::bits,
    vcpu::VcpuState,
};

impl VgicDomain {
    /// Reads word `n` of a bank. `vcpu` makes the access, `owner` has the private interrupts.
    pub(super) fn bank_read<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        owner: usize,
        bank: Bank,
        n: usize,
        mut notify: impl FnMut(usize),
    ) -> u32 {
        if n >= self.words {
            return 0;
        }
        let live = !matches!(bank, Bank::SetEnable | Bank::ClearEnable);
        if live && let Some(v) = self.vcpus.get(vcpu) {
            self.synchronize(hw, vcpu, v, &mut notify);
        }
        if n == 0 {
            return self.private_bits::<H>(vcpu, owner, bank, notify);
        }
        let dist = self.dist.lock();
        match bank {
            Bank::SetEnable | Bank::ClearEnable => dist.enabled[n & 31],
            Bank::SetPending | Bank::ClearPending => {
                let resident = (0..32u32).filter(|b| {
                    let intid = n as u32 * 32 + b;
                    dist.spi(intid).is_some_and(|spi| {
                        spi.resident() && self.waits_in::<H>(usize::from(spi.holder), spi.lr)
                    })
                });
                resident.fold(dist.latch[n & 31] | dist.line[n & 31], |w, b| w | 1 << b)
            }
            Bank::SetActive | Bank::ClearActive => {
                // What sits in another vCPU's registers is known as of its last look; ask for another.
                for b in 0..32 {
                    let holder = dist
                        .spi(n as u32 * 32 + b)
                        .filter(|spi| spi.resident())
                        .map(|spi| usize::from(spi.holder));
                    if let Some(holder) = holder.filter(|holder| *holder != vcpu) {
                        self.ask_to_look(holder, &mut notify);
                    }
                }
                dist.active[n & 31]
            }
        }
    }

    fn private_bits<H: Hardware>(
        &self,
        vcpu: usize,
        owner: usize,
        bank: Bank,
        mut notify: impl FnMut(usize),
    ) -> u32 {
        let Some(v) = self.vcpus.get(owner) else {
            return 0;
        };
        if owner != vcpu && !matches!(bank, Bank::SetEnable | Bank::ClearEnable) {
            self.ask_to_look(owner, &mut notify);
        }
        let state = v.state.lock();
        match bank {
            Bank::SetEnable | Bank::ClearEnable => state.enabled,
            Bank::SetPending | Bank::ClearPending => {
                let waiting = bits(state.lrs.used).filter(|n| {
                    let n = *n as usize & (MAX_LRS - 1);
                    state.lrs.intid[n] < 32 && state.lrs.value[n] & H::PENDING != 0
                });
                waiting.fold(state.latch | state.line, |w, n| {
                    w | 1 << (state.lrs.intid[n as usize & (MAX_LRS - 1)] & 31)
                })
            }
            Bank::SetActive | Bank::ClearActive => state.active,
        }
    }

    fn waits_in<H: Hardware>(&self, holder: usize, lr: u8) -> bool {
        self.vcpus.get(holder).is_some_and(|v| {
            v.state.lock().lrs.value[usize::from(lr) & (MAX_LRS - 1)] & H::PENDING != 0
        })
    }

    /// Has another vCPU read its list registers back soon.
    fn ask_to_look(&self, index: usize, notify: &mut impl FnMut(usize)) {
        let Some(v) = self.vcpus.get(index) else {
            return;
        };
        let loaded = {
            let mut state = v.state.lock();
            state.recheck = true;
            v.set_dirty(true);
            state.loaded
        };
        if loaded {
            notify(index);
        }
    }

    /// Writes word `n` of a bank: each set bit acts on its interrupt.
    #[allow(clippy::too_many_arguments, reason = "an access has that many parts")]
    pub(super) fn bank_write<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        owner: usize,
        bank: Bank,
        n: usize,
        value: u32,
        mut notify: impl FnMut(usize),
    ) {
        if n == 0 {
            self.private_bank_write(hw, vcpu, owner, bank, value, notify);
            return;
        }
        if n >= self.words {
            return;
        }
        let mut dist = self.dist.lock();
        let n = n & 31;
        // Not every number of the last word is an interrupt.
        let value = if n == 31 { value & 0x0fff_ffff } else { value };
        let (ours, physical) = (value, dist.hardware[n]);
        let numbers = move |mask: u32| bits(mask).map(move |b| n as u32 * 32 + b);
        match bank {
            Bank::SetEnable => {
                let new = ours & !dist.enabled[n];
                dist.enabled[n] |= new;
                for intid in numbers(new & physical) {
                    hw.enable(intid);
                }
                for intid in numbers(new & (dist.latch[n] | dist.line[n])) {
                    self.queue_spi(&mut dist, intid, &mut notify);
                }
            }
            Bank::ClearEnable => {
                let gone = ours & dist.enabled[n];
                dist.enabled[n] &= !gone;
                for intid in numbers(gone) {
                    if physical & bit(intid) != 0 {
                        hw.disable(intid);
                    }
                    self.unqueue_spi(&mut dist, intid, &mut notify);
                }
            }
            Bank::SetPending => {
                for intid in numbers(ours & physical) {
                    hw.set_pending(intid);
                }
                for intid in numbers(ours & !physical) {
                    dist.latch[n] |= bit(intid);
                    self.queue_spi(&mut dist, intid, &mut notify);
                }
            }
            Bank::ClearPending => {
                for intid in numbers(ours) {
                    if dist.latch[n] & physical & bit(intid) != 0 {
                        hw.finish_shared(intid);
                    }
                    dist.latch[n] &= !bit(intid);
                    if dist.spi(intid).is_some_and(|spi| spi.resident()) {
                        dist.cancel_pending[n] |= bit(intid);
                        self.unqueue_spi(&mut dist, intid, &mut notify);
                    } else if !dist.pending(intid) {
                        self.unqueue_spi(&mut dist, intid, &mut notify);
                    }
                }
            }
            Bank::SetActive => {
                for intid in numbers(ours) {
                    if dist.spi(intid).is_some_and(|spi| !spi.resident()) {
                        dist.active[n] |= bit(intid);
                        self.unqueue_spi(&mut dist, intid, &mut notify);
                    }
                }
            }
            Bank::ClearActive => {
                for intid in numbers(ours) {
                    if dist.spi(intid).is_some_and(|spi| spi.resident()) {
                        dist.cancel_active[n] |= bit(intid);
                        let holder = dist.spi(intid).map_or(0, |spi| usize::from(spi.holder));
                        self.order(holder, vcpu, &mut notify);
                    } else if dist.active[word(intid)] & bit(intid) != 0 {
                        dist.active[n] &= !bit(intid);
                        self.queue_spi(&mut dist, intid, &mut notify);
                    }
                }
            }
        }
    }

    /// Has a vCPU take the orders left for it at its next flush.
    fn order(&self, holder: usize, vcpu: usize, notify: &mut impl FnMut(usize)) {
        let Some(v) = self.vcpus.get(holder) else {
            return;
        };
        {
            let mut state = v.state.lock();
            state.recheck = true;
            v.set_dirty(true);
        }
        if holder != vcpu {
            notify(holder);
        }
    }

    fn private_bank_write<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        owner: usize,
        bank: Bank,
        value: u32,
        mut notify: impl FnMut(usize),
    ) {
        let Some(v) = self.vcpus.get(owner) else {
            return;
        };
        let mut state = v.state.lock();
        match bank {
            Bank::SetEnable => {
                state.enabled |= value;
                state.queue_private(value);
            }
            Bank::ClearEnable => {
                // Software interrupts of GICv2 cannot be disabled.
                let gone = value & state.enabled & !state.special;
                state.enabled &= !gone;
                forget(&mut state, gone);
            }
            Bank::SetPending => {
                // GICv2 has SPENDSGIR for software interrupts.
                state.latch |= value & !state.special;
                state.queue_private(value);
            }
            Bank::ClearPending => {
                let gone = value & !state.special;
                let timer = 1 << (v.timer() & 31);
                if gone & state.latch & timer != 0 && state.timer_active {
                    state.timer_active = false;
                    if state.loaded && owner == vcpu {
                        hw.finish_private(v.timer());
                    }
                }
                state.latch &= !gone;
                state.cancel_pending |= gone & state.resident;
                let low = gone & !state.line;
                forget(&mut state, low);
            }
            Bank::SetActive => {
                let new = value & !state.resident;
                state.active |= new;
                forget(&mut state, new);
            }
            Bank::ClearActive => {
                state.cancel_active |= value & state.resident;
                state.recheck |= value & state.resident != 0;
                let gone = value & !state.resident;
                state.active &= !gone;
                state.queue_private(gone);
            }
        }
        let look = state.recheck || !state.queue.is_empty();
        if look {
            v.set_dirty(true);
        }
        drop(state);
        if look && owner != vcpu {
            notify(owner);
        }
    }
}

/// Takes private interrupts out of the queue, and has those in list registers looked at.
fn forget(state: &mut VcpuState, mask: u32) {
    for intid in bits(mask) {
        state.queue.remove(intid);
    }
    state.recheck |= mask & state.resident != 0;
}
