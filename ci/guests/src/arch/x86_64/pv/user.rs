//! User code: an address space of its own, with a window of 4 KiB pages that kernel and user see at the same addresses,
//! and nothing of the kernel's in it. User code is entered by `iret` and comes back by a trap.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu::{restore_user_stack, selector};
use super::tables::{
    self, bit, empty_table, entry_address, entry_for, ext, flush, machine_address, mmu_update,
    mmuext, update_va_mapping,
};
use super::{cpu_index, fault_of};
use crate::arch::Fault;
use crate::buffer::{PAGE, Page};

/// Start of the window, in the second slot of the root.
pub const WINDOW: u64 = 512 << 30;

static ROOT: AtomicU64 = AtomicU64::new(0);

/// The root of the user's address space; made, and given to the hypervisor, at the first call.
pub fn root() -> Page {
    let root = ROOT.load(Ordering::Relaxed);
    if root != 0 {
        return Page::at(root);
    }
    let [level1, level2, level3, level4] = [0; 4].map(|_| empty_table());
    let set = |table: Page, index: u64, lower: Page| {
        let at = machine_address(table.address()) + index * 8;
        let errno = mmu_update(at, entry_for(lower.frame(), bit::TABLE));
        assert!(errno == 0, "a table of the user's: {errno}");
    };
    let errno = mmuext(ext::PIN_L4, level4.frame(), 0);
    assert!(errno == 0, "pin of the user's root: {errno}");
    set(level4, WINDOW >> 39, level3);
    set(level3, 0, level2);
    set(level2, 0, level1);
    set(Page::at(tables::root()), WINDOW >> 39, level3);
    ROOT.store(level4.address(), Ordering::Relaxed);
    level4
}

/// Has this CPU run user code in that address space.
pub fn use_root() -> i64 {
    mmuext(ext::NEW_USER_BASEPTR, root().frame(), 0)
}

/// Sets the entry of page `slot` of the window; gives its address.
pub fn set_entry(slot: u64, entry: u64) -> u64 {
    root();
    let address = WINDOW + slot * PAGE;
    let errno = update_va_mapping(address, entry, flush::INVLPG);
    assert!(errno == 0, "user entry {entry:#x}: {errno}");
    address
}

/// The entry of page `slot` of the window.
pub fn entry(slot: u64) -> u64 {
    entry_address(WINDOW + slot * PAGE, 1).map_or(0, super::read64)
}

/// Maps a page of memory for user code to read and write; gives its address.
pub fn map(slot: u64, page: Page) -> u64 {
    set_entry(slot, entry_for(page.frame(), bit::READ_WRITE))
}

/// Page that holds the code, as user code sees it.
pub const CODE: u64 = WINDOW;
/// Top of the user's stack.
pub const STACK_TOP: u64 = WINDOW + 2 * PAGE;

static PAGES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Pages of code and stack, mapped at `CODE` and below `STACK_TOP`.
pub fn pages() -> [Page; 2] {
    let mut pages = [0, 1].map(|index: usize| PAGES[index].load(Ordering::Relaxed));
    if pages[0] == 0 {
        for (slot, page) in (0u64..).zip(pages.iter_mut()) {
            let fresh = Page::take();
            map(slot, fresh);
            *page = fresh.address();
            PAGES[slot as usize].store(*page, Ordering::Relaxed);
        }
    }
    pages.map(Page::at)
}

/// Puts code on the user's page.
pub fn load(code: &[u8]) {
    let [text, _] = pages();
    text.fill(0xcc);
    for (offset, byte) in (0u64..).zip(code) {
        text.write::<u8>(offset, *byte);
    }
}

/// What `iret` restores.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Iret {
    pub rax: u64,
    pub r11: u64,
    pub rcx: u64,
    pub flags: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Iret {
    /// To the user's code, with events on.
    pub const USER: Self = Self {
        rax: 0,
        r11: 0,
        rcx: 0,
        flags: 0,
        rip: CODE,
        cs: selector::USER_CODE as u64,
        rflags: 0x202,
        rsp: STACK_TOP,
        ss: selector::USER_DATA as u64,
    };
}

/// `iret` with this frame and rdi = `argument`; the trap that came of it, if one did (else it came back by itself, which it
/// cannot).
pub fn iret(frame: &Iret, argument: u64) -> Option<Fault> {
    restore_user_stack(cpu_index());
    let at = (&raw const *frame) as u64;
    fault_of(|| {
        // SAFETY: leaves with a stack that holds the frame; a trap comes back to `fault_of`.
        unsafe {
            asm!("sub rsp, 128", "and rsp, -16", "mov rcx, 9", "mov rdi, rsp", "cld", "rep movsq", "mov rdi, {argument}",
                 "mov eax, 23", "syscall", "ud2", argument = in(reg) argument, in("rsi") at, options(noreturn))
        }
    })
}

/// Runs `code` as user code with rdi = `argument` until it traps; gives the trap.
pub fn run(code: &[u8], argument: u64) -> Option<Fault> {
    use_root();
    load(code);
    iret(&Iret::USER, argument)
}
