//! Instructions that a case puts together by their bits: run from a page of the test window, in S-mode or as user code.

use core::arch::asm;

use super::{Access, Fault, User, fault_of, map_page, unmap_page};
use crate::buffer::Page;

/// Slot of the test window that the code runs from.
pub const CODE_SLOT: usize = 500;
/// Slot of a page that user code may write; its stack.
pub const STACK_SLOT: usize = 501;
const RETURN: u16 = 0x8082;
const CALL: u32 = 0x73;

/// Puts the instructions on a page, with `end` behind them.
fn page_of(code: &[u32], end: &[u16]) -> Page {
    let page = Page::at(CODE.0.get() as u64);
    let halves = code
        .iter()
        .flat_map(|word| [*word as u16, (word >> 16) as u16]);
    for (index, half) in (0u64..).zip(halves.chain(end.iter().copied())) {
        page.write(index * 2, half);
    }
    page
}

#[repr(C, align(4096))]
struct Bytes(core::cell::UnsafeCell<[u8; 4096]>);

// SAFETY: written through raw pointers only, by one CPU at a time.
unsafe impl Sync for Bytes {}

static CODE: Bytes = Bytes(core::cell::UnsafeCell::new([0; 4096]));
static STACK: Bytes = Bytes(core::cell::UnsafeCell::new([0; 4096]));

/// Runs instructions of 32 bits in S-mode, a0 and a1 being `argument`, and says how one of them faulted.
pub fn fault_of_code(code: &[u32], argument: u64) -> Option<Fault> {
    let page = page_of(code, &[RETURN]);
    let at = map_page(CODE_SLOT, page.address(), Access::Execute);
    // SAFETY: the case chose instructions that keep to the registers of a call; a fault is skipped.
    let fault = fault_of(|| unsafe {
        asm!("jalr {}", in(reg) at, inout("a0") argument => _, inout("a1") argument => _, clobber_abi("C"))
    });
    unmap_page(CODE_SLOT);
    fault
}

/// Runs instructions of 32 bits as user code with `argument` in a0, until one traps: the ECALL behind them at the latest.
pub fn user_code(code: &[u32], argument: u64) -> User {
    user_code_until(code, argument, false)
}

/// The same; interrupts end it too, if `interruptible`.
pub fn user_code_until(code: &[u32], argument: u64, interruptible: bool) -> User {
    let page = page_of(code, &[CALL as u16, 0]);
    let at = map_page(CODE_SLOT, page.address(), Access::User);
    let stack = map_page(STACK_SLOT, STACK.0.get() as u64, Access::User);
    let mut user = User::new(at, stack + 4096 - 16, argument);
    user.run(interruptible);
    unmap_page(CODE_SLOT);
    unmap_page(STACK_SLOT);
    user
}
