//! The guest's own tables: Sv39, mapped one to one in leaves of 1 GiB, of which those with RAM may be run from; one window
//! of 4 KiB pages is free for tests. What is memory and what a device the physical address decides. Privileged
//! architecture, 4.4.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{cpu, sbi};

const ENTRIES: usize = 512;
const VALID: u64 = 1;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;
const USER: u64 = 1 << 4;
const USED: u64 = 3 << 6;
const SV39: u64 = 8 << 60;
const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
const WINDOW_GIB: usize = 254;

/// An address that no table entry maps.
pub const UNMAPPED: u64 = 255 * GIB;
/// Start of the window whose pages `map_page` sets.
pub const WINDOW: u64 = WINDOW_GIB as u64 * GIB;
/// An address whose upper bits are not all as bit 38 is.
pub const NON_CANONICAL: u64 = 0x0080_7fff_0000_0000;
/// An address of the upper half, where a kernel or hypervisor of its own kind would live.
pub const UPPER_HALF: u64 = 0xffff_ffc0_0000_0000;

#[repr(C, align(4096))]
struct Table([AtomicU64; ENTRIES]);

impl Table {
    const EMPTY: Self = Self([const { AtomicU64::new(0) }; ENTRIES]);

    fn entry(&self) -> u64 {
        entry_for((&raw const *self) as u64)
    }
}

static ROOT: Table = Table::EMPTY;
static WINDOW1: Table = Table::EMPTY;
static WINDOW0: Table = Table::EMPTY;

/// How `map_page` maps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only.
    ReadOnly,
    /// Read, write, and run.
    Execute,
    /// Read, write, and run, all of it in user mode.
    User,
}

fn leaf(address: u64) -> u64 {
    address / PAGE << 10
}

fn set(table: &Table, index: usize, value: u64) {
    table.0[index].store(value, Ordering::Relaxed);
}

/// Builds the tables; runs once with the MMU off.
pub(super) fn build() {
    for gib in 0..WINDOW_GIB {
        set(
            &ROOT,
            gib,
            leaf(gib as u64 * GIB) | VALID | READ | WRITE | USED,
        );
    }
    set(&ROOT, WINDOW_GIB, WINDOW1.entry());
    set(&WINDOW1, 0, WINDOW0.entry());
}

/// Lets code run from `[start, start + size)`, in whole GiB.
pub(super) fn map_ram(start: u64, size: u64) {
    let last = start.saturating_add(size).saturating_sub(1) / GIB;
    for gib in start / GIB..=last.min(WINDOW_GIB as u64 - 1) {
        ROOT.0[gib as usize].fetch_or(EXECUTE, Ordering::Relaxed);
    }
}

/// Maps page `slot` of the test window on physical page `address`; gives the virtual address.
pub fn map_page(slot: usize, address: u64, access: Access) -> u64 {
    let at = map_page_here(slot, address, access);
    flush();
    at
}

/// As `map_page`, but only this CPU is told.
pub fn map_page_here(slot: usize, address: u64, access: Access) -> u64 {
    let bits = match access {
        Access::ReadWrite => READ | WRITE,
        Access::ReadOnly => READ,
        Access::Execute => READ | WRITE | EXECUTE,
        Access::User => READ | WRITE | EXECUTE | USER,
    };
    set(&WINDOW0, slot, leaf(address) | VALID | USED | bits);
    flush_here();
    WINDOW + slot as u64 * PAGE
}

/// The entry for a leaf without rights, or for a table where `address` has one.
pub fn entry_for(address: u64) -> u64 {
    leaf(address) | VALID
}

/// Sets the entry of the `index`th 2 MiB of the test window, of which the pages are the first; gives the virtual address.
pub fn set_table(index: usize, entry: u64) -> u64 {
    assert!(index != 0, "the pages have that one");
    set(&WINDOW1, index, entry);
    flush();
    WINDOW + index as u64 * ENTRIES as u64 * PAGE
}

/// Empties page `slot` of the test window; gives its virtual address.
pub fn unmap_page(slot: usize) -> u64 {
    set(&WINDOW0, slot, 0);
    flush();
    WINDOW + slot as u64 * PAGE
}

fn flush_here() {
    // SAFETY: TLB and fetch maintenance only.
    unsafe { asm!("sfence.vma", "fence.i", options(nostack)) };
}

/// On all CPUs that run.
fn flush() {
    flush_here();
    if cpu::others_are_online() {
        let everybody = [0, u64::MAX, 0, u64::MAX, 0];
        sbi::call(sbi::extension::RFENCE, sbi::rfence::SFENCE_VMA, everybody);
    }
}

/// Turns the MMU of this CPU on, on the tables that `build` made.
pub(super) fn enable() {
    let satp = SV39 | (&raw const ROOT) as u64 / PAGE;
    // SAFETY: the tables map all that runs identically, so execution goes on at the same addresses.
    unsafe { asm!("sfence.vma", "csrw satp, {}", "sfence.vma", in(reg) satp, options(nostack)) };
}
