//! What a guest with translated frame numbers does to find its pages: the architectures' runtimes take these for theirs.

use super::{hvm, memory};
use crate::arch;
use crate::buffer::{PAGE, Page};

/// Guest frame number of the page at an address that the runtime maps one to one.
pub fn frame_of(address: u64) -> u64 {
    address / PAGE
}

/// Puts the shared-info page in the place of a page of the pool, and gives that.
pub fn shared_info() -> Page {
    let page = Page::take();
    let errno = memory::add_to_physmap(memory::space::SHARED_INFO, 0, page.frame());
    assert!(errno == 0, "shared_info: {errno}");
    page
}

/// Maps frame `index` of this domain's grant table at its place in the window; the errno.
pub fn map_grant_frame(index: u64) -> i64 {
    let place = Page::at(arch::grant_window()).after(index);
    memory::add_to_physmap(memory::space::GRANT_TABLE, index, place.frame())
}

/// Page and event channel of the domain's console.
pub fn console_ring() -> Option<(u64, u32)> {
    let frame = hvm::get_param(hvm::PARAM_CONSOLE_PFN).unwrap_or(0);
    let port = hvm::get_param(hvm::PARAM_CONSOLE_EVTCHN).unwrap_or(0) as u32;
    (frame != 0).then_some((frame * PAGE, port))
}
