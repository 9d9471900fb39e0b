//! From the device tree to a running interrupt controller.

use xenolith_core::boot::fdt::{Node, NodeId, Tree};

use crate::{
    console,
    domain_build::{plics, source_of},
    guest::interrupts::DEVICES_GO_TO,
    mm::hyp::Hyp,
    plic::{self, Plic},
};

/// Number of the external interrupt of a hart's S-mode.
const EXTERNAL: u32 = 9;

/// Which of the controller's contexts is the hart's S-mode: its place in the list of interrupts that the controller makes.
fn context_of(tree: &Tree<'_>, plic: &Node<'_, '_>, hart: u64) -> Option<usize> {
    let mut cells = plic.cells("interrupts-extended");
    for context in 0.. {
        let (phandle, number) = (cells.next()?, cells.next()?);
        let of = tree.by_phandle(phandle).and_then(|node| node.parent());
        let number_of_hart = of.and_then(|cpu| Some(cpu.reg()?.first()?.0));
        if number == EXTERNAL && number_of_hart == Some(hart) {
            return Some(context);
        }
    }
    None
}

/// Starts the controller for the boot hart, and the console's input.
pub(super) fn start(
    tree: &Tree<'_>,
    hart: u64,
    console: Option<NodeId>,
) -> Result<(), &'static str> {
    let plic = plics(tree)
        .next()
        .ok_or("device tree: no PLIC: there is no console input, and no device interrupts")?;
    let context = context_of(tree, &plic, hart)
        .ok_or("device tree: the PLIC's interrupts-extended does not name the boot hart")?;
    let range = *plic
        .physical_ranges()
        .first()
        .ok_or("device tree: the PLIC has no reg")?;
    let base = Hyp::map_device(range.base(), range.size())
        .map_err(|_| "no page tables for the interrupt controller")?;
    let sources = plic.u32("riscv,ndev").unwrap_or(0).min(1023);
    // SAFETY: the registers were just mapped as device memory with the length that the device tree gives; no domain gets
    // these pages, and this is the only driver.
    let controller = unsafe { Plic::new(base, range.size() as usize, context, DEVICES_GO_TO) };
    plic::init(controller);
    let source = console
        .and_then(|id| tree.by_id(id))
        .and_then(|node| source_of(&node, plic.id()))
        .filter(|source| *source <= sources);
    match source {
        Some(source) => console::enable_interrupt(source),
        None => log::warn!("the console's UART names no interrupt: there is no console input"),
    }
    Ok(())
}
