//! Tests of the boot input, over trees built in the test.

mod fdt;
mod memory;
mod modules;
mod placement;

use super::fdt::Writer;
use alloc::vec::Vec;

/// A tree with one bank of RAM at 1 GiB and a `/chosen` that `chosen` fills.
fn machine(ram: u64, chosen: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin("");
    w.u32("#address-cells", 2);
    w.u32("#size-cells", 2);
    w.begin("memory@40000000");
    w.text("device_type", "memory");
    w.cells("reg", &[0, 0x4000_0000, (ram >> 32) as u32, ram as u32]);
    w.end();
    w.begin("chosen");
    chosen(&mut w);
    w.end();
    w.finish()
}

/// A module node as QEMU's guest-loader writes it.
fn module(w: &mut Writer, compatible: &[&str], start: u32, size: u32, bootargs: Option<&str>) {
    w.begin(&alloc::format!("module@{start:#x}"));
    if let Some(line) = bootargs {
        w.text("bootargs", line);
    }
    w.texts("compatible", compatible);
    w.cells("reg", &[0, start, 0, size]);
    w.end();
}
