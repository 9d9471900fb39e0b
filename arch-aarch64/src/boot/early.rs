//! The first look at the host's device tree: map it, find the firmware and the console.

use core::fmt;

use xenolith_core::boot::{
    PhysRange,
    fdt::{Node, NodeId, Tree, TreeError, blob_size},
};
use xenolith_drivers::uart::{self, UartKind};
use xenolith_hal::HostPhys;

use super::last_resort;
use crate::{
    console,
    mm::{hyp, layout},
    smccc,
};

/// Bytes of the header of a flattened device tree that tell its size.
const HEADER: usize = 40;

/// Why the host's device tree cannot be used.
#[derive(Clone, Copy, Debug)]
pub(super) enum NoTree {
    /// Firmware gave no address.
    NoAddress,
    /// The address is no multiple of eight, or there is no memory at it.
    Nowhere(HostPhys),
    /// What is there is no device tree.
    Bad(HostPhys, TreeError),
}

impl fmt::Display for NoTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => write!(
                f,
                "device tree: none was given (x0 is 0); start Xenolith by a boot loader that passes one, as booti of U-Boot does"
            ),
            Self::Nowhere(at) => write!(
                f,
                "device tree: x0 is {:#x}, where there is no readable memory at a multiple of 8; check the address that the boot loader passes",
                at.0
            ),
            Self::Bad(at, error) => write!(f, "{error} (x0 is {:#x})", at.0),
        }
    }
}

/// The host's device tree, mapped read-only for as long as start-up lasts. Nothing is believed of the address: memory is
/// probed before it is read.
pub(super) fn map_tree(at: HostPhys) -> Result<&'static [u8], NoTree> {
    if at.0 == 0 {
        return Err(NoTree::NoAddress);
    }
    if at.0 & 7 != 0 || at.0 >= layout::DIRECT_LIMIT {
        return Err(NoTree::Nowhere(at));
    }
    let map = |len: usize| {
        let va = hyp::map_device_tree(at, len as u64)?;
        last_resort::readable(va, len as u64).then_some(va as *const u8)
    };
    let va = map(HEADER).ok_or(NoTree::Nowhere(at))?;
    // SAFETY: the header is mapped read-only, and its memory answers.
    let header = unsafe { core::slice::from_raw_parts(va, HEADER) };
    let size = blob_size(header).map_err(|error| NoTree::Bad(at, error))?;
    let va = map(size).ok_or(NoTree::Nowhere(at))?;
    // SAFETY: as above for the whole tree, which nobody writes while start-up lasts.
    Ok(unsafe { core::slice::from_raw_parts(va, size) })
}

/// What there is to talk through.
pub(super) struct Found<'a> {
    /// The UART that is the console now.
    pub(super) node: Option<NodeId>,
    /// The UART that would be the console if its driver had been built: its name in the tree, and the driver's feature.
    pub(super) left_out: Option<(&'a str, &'static str)>,
}

/// Finds the console's UART. `dtuart` is the command line's choice: a path or an alias, with options after a colon.
pub(super) fn start_console<'a>(tree: &Tree<'a>, dtuart: Option<&str>) -> Found<'a> {
    let named = dtuart
        .or_else(|| tree.node("/chosen")?.text("stdout-path"))
        .and_then(|name| tree.resolve(name.split(':').next().unwrap_or(name)));
    let enabled = || tree.nodes().filter(Node::is_enabled);
    let wanted = named.or_else(|| enabled().find(|node| driver_of(node).is_some()));
    let left_out = wanted.and_then(|node| left_out(&node));
    let usable = |node: &Node<'_, '_>| uart_of(node).is_some();
    let node = named.filter(usable).or_else(|| enabled().find(usable));
    let started = node.filter(|node| {
        uart_of(node).is_some_and(|(kind, range)| console::init(kind, range.base(), range.size()))
    });
    Found {
        node: started.map(|node| node.id()),
        left_out,
    }
}

/// The name and the missing driver of a UART that this image could drive if it had been built for it.
fn left_out<'a>(node: &Node<'_, 'a>) -> Option<(&'a str, &'static str)> {
    let driver = driver_of(node)?;
    uart_of(node).is_none().then(|| (node.name(), driver))
}

fn driver_of(node: &Node<'_, '_>) -> Option<&'static str> {
    node.texts("compatible").find_map(uart::driver_for)
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
