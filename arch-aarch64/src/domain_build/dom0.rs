//! dom0's device tree: the host's, with what the hypervisor keeps left out and what it provides put in.
//!
//! Nodes and properties are copied as they are, phandles included, so references inside the tree stay good. Rewritten
//! are memory, CPUs, PSCI, timer, interrupt controller, `/chosen` and `/hypervisor` (`misc/arm/device-tree/guest` of
//! Xen's documentation).

use alloc::{format, vec::Vec};
use core::fmt;

use super::{
    FIRST_PPI, GicVersion, Host, VirtualGic,
    assign::{Fate, visible},
    vcpu_affinity,
};
use xenolith_core::boot::{
    PhysRange, RangeSet,
    fdt::{Node, NodeId, Tree, Writer},
    placement::DomainPlan,
};

/// Room for what is added to the host's tree.
const ADDED: usize = 16 << 10;
/// Room for each vCPU's node.
const PER_VCPU: usize = 256;
/// Linux maps no more.
const MAX_TREE: usize = 2 << 20;

/// What dom0's tree says beyond the host's.
#[derive(Clone, Copy, Debug)]
pub struct Dom0Request<'r> {
    /// Where its parts are.
    pub plan: &'r DomainPlan,
    /// Its command line.
    pub bootargs: &'r str,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The hypervisor's UART.
    pub console: Option<NodeId>,
    /// The private interrupt of event channels, by number ([`Host::event_ppi`]).
    pub event_ppi: u32,
    /// Guest-physical space with nothing in it, for the grant table: at least as many pages as the table may have.
    pub grant_region: PhysRange,
    /// More guest-physical space with nothing in it, for foreign mappings.
    pub extended_regions: &'r [PhysRange],
    /// RAM beyond the plan that dom0's tree keeps at its place (`Devices::reserved`).
    pub reserved: &'r RangeSet,
}

