//! The reader: a blob becomes an index of nodes and properties that borrow from it.
//!
//! Every offset and length is checked once, while the index is made; a [`Tree`] that exists can be walked without
//! failing. A tree with more nodes, properties or levels than any board has is refused, so time and memory are bounded.

use alloc::{string::String, vec::Vec};
use core::fmt;

use super::{BEGIN_NODE, END, END_NODE, HEADER_SIZE, MAGIC, NOP, PROP, base_name};
use crate::boot::range::PhysRange;

/// Largest blob that is read. Linux on arm64 takes 2 MiB.
const MAX_BLOB: usize = 2 << 20;
const MAX_NODES: usize = 32 * 1024;
const MAX_PROPERTIES: usize = 256 * 1024;
const MAX_DEPTH: usize = 64;
/// No bus has longer addresses; a larger number is damage and is looked over.
const MAX_CELLS: u32 = 4;
const MAX_RESERVATIONS: usize = 1024;

/// Why a blob is no device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// It does not start with the magic number.
    Magic(u32),
    /// Fewer bytes than the header says, or than a header has.
    Truncated {
        /// Bytes that the header asks for.
        needed: usize,
        /// Bytes that are there.
        present: usize,
    },
    /// The header's versions exclude 17.
    Version(u32),
    /// Larger than any board's tree.
    TooLarge(usize),
    /// A block of the header lies outside the blob.
    Block(&'static str),
    /// A token or its data is not what may stand there.
    Malformed(usize),
    /// More nodes, properties or levels than any board has.
    TooMany(&'static str),
    /// The index does not fit the heap.
    NoMemory,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device tree: ")?;
        match self {
            Self::Magic(found) => write!(
                f,
                "starts with {found:#010x}, not {MAGIC:#010x}: it is no device tree; check the address that it was loaded to"
            ),
            Self::Truncated { needed, present } => write!(
                f,
                "truncated: {needed} bytes needed, {present} present; load the whole file"
            ),
            Self::Version(version) => write!(
                f,
                "version {version} is not compatible with 17; compile it with a current dtc"
            ),
            Self::TooLarge(size) => write!(
                f,
                "{size} bytes are more than the {MAX_BLOB} that are supported; remove nodes that this board does not have"
            ),
            Self::Block(what) => write!(
                f,
                "the {what} block lies outside the blob: the file is damaged; load it again"
            ),
            Self::Malformed(at) => write!(
                f,
                "malformed at byte {at}: the file is damaged; load it again"
            ),
            Self::TooMany(what) => write!(
                f,
                "too many {what}; remove nodes that this board does not have"
            ),
            Self::NoMemory => write!(f, "no memory left to read it"),
        }
    }
}

/// A property: its name and its raw value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value; cells are big-endian.
    pub value: &'a [u8],
}

/// A node by its place in the tree, in the order of the blob; the root is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

struct Record<'a> {
    name: &'a str,
    parent: u32,
    /// The first node after this one that is not below it.
    after: u32,
    properties: (u32, u32),
}

/// A device tree that has been checked and indexed.
pub struct Tree<'a> {
    nodes: Vec<Record<'a>>,
    properties: Vec<Property<'a>>,
    phandles: Vec<(u32, u32)>,
    reservations: Vec<PhysRange>,
    size: usize,
    content: usize,
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn be64(data: &[u8], at: usize) -> Option<u64> {
    let high = be32(data, at)?;
    let low = be32(data, at.checked_add(4)?)?;
    Some(u64::from(high) << 32 | u64::from(low))
}

