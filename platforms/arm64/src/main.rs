//! The bootable arm64 image: every supported board, chosen by the device tree that firmware passes.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "the global allocator and panic handler are the image's to name"
)]

mod boards;

use core::fmt::Write;

use xenolith_arch_aarch64::{console, cpu, mm::hyp::El2};
use xenolith_arch_common::Heap;

#[global_allocator]
static HEAP: Heap<El2> = Heap::new();

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(console::Raw, "\r\n(XEN) {info}\r");
    cpu::fault::stop()
}
