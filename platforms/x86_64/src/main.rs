//! The bootable x86-64 image: every PC that a PVH or Multiboot loader starts it on.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "the global allocator and panic handler are the image's to name"
)]

use core::fmt::Write;

use xenolith_arch_common::Heap;
use xenolith_arch_x86_64::{console, cpu, mm::hyp::FourLevels};

#[global_allocator]
static HEAP: Heap<FourLevels> = Heap::new();

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(console::Raw, "\r\n(XEN) {info}\r");
    cpu::fault::stop()
}
