//! dom0's device tree: the host's, with what the hypervisor keeps left out and what it provides put in.
//!
//! Rewritten are memory, `/chosen` and `/hypervisor` here (`misc/arm/device-tree/guest` of Xen's documentation), and what each
//! architecture has.

use alloc::{format, vec::Vec};
use core::fmt;

use super::{Fate, HostTree, Provided, visible};
use xenolith_core::boot::{
    PhysRange, RangeSet,
    fdt::{Node, NodeId, Tree, Writer},
    placement::DomainPlan,
};

/// Room for what is added to the host's tree.
const ADDED: usize = 16 << 10;
/// Linux maps no more.
const MAX_TREE: usize = 2 << 20;

/// What dom0's tree says beyond the host's.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Where its parts are.
    pub plan: &'r DomainPlan,
    /// Its command line.
    pub bootargs: &'r str,
    /// RAM beyond the plan that dom0's tree keeps at its place (`Devices::reserved`).
    pub reserved: &'r RangeSet,
    /// The path of the device that its console is on, if it has one.
    pub stdout: Option<&'r str>,
}

/// Bytes that [`tree`] may need with so many for each vCPU: the plan's room for the tree.
#[must_use]
pub fn tree_room(tree: &Tree<'_>, vcpus: u32, per_vcpu: usize, bootargs: &str) -> u64 {
    let vcpus = (vcpus as usize).saturating_mul(per_vcpu);
    let size = [tree.content_size(), ADDED, vcpus, bootargs.len()]
        .into_iter()
        .fold(0, usize::saturating_add);
    size.next_multiple_of(4096).min(MAX_TREE) as u64
}

/// A tree does not fit the room that the plan has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeTooLarge {
    size: usize,
    room: u64,
}

impl fmt::Display for TreeTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, room } = self;
        write!(
            f,
            "device tree for the domain: {size} bytes do not fit the {room} planned; remove nodes that this board does not have"
        )
    }
}

/// `blob`, if it fits the plan.
pub fn fitting(blob: Vec<u8>, plan: &DomainPlan) -> Result<Vec<u8>, TreeTooLarge> {
    let (size, room) = (blob.len(), plan.device_tree.size());
    if size as u64 > room {
        return Err(TreeTooLarge { size, room });
    }
    Ok(blob)
}

/// Writes dom0's tree; it goes to `plan.device_tree`.
pub fn tree(
    tree: &Tree<'_>,
    host: &impl HostTree,
    provided: &impl Provided,
    request: &Request<'_>,
) -> Result<Vec<u8>, TreeTooLarge> {
    let mut writer = Writer::new();
    let mut open: Vec<NodeId> = Vec::new();
    let is_hidden = hidden_phandles(tree, host);
    for (node, fate) in visible(tree, host) {
        while let Some(last) = open.last() {
            if node.parent().is_some_and(|p| p.id() == *last) {
                break;
            }
            open.pop();
            writer.end();
        }
        writer.begin(node.name());
        if fate == Fate::Replace {
            provided.replace(&mut writer, node);
            writer.end();
        } else {
            copy_properties(&mut writer, tree, node, &is_hidden);
            open.push(node.id());
        }
    }
    for _ in open.iter().skip(1) {
        writer.end();
    }
    write_memory(&mut writer, tree.root(), request);
    provided.add(&mut writer, tree.root());
    write_chosen(&mut writer, tree, request);
    fitting(writer.finish(), request.plan)
}

/// Phandles of nodes that dom0 does not see; sorted.
fn hidden_phandles(tree: &Tree<'_>, host: &impl HostTree) -> Vec<u32> {
    let mut next = visible(tree, host).map(|(node, _)| node.id()).peekable();
    let mut hidden = Vec::new();
    for node in tree.nodes() {
        if next.next_if_eq(&node.id()).is_none() {
            hidden.extend(node.phandle());
        }
    }
    hidden.sort_unstable();
    hidden
}

/// Properties that only make sense with a device that may be hidden, and where in them its phandle stands.
const REFERENCES: &[(&str, usize)] = &[("msi-parent", 0), ("msi-map", 1)];
/// Properties of an IOMMU's users; IOMMUs are the hypervisor's.
const IOMMU_USE: &[&str] = &["iommus", "iommu-map", "iommu-map-mask"];

fn copy_properties(writer: &mut Writer, tree: &Tree<'_>, node: Node<'_, '_>, hidden: &[u32]) {
    let refers_to_hidden = |name: &str| {
        let place = REFERENCES.iter().find(|(property, _)| *property == name);
        let phandle = place.and_then(|(property, at)| node.cells(property).nth(*at));
        phandle.is_some_and(|p| hidden.binary_search(&p).is_ok())
    };
    let is_aliases = node.depth() == 1 && node.name() == "aliases";
    for property in node.properties() {
        if IOMMU_USE.contains(&property.name) || refers_to_hidden(property.name) {
            continue;
        }
        // An alias of a node that is not there is no use; of those only the console's name is likely.
        if is_aliases
            && node
                .text(property.name)
                .and_then(|path| tree.node(path))
                .is_none()
        {
            continue;
        }
        writer.property(property.name, property.value);
    }
}

fn write_memory(writer: &mut Writer, root: Node<'_, '_>, request: &Request<'_>) {
    let mut ram = request.reserved.clone();
    for bank in &request.plan.banks {
        ram.insert(bank.guest);
    }
    let ranges: Vec<PhysRange> = ram.iter().collect();
    let first = ranges.first().map_or(0, PhysRange::start);
    writer.begin(&format!("memory@{first:x}"));
    writer.text("device_type", "memory");
    writer.reg("reg", (root.address_cells(), root.size_cells()), &ranges);
    writer.end();
}

/// Writes `/hypervisor`: guest-physical space with nothing in it, the grant table's first, and interrupts of events by the
/// specifier that their controller takes.
pub fn hypervisor(
    writer: &mut Writer,
    root: Node<'_, '_>,
    regions: &[PhysRange],
    controller: u32,
    specifiers: &[u32],
) {
    writer.begin("hypervisor");
    writer.texts("compatible", &["xen,xen-4.17", "xen,xen"]);
    writer.reg("reg", (root.address_cells(), root.size_cells()), regions);
    writer.u32("interrupt-parent", controller);
    writer.cells("interrupts", specifiers);
    writer.end();
}

/// Properties of `/chosen` that were meant for the hypervisor, or are written anew.
fn is_ours(name: &str) -> bool {
    matches!(
        name,
        "bootargs"
            | "stdout-path"
            | "linux,stdout-path"
            | "linux,initrd-start"
            | "linux,initrd-end"
    ) || name.starts_with("xen,")
        || name.starts_with("linux,uefi-")
        || matches!(name, "#address-cells" | "#size-cells" | "ranges")
}

fn write_chosen(writer: &mut Writer, tree: &Tree<'_>, request: &Request<'_>) {
    writer.begin("chosen");
    if let Some(chosen) = tree.node("/chosen") {
        for property in chosen.properties().iter().filter(|p| !is_ours(p.name)) {
            writer.property(property.name, property.value);
        }
    }
    if !request.bootargs.is_empty() {
        writer.text("bootargs", request.bootargs);
    }
    if let Some(stdout) = request.stdout {
        writer.text("stdout-path", stdout);
    }
    if let Some(ramdisk) = request.plan.ramdisk {
        writer.u64("linux,initrd-start", ramdisk.at.start());
        writer.u64("linux,initrd-end", ramdisk.at.end());
    }
    writer.end();
}
