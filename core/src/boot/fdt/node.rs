//! A node of a [`Tree`]: its properties, its place among others, and its registers as the CPU sees them.
//!
//! Nothing here fails: what is absent or malformed is `None` or an empty list.

use alloc::{string::String, vec::Vec};

use super::{
    base_name,
    read::{NodeId, Property, Record, Tree, be32, be64, string},
};
use crate::boot::range::PhysRange;

/// No bus has longer addresses; a larger number is damage and is looked over.
const MAX_CELLS: u32 = 4;

/// A node of a [`Tree`].
#[derive(Clone, Copy)]
pub struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    index: u32,
}

impl<'t, 'a> Node<'t, 'a> {
    pub(super) fn new(tree: &'t Tree<'a>, index: u32) -> Self {
        Self { tree, index }
    }

    fn record(&self) -> Option<&'t Record<'a>> {
        self.tree.record(self.index)
    }

    pub(super) fn tree(&self) -> &'t Tree<'a> {
        self.tree
    }

    /// Its place in the tree.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.index)
    }

    /// The first place after this node and all that is below it.
    #[must_use]
    pub fn end_id(&self) -> NodeId {
        NodeId(self.record().map_or(self.index, |r| r.after))
    }

    /// Its name with the unit address; empty for the root.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.record().map_or("", |r| r.name)
    }

    /// Its name without the unit address.
    #[must_use]
    pub fn base_name(&self) -> &'a str {
        base_name(self.name())
    }

    /// The node above; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let parent = self.record()?.parent;
        (self.index != 0).then(|| self.tree.at(parent))
    }

    /// How many nodes stand above it.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.ancestors().count()
    }

    /// The nodes above it, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + use<'t, 'a> {
        core::iter::successors(self.parent(), Node::parent)
    }

    /// Its path from the root.
    #[must_use]
    pub fn path(&self) -> String {
        let mut names: Vec<&str> = self.ancestors().map(|n| n.name()).collect();
        names.pop();
        let mut path = String::new();
        for name in names.into_iter().rev().chain([self.name()]) {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// The nodes directly below it.
    pub fn children(&self) -> impl Iterator<Item = Self> + use<'t, 'a> {
        let tree = self.tree;
        let end = self.record().map_or(0, |r| r.after);
        let mut next = self.index.saturating_add(1);
        core::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let node = tree.at(next);
            next = node.record()?.after;
            Some(node)
        })
    }

    /// The nodes below it at any depth, parents before children.
    pub fn descendants(&self) -> impl Iterator<Item = Self> + use<'t, 'a> {
        let tree = self.tree;
        let end = self.record().map_or(0, |r| r.after);
        (self.index.saturating_add(1)..end).map(|index| tree.at(index))
    }

    /// The child of this name; without unit address the first of that base name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Self> {
        self.children()
            .find(|c| c.name() == name)
            .or_else(|| self.children().find(|c| c.base_name() == name))
    }

    /// Its properties in order.
    #[must_use]
    pub fn properties(&self) -> &'t [Property<'a>] {
        self.record()
            .map(|r| self.tree.properties_of(r))
            .unwrap_or_default()
    }

    /// The raw value of a property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.properties()
            .iter()
            .find(|p| p.name == name)
            .map(|p| p.value)
    }

    /// Whether it has a property of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.property(name).is_some()
    }

    /// A property of one cell.
    #[must_use]
    pub fn u32(&self, name: &str) -> Option<u32> {
        self.property(name)
            .filter(|v| v.len() == 4)
            .and_then(|v| be32(v, 0))
    }

    /// A property of one or two cells.
    #[must_use]
    pub fn u64(&self, name: &str) -> Option<u64> {
        let value = self.property(name)?;
        match value.len() {
            4 => be32(value, 0).map(u64::from),
            8 => be64(value, 0),
            _ => None,
        }
    }

    /// A property's cells; bytes past the last whole cell are left out.
    pub fn cells(&self, name: &str) -> impl Iterator<Item = u32> + use<'a> {
        let value = self.property(name).unwrap_or_default();
        value.chunks_exact(4).filter_map(|c| be32(c, 0))
    }

    /// The first string of a property.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        string(self.property(name)?, 0)
    }

    /// The strings of a property.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let value = self.property(name).unwrap_or_default();
        value
            .split(|b| *b == 0)
            .filter(|s| !s.is_empty())
            .filter_map(|s| core::str::from_utf8(s).ok())
    }

    /// Whether `compatible` names one of these.
    #[must_use]
    pub fn is_compatible(&self, any_of: &[&str]) -> bool {
        self.texts("compatible").any(|c| any_of.contains(&c))
    }

    /// Whether `status` lets it be used.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.property("status").is_none() || matches!(self.text("status"), Some("okay" | "ok"))
    }

    /// Its phandle.
    #[must_use]
    pub fn phandle(&self) -> Option<u32> {
        self.u32("phandle").or_else(|| self.u32("linux,phandle"))
    }

    /// Cells of an address in its children's `reg`: its own property, else the nearest ancestor's (as Linux and Xen
    /// read trees whose `/chosen` has none), else 2.
    #[must_use]
    pub fn address_cells(&self) -> usize {
        self.inherited("#address-cells").unwrap_or(2)
    }

    /// Cells of a size in its children's `reg`; looked up like [`Node::address_cells`], else 1.
    #[must_use]
    pub fn size_cells(&self) -> usize {
        self.inherited("#size-cells").unwrap_or(1)
    }

    fn inherited(&self, name: &str) -> Option<usize> {
        core::iter::successors(Some(*self), Node::parent)
            .find_map(|n| n.u32(name).filter(|cells| *cells <= MAX_CELLS))
            .map(|v| v as usize)
    }

    /// `reg` in terms of the bus above, as (address, size). `None` when it is absent, not a whole number of entries,
    /// or its addresses do not fit 64 bits.
    #[must_use]
    pub fn reg(&self) -> Option<Vec<(u64, u64)>> {
        let parent = self.parent()?;
        pairs(
            self.property("reg")?,
            parent.address_cells(),
            parent.size_cells(),
        )
    }

    /// `reg` as the CPU sees it: every entry translated through the `ranges` of all buses above. Entries that no bus
    /// passes on, or that are empty, are left out.
    #[must_use]
    pub fn physical_ranges(&self) -> Vec<PhysRange> {
        let entries = self.reg().unwrap_or_default();
        let translated = entries.into_iter().filter_map(|(address, size)| {
            let range = PhysRange::new(self.to_root(address, size)?, size)?;
            (!range.is_empty()).then_some(range)
        });
        translated.collect()
    }

    /// Translates an address on the bus above this node to one on the root bus.
    #[must_use]
    pub fn to_root(&self, address: u64, size: u64) -> Option<u64> {
        let mut address = address;
        let mut bus = self.parent()?;
        while let Some(above) = bus.parent() {
            let ranges = bus.property("ranges")?;
            if !ranges.is_empty() {
                let (child, parent) = (bus.address_cells(), above.address_cells());
                address = translate(ranges, (child, parent, bus.size_cells()), address, size)?;
            }
            bus = above;
        }
        Some(address)
    }
}

