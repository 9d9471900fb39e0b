//! The first look at the host's device tree: map it, find the firmware and the console.

use xenolith_core::boot::{
    PhysRange,
    fdt::{Node, NodeId, Tree, TreeError, blob_size},
};
use xenolith_drivers::UartKind;
use xenolith_hal::HostPhys;

use crate::{console, mm::hyp, smccc};

/// Bytes of the header of a flattened device tree that tell its size.
const HEADER: u64 = 40;
/// No device tree that firmware passes is larger.
const MAX_TREE: usize = 2 << 20;

/// The host's device tree, mapped read-only for as long as start-up lasts.
pub(super) fn map_tree(at: HostPhys) -> Result<&'static [u8], TreeError> {
    let none = blob_size(&[]).err().unwrap_or(TreeError::Magic(0));
    if at.0 == 0 || at.0 & 7 != 0 {
        return Err(none);
    }
    let Some(va) = hyp::map_device_tree(at, HEADER) else {
        return Err(none);
    };
    // SAFETY: the header's page is mapped read-only RAM; forty bytes from an 8-byte aligned address may cross into the
    // next page only where that is mapped by the same call.
    let header = unsafe { core::slice::from_raw_parts(va as *const u8, HEADER as usize) };
    let size = blob_size(header)?.min(MAX_TREE);
    if hyp::map_device_tree(at, size as u64).is_none() {
        return Err(none);
    }
    // SAFETY: the whole tree is mapped read-only now and nobody writes it while start-up lasts.
    Ok(unsafe { core::slice::from_raw_parts(va as *const u8, size) })
}

/// Finds the firmware interface and the console's UART. `dtuart` is the command line's choice: a path or an alias, with
/// options after a colon.
pub(super) fn start_console(tree: &Tree<'_>, dtuart: Option<&str>) -> Option<NodeId> {
    let named = dtuart
        .or_else(|| tree.node("/chosen")?.text("stdout-path"))
        .and_then(|name| tree.resolve(name.split(':').next().unwrap_or(name)));
    let node = named.filter(|node| uart_of(node).is_some()).or_else(|| {
        tree.nodes()
            .find(|node| node.is_enabled() && uart_of(node).is_some())
    })?;
    let (kind, range) = uart_of(&node)?;
    console::init(kind, range.base(), range.size()).then(|| node.id())
}

/// Finds how the firmware is called.
pub(super) fn find_firmware(tree: &Tree<'_>) {
    let psci = tree.nodes().find(|n| {
        n.is_compatible(&["arm,psci-1.0", "arm,psci-0.2"]) && n.text("method") == Some("smc")
    });
    if psci.is_some() {
        smccc::init();
    }
}

fn uart_of(node: &Node<'_, '_>) -> Option<(UartKind, PhysRange)> {
    let shift = node.u32("reg-shift").unwrap_or(0) as u8;
    let kind = node
        .texts("compatible")
        .find_map(|c| UartKind::from_compatible(c, shift))?;
    Some((kind, *node.physical_ranges().first()?))
}
