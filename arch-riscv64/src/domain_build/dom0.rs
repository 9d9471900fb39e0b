//! dom0's device tree, as far as it is RISC-V's, and what dom0 gets of the machine: harts, interrupt controller and the
//! console's UART are rewritten. The rest is in `arch-common`.

use alloc::vec::Vec;

use xenolith_arch_common::dom0::{self, Devices, Fate, HostTree, Provided, TreeTooLarge};
use xenolith_core::boot::{
    PhysRange, RangeSet,
    fdt::{Node, NodeId, Tree, Writer},
    placement::DomainPlan,
};

use super::{EXTERNAL, Host, harts, host::PLICS};
use crate::vplic::MOST_SOURCES;

/// Room for each vCPU's node without its `riscv,isa`.
const PER_VCPU: usize = 512;
/// By an edge, where a specifier has room to say so.
const EDGE: u32 = 1;

/// What firmware or the hypervisor keeps: interrupts and timers of harts, messages, IOMMUs, and the machine's power switch.
const HIDDEN: &[&str] = &[
    "sifive,clint0",
    "sifive,clint2",
    "riscv,clint0",
    "riscv,aclint-mswi",
    "riscv,aclint-sswi",
    "riscv,aclint-mtimer",
    "thead,c900-clint",
    "thead,c900-aclint-mswi",
    "thead,c900-aclint-sswi",
    "thead,c900-aclint-mtimer",
    "riscv,imsics",
    "riscv,aplic",
    "riscv,cpu-intc",
    "riscv,timer",
    "riscv,pmu",
    "riscv,iommu",
    "riscv,pci-iommu",
    "opensbi,domain,config",
    "syscon-poweroff",
    "syscon-reboot",
    "sifive,test0",
    "sifive,test1",
];

/// What dom0's tree says beyond the host's.
#[derive(Clone, Copy, Debug)]
pub struct Dom0Request<'r> {
    /// Where its parts are.
    pub plan: &'r DomainPlan,
    /// Its command line.
    pub bootargs: &'r str,
    /// Ticks of `time` a second.
    pub timer_frequency: u32,
    /// What its harts can do, as `riscv,isa` says it.
    pub isa: &'r str,
    /// Which address translation they have, as `mmu-type` says it.
    pub mmu: &'r str,
    /// Guest-physical space with nothing in it, for the grant table.
    pub grant_region: PhysRange,
    /// RAM beyond the plan that dom0's tree keeps at its place (`Devices::reserved`).
    pub reserved: &'r RangeSet,
}

/// Bytes that [`dom0_tree`] may need: the plan's room for the tree.
#[must_use]
pub fn dom0_tree_room(tree: &Tree<'_>, vcpus: u32, bootargs: &str, isa: &str) -> u64 {
    dom0::tree_room(tree, vcpus, PER_VCPU.saturating_add(isa.len()), bootargs)
}

/// What dom0 gets: registers, and sources by number. `ram` is the machine's memory.
#[must_use]
pub fn dom0_devices(tree: &Tree<'_>, host: &Host, ram: &RangeSet) -> Devices<u32> {
    Devices::of(tree, &View { host }, ram)
}

/// Writes dom0's tree; it goes to `plan.device_tree`.
pub fn dom0_tree(
    tree: &Tree<'_>,
    host: &Host,
    request: &Dom0Request<'_>,
) -> Result<Vec<u8>, TreeTooLarge> {
    let common = dom0::Request {
        plan: request.plan,
        bootargs: request.bootargs,
        reserved: request.reserved,
        stdout: host.console.as_ref().map(|uart| uart.path.as_str()),
    };
    let cells = tree
        .by_id(host.plic)
        .and_then(|plic| plic.u32("#interrupt-cells"));
    let ours = Ours {
        host,
        request,
        cells: cells.unwrap_or(1).clamp(1, 4) as usize,
    };
    dom0::tree(tree, &View { host }, &ours, &common)
}

/// The host's tree as dom0 sees it.
struct View<'h> {
    host: &'h Host,
}

impl View<'_> {
    fn is_console(&self, node: &Node<'_, '_>) -> bool {
        let console = self.host.console.as_ref();
        console.is_some_and(|uart| uart.node == node.id())
    }
}

impl HostTree for View<'_> {
    type Interrupt = u32;

    fn fate(&self, node: &Node<'_, '_>) -> Fate {
        if node.id() == self.host.plic || self.is_console(node) {
            return Fate::Replace;
        }
        let hidden = dom0::is_hidden(node)
            || node.is_compatible(HIDDEN)
            || node.is_compatible(PLICS)
            || is_firmwares(node);
        if hidden { Fate::Hide } else { Fate::Keep }
    }

    fn keeps(&self, node: &Node<'_, '_>) -> bool {
        self.is_console(node) || node.is_compatible(PLICS) || node.is_compatible(HIDDEN)
    }

    fn controller(&self) -> NodeId {
        self.host.plic
    }

    fn interrupt(&self, specifier: &[u32]) -> Option<(u32, u32)> {
        let [source @ 1..MOST_SOURCES, ..] = *specifier else {
            return None;
        };
        let console = self.host.console.as_ref();
        let is_consoles = console.is_some_and(|uart| uart.source == source);
        (!is_consoles).then_some((source, source))
    }
}