/// Takes a number of `cells` cells off the front of `value`.
fn take(value: &mut &[u8], cells: usize) -> Option<u64> {
    let (number, rest) = match cells {
        0 => (0, *value),
        1 => (u64::from(be32(value, 0)?), value.get(4..)?),
        2 => (be64(value, 0)?, value.get(8..)?),
        _ => return None,
    };
    *value = rest;
    Some(number)
}

fn pairs(mut value: &[u8], address_cells: usize, size_cells: usize) -> Option<Vec<(u64, u64)>> {
    if address_cells == 0 {
        return None;
    }
    let mut out = Vec::new();
    while !value.is_empty() {
        let address = take(&mut value, address_cells)?;
        out.push((address, take(&mut value, size_cells)?));
    }
    Some(out)
}

fn translate(
    mut ranges: &[u8],
    (child, parent, size_cells): (usize, usize, usize),
    address: u64,
    size: u64,
) -> Option<u64> {
    while !ranges.is_empty() {
        let from = take(&mut ranges, child)?;
        let to = take(&mut ranges, parent)?;
        let window = PhysRange::new(from, take(&mut ranges, size_cells)?)?;
        let wanted = PhysRange::new(address, size)?;
        if window.contains(&wanted) && address < window.end() {
            return to.checked_add(address - from);
        }
    }
    None
}
