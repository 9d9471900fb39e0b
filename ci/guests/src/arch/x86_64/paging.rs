//! The guest's own four-level tables: the first 4 GiB one to one in 2 MiB pages (made by the entry code), 1 GiB more
//! where the grant window is, and a window of 4 KiB pages free for tests. AMD64 manual, volume 2, chapter 5.

use core::sync::atomic::{AtomicU64, Ordering};

use super::regs::{cr3, set_cr3};

const ENTRIES: usize = 512;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const GIB: u64 = 1 << 30;
const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4096;
const WINDOW_GIB: u64 = 510;

/// An address that no table entry maps.
pub const UNMAPPED: u64 = 511 * GIB;
/// Start of the window whose pages `map_page` sets.
pub const WINDOW: u64 = WINDOW_GIB * GIB;
/// An address that is none: bits 63 to 47 differ.
pub const NON_CANONICAL: u64 = 0x0080_7fff_0000_0000;
/// An address of the upper half, where a kernel or hypervisor of its own kind would live.
pub const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

#[repr(C, align(4096))]
struct Table([AtomicU64; ENTRIES]);

impl Table {
    const EMPTY: Self = Self([const { AtomicU64::new(0) }; ENTRIES]);

    fn address(&self) -> u64 {
        (&raw const *self) as u64
    }

    fn set(&self, index: u64, value: u64) {
        self.0[index as usize].store(value, Ordering::SeqCst);
    }
}

#[unsafe(no_mangle)]
static GUEST_PML4: Table = Table::EMPTY;
#[unsafe(no_mangle)]
static GUEST_PDPT: Table = Table::EMPTY;
#[unsafe(no_mangle)]
static GUEST_PDS: [Table; 4] = [const { Table::EMPTY }; 4];
static GRANTS: Table = Table::EMPTY;
static WINDOW2: Table = Table::EMPTY;
static WINDOW1: Table = Table::EMPTY;

/// How `map_page` maps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only.
    ReadOnly,
    /// Read, write, and run.
    Execute,
}

/// Adds the window of tests and the GiB at `grants` to what the entry code made.
pub(super) fn init(grants: u64) {
    for index in 0..ENTRIES as u64 {
        GRANTS.set(index, grants + index * BLOCK | LARGE | WRITABLE | PRESENT);
    }
    GUEST_PDPT.set(grants / GIB, GRANTS.address() | WRITABLE | PRESENT);
    WINDOW2.set(0, WINDOW1.address() | WRITABLE | PRESENT);
    GUEST_PDPT.set(WINDOW_GIB, WINDOW2.address() | WRITABLE | PRESENT);
    flush();
}

/// The root of the tables.
pub fn root() -> u64 {
    GUEST_PML4.address()
}

/// Maps page `slot` of the test window on physical page `address`; gives the virtual address.
pub fn map_page(slot: usize, address: u64, access: Access) -> u64 {
    let bits = match access {
        Access::ReadWrite => WRITABLE | NO_EXECUTE,
        Access::ReadOnly => NO_EXECUTE,
        Access::Execute => WRITABLE,
    };
    set_entry(slot, (address & !(PAGE - 1)) | PRESENT | bits)
}

/// Empties page `slot` of the test window; gives its virtual address.
pub fn unmap_page(slot: usize) -> u64 {
    set_entry(slot, 0)
}

/// Sets the whole table entry of page `slot` of the test window; gives its virtual address.
pub fn set_entry(slot: usize, entry: u64) -> u64 {
    WINDOW1.set(slot as u64, entry);
    flush();
    WINDOW + slot as u64 * PAGE
}

/// The table entry of page `slot` of the test window.
pub fn entry(slot: usize) -> u64 {
    WINDOW1.0[slot].load(Ordering::SeqCst)
}

fn flush() {
    set_cr3(cr3());
}
