//! The first domain that has the machine: what it gets of it, the device tree that tells it so, and its memory 1:1.
//!
//! What an architecture knows of its host's tree it says by [`HostTree`]; the walk through the tree, the rules for devices and
//! the copying are here. Nodes and properties are copied as they are, phandles included, so references inside the tree stay good.

mod assign;
mod memory;
mod tree;

use xenolith_core::boot::fdt::{Node, NodeId, Tree, Writer};

pub use assign::Devices;
pub use memory::{give_memory, map, modules_in_place, release_modules, report};
pub use tree::{Request, TreeTooLarge, fitting, hypervisor, tree, tree_room};

/// What is done with a node of the host's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// dom0 sees it.
    Keep,
    /// dom0 sees neither it nor what is below it.
    Hide,
    /// dom0 sees another device of the same name in its place; children are hidden.
    Replace,
}

/// What an architecture says of a host's tree.
pub trait HostTree {
    /// An interrupt of the machine as dom0 gets it.
    type Interrupt;

    /// What is done with a node.
    fn fate(&self, node: &Node<'_, '_>) -> Fate;

    /// Whether the hypervisor keeps a node's registers, whatever else lies in their pages.
    fn keeps(&self, node: &Node<'_, '_>) -> bool;

    /// The interrupt controller whose interrupts dom0 can have.
    fn controller(&self) -> NodeId;

    /// The interrupt that a specifier of that controller names, by number, if dom0 can have it.
    fn interrupt(&self, specifier: &[u32]) -> Option<(u32, Self::Interrupt)>;
}

/// What an architecture puts into dom0's tree.
pub trait Provided {
    /// Writes what is in a node that is [`Fate::Replace`]d. The node is open.
    fn replace(&self, writer: &mut Writer, node: Node<'_, '_>);

    /// Writes the architecture's own nodes below the root: CPUs and what belongs to them, the hypervisor.
    fn add(&self, writer: &mut Writer, root: Node<'_, '_>);
}

/// Nodes that tell of domains and of the hypervisor, on every architecture.
const OURS: &[&str] = &[
    "xen,xen",
    "xen,domain",
    "multiboot,module",
    "xen,multiboot-module",
    "xen,evtchn-v1",
    "xen,cpupool",
    "xen,domain-shared-memory-v1",
];
/// Children of the root that are written anew.
const REWRITTEN: &[&str] = &[
    "cpus",
    "memory",
    "chosen",
    "hypervisor",
    "__symbols__",
    "__local_fixups__",
    "__fixups__",
];

/// Whether a node is hidden from dom0 on every architecture.
#[must_use]
pub fn is_hidden(node: &Node<'_, '_>) -> bool {
    (node.depth() == 1 && REWRITTEN.contains(&node.base_name()))
        || node.text("device_type") == Some("memory")
        || node.has("xen,passthrough")
        || node.is_compatible(OURS)
}

/// The nodes that dom0 sees, parents before children, with what is done with each.
pub fn visible<'t, 'a>(
    tree: &'t Tree<'a>,
    host: &impl HostTree,
) -> impl Iterator<Item = (Node<'t, 'a>, Fate)> {
    let mut hidden_until = tree.root().id();
    tree.nodes().filter_map(move |node| {
        if node.id() < hidden_until {
            return None;
        }
        let fate = host.fate(&node);
        if fate != Fate::Keep {
            hidden_until = node.end_id();
        }
        (fate != Fate::Hide).then_some((node, fate))
    })
}
