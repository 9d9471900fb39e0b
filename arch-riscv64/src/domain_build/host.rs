//! What of the machine dom0's tree is made from, as the machine's tree tells it: the interrupt controller, the console's UART,
//! and numbers that nothing in the tree uses, for what the hypervisor adds.
//!
//! The bindings are Linux's: `interrupt-controller/sifive,plic-1.0.0`, `riscv/cpus`, `serial/8250`.

use alloc::{collections::BTreeSet, string::String, vec::Vec};
use core::fmt;

use xenolith_core::boot::{
    PhysRange,
    fdt::{Node, NodeId, Tree},
};

use super::{Cpu, Places};
use crate::vplic::{self, MOST_SOURCES};

pub(super) const PLICS: &[&str] = &["sifive,plic-1.0.0", "riscv,plic0"];

/// The hypervisor's UART, in whose place dom0 sees an emulated one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UartOfHost {
    /// Its node.
    pub node: NodeId,
    /// The node's path.
    pub path: String,
    /// Its registers.
    pub at: PhysRange,
    /// Its source; one that nothing uses where the tree names none, 0 where there is none.
    pub source: u32,
}

/// The machine, for a dom0 of so many vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The interrupt controller's node.
    pub plic: NodeId,
    /// What the tree refers to it by.
    pub phandle: u32,
    /// Its registers.
    pub plic_at: PhysRange,
    /// How many more such controllers there are. Their interrupts are nobody's.
    pub other_plics: usize,
    /// The hypervisor's UART, if it has one.
    pub console: Option<UartOfHost>,
    /// All sources are below this, those that the hypervisor adds too.
    pub sources: u32,
    /// The source of the first vCPU's events; the next vCPUs have the next ones. No device has them.
    pub events: u32,
    /// The vCPUs.
    pub cpus: Vec<Cpu>,
}

/// What the machine's tree lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// No interrupt controller that is known.
    NoPlic,
    /// The interrupt controller's registers are not told, or hold no context.
    PlicReg,
    /// Devices use all sources.
    NoSource,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPlic => "device tree: no PLIC, so there are no interrupts of devices for dom0",
            Self::PlicReg => {
                "device tree: the PLIC's reg is missing or holds no context; write its address and whole size"
            }
            Self::NoSource => {
                "device tree: devices use all of the PLIC's sources, and none is left for events"
            }
        })
    }
}

impl Host {
    /// Reads the machine from its tree. dom0 gets fewer vCPUs than asked for where its controller has no room for more.
    pub fn from_tree(
        tree: &Tree<'_>,
        console: Option<NodeId>,
        vcpus: u32,
    ) -> Result<Self, HostError> {
        let mut plics = plics(tree);
        let plic = plics.next().ok_or(HostError::NoPlic)?;
        let plic_at = *plic.physical_ranges().first().ok_or(HostError::PlicReg)?;
        let most = vplic::contexts(plic_at.size());
        let used = Used::of(tree, plic.id());
        let last = plic.u32("riscv,ndev").unwrap_or(0).min(MOST_SOURCES - 1);
        let (events, vcpus) = (1..=vcpus.min(most).min(MOST_SOURCES))
            .rev()
            .find_map(|vcpus| Some((used.free(vcpus, last)?, vcpus)))
            .ok_or(match most {
                0 => HostError::PlicReg,
                _ => HostError::NoSource,
            })?;
        let behind = events + vcpus;
        let console = console
            .and_then(|id| tree.by_id(id))
            .map(|node| uart(&node, plic.id(), behind, &used));
        let mut phandles = FreePhandles::of(tree);
        let phandle = real_phandle(&plic).or_else(|| phandles.next()).unwrap_or(0);
        let highest = console.as_ref().map_or(0, |uart| uart.source);
        Ok(Self {
            plic: plic.id(),
            phandle,
            plic_at,
            other_plics: plics.count(),
            console,
            sources: [behind, used.highest() + 1, last + 1, highest + 1]
                .into_iter()
                .fold(0, u32::max)
                .min(MOST_SOURCES),
            events,
            cpus: cpus(tree, vcpus, phandles),
        })
    }

