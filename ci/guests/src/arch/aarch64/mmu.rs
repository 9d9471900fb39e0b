//! The guest's own stage-1 tables: identity map with caches on. RAM and the grant-table window are
//! normal memory in 2 MiB blocks, the rest is device memory; one 2 MiB window of 4 KiB pages is free
//! for tests. Arm ARM D8 (VMSAv8-64).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const ENTRIES: usize = 512;
const LEVEL2_TABLES: usize = 32;
const VALID: u64 = 1;
const TABLE: u64 = 2;
const AF: u64 = 1 << 10;
const INNER: u64 = 3 << 8;
const READ_ONLY: u64 = 1 << 7;
const XN: u64 = (1 << 54) | (1 << 53);
const ATTR_DEVICE: u64 = 1 << 2;
const GIB: u64 = 1 << 30;
const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// An address that no table entry maps.
pub const UNMAPPED: u64 = 511 * GIB;
/// Start of the window whose pages `map_page` sets.
pub const WINDOW: u64 = 510 * GIB;
/// An address outside both translation ranges. Xen 4.17 reads a frame of guest-physical memory through
/// such an address if its low bits name one, so these name none.
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
}

static LEVEL1: Table = Table::EMPTY;
static LEVEL2: [Table; LEVEL2_TABLES] = [const { Table::EMPTY }; LEVEL2_TABLES];
static LEVEL2_USED: AtomicUsize = AtomicUsize::new(0);
static WINDOW2: Table = Table::EMPTY;
static WINDOW3: Table = Table::EMPTY;

/// How `map_page` maps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Normal memory, read and write.
    ReadWrite,
    /// Normal memory, read only.
    ReadOnly,
    /// Normal memory, read, write, and run.
    Execute,
}

/// Builds the tables; runs once with the MMU off.
pub(super) fn build() {
    for gib in 0..510 {
        set(
            &LEVEL1,
            gib,
            gib as u64 * GIB | VALID | AF | XN | ATTR_DEVICE,
        );
    }
    set(&LEVEL1, 510, WINDOW2.address() | VALID | TABLE);
    set(&WINDOW2, 0, WINDOW3.address() | VALID | TABLE);
}

/// Makes `[start, start + size)` normal memory, in whole 2 MiB blocks. MMU off, or a range not in use.
pub(super) fn map_normal(start: u64, size: u64) {
    let mut block = start & !(BLOCK - 1);
    while block < start.saturating_add(size) && block < 510 * GIB {
        let gib = (block / GIB) as usize;
        let entry = LEVEL1.0[gib].load(Ordering::Relaxed);
        if entry & TABLE == 0 {
            let used = LEVEL2_USED.load(Ordering::Relaxed);
            let Some(table) = LEVEL2.get(used) else {
                return;
            };
            LEVEL2_USED.store(used + 1, Ordering::Relaxed);
            for index in 0..ENTRIES {
                let address = gib as u64 * GIB + index as u64 * BLOCK;
                set(table, index, address | VALID | AF | XN | ATTR_DEVICE);
            }
            set(&LEVEL1, gib, table.address() | VALID | TABLE);
        }
        let table = LEVEL1.0[gib].load(Ordering::Relaxed) & 0xffff_ffff_f000;
        for level2 in &LEVEL2 {
            if level2.address() == table {
                set(
                    level2,
                    (block % GIB / BLOCK) as usize,
                    block | VALID | AF | INNER,
                );
            }
        }
        block += BLOCK;
    }
}

fn set(table: &Table, index: usize, value: u64) {
    table.0[index].store(value, Ordering::Relaxed);
}

/// Maps page `slot` of the test window on physical page `address`; gives the virtual address.
pub fn map_page(slot: usize, address: u64, access: Access) -> u64 {
    let bits = match access {
        Access::ReadWrite => XN,
        Access::ReadOnly => XN | READ_ONLY,
        Access::Execute => 0,
    };
    set(
        &WINDOW3,
        slot,
        (address & !(PAGE - 1)) | VALID | TABLE | AF | INNER | bits,
    );
    flush();
    WINDOW + slot as u64 * PAGE
}

/// Empties page `slot` of the test window; gives its virtual address.
pub fn unmap_page(slot: usize) -> u64 {
    set(&WINDOW3, slot, 0);
    flush();
    WINDOW + slot as u64 * PAGE
}

fn flush() {
    // SAFETY: barriers and TLB maintenance only.
    unsafe {
        asm!(
            "dsb ish",
            "tlbi vmalle1is",
            "dsb ish",
            "isb",
            options(nostack)
        )
    };
}

/// Turns the MMU and caches of this CPU on, on the tables that `build` made.
pub(super) fn enable() {
    // Attribute 0: normal write-back; attribute 1: device nGnRE.
    let mair: u64 = 0xff | (0x04 << 8);
    // T0SZ = 25 (39 bits), write-back inner shareable walks, 4 KiB, TTBR1 off, 40-bit output.
    let tcr: u64 = 25 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 23) | (2 << 32);
    // SAFETY: the tables map all that runs identically, so execution goes on at the same addresses.
    unsafe {
        asm!(
            "msr mair_el1, {mair}", "msr tcr_el1, {tcr}", "msr ttbr0_el1, {ttbr}", "isb",
            "tlbi vmalle1", "dsb nsh", "isb",
            "mrs {tmp}, sctlr_el1",
            "orr {tmp}, {tmp}, #(1 << 0)",   // M
            "orr {tmp}, {tmp}, #(1 << 2)",   // C
            "orr {tmp}, {tmp}, #(1 << 12)",  // I
            "bic {tmp}, {tmp}, #(1 << 1)",   // A: unaligned accesses are allowed
            "bic {tmp}, {tmp}, #(1 << 19)",  // WXN: the image's RAM is both
            "msr sctlr_el1, {tmp}", "isb",
            mair = in(reg) mair, tcr = in(reg) tcr, ttbr = in(reg) LEVEL1.address(), tmp = out(reg) _,
        )
    };
}

/// Cleans the image's data to memory, for a CPU that will read it with its MMU off.
pub(super) fn clean_to_memory() {
    let range = super::image();
    let mut line = range.start;
    while line < range.end {
        // SAFETY: cache maintenance by address on mapped memory.
        unsafe { asm!("dc cvac, {}", in(reg) line, options(nostack)) };
        line += 64;
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}
