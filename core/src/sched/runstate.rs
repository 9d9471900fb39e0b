//! Where a vCPU's time went: running, runnable, blocked, offline.
//!
//! One party writes at a time (whoever may move the vCPU, see [`super`]); readers on other CPUs see a consistent copy
//! through a sequence number that is odd during a change. Header: `public/vcpu.h`.

use core::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use xenolith_hal::Nanos;

/// What a vCPU does, as its guest and the tools are told (`RUNSTATE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunstateKind {
    /// On a CPU.
    Running = 0,
    /// Could run, waits for a CPU.
    Runnable = 1,
    /// Waits for an event.
    Blocked = 2,
    /// Down or paused.
    Offline = 3,
}

/// A copy of a vCPU's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunstateTimes {
    /// What it does now.
    pub kind: RunstateKind,
    /// Since when.
    pub since: Nanos,
    /// How long it did each kind of thing.
    pub time: [Nanos; 4],
}

/// A vCPU's account.
pub(crate) struct Runstate {
    sequence: AtomicU32,
    kind: AtomicU8,
    since: AtomicU64,
    time: [AtomicU64; 4],
}

impl Runstate {
    pub(crate) const fn new() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            kind: AtomicU8::new(RunstateKind::Offline as u8),
            since: AtomicU64::new(0),
            time: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// Books the time up to `now` and starts a new state.
    #[inline]
    pub(crate) fn change(&self, kind: RunstateKind, now: Nanos) {
        let old = self.kind.load(Relaxed);
        if old == kind as u8 {
            return;
        }
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        let spent = now.0.saturating_sub(self.since.load(Relaxed));
        if let Some(time) = self.time.get(usize::from(old)) {
            time.store(time.load(Relaxed).wrapping_add(spent), Relaxed);
        }
        self.kind.store(kind as u8, Relaxed);
        self.since.store(now.0, Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    pub(crate) fn kind(&self) -> RunstateKind {
        match self.kind.load(Relaxed) {
            0 => RunstateKind::Running,
            1 => RunstateKind::Runnable,
            2 => RunstateKind::Blocked,
            _ => RunstateKind::Offline,
        }
    }

    /// A consistent copy; the time of the current state counts up to `now`.
    pub(crate) fn read(&self, now: Nanos) -> RunstateTimes {
        let mut copy = self.booked();
        if let Some(time) = copy.time.get_mut(copy.kind as usize) {
            *time = time.plus(now.since(copy.since));
        }
        copy
    }

    /// A consistent copy; the time of the current state counts up to when it began.
    pub(crate) fn booked(&self) -> RunstateTimes {
        loop {
            let before = self.sequence.load(Acquire);
            let [running, runnable, blocked, offline] = &self.time;
            let copy = RunstateTimes {
                kind: self.kind(),
                since: Nanos(self.since.load(Relaxed)),
                time: [running, runnable, blocked, offline].map(|time| Nanos(time.load(Relaxed))),
            };
            fence(Acquire);
            if before & 1 == 0 && self.sequence.load(Relaxed) == before {
                return copy;
            }
            core::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_add_up_to_the_time_passed() {
        let runstate = Runstate::new();
        runstate.change(RunstateKind::Runnable, Nanos(10));
        runstate.change(RunstateKind::Running, Nanos(15));
        runstate.change(RunstateKind::Blocked, Nanos(40));
        let copy = runstate.read(Nanos(100));
        assert_eq!(copy.kind, RunstateKind::Blocked);
        assert_eq!(copy.since, Nanos(40));
        assert_eq!(copy.time, [Nanos(25), Nanos(5), Nanos(60), Nanos(10)]);
        assert_eq!(copy.time.iter().map(|t| t.0).sum::<u64>(), 100);
    }
}
