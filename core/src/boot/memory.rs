//! The machine's memory as the device tree tells it: banks of RAM, and what of them is spoken for.
//!
//! [`BootMemory::free`] never holds a byte that is not RAM, that firmware reserved, or that something loaded at boot
//! still occupies. It only grows ([`BootMemory::done_with`]), so no page is given away twice, and none that anything else is in,
//! whatever the tree says of its modules.

use alloc::{string::String, vec::Vec};
use core::fmt;

use xenolith_hal::PAGE_SIZE;

use super::{
    fdt::Tree,
    modules::Module,
    range::{PhysRange, RangeSet},
};

/// A region that the tree reserves, with the node's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Where.
    pub range: PhysRange,
    /// The node that asks for it.
    pub path: String,
    /// Whether nothing but its owner may map it.
    pub no_map: bool,
}

/// RAM and what is taken of it.
#[derive(Clone, Debug, Default)]
pub struct BootMemory {
    /// All RAM.
    pub ram: RangeSet,
    /// `/reserved-memory` regions with a fixed place.
    pub reserved: Vec<Reserved>,
    /// `/memreserve/` entries.
    pub kept: Vec<PhysRange>,
    /// What stays: the hypervisor and what it took for itself.
    pub loaded: Vec<PhysRange>,
    /// What was loaded for start-up alone: modules, the device tree. One entry for each that is still of use.
    held: Vec<PhysRange>,
}

/// Why the memory of the machine cannot be used as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No `/memory` node with RAM in it.
    NoRam,
    /// A module is empty.
    EmptyModule(String),
    /// A module lies outside RAM.
    OutsideRam(String, PhysRange),
    /// Two things lie at one place.
    Overlap(String, PhysRange, String, PhysRange),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRam => write!(
                f,
                "device tree: no memory node with RAM; add one with device_type = \"memory\" and reg"
            ),
            Self::EmptyModule(name) => write!(
                f,
                "boot module {name}: size is 0; check that its file was loaded and that reg has its size"
            ),
            Self::OutsideRam(name, at) => write!(
                f,
                "boot module {name} at {at} lies outside RAM; load it to an address that the memory node covers"
            ),
            Self::Overlap(name, at, other, there) => write!(
                f,
                "boot module {name} at {at} overlaps {other} at {there}; load it to another address"
            ),
        }
    }
}

impl BootMemory {
    /// Reads banks and reservations from the tree.
    pub fn from_tree(tree: &Tree<'_>) -> Result<Self, MemoryError> {
        let mut memory = Self::default();
        for node in tree.root().children() {
            if node.text("device_type") == Some("memory") && node.is_enabled() {
                for bank in node.physical_ranges() {
                    memory.ram.insert(bank);
                }
            }
        }
        if memory.ram.is_empty() {
            return Err(MemoryError::NoRam);
        }
        if let Some(list) = tree.node("/reserved-memory") {
            for node in list.children().filter(|n| n.is_enabled()) {
                memory
                    .reserved
                    .extend(node.physical_ranges().into_iter().map(|range| Reserved {
                        range,
                        path: node.path(),
                        no_map: node.has("no-map"),
                    }));
            }
        }
        memory.kept = tree.reservations().to_vec();
        Ok(memory)
    }

    /// Marks what is never free.
    pub fn occupy(&mut self, range: PhysRange) {
        self.loaded.push(range);
    }

    /// Marks what is free when it is done with. It may lie anywhere, and where other things are.
    pub fn hold(&mut self, range: PhysRange) {
        self.held.push(range);
    }

    /// Something that was held is of no use any more: the whole frames of RAM that are free now and were not before.
    #[inline(never)]
    pub fn done_with(&mut self, range: PhysRange) -> RangeSet {
        let Some(index) = self.held.iter().position(|held| *held == range) else {
            return RangeSet::new();
        };
        let before = self.free();
        self.held.swap_remove(index);
        // A loader may reserve what it loads.
        let frames = range.page_outer();
        self.kept
            .retain(|kept| kept.start() != range.start() || kept.page_outer() != frames);
        let mut freed = self.free();
        before.iter().for_each(|range| freed.remove(range));
        freed
    }

    /// Nothing that was held is of use any more: the whole frames of RAM that are free now and were not before.
    pub fn done_with_all(&mut self) -> RangeSet {
        let mut freed = RangeSet::new();
        while let Some(range) = self.held.last().copied() {
            let more = self.done_with(range);
            more.iter().for_each(|range| freed.insert(range));
        }
        freed
    }

    /// The frames that [`BootMemory::done_with`] would give: those of the range in which nothing else is.
    #[must_use]
    pub fn freed_by(&self, range: PhysRange) -> RangeSet {
        self.clone().done_with(range)
    }

    /// Checks every module: not empty, inside RAM, and apart from each other, from the hypervisor, from the device tree
    /// and from reserved memory.
    ///
    /// `/memreserve/` entries are not looked at: boot loaders put the modules themselves there.
    pub fn check_modules(
        &self,
        modules: &[&Module<'_>],
        hypervisor: PhysRange,
        device_tree: PhysRange,
    ) -> Result<(), MemoryError> {
        let mut earlier: &[&Module<'_>] = &[];
        for (index, module) in modules.iter().enumerate() {
            self.check_module(module, earlier, hypervisor, device_tree)?;
            earlier = modules.get(..=index).unwrap_or_default();
        }
        Ok(())
    }

    /// The same for one module beside others.
    pub fn check_module(
        &self,
        module: &Module<'_>,
        beside: &[&Module<'_>],
        hypervisor: PhysRange,
        device_tree: PhysRange,
    ) -> Result<(), MemoryError> {
        let name = || module.path.clone();
        if module.range.is_empty() {
            return Err(MemoryError::EmptyModule(name()));
        }
        if !self.ram.contains(&module.range) {
            return Err(MemoryError::OutsideRam(name(), module.range));
        }
        let ours = [
            (hypervisor, "the hypervisor"),
            (device_tree, "the device tree"),
        ];
        let reserved = self.reserved.iter().map(|r| (r.range, r.path.as_str()));
        let beside = beside.iter().map(|m| (m.range, m.path.as_str()));
        for (range, what) in ours.into_iter().chain(reserved).chain(beside) {
            if module.range.overlaps(&range) {
                let what = String::from(what);
                return Err(MemoryError::Overlap(name(), module.range, what, range));
            }
        }
        Ok(())
    }

    /// What was loaded: what stays, and what is still of use.
    pub fn taken(&self) -> impl Iterator<Item = PhysRange> {
        self.loaded.iter().chain(&self.held).copied()
    }

    /// Whole frames of RAM that nothing has spoken for.
    #[must_use]
    pub fn free(&self) -> RangeSet {
        let mut free = RangeSet::new();
        for bank in self.ram.iter() {
            free.insert(bank.aligned_inner(PAGE_SIZE as u64));
        }
        let reserved = self.reserved.iter().map(|r| r.range);
        for taken in reserved
            .chain(self.kept.iter().copied())
            .chain(self.taken())
        {
            free.remove(taken.page_outer().unwrap_or(taken));
        }
        free
    }
}