fn string(data: &[u8], at: usize) -> Option<&str> {
    let rest = data.get(at..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    core::str::from_utf8(rest.get(..end)?).ok()
}

/// The size in bytes that a blob's header (its first 40 bytes or more) gives for the whole.
pub fn blob_size(header: &[u8]) -> Result<usize, TreeError> {
    let short = TreeError::Truncated {
        needed: HEADER_SIZE,
        present: header.len(),
    };
    let magic = be32(header, 0).ok_or(short)?;
    if magic != MAGIC {
        return Err(TreeError::Magic(magic));
    }
    if header.len() < HEADER_SIZE {
        return Err(short);
    }
    let size = be32(header, 4).ok_or(short)? as usize;
    if size > MAX_BLOB {
        return Err(TreeError::TooLarge(size));
    }
    if size < HEADER_SIZE {
        return Err(TreeError::Block("header"));
    }
    Ok(size)
}

impl<'a> Tree<'a> {
    /// Checks and indexes a blob. Bytes after the size that its header gives are not looked at.
    pub fn parse(blob: &'a [u8]) -> Result<Self, TreeError> {
        let size = blob_size(blob)?;
        let data = blob.get(..size).ok_or(TreeError::Truncated {
            needed: size,
            present: blob.len(),
        })?;
        let field = |at| {
            be32(data, at)
                .map(|v| v as usize)
                .ok_or(TreeError::Block("header"))
        };
        let (version, compatible) = (field(20)?, field(24)?);
        if version < 16 || compatible > 17 {
            return Err(TreeError::Version(version as u32));
        }
        let strings_start = field(12)?;
        let strings_end = strings_start.checked_add(field(32)?);
        let strings = strings_end
            .and_then(|end| data.get(strings_start..end))
            .ok_or(TreeError::Block("strings"))?;
        let struct_start = field(8)?;
        let struct_end = if version >= 17 {
            struct_start.checked_add(field(36)?)
        } else {
            Some(size)
        };
        if struct_start % 4 != 0 {
            return Err(TreeError::Block("structure"));
        }
        let structure = struct_end
            .and_then(|end| data.get(..end))
            .filter(|s| struct_start <= s.len())
            .ok_or(TreeError::Block("structure"))?;

        let mut tree = Tree {
            nodes: Vec::new(),
            properties: Vec::new(),
            phandles: Vec::new(),
            reservations: read_reservations(data, field(16)?)?,
            size,
            content: structure.len().saturating_sub(struct_start) + strings.len(),
        };
        tree.read_structure(structure, struct_start, strings)?;
        tree.index_phandles()?;
        Ok(tree)
    }

    fn read_structure(
        &mut self,
        data: &'a [u8],
        start: usize,
        strings: &'a [u8],
    ) -> Result<(), TreeError> {
        let mut open: Vec<u32> = Vec::new();
        open.try_reserve(MAX_DEPTH)
            .map_err(|_| TreeError::NoMemory)?;
        let mut at = start;
        let mut properties_allowed = false;
        loop {
            let bad = TreeError::Malformed(at);
            let token = be32(data, at).ok_or(bad)?;
            at = at.checked_add(4).ok_or(bad)?;
            match token {
                NOP => {}
                BEGIN_NODE => {
                    let name = string(data, at).ok_or(bad)?;
                    let name_end = at.checked_add(name.len()).and_then(|e| e.checked_add(1));
                    at = name_end
                        .and_then(|e| e.checked_next_multiple_of(4))
                        .ok_or(bad)?;
                    if open.is_empty() && !self.nodes.is_empty() {
                        return Err(bad);
                    }
                    self.begin(&mut open, name)?;
                    properties_allowed = true;
                }
                END_NODE => {
                    let closed = open.pop().ok_or(bad)?;
                    let after = self.nodes.len() as u32;
                    if let Some(record) = self.nodes.get_mut(closed as usize) {
                        record.after = after;
                    }
                    properties_allowed = false;
                }
                PROP => {
                    if !properties_allowed {
                        return Err(bad);
                    }
                    let len = be32(data, at).ok_or(bad)? as usize;
                    let name_at = be32(data, at.saturating_add(4)).ok_or(bad)? as usize;
                    let value_at = at.checked_add(8).ok_or(bad)?;
                    let value_end = value_at.checked_add(len).ok_or(bad)?;
                    let value = data.get(value_at..value_end).ok_or(bad)?;
                    let name = string(strings, name_at).ok_or(bad)?;
                    at = value_end.checked_next_multiple_of(4).ok_or(bad)?;
                    self.add_property(Property { name, value })?;
                }
                END if open.is_empty() && !self.nodes.is_empty() => return Ok(()),
                _ => return Err(bad),
            }
        }
    }

    fn begin(&mut self, open: &mut Vec<u32>, name: &'a str) -> Result<(), TreeError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(TreeError::TooMany("nodes"));
        }
        if open.len() >= MAX_DEPTH {
            return Err(TreeError::TooMany("levels"));
        }
        let index = self.nodes.len() as u32;
        let first = self.properties.len() as u32;
        self.nodes.try_reserve(1).map_err(|_| TreeError::NoMemory)?;
        self.nodes.push(Record {
            name,
            parent: open.last().copied().unwrap_or(0),
            after: index.saturating_add(1),
            properties: (first, first),
        });
        open.push(index);
        Ok(())
    }

    /// Adds a property to the newest node: properties stand before children, so it is the open one.
    fn add_property(&mut self, property: Property<'a>) -> Result<(), TreeError> {
        if self.properties.len() >= MAX_PROPERTIES {
            return Err(TreeError::TooMany("properties"));
        }
        self.properties
            .try_reserve(1)
            .map_err(|_| TreeError::NoMemory)?;
        self.properties.push(property);
        let end = self.properties.len() as u32;
        if let Some(record) = self.nodes.last_mut() {
            record.properties.1 = end;
        }
        Ok(())
    }

    fn index_phandles(&mut self) -> Result<(), TreeError> {
        let mut found = Vec::new();
        for (record, index) in self.nodes.iter().zip(0u32..) {
            let (start, end) = record.properties;
            let own = self
                .properties
                .get(start as usize..end as usize)
                .unwrap_or_default();
            let phandle = own
                .iter()
                .find(|p| p.name == "phandle" || p.name == "linux,phandle")
                .and_then(|p| be32(p.value, 0));
            if let Some(phandle) = phandle {
                found.try_reserve(1).map_err(|_| TreeError::NoMemory)?;
                found.push((phandle, index));
            }
        }
        found.sort_unstable();
        self.phandles = found;
        Ok(())
    }

    /// Size of the blob in bytes, as its header gives it.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes of nodes, properties and names, without the padding that boot loaders leave.
    #[must_use]
    pub fn content_size(&self) -> usize {
        self.content
    }

    /// The memory reservation block (`/memreserve/`).
    #[must_use]
    pub fn reservations(&self) -> &[PhysRange] {
        &self.reservations
    }

    fn at(&self, index: u32) -> Node<'_, 'a> {
        Node { tree: self, index }
    }

    /// The root node.
    #[must_use]
    pub fn root(&self) -> Node<'_, 'a> {
        self.at(0)
    }

    /// Every node, parents before children.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        (0..self.nodes.len() as u32).map(|index| self.at(index))
    }

    /// The node at a place of this tree.
    #[must_use]
    pub fn by_id(&self, id: NodeId) -> Option<Node<'_, 'a>> {
        self.nodes.get(id.0 as usize).map(|_| self.at(id.0))
    }

    /// The node at an absolute path. A component without unit address fits the first node of that base name.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<Node<'_, 'a>> {
        let mut node = self.root();
        for part in path.strip_prefix('/')?.split('/').filter(|p| !p.is_empty()) {
            node = node.child(part)?;
        }
        Some(node)
    }

    /// The node that a path or an alias names, as in `stdout-path`: options after a colon are left out.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<Node<'_, 'a>> {
        let name = name.split(':').next().unwrap_or(name);
        if name.starts_with('/') {
            return self.node(name);
        }
        self.node(self.node("/aliases")?.text(name)?)
    }

    /// The node with this phandle.
    #[must_use]
    pub fn by_phandle(&self, phandle: u32) -> Option<Node<'_, 'a>> {
        let at = self.phandles.partition_point(|(p, _)| *p < phandle);
        let (found, index) = *self.phandles.get(at)?;
        (found == phandle).then(|| self.at(index))
    }
}

fn read_reservations(data: &[u8], start: usize) -> Result<Vec<PhysRange>, TreeError> {
    let mut out = Vec::new();
    let mut at = start;
    loop {
        let entry = be64(data, at).zip(be64(data, at.saturating_add(8)));
        let (address, size) = entry.ok_or(TreeError::Block("memory reservation"))?;
        if (address, size) == (0, 0) {
            return Ok(out);
        }
        if out.len() >= MAX_RESERVATIONS {
            return Err(TreeError::TooMany("memory reservations"));
        }
        let range = PhysRange::new(address, size).ok_or(TreeError::Malformed(at))?;
        out.try_reserve(1).map_err(|_| TreeError::NoMemory)?;
        out.push(range);
        at = at.saturating_add(16);
    }
}

/// A node of a [`Tree`].
#[derive(Clone, Copy)]
pub struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    index: u32,
}

impl<'t, 'a> Node<'t, 'a> {
    fn record(&self) -> Option<&'t Record<'a>> {
        self.tree.nodes.get(self.index as usize)
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
            .and_then(|r| {
                let (start, end) = r.properties;
                self.tree.properties.get(start as usize..end as usize)
            })
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
pub(super) fn take(value: &mut &[u8], cells: usize) -> Option<u64> {
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
