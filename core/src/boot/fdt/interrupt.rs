//! Which interrupts a node uses, and of which controller: `interrupts`, `interrupts-extended` and `interrupt-map`
//! (Devicetree Specification 0.4, section 2.4).

use alloc::vec::Vec;

use super::{Node, NodeId};

/// The most cells that an interrupt specifier is read with; no binding has more.
const MAX_CELLS: usize = 8;

/// One interrupt of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The interrupt controller (or nexus) that the specifier is for.
    pub controller: NodeId,
    cells: [u32; MAX_CELLS],
    count: usize,
}

impl Interrupt {
    /// The specifier, in cells of the controller's binding.
    #[must_use]
    pub fn cells(&self) -> &[u32] {
        self.cells.get(..self.count).unwrap_or_default()
    }

    fn take(controller: Node<'_, '_>, from: &mut impl Iterator<Item = u32>) -> Option<Self> {
        let count = controller.u32("#interrupt-cells")? as usize;
        let mut cells = [0; MAX_CELLS];
        for slot in cells.get_mut(..count)? {
            *slot = from.next()?;
        }
        (count > 0).then(|| Self {
            controller: controller.id(),
            cells,
            count,
        })
    }
}

impl<'t, 'a> Node<'t, 'a> {
    /// The controller or nexus that `interrupts` of this node go to.
    #[must_use]
    pub fn interrupt_parent(&self) -> Option<Self> {
        let mut node = *self;
        loop {
            if let Some(phandle) = node.u32("interrupt-parent") {
                return self.tree().by_phandle(phandle);
            }
            node = node.parent()?;
            if node.has("#interrupt-cells") {
                return Some(node);
            }
        }
    }

    /// The node's own interrupts; `interrupts-extended` wins over `interrupts`. What is malformed ends the list.
    #[must_use]
    pub fn interrupts(&self) -> Vec<Interrupt> {
        let mut out = Vec::new();
        if self.has("interrupts-extended") {
            let mut cells = self.cells("interrupts-extended");
            while let Some(phandle) = cells.next() {
                // A zero phandle stands for "this one is not connected".
                if phandle == 0 {
                    continue;
                }
                let controller = self.tree().by_phandle(phandle);
                match controller.and_then(|c| Interrupt::take(c, &mut cells)) {
                    Some(interrupt) => out.push(interrupt),
                    None => break,
                }
            }
        } else if self.has("interrupts")
            && let Some(controller) = self.interrupt_parent()
        {
            let mut cells = self.cells("interrupts");
            while let Some(interrupt) = Interrupt::take(controller, &mut cells) {
                out.push(interrupt);
            }
        }
        out
    }

    /// The interrupts that a nexus (a PCI host bridge, say) passes on to other controllers: the right-hand sides of
    /// its `interrupt-map`. What is malformed ends the list.
    #[must_use]
    pub fn interrupt_map(&self) -> Vec<Interrupt> {
        let mut out = Vec::new();
        let own = self
            .address_cells()
            .saturating_add(self.u32("#interrupt-cells").unwrap_or(0) as usize);
        let mut cells = self.cells("interrupt-map");
        loop {
            for _ in 0..own {
                if cells.next().is_none() {
                    return out;
                }
            }
            let controller = cells
                .next()
                .and_then(|phandle| self.tree().by_phandle(phandle));
            let Some(controller) = controller else {
                return out;
            };
            for _ in 0..controller.u32("#address-cells").unwrap_or(0) {
                if cells.next().is_none() {
                    return out;
                }
            }
            match Interrupt::take(controller, &mut cells) {
                Some(interrupt) => out.push(interrupt),
                None => return out,
            }
        }
    }
}