    /// Where dom0 sees what is emulated for it.
    #[must_use]
    pub fn places(&self) -> Places {
        Places {
            plic: self.plic_at,
            sources: self.sources,
            events: self.events,
            uart: self.console.as_ref().map(|uart| (uart.at, uart.source)),
        }
    }
}

/// The machine's interrupt controllers of the kind that is known. The first one is driven.
pub fn plics<'t, 'a>(tree: &'t Tree<'a>) -> impl Iterator<Item = Node<'t, 'a>> {
    tree.nodes()
        .filter(|node| node.is_enabled() && node.is_compatible(PLICS))
}

/// The first source of a device, if it is one of this controller.
#[must_use]
pub fn source_of(node: &Node<'_, '_>, plic: NodeId) -> Option<u32> {
    let interrupts = node.interrupts();
    let first = interrupts.first().filter(|it| it.controller == plic)?;
    match first.cells() {
        [source @ 1..MOST_SOURCES, ..] => Some(*source),
        _ => None,
    }
}

/// The emulated UART in the place of a node. Without a source of its own it gets one that is `free`, or the next.
fn uart(node: &Node<'_, '_>, plic: NodeId, free: u32, used: &Used) -> UartOfHost {
    let source =
        source_of(node, plic).or_else(|| (free..MOST_SOURCES).find(|source| !used.has(*source)));
    UartOfHost {
        node: node.id(),
        path: node.path(),
        at: node.physical_ranges().first().copied().unwrap_or_default(),
        source: source.unwrap_or(0),
    }
}

fn real_phandle(node: &Node<'_, '_>) -> Option<u32> {
    node.phandle()
        .filter(|phandle| !matches!(*phandle, 0 | u32::MAX))
}

/// vCPUs keep the phandles of the machine's CPUs: thermal zones and trace devices refer to them.
fn cpus(tree: &Tree<'_>, vcpus: u32, mut phandles: FreePhandles) -> Vec<Cpu> {
    let list = tree.node("/cpus");
    let mut real = list
        .iter()
        .flat_map(Node::children)
        .filter(|node| node.text("device_type") == Some("cpu") && node.is_enabled())
        .map(|node| real_phandle(&node));
    (0..vcpus)
        .map(|_| Cpu {
            phandle: real.next().flatten(),
            controller: phandles.next().unwrap_or(0),
        })
        .collect()
}

/// Phandles that no node has, ascending.
struct FreePhandles {
    used: BTreeSet<u32>,
    next: u32,
}

impl FreePhandles {
    fn of(tree: &Tree<'_>) -> Self {
        Self {
            used: tree.nodes().filter_map(|node| node.phandle()).collect(),
            next: 1,
        }
    }
}

impl Iterator for FreePhandles {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let free = (self.next..u32::MAX).find(|phandle| !self.used.contains(phandle))?;
        self.next = free + 1;
        Some(free)
    }
}

/// Sources that nodes of the tree name, disabled ones too.
struct Used([u32; MOST_SOURCES as usize / 32]);

impl Used {
    fn of(tree: &Tree<'_>, plic: NodeId) -> Self {
        let mut used = Self([0; MOST_SOURCES as usize / 32]);
        // Source 0 is none.
        used.insert(0);
        for node in tree.nodes() {
            for interrupt in node.interrupts().into_iter().chain(node.interrupt_map()) {
                if let (true, [source, ..]) = (interrupt.controller == plic, interrupt.cells()) {
                    used.insert(*source);
                }
            }
        }
        used
    }

    fn insert(&mut self, source: u32) {
        if let Some(word) = self.0.get_mut(source as usize / 32) {
            *word |= 1 << (source % 32);
        }
    }

    fn has(&self, source: u32) -> bool {
        let word = self.0.get(source as usize / 32);
        word.is_none_or(|word| word >> (source % 32) & 1 != 0)
    }

    fn highest(&self) -> u32 {
        (0..MOST_SOURCES).rev().find(|n| self.has(*n)).unwrap_or(0)
    }

    /// The first of so many that are free in a row, behind the machine's last source if there is room.
    fn free(&self, count: u32, last: u32) -> Option<u32> {
        let is_free = |first: &u32| (*first..*first + count).all(|source| !self.has(source));
        let end = MOST_SOURCES.saturating_sub(count);
        (last + 1..=end)
            .find(is_free)
            .or_else(|| (1..=end).rev().find(is_free))
    }
}
