//! The guest's own four-level tables: those that the domain builder made, and two windows of 4 KiB pages added to them,
//! one for tests (`WINDOW`), one where grants, the shared-info page and the like are mapped. All changes go through
//! the hypervisor: `mmu_update`, `update_va_mapping`, `mmuext_op` (`public/xen.h`).

use core::sync::atomic::{AtomicU64, Ordering};

use super::memory::{address_of, frame_of};
use super::{read64, start_info};
use crate::arch::hypercall;
use crate::buffer::{PAGE, Page};
use crate::xen::{SELF, nr};

/// Bits of a table entry.
#[allow(missing_docs)]
pub mod bit {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 2;
    pub const USER: u64 = 4;
    pub const WRITE_THROUGH: u64 = 8;
    pub const NO_CACHE: u64 = 16;
    pub const ACCESSED: u64 = 0x20;
    pub const DIRTY: u64 = 0x40;
    /// In an entry of level 2 and 3; in one of level 1 the PAT's.
    pub const LARGE: u64 = 0x80;
    pub const GLOBAL: u64 = 0x100;
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// An entry that leads to a table.
    pub const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;
    /// A page to read.
    pub const READ: u64 = PRESENT | USER | ACCESSED | DIRTY;
    /// A page to read and write.
    pub const READ_WRITE: u64 = READ | WRITABLE;
}
use bit::{LARGE, NO_EXECUTE, PRESENT, READ, READ_WRITE, TABLE};

const GIB: u64 = 1 << 30;
const FRAME: u64 = 0xf_ffff_ffff_f000;
/// An address that no table entry maps.
pub const UNMAPPED: u64 = 511 * GIB;
/// Start of the window whose pages `map_page` sets.
pub const WINDOW: u64 = 510 * GIB;
/// Start of the window of grants.
pub const GRANTS: u64 = 509 * GIB;
/// Pages at the end of the window of grants that the runtime has for itself.
pub(super) const SHARED_INFO_SLOT: u64 = 511;
pub(super) const CONSOLE_SLOT: u64 = 510;
/// An address that is none: bits 63 to 47 differ.
pub const NON_CANONICAL: u64 = 0x0080_7fff_0000_0000;
/// An address of the hypervisor's own: the machine-to-physical table.
pub const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// `mmuext_op` commands.
#[allow(missing_docs)]
pub mod ext {
    pub const PIN_L1: u32 = 0;
    pub const PIN_L2: u32 = 1;
    pub const PIN_L3: u32 = 2;
    pub const PIN_L4: u32 = 3;
    pub const UNPIN: u32 = 4;
    pub const NEW_BASEPTR: u32 = 5;
    pub const TLB_FLUSH_LOCAL: u32 = 6;
    pub const INVLPG_LOCAL: u32 = 7;
    pub const TLB_FLUSH_MULTI: u32 = 8;
    pub const INVLPG_MULTI: u32 = 9;
    pub const TLB_FLUSH_ALL: u32 = 10;
    pub const INVLPG_ALL: u32 = 11;
    pub const FLUSH_CACHE: u32 = 12;
    pub const SET_LDT: u32 = 13;
    pub const NEW_USER_BASEPTR: u32 = 15;
    pub const CLEAR_PAGE: u32 = 16;
    pub const COPY_PAGE: u32 = 17;
    pub const FLUSH_CACHE_GLOBAL: u32 = 18;
    pub const MARK_SUPER: u32 = 19;
    pub const UNMARK_SUPER: u32 = 20;
}

/// Kinds of `mmu_update`, in the low bits of its pointer.
#[allow(missing_docs)]
pub mod kind {
    pub const NORMAL: u64 = 0;
    pub const MACHPHYS: u64 = 1;
    pub const PRESERVE_AD: u64 = 2;
    pub const NO_TRANSLATE: u64 = 3;
}

/// Flags of `update_va_mapping`.
#[allow(missing_docs)]
pub mod flush {
    pub const NONE: u64 = 0;
    pub const TLB: u64 = 1;
    pub const INVLPG: u64 = 2;
    pub const ALL: u64 = 4;
}

/// `mmu_update`'s request.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Update {
    /// Machine address of the entry, with a `kind`.
    pub at: u64,
    /// Its new content.
    pub value: u64,
}

/// `mmuext_op`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Ext {
    /// One of `ext`.
    pub command: u32,
    pad: u32,
    /// A machine frame or a linear address.
    pub first: u64,
    /// A count, a machine frame, or the address of a vCPU mask.
    pub second: u64,
}

impl Ext {
    /// Puts it together.
    pub fn new(command: u32, first: u64, second: u64) -> Self {
        Self {
            command,
            pad: 0,
            first,
            second,
        }
    }
}

/// `mmu_update`; the errno, and how many were done.
pub fn mmu_update_of(requests: &[Update], domain: u64) -> (i64, u32) {
    let mut done = 0u32;
    let (at, count) = (requests.as_ptr() as u64, requests.len() as u64);
    let errno = hypercall(
        nr::MMU_UPDATE,
        [at, count, (&raw mut done) as u64, domain, 0],
    );
    (errno, done)
}

/// `mmu_update` of one entry at a machine address.
pub fn mmu_update(at: u64, value: u64) -> i64 {
    mmu_update_of(&[Update { at, value }], u64::from(SELF)).0
}

/// `update_va_mapping`.
pub fn update_va_mapping(address: u64, value: u64, flags: u64) -> i64 {
    hypercall(nr::UPDATE_VA_MAPPING, [address, value, flags, 0, 0])
}

