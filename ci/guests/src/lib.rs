//! A tiny guest runtime, and the guests in `bin/` that test the Xen ABI with it from inside.
//!
//! The same flat image boots as dom0 or as domU, on Xenolith and on Xen. A guest runs cases one after
//! the other and prints a line for each (`report`); what a case may use of the machine is in `arch`.
#![no_std]
#![allow(unsafe_code)] // A guest drives raw hardware: entry, page tables, hypercalls with bad pointers.

pub mod answers;
pub mod arch;
pub mod bootargs;
pub mod buffer;
pub mod console;
pub mod count;
pub mod cpus;
mod landing;
pub mod report;
pub mod xen;

use core::panic::PanicInfo;

unsafe extern "Rust" {
    fn guest_main();
}

/// Names the function that a guest starts in.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn guest_main() {
            $main()
        }
    };
}

/// From the architecture's entry code to the guest, and from there to the end of the domain.
pub(crate) fn run() -> ! {
    // SAFETY: `guest!` defines it with this signature.
    unsafe { guest_main() };
    xen::sched::power_off()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    report::panicked(info)
}
