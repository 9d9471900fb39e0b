//! A heap of deadlines, earliest first, whose entries know their place, so that any one can be taken out.

use alloc::vec::Vec;

use xenolith_hal::{Hal, Nanos, NoMemory};

use super::{Slot, VcpuTimer};
use crate::VcpuRef;

/// One set timer.
pub(super) struct Entry<H: Hal> {
    pub(super) deadline: Nanos,
    pub(super) vcpu: VcpuRef<H>,
    pub(super) which: VcpuTimer,
}

impl<H: Hal> Entry<H> {
    fn slot(&self) -> &Slot {
        self.vcpu.timers.slot(self.which)
    }
}

/// A binary heap; entry n's children are 2n+1 and 2n+2. Each entry's position is noted in its vCPU's slot.
pub(super) struct Heap<H: Hal> {
    entries: Vec<Entry<H>>,
}

impl<H: Hal> Heap<H> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    pub(super) fn reserve(&mut self, total: usize) -> Result<(), NoMemory> {
        let more = total.saturating_sub(self.entries.len());
        self.entries.try_reserve(more).map_err(|_| NoMemory)
    }

    /// The earliest deadline.
    pub(super) fn earliest(&self) -> Option<Nanos> {
        self.entries.first().map(|entry| entry.deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn push(&mut self, entry: Entry<H>) {
        let at = self.entries.len();
        self.entries.push(entry);
        self.note(at);
        self.up(at);
    }

    /// Takes out the entry at a position; `None` past the end.
    pub(super) fn remove(&mut self, at: usize) -> Option<Entry<H>> {
        if at >= self.entries.len() {
            return None;
        }
        let entry = self.entries.swap_remove(at);
        if at < self.entries.len() {
            self.note(at);
            let at = self.up(at);
            self.down(at);
        }
        Some(entry)
    }

    /// Changes the deadline of the entry at a position.
    pub(super) fn change(&mut self, at: usize, deadline: Nanos) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.deadline = deadline;
            let at = self.up(at);
            self.down(at);
        }
    }

    /// Takes out the earliest entry if its deadline is not after `now`.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<Entry<H>> {
        if self.earliest()? > now {
            return None;
        }
        self.remove(0)
    }

    fn note(&self, at: usize) {
        if let Some(entry) = self.entries.get(at) {
            entry.slot().set_position(at);
        }
    }

    fn later(&self, a: usize, b: usize) -> bool {
        match (self.entries.get(a), self.entries.get(b)) {
            (Some(a), Some(b)) => a.deadline > b.deadline,
            _ => false,
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.entries.swap(a, b);
        self.note(a);
        self.note(b);
    }

    fn up(&mut self, mut at: usize) -> usize {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.later(parent, at) {
                break;
            }
            self.swap(parent, at);
            at = parent;
        }
        at
    }

    fn down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut first = at;
            if self.later(first, left) {
                first = left;
            }
            if self.later(first, right) {
                first = right;
            }
            if first == at {
                return;
            }
            self.swap(at, first);
            at = first;
        }
    }
}
