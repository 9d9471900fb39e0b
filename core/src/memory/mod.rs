//! Machine memory: a record per frame, the allocator, and what each domain owns.
//!
//! * [`FrameTable`] holds a [`FrameRecord`] for each frame of RAM: class, owner, type and counts in one word.
//! * [`Memory`] is the allocator over it: free blocks by size (buddies), per node and per address width.
//! * [`DomainMemory`] counts what a domain owns and what the hypervisor spends for it.
//! * `owned` gives frames to domains and takes references on them; `life` and `relinquish` take them all back.
//!
//! Every failure to allocate is a value. Frames handed out by [`Memory`] hold old data; those given to a domain were
//! scrubbed when their last domain lost them.

mod account;
mod buddy;
mod exchange;
mod frame;
mod heap;
mod machine;
mod mapped;
pub mod op;
mod owned;
mod physmap;
mod ram;
mod relinquish;
mod table;
mod tables;
mod writable;

pub use account::{DomainMemory, InUse};
pub use buddy::MAX_ORDER;
pub use frame::{
    Charge, Claim, Class, Dropped, Ended, FrameRecord, FrameState, FrameType, Progress, Reclaim,
    Refused, TypeBusy,
};
pub use heap::{room_for_arc, try_arc, try_boxed_slice};
pub(crate) use machine::NotHandedOver;
pub use owned::{FrameRef, PinnedFrame};
pub use ram::NoRam;
pub(crate) use relinquish::{Relinquish, RelinquishStep};
pub use table::{BadBanks, FrameTable, MAX_BANKS, Node, RamBank};
pub use tables::DomainTables;
pub use writable::WritableRef;

use xenolith_hal::{
    Mfn, Order,
    sync::{Mutex, Rank},
};

use buddy::Zone;

/// Most NUMA nodes.
pub const MAX_NODES: usize = 8;

/// Frames below this number have 32-bit addresses.
const WIDTH_BORDER: Mfn = Mfn(1 << 20);

/// Where memory shall come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Preferred node; others are taken when it has nothing.
    pub node: Option<Node>,
    /// Most bits that the machine address may have. Below 32 nothing is found: no zone is kept that small.
    pub bits: Option<u32>,
}

impl Place {
    /// Anywhere; memory below 4 GiB is used last.
    pub const ANY: Self = Self {
        node: None,
        bits: None,
    };
    /// Below 4 GiB, for devices with 32-bit addresses.
    pub const BELOW_4G: Self = Self {
        node: None,
        bits: Some(32),
    };
}

/// Some frame of the range that was asked for is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFree;

/// The zones of one node.
struct NodeZones {
    low: Mutex<Zone>,
    high: Mutex<Zone>,
}

/// Frame records and the allocator.
pub struct Memory {
    table: FrameTable,
    nodes: [NodeZones; MAX_NODES],
}

impl Memory {
    /// The allocator over banks of RAM; nothing is free until [`Memory::release_at_boot`] says so. Costs nothing per
    /// frame: the records come zeroed.
    pub fn new(banks: &[RamBank]) -> Result<Self, BadBanks> {
        Ok(Self {
            table: FrameTable::new(banks)?,
            nodes: [const {
                NodeZones {
                    low: Mutex::new(Rank::Frames, Zone::new()),
                    high: Mutex::new(Rank::Frames, Zone::new()),
                }
            }; MAX_NODES],
        })
    }

    /// The records.
    pub fn table(&self) -> &FrameTable {
        &self.table
    }

