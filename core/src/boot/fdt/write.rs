//! The writer: nodes and properties in order become a blob of version 17.
//!
//! Nodes left open when the blob is finished are closed, so a writer never yields a malformed tree.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use super::{BEGIN_NODE, END, END_NODE, HEADER_SIZE, MAGIC, PROP};
use crate::boot::range::PhysRange;

/// A device tree in the making.
#[derive(Default)]
pub struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
    string_at: BTreeMap<String, u32>,
    reservations: Vec<PhysRange>,
    depth: usize,
}

impl Writer {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry to the memory reservation block.
    pub fn reserve(&mut self, range: PhysRange) {
        self.reservations.push(range);
    }

    fn token(&mut self, token: u32) {
        self.structure.extend_from_slice(&token.to_be_bytes());
    }

    fn pad(&mut self) {
        while !self.structure.len().is_multiple_of(4) {
            self.structure.push(0);
        }
    }

    /// Opens a node below the one that is open; the first is the root, whose name is empty.
    pub fn begin(&mut self, name: &str) {
        self.token(BEGIN_NODE);
        self.structure.extend_from_slice(name.as_bytes());
        self.structure.push(0);
        self.pad();
        self.depth = self.depth.saturating_add(1);
    }

    /// Closes the node that was opened last.
    pub fn end(&mut self) {
        if self.depth > 0 {
            self.token(END_NODE);
            self.depth -= 1;
        }
    }

    /// Adds a property to the open node; it must have no child yet.
    pub fn property(&mut self, name: &str, value: &[u8]) {
        let name_at = self.string(name);
        self.token(PROP);
        self.token(value.len() as u32);
        self.token(name_at);
        self.structure.extend_from_slice(value);
        self.pad();
    }

    fn string(&mut self, name: &str) -> u32 {
        if let Some(at) = self.string_at.get(name) {
            return *at;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        self.string_at.insert(String::from(name), at);
        at
    }

    /// A property without value.
    pub fn flag(&mut self, name: &str) {
        self.property(name, &[]);
    }

    /// A property of one cell.
    pub fn u32(&mut self, name: &str, value: u32) {
        self.property(name, &value.to_be_bytes());
    }

    /// A property of two cells.
    pub fn u64(&mut self, name: &str, value: u64) {
        self.property(name, &value.to_be_bytes());
    }

    /// A property of cells.
    pub fn cells(&mut self, name: &str, cells: &[u32]) {
        let bytes: Vec<u8> = cells.iter().flat_map(|c| c.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    /// A property of one string.
    pub fn text(&mut self, name: &str, value: &str) {
        self.texts(name, &[value]);
    }

    /// A property of several strings.
    pub fn texts(&mut self, name: &str, values: &[&str]) {
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        self.property(name, &bytes);
    }

    /// A `reg` (or `ranges`-like) property: each range as address and size of the given number of cells. An address or
    /// size that its cells cannot hold is cut to its low part, so callers pick the cells of a bus that spans memory.
    pub fn reg(
        &mut self,
        name: &str,
        (address_cells, size_cells): (usize, usize),
        ranges: &[PhysRange],
    ) {
        let mut cells = Vec::new();
        for range in ranges {
            push_cells(&mut cells, range.start(), address_cells);
            push_cells(&mut cells, range.size(), size_cells);
        }
        self.cells(name, &cells);
    }

    /// The finished blob.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        while self.depth > 0 {
            self.end();
        }
        self.token(END);
        let reservations_at = HEADER_SIZE;
        let reservations_size = (self.reservations.len() + 1) * 16;
        let structure_at = reservations_at + reservations_size;
        let strings_at = structure_at + self.structure.len();
        let total = (strings_at + self.strings.len()).next_multiple_of(8);

        let mut blob = Vec::with_capacity(total);
        let header = [
            MAGIC,
            total as u32,
            structure_at as u32,
            strings_at as u32,
            reservations_at as u32,
            17,
            16,
            0,
            self.strings.len() as u32,
            self.structure.len() as u32,
        ];
        for field in header {
            blob.extend_from_slice(&field.to_be_bytes());
        }
        for range in &self.reservations {
            blob.extend_from_slice(&range.start().to_be_bytes());
            blob.extend_from_slice(&range.size().to_be_bytes());
        }
        blob.extend_from_slice(&[0; 16]);
        blob.extend_from_slice(&self.structure);
        blob.extend_from_slice(&self.strings);
        blob.resize(total, 0);
        blob
    }
}

fn push_cells(cells: &mut Vec<u32>, value: u64, count: usize) {
    for cell in (0..count).rev() {
        cells.push(if cell < 2 {
            (value >> (32 * cell)) as u32
        } else {
            0
        });
    }
}
