//! dom0's device tree, as far as it is ARM's: CPUs, PSCI, timer and interrupt controller are rewritten. The rest is in
//! `arch-common`.

use alloc::{format, vec::Vec};

use super::{
    FIRST_PPI, GicVersion, Host, VirtualGic,
    assign::{View, devices},
    vcpu_affinity,
};
use xenolith_arch_common::dom0::{self, Provided, TreeTooLarge};
use xenolith_core::boot::{
    PhysRange, RangeSet,
    fdt::{Node, NodeId, Tree, Writer},
    placement::DomainPlan,
};

/// Room for each vCPU's node.
const PER_VCPU: usize = 256;

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
    dom0::tree_room(tree, vcpus, PER_VCPU, bootargs)
}

/// Writes dom0's tree; it goes to `plan.device_tree`.
pub fn dom0_tree(
    tree: &Tree<'_>,
    host: &Host<'_>,
    request: &Dom0Request<'_>,
) -> Result<Vec<u8>, TreeTooLarge> {
    let ours = Ours {
        host,
        gic: host.virtual_gic(request.vcpus),
        request,
    };
    let common = dom0::Request {
        plan: request.plan,
        bootargs: request.bootargs,
        reserved: request.reserved,
        stdout: None,
    };
    let view = View::new(tree, host, request.console);
    dom0::tree(tree, &view, &ours, &common)
}

/// What is put into the tree.
struct Ours<'h> {
    host: &'h Host<'h>,
    gic: VirtualGic,
    request: &'h Dom0Request<'h>,
}

impl Provided for Ours<'_> {
    fn replace(&self, writer: &mut Writer, node: Node<'_, '_>) {
        write_gic(writer, node, self.host, &self.gic);
    }

    fn add(&self, writer: &mut Writer, root: Node<'_, '_>) {
        write_cpus(writer, self.host, self.request.vcpus);
        write_psci(writer);
        write_timer(writer, self.host);
        write_hypervisor(writer, root, self.host, self.request);
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
    let gic = &host.gic;
    let event = ppi(request.event_ppi, gic.version, gic.interrupt_cells);
    dom0::hypervisor(writer, root, &regions, gic.phandle, &event);
}

/// Fuzzing: dom0's tree and devices of a host's tree that parsed.
pub(super) fn fuzz_dom0(tree: &Tree<'_>, host: &Host<'_>, console: Option<NodeId>) {
    use xenolith_core::boot::placement::{Bank, Placed, Source};
    let ram: RangeSet = [PhysRange::between(0x4000_0000, 0x8000_0000)]
        .into_iter()
        .collect();
    let devices = devices(tree, host, console, &ram);
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
