//! The reader: a blob becomes an index of nodes and properties that borrow from it.
//!
//! Every offset and length is checked once, while the index is made; a [`Tree`] that exists can be walked without
//! failing. A tree with more nodes, properties or levels than any board has is refused, so time and memory are bounded.

use alloc::vec::Vec;
use core::fmt;

use super::{BEGIN_NODE, END, END_NODE, HEADER_SIZE, MAGIC, NOP, Node, PROP};
use crate::boot::range::PhysRange;

/// Largest blob that is read. Linux on arm64 takes 2 MiB.
const MAX_BLOB: usize = 2 << 20;
const MAX_NODES: usize = 32 * 1024;
const MAX_PROPERTIES: usize = 256 * 1024;
const MAX_DEPTH: usize = 64;
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
pub struct NodeId(pub(super) u32);

pub(super) struct Record<'a> {
    pub(super) name: &'a str,
    pub(super) parent: u32,
    /// The first node after this one that is not below it.
    pub(super) after: u32,
    pub(super) properties: (u32, u32),
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

pub(super) fn be32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

pub(super) fn be64(data: &[u8], at: usize) -> Option<u64> {
    let high = be32(data, at)?;
    let low = be32(data, at.checked_add(4)?)?;
    Some(u64::from(high) << 32 | u64::from(low))
}

pub(super) fn string(data: &[u8], at: usize) -> Option<&str> {
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
            let own = self.properties_of(record);
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

    pub(super) fn at(&self, index: u32) -> Node<'_, 'a> {
        Node::new(self, index)
    }

    pub(super) fn record(&self, index: u32) -> Option<&Record<'a>> {
        self.nodes.get(index as usize)
    }

    pub(super) fn properties_of(&self, record: &Record<'a>) -> &[Property<'a>] {
        let (start, end) = record.properties;
        self.properties
            .get(start as usize..end as usize)
            .unwrap_or_default()
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
