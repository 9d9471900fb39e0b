//! Which of the machine's devices the first domain gets: those that access no memory themselves, as its addresses are not the
//! machine's.

use alloc::{string::String, vec::Vec};

use xenolith_core::boot::{
    PhysRange,
    fdt::{Node, NodeId, Tree},
};

use super::{EVENT_SOURCE, GRANT_REGION, GUEST_BANKS, PLIC, UART, UART_SOURCE, plics};

/// Devices of that kind.
const WITHOUT_DMA: &[&str] = &["google,goldfish-rtc"];

/// A device that a domain gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The name of its node.
    pub name: String,
    /// What it is.
    pub compatible: Vec<String>,
    /// Its registers, where the machine has them.
    pub registers: PhysRange,
    /// Its sources at the machine's interrupt controller, and at the domain's.
    pub sources: Vec<u32>,
}

impl Device {
    /// The device of a node, if it can be given away.
    fn of(node: &Node<'_, '_>, plic: NodeId) -> Option<Self> {
        if !node.is_enabled() || !node.is_compatible(WITHOUT_DMA) {
            return None;
        }
        let registers = *node.physical_ranges().first()?;
        let pages = registers.page_outer()?;
        let taken = GUEST_BANKS.iter().chain(&[PLIC, UART, GRANT_REGION]);
        if taken.clone().any(|range| range.overlaps(&pages)) {
            return None;
        }
        let interrupts = node.interrupts();
        let sources: Option<Vec<u32>> = interrupts
            .iter()
            .map(|interrupt| match interrupt.cells() {
                [source @ 1..EVENT_SOURCE]
                    if interrupt.controller == plic && *source != UART_SOURCE =>
                {
                    Some(*source)
                }
                _ => None,
            })
            .collect();
        Some(Self {
            name: node.name().into(),
            compatible: node.texts("compatible").map(Into::into).collect(),
            registers,
            sources: sources?,
        })
    }
}

/// The devices that the first domain gets, but for the hypervisor's console.
#[must_use]
pub fn devices(tree: &Tree<'_>, console: Option<NodeId>) -> Vec<Device> {
    let Some(plic) = plics(tree).next() else {
        return Vec::new();
    };
    let free = tree.nodes().filter(|node| Some(node.id()) != console);
    free.filter_map(|node| Device::of(&node, plic.id()))
        .collect()
}

#[cfg(test)]
mod tests {
    use xenolith_core::boot::fdt::Writer;

    use super::*;

    fn tree(rtc_at: u64, source: u32) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.begin("");
        writer.u32("#address-cells", 2);
        writer.u32("#size-cells", 2);
        writer.u32("interrupt-parent", 1);
        writer.begin("plic@c000000");
        writer.text("compatible", "riscv,plic0");
        writer.u32("#interrupt-cells", 1);
        writer.flag("interrupt-controller");
        writer.u32("phandle", 1);
        writer.end();
        for (name, kind) in [
            ("rtc@101000", "google,goldfish-rtc"),
            ("disk@0", "virtio,mmio"),
        ] {
            writer.begin(name);
            writer.text("compatible", kind);
            writer.reg("reg", (2, 2), &[PhysRange::new(rtc_at, 0x1000).unwrap()]);
            writer.cells("interrupts", &[source]);
            writer.end();
        }
        writer.finish()
    }

    #[test]
    fn devices_that_access_memory_stay_with_the_hypervisor() {
        let blob = tree(0x10_1000, 11);
        let tree = Tree::parse(&blob).unwrap();
        let found = devices(&tree, None);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), &found[0].sources[..]),
            ("rtc@101000", &[11][..])
        );
        let rtc = tree.node("/rtc@101000").unwrap().id();
        assert_eq!(devices(&tree, Some(rtc)), []);
    }

    #[test]
    fn what_would_lie_over_something_of_the_domains_is_left_out() {
        for (at, source) in [
            (0x8000_0000, 11),
            (PLIC.start(), 11),
            (0x10_1000, EVENT_SOURCE),
            (0x10_1000, UART_SOURCE),
        ] {
            let blob = tree(at, source);
            assert_eq!(
                devices(&Tree::parse(&blob).unwrap(), None),
                [],
                "{at:#x} {source}"
            );
        }
    }
}
