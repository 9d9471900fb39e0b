//! The first look at the host's device tree: map it, find the firmware and the console.

use fdt::{Fdt, node::FdtNode};
use xenolith_drivers::UartKind;
use xenolith_hal::HostPhys;

use crate::{console, mm::hyp, smccc};

/// Bytes of the header of a flattened device tree that tell its size.
const HEADER: u64 = 8;
/// No device tree that firmware passes is larger.
const MAX_TREE: u64 = 2 << 20;

/// The host's device tree, mapped read-only for as long as start-up lasts.
pub fn map_tree(at: HostPhys) -> Option<Fdt<'static>> {
    if at.0 == 0 || at.0 & 7 != 0 {
        return None;
    }
    let va = hyp::map_device_tree(at, HEADER)?;
    // SAFETY: the header's page is mapped read-only RAM; eight bytes from an 8-byte aligned address lie in it.
    let header = unsafe { core::slice::from_raw_parts(va as *const u8, HEADER as usize) };
    let magic = u32::from_be_bytes(header.get(..4)?.try_into().ok()?);
    let size = u64::from(u32::from_be_bytes(header.get(4..8)?.try_into().ok()?));
    if magic != 0xd00d_feed || size > MAX_TREE {
        return None;
    }
    hyp::map_device_tree(at, size)?;
    // SAFETY: the whole tree is mapped read-only now and nobody writes it while start-up lasts.
    let blob = unsafe { core::slice::from_raw_parts(va as *const u8, size as usize) };
    Fdt::new(blob).ok()
}

/// Finds the firmware interface and the console's UART.
pub fn start_console(tree: &Fdt<'_>) {
    if let Some(psci) = tree.find_node("/psci")
        && psci.property("method").and_then(|p| p.as_str()) == Some("smc")
    {
        smccc::init();
    }
    let chosen = tree.chosen().stdout().and_then(|node| uart_of(&node));
    if let Some((kind, base, len)) = chosen.or_else(|| tree.all_nodes().find_map(|n| uart_of(&n))) {
        console::init(kind, base, len);
    }
}

fn uart_of(node: &FdtNode<'_, '_>) -> Option<(UartKind, HostPhys, u64)> {
    let shift = node.property("reg-shift").and_then(|p| p.as_usize()).unwrap_or(0) as u8;
    let kind = node.compatible()?.all().find_map(|c| UartKind::from_compatible(c, shift))?;
    let reg = node.reg()?.next()?;
    Some((kind, HostPhys(reg.starting_address as u64), reg.size.unwrap_or(0x1000) as u64))
}
