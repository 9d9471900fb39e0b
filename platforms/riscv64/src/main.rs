//! The bootable RISC-V image: every board whose SBI firmware passes a device tree.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "the global allocator and panic handler are the image's to name"
)]

use core::fmt::Write;

use xenolith_arch_common::Heap;
use xenolith_arch_riscv64::{console, cpu, mm::hyp::Own};

#[global_allocator]
static HEAP: Heap<Own> = Heap::new();

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(console::Raw, "\r\n(XEN) {info}\r");
    cpu::fault::stop()
}
