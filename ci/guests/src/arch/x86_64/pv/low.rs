//! User code below 4 GiB, where 32-bit programs run: a page of code and one of stack in the lowest slot of the user's root.

use super::tables::{self, bit, empty_table, entry_for, machine_address, mmu_update};
use super::user::{self, Iret};
use crate::arch::Fault;
use crate::arch::selector;
use crate::buffer::Page;

/// Where the code is.
pub const CODE: u64 = 0x40_0000;
/// Top of the stack.
pub const STACK_TOP: u64 = CODE + 0x2000;
const INT3: u8 = 0xcc;

/// The pages, and the tables that map them.
pub struct Low {
    /// The page of code.
    pub text: Page,
    /// The page of the stack, which comes next.
    pub stack: Page,
    tables: [Page; 3],
}

impl Default for Low {
    fn default() -> Self {
        Self::new()
    }
}

impl Low {
    /// Maps them, and has this CPU run user code in that address space.
    pub fn new() -> Self {
        let [level1, level2, level3] = [0; 3].map(|_| empty_table());
        let (text, stack) = (Page::take(), Page::take());
        let set = |table: Page, index: u64, entry: u64| {
            let errno = mmu_update(machine_address(table.address()) + index * 8, entry);
            assert!(errno == 0, "a table for low addresses: {errno}");
        };
        set(user::root(), 0, entry_for(level3.frame(), bit::TABLE));
        set(level3, 0, entry_for(level2.frame(), bit::TABLE));
        set(level2, CODE >> 21, entry_for(level1.frame(), bit::TABLE));
        set(level1, 0, entry_for(text.frame(), bit::READ_WRITE));
        set(level1, 1, entry_for(stack.frame(), bit::READ_WRITE));
        user::use_root();
        Self {
            text,
            stack,
            tables: [level3, level2, level1],
        }
    }

    /// Runs 32-bit code with these flags until it traps; gives the trap.
    pub fn run(&self, code: &[u8], rflags: u64) -> Option<Fault> {
        user::use_root();
        self.text.fill(INT3);
        for (offset, byte) in (0u64..).zip(code) {
            self.text.write::<u8>(offset, *byte);
        }
        let frame = Iret {
            rip: CODE,
            cs: u64::from(selector::CODE_32),
            rsp: STACK_TOP,
            rflags,
            ..Iret::USER
        };
        user::iret(&frame, 0)
    }

    /// Takes it all away; the first errno, if the tables are not memory again.
    pub fn end(self) -> i64 {
        let slot = machine_address(user::root().address());
        let errno = mmu_update(slot, 0);
        self.tables.into_iter().fold(errno, |errno, table| {
            let next = tables::make_writable(table);
            if errno == 0 { next } else { errno }
        })
    }
}