/// Bytes that [`dom0_tree`] may need: the plan's room for the tree.
#[must_use]
pub fn dom0_tree_room(tree: &Tree<'_>, vcpus: u32, bootargs: &str) -> u64 {
    let vcpus = (vcpus as usize).saturating_mul(PER_VCPU);
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
pub(super) fn fitting(blob: Vec<u8>, plan: &DomainPlan) -> Result<Vec<u8>, TreeTooLarge> {
    let (size, room) = (blob.len(), plan.device_tree.size());
    if size as u64 > room {
        return Err(TreeTooLarge { size, room });
    }
    Ok(blob)
}

/// Writes dom0's tree; it goes to `plan.device_tree`.
pub fn dom0_tree(
    tree: &Tree<'_>,
    host: &Host<'_>,
    request: &Dom0Request<'_>,
) -> Result<Vec<u8>, TreeTooLarge> {
    let mut writer = Writer::new();
    let mut open: Vec<NodeId> = Vec::new();
    let gic = host.virtual_gic(request.vcpus);
    let is_hidden = hidden_phandles(tree, host, request.console);
    for (node, fate) in visible(tree, host, request.console) {
        while let Some(last) = open.last() {
            if node.parent().is_some_and(|p| p.id() == *last) {
                break;
            }
            open.pop();
            writer.end();
        }
        writer.begin(node.name());
        match fate {
            Fate::Gic => {
                write_gic(&mut writer, node, host, &gic);
                writer.end();
            }
            _ => {
                copy_properties(&mut writer, tree, node, &is_hidden);
                open.push(node.id());
            }
        }
    }
    for _ in open.iter().skip(1) {
        writer.end();
    }
    write_memory(&mut writer, tree.root(), request);
    write_cpus(&mut writer, host, request.vcpus);
    write_psci(&mut writer);
    write_timer(&mut writer, host);
    write_hypervisor(&mut writer, tree.root(), host, request);
    write_chosen(&mut writer, tree, request);
    fitting(writer.finish(), request.plan)
}

/// Phandles of nodes that dom0 does not see; sorted.
fn hidden_phandles(tree: &Tree<'_>, host: &Host<'_>, console: Option<NodeId>) -> Vec<u32> {
    let mut next = visible(tree, host, console)
        .map(|(node, _)| node.id())
        .peekable();
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

/// Compatible strings and cells stay as they are; windows become those of the virtual controller, in the terms of the
/// bus that the node is on.
fn write_gic(writer: &mut Writer, node: Node<'_, '_>, host: &Host<'_>, gic: &VirtualGic) {
    for name in [
        "compatible",
        "#interrupt-cells",
        "#address-cells",
        "#size-cells",
        "interrupt-controller",
        "phandle",
        "linux,phandle",
    ] {
        if let Some(value) = node.property(name) {
            writer.property(name, value);
        }
    }
    let cells = node
        .parent()
        .map_or((2, 2), |p| (p.address_cells(), p.size_cells()));
    let physical = [gic.distributor]
        .into_iter()
        .chain(gic.cpu_interface)
        .chain(gic.redistributors.iter().copied());
    // The entries of `reg` are those of the host, in order, some of them shorter: their bus addresses are unchanged.
    let bus = node.reg().unwrap_or_default();
    let windows: Vec<PhysRange> = bus
        .iter()
        .zip(physical)
        .filter_map(|((address, _), window)| PhysRange::new(*address, window.size()))
        .collect();
    writer.reg("reg", cells, &windows);
    if host.gic.version == GicVersion::V3 {
        writer.u32("#redistributor-regions", gic.redistributors.len() as u32);
    }
}

fn write_memory(writer: &mut Writer, root: Node<'_, '_>, request: &Dom0Request<'_>) {
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

fn write_cpus(writer: &mut Writer, host: &Host<'_>, vcpus: u32) {
    writer.begin("cpus");
    writer.u32("#address-cells", 1);
    writer.u32("#size-cells", 0);
    for vcpu in 0..vcpus {
        let affinity = vcpu_affinity(vcpu);
        let on = host.cpus.get(vcpu as usize);
        writer.begin(&format!("cpu@{affinity:x}"));
        writer.text("device_type", "cpu");
        if let Some(like) = on.or(host.cpus.first()) {
            writer.property("compatible", like.compatible);
        }
        writer.text("enable-method", "psci");
        writer.u32("reg", affinity as u32);
        // Thermal zones and trace devices refer to CPUs.
        if let Some(phandle) = on.and_then(|cpu| cpu.phandle) {
            writer.u32("phandle", phandle);
        }
        writer.end();
    }
    writer.end();
}

pub(super) fn write_psci(writer: &mut Writer) {
    writer.begin("psci");
    writer.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
    writer.text("method", "hvc");
    writer.end();
}

/// Level-triggered, active low; for a GICv2 also the mask of CPUs that its binding wants in private interrupts.
fn level_low(version: GicVersion) -> u32 {
    match version {
        GicVersion::V2 => 0xf08,
        GicVersion::V3 => 0x008,
    }
}

/// The specifier of a private interrupt in so many cells.
pub(super) fn ppi(number: u32, version: GicVersion, cells: usize) -> Vec<u32> {
    let mut specifier = alloc::vec![1, number.saturating_sub(FIRST_PPI), level_low(version)];
    specifier.resize(cells.max(3), 0);
    specifier
}

/// Only the timers that a guest has: without the hypervisor's, Linux takes the virtual one.
fn write_timer(writer: &mut Writer, host: &Host<'_>) {
    let gic = &host.gic;
    let numbers = [host.timer.secure, host.timer.physical, host.timer.virt];
    let cells: Vec<u32> = numbers
        .into_iter()
        .flat_map(|n| ppi(n, gic.version, gic.interrupt_cells))
        .collect();
    writer.begin("timer");
    writer.texts("compatible", &["arm,armv8-timer"]);
    writer.u32("interrupt-parent", gic.phandle);
    writer.cells("interrupts", &cells);
    if let Some(frequency) = host.timer_frequency {
        writer.u32("clock-frequency", frequency);
    }
    writer.end();
}

fn write_hypervisor(
    writer: &mut Writer,
    root: Node<'_, '_>,
    host: &Host<'_>,
    request: &Dom0Request<'_>,
) {
    let regions: Vec<PhysRange> = [request.grant_region]
        .into_iter()
        .chain(request.extended_regions.iter().copied())
        .collect();
    writer.begin("hypervisor");
    writer.texts("compatible", &["xen,xen-4.17", "xen,xen"]);
    writer.reg("reg", (root.address_cells(), root.size_cells()), &regions);
    writer.u32("interrupt-parent", host.gic.phandle);
    writer.cells(
        "interrupts",
        &ppi(
            request.event_ppi,
            host.gic.version,
            host.gic.interrupt_cells,
        ),
    );
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

fn write_chosen(writer: &mut Writer, tree: &Tree<'_>, request: &Dom0Request<'_>) {
    writer.begin("chosen");
    if let Some(chosen) = tree.node("/chosen") {
        for property in chosen.properties().iter().filter(|p| !is_ours(p.name)) {
            writer.property(property.name, property.value);
        }
    }
    if !request.bootargs.is_empty() {
        writer.text("bootargs", request.bootargs);
    }
    if let Some(ramdisk) = request.plan.ramdisk {
        writer.u64("linux,initrd-start", ramdisk.at.start());
        writer.u64("linux,initrd-end", ramdisk.at.end());
    }
    writer.end();
}

/// Fuzzing: dom0's tree and devices of a host's tree that parsed.
pub(super) fn fuzz_dom0(tree: &Tree<'_>, host: &Host<'_>, console: Option<NodeId>) {
    use super::Devices;
    use xenolith_core::boot::placement::{Bank, Placed, Source};
    let ram: RangeSet = [PhysRange::between(0x4000_0000, 0x8000_0000)]
        .into_iter()
        .collect();
    let devices = Devices::of(tree, host, console, &ram);
    let plan = DomainPlan {
        banks: ram
            .iter()
            .map(|guest| Bank {
                guest,
                direct: true,
            })
            .collect(),
        kernel: Placed {
            at: PhysRange::between(0x4000_0000, 0x4100_0000),
            source: Source::InPlace,
        },
        ramdisk: None,
        device_tree: PhysRange::between(0x4200_0000, 0x4220_0000),
        entry: 0x4000_0000,
    };
    let blob = dom0_tree(
        tree,
        host,
        &Dom0Request {
            plan: &plan,
            bootargs: "",
            vcpus: 4,
            console,
            event_ppi: host.event_ppi(tree),
            grant_region: PhysRange::between(0x3800_0000, 0x3900_0000),
            extended_regions: &[],
            reserved: &devices.reserved,
        },
    );
    if let Ok(blob) = blob {
        assert!(Tree::parse(&blob).is_ok(), "dom0's tree can be read again");
    }
}
