//! The first look at the host's device tree: map it, find the console.

use alloc::{string::String, vec::Vec};

use xenolith_arch_common::Access;
use xenolith_core::boot::{
    PhysRange,
    fdt::{Node, NodeId, Tree, TreeError, blob_size},
};
use xenolith_drivers::UartKind;
use xenolith_hal::HostPhys;

use crate::{
    console,
    domain_build::isa,
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

/// Starts the UART that the tree names as its console, or else its first one, and tells which it is.
pub(super) fn start_console(tree: &Tree<'_>) -> Option<NodeId> {
    let named = tree
        .node("/chosen")
        .and_then(|chosen| chosen.text("stdout-path"))
        .and_then(|name| tree.resolve(name.split(':').next().unwrap_or(name)));
    let node = named.filter(|node| uart_of(node).is_some()).or_else(|| {
        tree.nodes()
            .find(|node| node.is_enabled() && uart_of(node).is_some())
    });
    let node = node?;
    let (kind, range) = uart_of(&node)?;
    console::init(kind, range.base(), range.size()).then(|| node.id())
}

fn uart_of(node: &Node<'_, '_>) -> Option<(UartKind, PhysRange)> {
    let shift = node.u32("reg-shift").unwrap_or(0) as u8;
    let kind = node
        .texts("compatible")
        .find_map(|c| UartKind::from_compatible(c, shift))?;
    Some((kind, *node.physical_ranges().first()?))
}

/// What the tree says of the machine's harts.
pub(super) struct Harts<'a> {
    /// Ticks a second of the `time` counter; 0 where it does not say.
    pub(super) hz: u32,
    /// Those that can be started.
    pub(super) numbers: Vec<u64>,
    /// What all of them can do.
    pub(super) isa: String,
    /// Which address translation all of them have.
    pub(super) mmu: &'a str,
    /// Whether they are alike in having timer registers of their own.
    pub(super) timers_alike: bool,
}

/// What a hart can do that does not say it.
const LEAST_ISA: &str = "rv64imac";
const LEAST_MMU: &str = "riscv,sv39";

/// Reads `/cpus`.
pub(super) fn harts<'a>(tree: &Tree<'a>) -> Harts<'a> {
    let mut harts = Harts {
        hz: 0,
        numbers: Vec::new(),
        isa: LEAST_ISA.into(),
        mmu: LEAST_MMU,
        timers_alike: true,
    };
    let Some(cpus) = tree.node("/cpus") else {
        return harts;
    };
    harts.hz = cpus.u32("timebase-frequency").unwrap_or(0);
    let all = cpus
        .children()
        .filter(|cpu| cpu.text("device_type") == Some("cpu") && cpu.is_enabled());
    for cpu in all {
        let Some(number) = cpu.reg().and_then(|reg| Some(reg.first()?.0)) else {
            continue;
        };
        let its_isa = cpu.text("riscv,isa").unwrap_or(LEAST_ISA);
        let its_mmu = cpu.text("mmu-type").unwrap_or(LEAST_MMU);
        if harts.numbers.is_empty() {
            (harts.isa, harts.mmu) = (its_isa.into(), its_mmu);
        } else {
            harts.timers_alike &= isa::has_sstc(its_isa) == isa::has_sstc(&harts.isa);
            harts.isa = isa::common(&harts.isa, its_isa);
            harts.mmu = isa::least_translation(harts.mmu, its_mmu);
        }
        harts.numbers.push(number);
    }
    harts
}