/// Reserved memory that no device can refer to, as it has no phandle, and that is no device itself, is the firmware's own.
fn is_firmwares(node: &Node<'_, '_>) -> bool {
    let is_reserved = node
        .parent()
        .is_some_and(|parent| parent.depth() == 1 && parent.name() == "reserved-memory");
    is_reserved && node.phandle().is_none() && !node.has("compatible")
}

/// What is put into the tree.
struct Ours<'h> {
    host: &'h Host,
    request: &'h Dom0Request<'h>,
    /// Cells of a specifier of the interrupt controller.
    cells: usize,
}

impl Ours<'_> {
    fn specifier(&self, source: u32) -> impl Iterator<Item = u32> {
        [source, EDGE, 0, 0].into_iter().take(self.cells)
    }

    fn write_plic(&self, writer: &mut Writer, node: Node<'_, '_>) {
        writer.texts("compatible", PLICS);
        copy(writer, node, &["#address-cells", "#interrupt-cells", "reg"]);
        writer.flag("interrupt-controller");
        let contexts = self.host.cpus.iter();
        let contexts: Vec<u32> = contexts
            .flat_map(|cpu| [cpu.controller, EXTERNAL])
            .collect();
        writer.cells("interrupts-extended", &contexts);
        writer.u32("riscv,ndev", self.host.sources.saturating_sub(1));
        writer.u32("phandle", self.host.phandle);
    }

    fn write_uart(&self, writer: &mut Writer, node: Node<'_, '_>, source: u32) {
        writer.text("compatible", "ns16550a");
        copy(writer, node, &["reg", "clock-frequency", "phandle"]);
        if !node.has("clock-frequency") {
            writer.u32("clock-frequency", 3_686_400);
        }
        if source != 0 {
            writer.u32("interrupt-parent", self.host.phandle);
            let specifier: Vec<u32> = self.specifier(source).collect();
            writer.cells("interrupts", &specifier);
        }
    }
}

fn copy(writer: &mut Writer, node: Node<'_, '_>, names: &[&str]) {
    for name in names {
        if let Some(value) = node.property(name) {
            writer.property(name, value);
        }
    }
}

impl Provided for Ours<'_> {
    fn replace(&self, writer: &mut Writer, node: Node<'_, '_>) {
        match &self.host.console {
            Some(uart) if uart.node == node.id() => self.write_uart(writer, node, uart.source),
            _ => self.write_plic(writer, node),
        }
    }

    fn add(&self, writer: &mut Writer, root: Node<'_, '_>) {
        let Self { host, request, .. } = self;
        harts(
            writer,
            &host.cpus,
            request.timer_frequency,
            request.isa,
            request.mmu,
        );
        let events: Vec<u32> = (host.events..)
            .take(host.cpus.len())
            .flat_map(|source| self.specifier(source))
            .collect();
        let regions = [request.grant_region];
        dom0::hypervisor(writer, root, &regions, host.phandle, &events);
    }
}

/// Fuzzing: any bytes as the host's device tree, through all that dom0's is made from.
pub fn fuzz_device_tree(bytes: &[u8]) {
    use xenolith_core::boot::placement::{Bank, Placed, Source};
    let Ok(tree) = Tree::parse(bytes) else {
        return;
    };
    let console = tree
        .node("/chosen")
        .and_then(|chosen| tree.resolve(chosen.text("stdout-path")?))
        .map(|node| node.id());
    let ram: RangeSet = [PhysRange::between(0x8000_0000, 0xc000_0000)]
        .into_iter()
        .collect();
    let Ok(host) = Host::from_tree(&tree, console, 4) else {
        return;
    };
    let devices = dom0_devices(&tree, &host, &ram);
    let bank = |guest| Bank {
        guest,
        direct: true,
    };
    let plan = DomainPlan {
        banks: ram.iter().map(bank).collect(),
        kernel: Placed {
            at: PhysRange::between(0x8000_0000, 0x8100_0000),
            source: Source::InPlace,
        },
        ramdisk: None,
        device_tree: PhysRange::between(0x8200_0000, 0x8220_0000),
        entry: 0x8000_0000,
    };
    let blob = dom0_tree(
        &tree,
        &host,
        &Dom0Request {
            plan: &plan,
            bootargs: "",
            timer_frequency: 1,
            isa: "rv64imac",
            mmu: "riscv,sv39",
            grant_region: PhysRange::between(0xd000_0000, 0xd010_0000),
            reserved: &devices.reserved,
        },
    );
    if let Ok(blob) = blob {
        assert!(Tree::parse(&blob).is_ok(), "dom0's tree can be read again");
    }
}

#[cfg(test)]
mod tests;
