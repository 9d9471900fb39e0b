//! What the FIFO ABI knows of one port besides its word: its priority, the queue it was in last, and an event that waits
//! for the guest to bring the page with the word.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use xenolith_abi::event_channel::FIFO_PRIORITY_DEFAULT;

use crate::VcpuId;

/// A queue of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::event) struct QueueId {
    pub(in crate::event) vcpu: VcpuId,
    pub(in crate::event) priority: u8,
}

/// The last queue's vCPU in bits 0 to 15, its priority in 16 to 19, the port's own in 20 to 23, [`POSTPONED`].
pub(in crate::event) struct PortState(AtomicU32);

const LAST: u32 = 0x000f_ffff;
const PRIORITY_SHIFT: u32 = 20;
const PRIORITY: u32 = 0xf << PRIORITY_SHIFT;
const POSTPONED: u32 = 1 << 24;

const DEFAULT: u32 = FIFO_PRIORITY_DEFAULT << PRIORITY_SHIFT;

impl PortState {
    /// A port that was never in a queue counts as one of the first vCPU.
    pub(in crate::event) const fn new() -> Self {
        Self(AtomicU32::new(DEFAULT | FIFO_PRIORITY_DEFAULT << 16))
    }

    #[inline]
    pub(super) fn last(&self) -> QueueId {
        let state = self.0.load(SeqCst);
        QueueId {
            vcpu: VcpuId(state as u16),
            priority: (state >> 16) as u8 & 0xf,
        }
    }

    /// The locks of both queues are held, one after the other: see [`super::Fifo`].
    pub(super) fn set_last(&self, queue: QueueId) {
        let last = u32::from(queue.vcpu.0) | u32::from(queue.priority & 0xf) << 16;
        self.update(|state| state & !LAST | last);
    }

    #[inline]
    pub(super) fn priority(&self) -> u8 {
        (self.0.load(SeqCst) >> PRIORITY_SHIFT) as u8 & 0xf
    }

    pub(in crate::event) fn set_priority(&self, priority: u8) {
        self.update(|state| state & !PRIORITY | u32::from(priority & 0xf) << PRIORITY_SHIFT);
    }

    /// The port begins a new life. Its last queue stays, for it may still be the tail there.
    pub(in crate::event) fn reset(&self) {
        self.update(|state| state & LAST | DEFAULT);
    }

    /// An event happens that cannot be shown yet; tells whether one waits already.
    pub(super) fn postpone(&self) -> bool {
        self.0.fetch_or(POSTPONED, SeqCst) & POSTPONED != 0
    }

    pub(super) fn is_postponed(&self) -> bool {
        self.0.load(SeqCst) & POSTPONED != 0
    }

    /// Takes an event that waits, if there is one.
    pub(super) fn take_postponed(&self) -> bool {
        self.is_postponed() && self.0.fetch_and(!POSTPONED, SeqCst) & POSTPONED != 0
    }

    fn update(&self, f: impl Fn(u32) -> u32) {
        let _ = self.0.fetch_update(SeqCst, SeqCst, |state| Some(f(state)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_state_do_not_disturb_each_other() {
        let state = PortState::new();
        let queue = QueueId {
            vcpu: VcpuId(0xfedc),
            priority: 15,
        };
        assert_eq!((state.priority(), state.last().priority), (7, 7));
        state.set_last(queue);
        assert_eq!((state.priority(), state.last()), (7, queue));
        assert!(!state.postpone());
        assert!(state.postpone());
        state.set_priority(3);
        assert_eq!((state.priority(), state.last()), (3, queue));
        assert!(state.take_postponed());
        assert!(!state.take_postponed());
        state.postpone();
        state.reset();
        assert_eq!((state.priority(), state.last()), (7, queue));
        assert!(!state.is_postponed());
    }
}