/// `mmuext_op` on several; the errno, and how many were done.
pub fn mmuext_of(operations: &[Ext], domain: u64) -> (i64, u32) {
    let mut done = 0u32;
    let (at, count) = (operations.as_ptr() as u64, operations.len() as u64);
    let errno = hypercall(
        nr::MMUEXT_OP,
        [at, count, (&raw mut done) as u64, domain, 0],
    );
    (errno, done)
}

/// `mmuext_op` on one.
pub fn mmuext(command: u32, first: u64, second: u64) -> i64 {
    mmuext_of(&[Ext::new(command, first, second)], u64::from(SELF)).0
}

/// Virtual address of the root table.
pub fn root() -> u64 {
    start_info::start_info().pt_base
}

/// The machine frame that an entry names.
pub fn frame_in(entry: u64) -> u64 {
    (entry & FRAME) / PAGE
}

/// An entry that maps machine frame `frame`.
pub fn entry_for(frame: u64, bits: u64) -> u64 {
    frame * PAGE | bits
}

/// Virtual address of the entry of `level` (4 to 1) for `address`, if the tables above it are there.
pub fn entry_address(address: u64, level: u32) -> Option<u64> {
    let mut table = root();
    let mut above = 4;
    loop {
        let at = table + (address >> (3 + 9 * above) & 0x1ff) * 8;
        if above == level {
            return Some(at);
        }
        let entry = read64(at);
        if entry & PRESENT == 0 || entry & LARGE != 0 {
            return None;
        }
        table = address_of(frame_in(entry));
        above -= 1;
    }
}

/// The entry of level 1 for `address`, if it is present.
pub fn leaf(address: u64) -> Option<u64> {
    let entry = read64(entry_address(address, 1)?);
    (entry & PRESENT != 0).then_some(entry)
}

/// Machine address of what is at a virtual address of the domain's own memory.
pub fn machine_address(address: u64) -> u64 {
    frame_of(address) * PAGE | address & (PAGE - 1)
}

/// Takes the write permission from the builder's mapping of a page, so that it may become a table; the errno.
pub fn make_read_only(page: Page) -> i64 {
    let entry = entry_for(page.frame(), READ);
    update_va_mapping(page.address(), entry, flush::INVLPG)
}

/// Gives it back; the errno.
pub fn make_writable(page: Page) -> i64 {
    let entry = entry_for(page.frame(), READ_WRITE);
    update_va_mapping(page.address(), entry, flush::INVLPG)
}

/// An empty page that may become a table.
pub fn empty_table() -> Page {
    let page = Page::take();
    page.fill(0);
    let errno = make_read_only(page);
    assert!(errno == 0, "make_read_only: {errno}");
    page
}

fn must_update(at: Option<u64>, value: u64) {
    let Some(at) = at else {
        panic!("a table is missing")
    };
    let errno = mmu_update(machine_address(at), value);
    assert!(errno == 0, "mmu_update: {errno}");
}

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

static WINDOW1: AtomicU64 = AtomicU64::new(0);
static GRANTS1: AtomicU64 = AtomicU64::new(0);

/// Adds the two windows.
pub(super) fn init() {
    for (start, table) in [(WINDOW, &WINDOW1), (GRANTS, &GRANTS1)] {
        let (level2, level1) = (empty_table(), empty_table());
        must_update(entry_address(start, 3), entry_for(level2.frame(), TABLE));
        must_update(entry_address(start, 2), entry_for(level1.frame(), TABLE));
        table.store(level1.address(), Ordering::Relaxed);
    }
}

/// Maps the page of memory at `address` as page `slot` of the test window; gives the virtual address.
pub fn map_page(slot: usize, address: u64, access: Access) -> u64 {
    map_frame(slot, frame_of(address), access)
}

/// The same by machine frame.
pub fn map_frame(slot: usize, frame: u64, access: Access) -> u64 {
    let bits = match access {
        Access::ReadWrite => READ_WRITE | NO_EXECUTE,
        Access::ReadOnly => READ | NO_EXECUTE,
        Access::Execute => READ_WRITE,
    };
    set_entry(slot, entry_for(frame, bits))
}

/// Empties page `slot` of the test window; gives its virtual address.
pub fn unmap_page(slot: usize) -> u64 {
    set_entry(slot, 0)
}

/// Sets the whole table entry of page `slot` of the test window; gives its virtual address.
pub fn set_entry(slot: usize, entry: u64) -> u64 {
    let errno = try_entry(slot, entry);
    assert!(errno == 0, "entry {entry:#x}: {errno}");
    WINDOW + slot as u64 * PAGE
}

/// The same; the errno.
pub fn try_entry(slot: usize, entry: u64) -> i64 {
    update_va_mapping(WINDOW + slot as u64 * PAGE, entry, flush::INVLPG)
}

/// The table entry of page `slot` of the test window.
pub fn entry(slot: usize) -> u64 {
    read64(window_entry(slot))
}

/// Virtual address of the table entry of page `slot` of the test window.
pub fn window_entry(slot: usize) -> u64 {
    WINDOW1.load(Ordering::Relaxed) + slot as u64 * 8
}

/// Virtual address of the table entry of page `slot` of the window of grants.
pub fn grants_entry(slot: u64) -> u64 {
    GRANTS1.load(Ordering::Relaxed) + slot * 8
}

/// Maps machine frame `frame` as page `slot` of the window of grants; gives the virtual address.
pub(super) fn map_in_grants(slot: u64, frame: u64) -> u64 {
    let address = GRANTS + slot * PAGE;
    let errno = update_va_mapping(address, entry_for(frame, READ_WRITE), flush::INVLPG);
    assert!(errno == 0, "frame {frame:#x}: {errno}");
    address
}
