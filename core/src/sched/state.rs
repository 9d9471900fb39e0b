//! What the scheduler knows of one vCPU, all in atomics.
//!
//! Two words decide everything. `flags` says why the vCPU may not run (down, blocked, polling); together with the pause
//! counts it answers "runnable?". [`Place`] says where the vCPU is and who may move it. The state diagram stands in the
//! [module documentation](super).

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use xenolith_hal::{AtomicCpuMask, CpuId};

use super::{
    area::Area,
    handoff::{Place, flag},
    runstate::Runstate,
};

impl Place {
    const fn pack(self) -> u32 {
        let (state, cpu) = match self {
            Self::Off(cpu) => (0, cpu),
            Self::Queued(cpu) => (1, cpu),
            Self::Running(cpu) => (2, cpu),
            Self::Leaving(cpu) => (3, cpu),
        };
        state << 16 | cpu.0 as u32
    }

    const fn unpack(word: u32) -> Self {
        let cpu = CpuId(word as u16);
        match word >> 16 {
            0 => Self::Off(cpu),
            1 => Self::Queued(cpu),
            2 => Self::Running(cpu),
            _ => Self::Leaving(cpu),
        }
    }
}

/// What the scheduler knows of a vCPU.
pub struct VcpuSched {
    flags: AtomicU32,
    pause_count: AtomicU32,
    place: AtomicU32,
    /// Virtual run time in nanoseconds: who has least of it is next. Written by whoever may move the vCPU.
    vruntime: AtomicU64,
    /// When it was last given a CPU.
    started: AtomicU64,
    /// The CPUs that it may run on.
    pub(crate) hard: AtomicCpuMask,
    /// The CPUs that it prefers.
    pub(crate) soft: AtomicCpuMask,
    /// `hard` while a pin override is in force; else empty.
    pub(crate) saved_hard: AtomicCpuMask,
    /// The single port that it polls for, or [`ANY_PORT`].
    pub(crate) poll_port: AtomicU32,
    /// Where its time went.
    pub(crate) runstate: Runstate,
    /// Where its guest reads that.
    pub(crate) area: Area,
}

/// In `poll_port`: the vCPU polls more than one port.
pub(crate) const ANY_PORT: u32 = u32::MAX;

impl Default for VcpuSched {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuSched {
    /// A vCPU that is down.
    pub const fn new() -> Self {
        Self {
            flags: AtomicU32::new(flag::DOWN),
            pause_count: AtomicU32::new(0),
            place: AtomicU32::new(Place::Off(CpuId(0)).pack()),
            vruntime: AtomicU64::new(0),
            started: AtomicU64::new(0),
            hard: AtomicCpuMask::all(),
            soft: AtomicCpuMask::all(),
            saved_hard: AtomicCpuMask::empty(),
            poll_port: AtomicU32::new(ANY_PORT),
            runstate: Runstate::new(),
            area: Area::none(),
        }
    }

    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(SeqCst)
    }

    /// Sets flags; gives those that were set before.
    pub(crate) fn set(&self, flags: u32) -> u32 {
        self.flags.fetch_or(flags, SeqCst)
    }

    /// Clears flags; gives those that were set before.
    pub(crate) fn clear(&self, flags: u32) -> u32 {
        self.flags.fetch_and(!flags, SeqCst)
    }

    pub(crate) fn pause_count(&self) -> u32 {
        self.pause_count.load(SeqCst)
    }

    pub(crate) fn pause(&self) {
        self.pause_count.fetch_add(1, SeqCst);
    }

    /// Undoes one pause; true when none is left. One too many is ignored.
    pub(crate) fn unpause(&self) -> bool {
        count_down(&self.pause_count)
    }

    pub(crate) fn place(&self) -> Place {
        Place::unpack(self.place.load(SeqCst))
    }

    pub(crate) fn move_to(&self, place: Place) {
        self.place.store(place.pack(), SeqCst);
    }

    /// Moves the vCPU if it still is where it was seen.
    pub(crate) fn claim(&self, seen: Place, to: Place) -> bool {
        self.place
            .compare_exchange(seen.pack(), to.pack(), SeqCst, SeqCst)
            .is_ok()
    }

    pub(crate) fn vruntime(&self) -> u64 {
        self.vruntime.load(Relaxed)
    }

    pub(crate) fn set_vruntime(&self, value: u64) {
        self.vruntime.store(value, Relaxed);
    }

    /// Its virtual run time at `now`, while it runs.
    pub(crate) fn vruntime_at(&self, now: u64) -> u64 {
        let ran = now.saturating_sub(self.started.load(Relaxed));
        self.vruntime().saturating_add(ran)
    }

    /// Charges the time since it was given the CPU.
    pub(crate) fn charge(&self, now: u64) {
        self.set_vruntime(self.vruntime_at(now));
        self.started.store(now, Relaxed);
    }

    pub(crate) fn start(&self, now: u64) {
        self.started.store(now, Relaxed);
    }
}

/// Takes one from a count that stays at zero; true when it got there by this call.
pub(crate) fn count_down(count: &AtomicU32) -> bool {
    count
        .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
        .is_ok_and(|before| before == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_packing() {
        for cpu in [CpuId(0), CpuId(255)] {
            for place in [
                Place::Off(cpu),
                Place::Queued(cpu),
                Place::Running(cpu),
                Place::Leaving(cpu),
            ] {
                assert_eq!(Place::unpack(place.pack()), place);
            }
        }
    }

    #[test]
    fn one_unpause_too_many_is_ignored() {
        let vcpu = VcpuSched::new();
        assert!(!vcpu.unpause());
        vcpu.pause();
        vcpu.pause();
        assert!(!vcpu.unpause());
        assert!(vcpu.unpause());
        assert_eq!(vcpu.pause_count(), 0);
    }
}