    /// The record of a frame; `None` when it is not RAM.
    #[inline(always)]
    pub fn record(&self, mfn: Mfn) -> Option<&'static FrameRecord> {
        self.table.record(mfn)
    }

    /// Free frames.
    pub fn free_frames(&self) -> u64 {
        self.zones().map(|zone| zone.lock().free()).sum()
    }

    fn zones(&self) -> impl Iterator<Item = &Mutex<Zone>> {
        self.nodes.iter().flat_map(|node| [&node.low, &node.high])
    }

    fn zone_of(&self, mfn: Mfn, node: Node) -> &Mutex<Zone> {
        let [first, ..] = &self.nodes;
        let zones = self.nodes.get(usize::from(node.0)).unwrap_or(first);
        if mfn < WIDTH_BORDER {
            &zones.low
        } else {
            &zones.high
        }
    }

    /// Splits a range of RAM where its zone changes. Parts that are not RAM are left out.
    fn zone_parts(&self, first: Mfn, count: u64) -> impl Iterator<Item = (&Mutex<Zone>, Mfn, u64)> {
        let end = first.plus(count);
        self.table.banks().iter().flat_map(move |bank| {
            let (from, to) = (bank.first.max(first), bank.end().min(end));
            let border = WIDTH_BORDER.clamp(from, to.max(from));
            [(from, border), (border, to)]
                .into_iter()
                .filter(|(from, to)| from < to)
                .map(|(from, to)| (self.zone_of(from, bank.node), from, to.0 - from.0))
        })
    }

    /// Makes frames free that were nobody's since boot: unused RAM, and boot modules that are no longer needed. Frames
    /// that are not RAM are left out. The caller answers for nobody using them.
    pub fn release_at_boot(&self, first: Mfn, count: u64) {
        for (zone, first, count) in self.zone_parts(first, count) {
            zone.lock().free_range(&self.table, first, count);
        }
    }

    /// Zones to look in, best first.
    fn candidates(&self, place: Place) -> impl Iterator<Item = &Mutex<Zone>> {
        let preferred = place.node.map_or(0, |node| usize::from(node.0)) % MAX_NODES;
        let (before, from) = self.nodes.split_at(preferred);
        let nodes = || from.iter().chain(before);
        let bits = place.bits.unwrap_or(64);
        // The high zone is right for a width only when all RAM fits it; otherwise the low one always is, from 32 bits on.
        let high_fits = 1_u64
            .checked_shl(bits.saturating_sub(xenolith_hal::PAGE_SHIFT))
            .is_none_or(|limit| self.table.end().0 <= limit);
        let high = nodes().map(|node| &node.high).filter(move |_| high_fits);
        let low = nodes()
            .map(|node| &node.low)
            .filter(move |_| high_fits || bits >= 32);
        high.chain(low)
    }

    /// A block of `1 << order` frames with old contents, for the hypervisor's own use or for [`Memory::free`].
    pub fn allocate(&self, order: Order, place: Place) -> Option<Mfn> {
        self.candidates(place)
            .find_map(|zone| zone.lock().allocate(&self.table, order))
    }

    /// The largest block to be had of at most `most` frames (and [`MAX_ORDER`]), for large memories such as dom0's.
    pub fn allocate_largest(&self, most: u64, place: Place) -> Option<(Mfn, Order)> {
        let mut most = most.checked_ilog2()?.min(MAX_ORDER);
        loop {
            let best = |zone: &Mutex<Zone>| zone.lock().largest(most);
            let order = self.candidates(place).filter_map(best).max()?;
            if let Some(mfn) = self.allocate(order, place) {
                return Some((mfn, order));
            }
            // Another CPU was faster.
            most = order;
        }
    }

    /// Takes exactly the frames that were asked for, or none. Each is then a block of order 0 for [`Memory::free`].
    pub fn allocate_at(&self, first: Mfn, count: u64) -> Result<(), NotFree> {
        let parts: u64 = self.zone_parts(first, count).map(|part| part.2).sum();
        if parts != count {
            return Err(NotFree);
        }
        for (zone, part, frames) in self.zone_parts(first, count) {
            let mut zone = zone.lock();
            if !zone.is_free(&self.table, part, frames) {
                drop(zone);
                // Parts come in rising order: what lies below this one was taken.
                self.free_each(first, part.0 - first.0);
                return Err(NotFree);
            }
            zone.take(&self.table, part, frames);
        }
        Ok(())
    }

    /// Gives a block back that was allocated as one.
    pub fn free(&self, first: Mfn, order: Order) {
        let Some(slot) = self.table.slot(first) else {
            return;
        };
        let class = slot.record.state().class();
        if class != Class::Hypervisor(order) {
            debug_assert!(
                false,
                "{first:?} is {class:?} and not a block of order {order}"
            );
            log::error!("{first:?} freed as order {order}, but it is {class:?}: it is lost");
            return;
        }
        self.zone_of(first, slot.node)
            .lock()
            .free_block(&self.table, first, order);
    }

    /// Gives frames back that were allocated one by one or with [`Memory::allocate_at`].
    pub fn free_each(&self, first: Mfn, count: u64) {
        for mfn in (first.0..first.0.saturating_add(count)).map(Mfn) {
            self.free(mfn, 0);
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::Random;
