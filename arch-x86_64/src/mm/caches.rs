//! Writing caches back (Intel SDM, volume 2, CLFLUSH), for frames that a guest used past them.

use xenolith_hal::{Mfn, PAGE_SIZE};

use super::hyp::Direct;

/// The smallest line of any CPU.
const LINE: usize = 64;

/// Writes back what the caches hold of a range in a frame, and forgets it.
pub fn flush(mfn: Mfn, offset: usize, len: usize) {
    let end = offset.saturating_add(len).min(PAGE_SIZE);
    if Direct::frame(mfn).is_none() {
        return;
    }
    let at = Direct::address(mfn.base());
    for line in (offset & !(LINE - 1)..end).step_by(LINE) {
        // SAFETY: the frame is RAM and mapped; what memory says does not change.
        unsafe {
            core::arch::asm!("clflush [{}]", in(reg) at + line as u64, options(nostack, preserves_flags));
        }
    }
    // SAFETY: orders the flushes before what follows.
    unsafe { core::arch::asm!("mfence", options(nostack, preserves_flags)) };
}
