//! What dom0 gets of the machine: which nodes of the host's tree it sees, and which interrupts it can have. The rules that all
//! architectures share are in `arch-common`.

use super::{FIRST_SPI, Host};
use xenolith_arch_common::dom0::{self, Fate, HostTree};
use xenolith_core::boot::{
    RangeSet,
    fdt::{Node, NodeId, Tree},
};

/// How an interrupt is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a change of level.
    Edge,
    /// By a level.
    Level,
}

/// A shared peripheral interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spi {
    /// Its number, from 32 up.
    pub number: u32,
    /// How it is signalled.
    pub trigger: Trigger,
}

/// What comes with the devices that dom0 sees.
pub type Devices = dom0::Devices<Spi>;

const HIDDEN: &[&str] = &[
    "arm,psci",
    "arm,psci-0.2",
    "arm,psci-1.0",
    "arm,armv8-timer",
    "arm,armv7-timer",
    "arm,armv7-timer-mem",
    "arm,cortex-a53-edac",
    "linaro,optee-tz",
];
const IOMMUS: &[&str] = &[
    "arm,smmu-v1",
    "arm,smmu-v2",
    "arm,smmu-v3",
    "arm,mmu-400",
    "arm,mmu-401",
    "arm,mmu-500",
    "cavium,smmu-v2",
    "marvell,ap806-smmu-500",
    "nvidia,smmu-500",
    "qcom,smmu-v2",
];
/// Children of the root that are written anew here.
const REWRITTEN: &[&str] = &["psci", "timer"];

fn is_pmu(node: &Node<'_, '_>) -> bool {
    node.texts("compatible")
        .any(|c| c.starts_with("arm,armv8-pmu") || (c.starts_with("arm,") && c.ends_with("-pmu")))
}

/// The host's tree as dom0 sees it.
pub(super) struct View<'h> {
    host: &'h Host<'h>,
    console: Option<NodeId>,
    /// The first node behind those of the interrupt controller.
    controller_end: NodeId,
}

impl<'h> View<'h> {
    pub(super) fn new(tree: &Tree<'_>, host: &'h Host<'h>, console: Option<NodeId>) -> Self {
        let controller = tree.by_id(host.gic.node);
        Self {
            host,
            console,
            controller_end: controller.map_or(host.gic.node, |node| node.end_id()),
        }
    }
}

impl HostTree for View<'_> {
    type Interrupt = Spi;

    fn fate(&self, node: &Node<'_, '_>) -> Fate {
        if node.id() == self.host.gic.node {
            return Fate::Replace;
        }
        let hidden =
            (node.depth() == 1 && REWRITTEN.contains(&node.base_name()) && !has_device_reg(node))
                || Some(node.id()) == self.console
                || dom0::is_hidden(node)
                || node.is_compatible(HIDDEN)
                || node.is_compatible(IOMMUS)
                || is_pmu(node);
        if hidden { Fate::Hide } else { Fate::Keep }
    }

    /// The interrupt controller with all below it, and the console.
    fn keeps(&self, node: &Node<'_, '_>) -> bool {
        (self.host.gic.node..self.controller_end).contains(&node.id())
            || Some(node.id()) == self.console
    }

    fn controller(&self) -> NodeId {
        self.host.gic.node
    }

    fn interrupt(&self, specifier: &[u32]) -> Option<(u32, Spi)> {
        let spi = spi(specifier)?;
        Some((spi.number, spi))
    }
}

/// A device that only shares the name of a node that is written anew (`timer@ff100000`) stays.
fn has_device_reg(node: &Node<'_, '_>) -> bool {
    node.base_name() == "timer" && node.has("reg")
}

/// What dom0 gets, with the console's UART kept by the hypervisor. `ram` is the machine's memory.
#[must_use]
pub fn devices(
    tree: &Tree<'_>,
    host: &Host<'_>,
    console: Option<NodeId>,
    ram: &RangeSet,
) -> Devices {
    Devices::of(tree, &View::new(tree, host, console), ram)
}

/// The shared interrupt that a specifier of the GIC names.
fn spi(cells: &[u32]) -> Option<Spi> {
    let [0, number, flags, ..] = cells else {
        return None;
    };
    let number = number.checked_add(FIRST_SPI).filter(|n| *n < 1020)?;
    let trigger = if flags & 3 != 0 {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    Some(Spi { number, trigger })
}
