//! Physical CPUs: which one a thread stands for, and what the core asked of each.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use xenolith_hal::{CpuId, Nanos};

thread_local! {
    static CURRENT: Cell<CpuId> = const { Cell::new(CpuId(0)) };
}

pub(crate) fn current() -> CpuId {
    CURRENT.get()
}

pub(crate) fn run_as<R>(cpu: CpuId, f: impl FnOnce() -> R) -> R {
    struct Restore(CpuId);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(cpu));
    f()
}

/// A moment in a call of the core's at which other CPUs may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The call goes on whatever they do.
    Any,
    /// It goes on when another CPU has ended what it does.
    Waiting,
}

type Hook = Rc<dyn Fn(Moment)>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

pub(crate) fn with_hook<R>(hook: Hook, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Hook>);
    impl Drop for Restore {
        fn drop(&mut self) {
            HOOK.set(self.0.take());
        }
    }
    let _restore = Restore(HOOK.replace(Some(hook)));
    f()
}

/// Lets the hook act. What it asks of the machine itself is no such moment.
pub(crate) fn pass(moment: Moment) {
    let Some(hook) = HOOK.take() else { return };
    with_hook(Rc::new(|_| {}), || hook(moment));
    HOOK.set(Some(hook));
}

const NEVER: u64 = u64::MAX;

/// What the core asked of one CPU.
pub struct CpuRecord {
    kicks: AtomicU64,
    timer: AtomicU64,
    /// How often [`xenolith_hal::Hal::interrupt_waits`] still answers no.
    quiet_polls: AtomicU64,
}

impl Default for CpuRecord {
    fn default() -> Self {
        Self {
            kicks: AtomicU64::new(0),
            timer: AtomicU64::new(NEVER),
            quiet_polls: AtomicU64::new(NEVER),
        }
    }
}

impl CpuRecord {
    /// How often it was kicked since the last call.
    pub fn take_kicks(&self) -> u64 {
        self.kicks.swap(0, SeqCst)
    }

    /// How often it was kicked since then; the count goes on.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(SeqCst)
    }

    /// Its programmed deadline.
    pub fn timer(&self) -> Option<Nanos> {
        Some(self.timer.load(SeqCst))
            .filter(|deadline| *deadline != NEVER)
            .map(Nanos)
    }

    /// Lets an interrupt wait for the CPU from the `polls`-th next poll on (0: at once).
    pub fn interrupt_after(&self, polls: u64) {
        self.quiet_polls.store(polls, SeqCst);
    }

    /// Takes the waiting interrupt away.
    pub fn clear_interrupt(&self) {
        self.quiet_polls.store(NEVER, SeqCst);
    }

    pub(crate) fn kick(&self) {
        self.kicks.fetch_add(1, SeqCst);
    }

    pub(crate) fn set_timer(&self, deadline: Option<Nanos>) {
        self.timer.store(deadline.map_or(NEVER, |d| d.0), SeqCst);
    }

    pub(crate) fn expire(&self, now: Nanos) -> bool {
        let deadline = self.timer.load(SeqCst);
        deadline != NEVER
            && deadline <= now.0
            && self
                .timer
                .compare_exchange(deadline, NEVER, SeqCst, SeqCst)
                .is_ok()
    }

    pub(crate) fn poll_interrupt(&self) -> bool {
        let polls = self
            .quiet_polls
            .fetch_update(SeqCst, SeqCst, |polls| match polls {
                0 | NEVER => None,
                polls => Some(polls - 1),
            });
        polls == Err(0)
    }
}

/// Has the lock-order checker follow threads: tests of one process run at the same time and each has its own CPU 0, so
/// the checker's table is indexed by thread, not by simulated CPU.
pub(crate) fn install_lock_checker() {
    #[cfg(debug_assertions)]
    xenolith_hal::sync::set_cpu_hook(checker::slot);
}

#[cfg(debug_assertions)]
mod checker {
    use std::sync::{Mutex, PoisonError};

    use xenolith_hal::{CpuId, MAX_CPUS};

    static FREE: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    static FRESH: Mutex<u16> = Mutex::new(0);

    struct Slot(Option<CpuId>);

    impl Slot {
        fn take() -> Self {
            if let Some(slot) = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop() {
                return Self(Some(CpuId(slot)));
            }
            let mut fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner);
            if usize::from(*fresh) == MAX_CPUS {
                return Self(None);
            }
            *fresh += 1;
            Self(Some(CpuId(*fresh - 1)))
        }
    }

    impl Drop for Slot {
        fn drop(&mut self) {
            if let Some(cpu) = self.0 {
                FREE.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(cpu.0);
            }
        }
    }

    thread_local! {
        static SLOT: Slot = Slot::take();
    }

    pub(super) fn slot() -> Option<CpuId> {
        SLOT.try_with(|slot| slot.0).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_waits_after_the_given_polls_and_stays() {
        let record = CpuRecord::default();
        assert!(!record.poll_interrupt());
        record.interrupt_after(2);
        let polls: Vec<_> = (0..4).map(|_| record.poll_interrupt()).collect();
        assert_eq!(polls, [false, false, true, true]);
        record.clear_interrupt();
        assert!(!record.poll_interrupt());
    }

    #[test]
    fn a_thread_is_cpu_0_until_it_says_otherwise() {
        assert_eq!(current(), CpuId(0));
        run_as(CpuId(3), || {
            assert_eq!(current(), CpuId(3));
            run_as(CpuId(1), || assert_eq!(current(), CpuId(1)));
            assert_eq!(current(), CpuId(3));
        });
        assert_eq!(current(), CpuId(0));
    }
}
