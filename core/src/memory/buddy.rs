//! The free blocks of one zone: a buddy allocator whose lists run through the frame records.
//!
//! Invariant: every free frame lies in exactly one free block; the first record of the block says `Free(order)` and
//! is on the list of that order, all others say `Reserved`. A block is aligned to its size by machine frame number,
//! lies in one bank, and its buddy is never a free block of the same order (the two would have been merged).

use xenolith_hal::{Mfn, Order};

use super::{
    frame::Class,
    table::{FrameTable, Index, Slot},
};

/// log2 frames of the largest block: 1 GiB.
pub const MAX_ORDER: Order = 18;

const NONE: u32 = 0;

/// Free lists by order, and how many frames they hold.
pub(super) struct Zone {
    heads: [u32; MAX_ORDER as usize + 1],
    free: u64,
}

impl Zone {
    pub(super) const fn new() -> Self {
        Self {
            heads: [NONE; MAX_ORDER as usize + 1],
            free: 0,
        }
    }

    /// Free frames in the zone.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    fn head(&mut self, order: Order) -> Option<&mut u32> {
        self.heads.get_mut(order as usize)
    }

    fn push(&mut self, table: &FrameTable, block: Slot, order: Order) {
        let Some(head) = self.head(order) else { return };
        let next = core::mem::replace(head, block.index.0);
        block.record.set_links(NONE, next);
        if let Some(next) = table.slot_at(Index(next)) {
            let (_, after) = next.record.links();
            next.record.set_links(block.index.0, after);
        }
        block.record.set_free(order);
        self.free += 1 << order;
    }

    fn unlink(&mut self, table: &FrameTable, block: Slot, order: Order) {
        let (previous, next) = block.record.links();
        match table.slot_at(Index(previous)) {
            Some(previous) => {
                let (before, _) = previous.record.links();
                previous.record.set_links(before, next);
            }
            None => {
                if let Some(head) = self.head(order) {
                    *head = next;
                }
            }
        }
        if let Some(next) = table.slot_at(Index(next)) {
            let (_, after) = next.record.links();
            next.record.set_links(previous, after);
        }
        block.record.set_reserved();
        self.free -= 1 << order;
    }

    /// Takes a block; its first record then says `Hypervisor(order)`.
    pub(super) fn allocate(&mut self, table: &FrameTable, order: Order) -> Option<Mfn> {
        let from = (order..=MAX_ORDER).find(|o| self.head(*o).is_some_and(|h| *h != NONE))?;
        let first = *self.head(from)?;
        let block = table.slot_at(Index(first))?;
        self.unlink(table, block, from);
        for upper in (order..from).rev() {
            if let Some(half) = table.slot(block.mfn.plus(1 << upper)) {
                self.push(table, half, upper);
            }
        }
        block.record.set_hypervisor(order);
        Some(block.mfn)
    }

    /// The order of the largest free block, up to `most`.
    pub(super) fn largest(&self, most: Order) -> Option<Order> {
        let any = |order: &Order| self.heads.get(*order as usize).is_some_and(|h| *h != NONE);
        let found = (0..=MAX_ORDER).rev().find(any)?;
        Some(found.min(most))
    }

    /// Gives a block back, merging it with its free buddies. Nothing of it is on a list.
    pub(super) fn free_block(&mut self, table: &FrameTable, first: Mfn, order: Order) {
        let Some(slot) = table.slot(first) else {
            return;
        };
        slot.record.set_reserved();
        let (mut first, mut order) = (first, order);
        while order < MAX_ORDER {
            let buddy = Mfn(first.0 ^ 1 << order);
            let Some(other) = table.slot(buddy) else {
                break;
            };
            let mergeable =
                other.record.state().class() == Class::Free(order) && table.same_bank(first, buddy);
            if !mergeable {
                break;
            }
            self.unlink(table, other, order);
            first = first.min(buddy);
            order += 1;
        }
        if let Some(slot) = table.slot(first) {
            self.push(table, slot, order);
        }
    }

    /// Gives `count` frames from `first` back in the largest aligned blocks.
    pub(super) fn free_range(&mut self, table: &FrameTable, first: Mfn, count: u64) {
        for (first, order) in blocks(first, count) {
            self.free_block(table, first, order);
        }
    }

    /// The free block that holds a frame.
    fn free_block_around(table: &FrameTable, mfn: Mfn) -> Option<(Slot, Order)> {
        (0..=MAX_ORDER).find_map(|order| {
            let head = table.slot(Mfn(mfn.0 >> order << order))?;
            (head.record.state().class() == Class::Free(order)).then_some((head, order))
        })
    }

    /// Whether all `count` frames from `first` are free.
    pub(super) fn is_free(&self, table: &FrameTable, first: Mfn, count: u64) -> bool {
        let end = first.plus(count);
        let mut at = first;
        while at < end {
            let Some((head, order)) = Self::free_block_around(table, at) else {
                return false;
            };
            at = head.mfn.plus(1 << order);
        }
        true
    }

    /// Takes exactly `count` frames from `first`, which [`Zone::is_free`]; each record then says `Hypervisor(0)`.
    pub(super) fn take(&mut self, table: &FrameTable, first: Mfn, count: u64) {
        let end = first.plus(count);
        let mut at = first;
        while at < end {
            let Some((head, order)) = Self::free_block_around(table, at) else {
                return;
            };
            self.unlink(table, head, order);
            let block_end = head.mfn.plus(1 << order);
            self.free_range(table, head.mfn, at.0.saturating_sub(head.mfn.0));
            self.free_range(table, end, block_end.0.saturating_sub(end.0));
            let upto = block_end.min(end);
            for mfn in (at.0..upto.0).map(Mfn) {
                if let Some(record) = table.record(mfn) {
                    record.set_hypervisor(0);
                }
            }
            at = upto;
        }
    }
}

/// Splits a range into the largest blocks that are aligned to their size.
pub(super) fn blocks(first: Mfn, count: u64) -> impl Iterator<Item = (Mfn, Order)> {
    let (mut at, mut left) = (first, count);
    core::iter::from_fn(move || {
        let fits = left.checked_ilog2()?;
        let order = at.0.trailing_zeros().min(fits).min(MAX_ORDER);
        let block = (at, order);
        at = at.plus(1 << order);
        left -= 1 << order;
        Some(block)
    })
}
