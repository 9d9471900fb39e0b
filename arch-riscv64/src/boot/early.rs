//! The first look at the host's device tree: map it, find the console.

use xenolith_arch_common::Access;
use xenolith_core::boot::{
    PhysRange,
    fdt::{Node, Tree, TreeError, blob_size},
};
use xenolith_drivers::UartKind;
use xenolith_hal::HostPhys;

use crate::{
    console,
    mm::{hyp::Hyp, layout::FDT_VA},
};

/// Bytes of the header of a flattened device tree that tell its size.
const HEADER: u64 = 40;
/// No device tree that firmware passes is larger.
const MAX_TREE: usize = 2 << 20;

/// The host's device tree, mapped read-only for as long as start-up lasts.
pub(super) fn map_tree(at: HostPhys) -> Result<&'static [u8], TreeError> {
    let none = || blob_size(&[]).err().unwrap_or(TreeError::Magic(0));
    if at.0 == 0 || at.0 & 7 != 0 {
        return Err(none());
    }
    let window = |len| Hyp::map_window(FDT_VA, at, len, Access::RamReadOnly).map_err(|_| none());
    let va = window(HEADER)?;
    // SAFETY: the header's pages are mapped read-only RAM.
    let header = unsafe { core::slice::from_raw_parts(va as *const u8, HEADER as usize) };
    let size = blob_size(header)?.min(MAX_TREE);
    window(size as u64)?;
    // SAFETY: the whole tree is mapped read-only now and nobody writes it while start-up lasts.
    Ok(unsafe { core::slice::from_raw_parts(va as *const u8, size) })
}

/// Starts the UART that the tree names as its console, or else its first one.
pub(super) fn start_console(tree: &Tree<'_>) {
    let named = tree
        .node("/chosen")
        .and_then(|chosen| chosen.text("stdout-path"))
        .and_then(|name| tree.resolve(name.split(':').next().unwrap_or(name)));
    let node = named.filter(|node| uart_of(node).is_some()).or_else(|| {
        tree.nodes()
            .find(|node| node.is_enabled() && uart_of(node).is_some())
    });
    if let Some((kind, range)) = node.as_ref().and_then(uart_of) {
        console::init(kind, range.base(), range.size());
    }
}

fn uart_of(node: &Node<'_, '_>) -> Option<(UartKind, PhysRange)> {
    let shift = node.u32("reg-shift").unwrap_or(0) as u8;
    let kind = node
        .texts("compatible")
        .find_map(|c| UartKind::from_compatible(c, shift))?;
    Some((kind, *node.physical_ranges().first()?))
}

/// Ticks a second of the `time` counter, and the numbers of the harts that can be started.
pub(super) fn cpus(tree: &Tree<'_>) -> (Option<u32>, alloc::vec::Vec<u64>) {
    let Some(cpus) = tree.node("/cpus") else {
        return (None, alloc::vec::Vec::new());
    };
    let harts = cpus
        .children()
        .filter(|cpu| cpu.text("device_type") == Some("cpu") && cpu.is_enabled())
        .filter_map(|cpu| Some(cpu.reg()?.first()?.0));
    (cpus.u32("timebase-frequency"), harts.collect())
}
