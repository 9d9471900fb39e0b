//! The fuzz targets of `fuzz/` on a stable toolchain: those of the core and of ARM.

#[path = "../../fuzz/bent.rs"]
mod bent;

use bent::{Random, drive};
use xenolith_arch_aarch64::{
    domain_build::fuzz_device_tree,
    guest::{decode::fuzz_instruction, esr::fuzz_syndrome},
};
use xenolith_core::boot::{
    cmdline::fuzz_command_line, fdt::Writer, image::fuzz_image, initrd::fuzz_initrd,
};

fn node(w: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    w.begin(name);
    fill(w);
    w.end();
}

/// A machine of two processors with modules for dom0 and a domain.
fn device_tree(gicv3: bool) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin("");
    w.u32("#address-cells", 2);
    w.u32("#size-cells", 2);
    w.u32("interrupt-parent", 1);
    node(&mut w, "chosen", |w| {
        w.text("bootargs", "dom0_mem=512M console=dtuart");
        w.text("stdout-path", "/pl011@9000000");
        w.u32("#address-cells", 2);
        w.u32("#size-cells", 2);
        node(w, "module@49000000", |w| {
            w.texts("compatible", &["multiboot,kernel", "multiboot,module"]);
            w.cells("reg", &[0, 0x4900_0000, 0, 0x20_0000]);
            w.text("bootargs", "console=hvc0");
        });
        node(w, "domU1", |w| {
            w.text("compatible", "xen,domain");
            w.u32("#address-cells", 2);
            w.u32("#size-cells", 2);
            w.u32("cpus", 1);
            w.cells("memory", &[0, 0x2_0000]);
            w.flag("vpl011");
            node(w, "module@52000000", |w| {
                w.texts("compatible", &["multiboot,kernel", "multiboot,module"]);
                w.cells("reg", &[0, 0x5200_0000, 0, 0x10_0000]);
            });
        });
    });
    node(&mut w, "cpus", |w| {
        w.u32("#address-cells", 1);
        w.u32("#size-cells", 0);
        for cpu in 0..2 {
            node(w, &format!("cpu@{cpu}"), |w| {
                w.text("device_type", "cpu");
                w.text("enable-method", "psci");
                w.u32("reg", cpu);
            });
        }
    });
    node(&mut w, "psci", |w| {
        w.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
        w.text("method", "smc");
    });
    node(&mut w, "timer", |w| {
        w.text("compatible", "arm,armv8-timer");
        w.cells("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
    });
    node(&mut w, "memory@40000000", |w| {
        w.text("device_type", "memory");
        w.cells("reg", &[0, 0x4000_0000, 0, 0x8000_0000]);
    });
    node(&mut w, "intc@8000000", |w| {
        w.u32("phandle", 1);
        w.u32("#interrupt-cells", 3);
        w.flag("interrupt-controller");
        w.cells("interrupts", &[1, 9, 4]);
        let mut reg = vec![0, 0x800_0000, 0, 0x1_0000];
        if gicv3 {
            w.text("compatible", "arm,gic-v3");
            reg.extend([0, 0x80a_0000, 0, 0xf6_0000]);
        } else {
            w.text("compatible", "arm,cortex-a15-gic");
            for at in [0x801_0000, 0x803_0000, 0x804_0000] {
                reg.extend([0, at, 0, 0x1_0000]);
            }
        }
        w.cells("reg", &reg);
    });
    node(&mut w, "pl011@9000000", |w| {
        w.text("compatible", "arm,pl011");
        w.cells("reg", &[0, 0x900_0000, 0, 0x1000]);
        w.cells("interrupts", &[0, 1, 4]);
    });
    node(&mut w, "bus", |w| {
        w.text("compatible", "simple-bus");
        w.u32("#address-cells", 1);
        w.u32("#size-cells", 1);
        w.cells("ranges", &[0, 0, 0x1000_0000, 0x100_0000]);
        node(w, "device@1000", |w| {
            w.cells("reg", &[0x1000, 0x200]);
            w.cells("interrupts", &[0, 16, 1]);
        });
    });
    w.finish()
}

/// An `Image` of `length` bytes.
fn image(text_offset: u64, image_size: u64, length: usize) -> Vec<u8> {
    let mut file: Vec<u8> = (0..length).map(|i| (i / 7) as u8).collect();
    file[8..16].copy_from_slice(&text_offset.to_le_bytes());
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&10u64.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 0 { 0 } else { 0xedb8_8320 }
        })
    })
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    out.extend(crc32(data).to_le_bytes());
    out.extend((data.len() as u32).to_le_bytes());
    out
}

#[test]
fn bent_device_trees_do_no_harm() {
    let seeds = [device_tree(false), device_tree(true)];
    drive("device_tree", &seeds, 50_000, fuzz_device_tree);
}

#[test]
fn bent_kernels_do_no_harm() {
    let plain = image(0x8_0000, 0x10_0000, 4096);
    let packed = gzip(&plain);
    let nested = gzip(&packed);
    drive("image", &[plain, packed, nested], 40_000, fuzz_image);
}

/// A cpio archive of one file of eight bytes.
fn cpio() -> Vec<u8> {
    let entry = |name: &str, content: &[u8]| {
        let size = content.len();
        let mut out = b"070701".to_vec();
        for field in [
            1,
            0o100_644,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ] {
            out.extend(format!("{field:08x}").bytes());
        }
        out.extend(name.bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out
    };
    [entry("init", b"#!/bin/a"), entry("TRAILER!!!", b"")].concat()
}

#[test]
fn bent_ramdisks_do_no_harm() {
    let plain = cpio();
    let packed = gzip(&plain);
    // A zstd frame of one stored block, and a legacy lz4 frame of one block of literals.
    let length = plain.len() as u32;
    let zstd = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x58][..],
        &(length << 3 | 1).to_le_bytes()[..3],
        &plain,
    ]
    .concat();
    let lz4 = [&[0x02, 0x21, 0x4c, 0x18, 9, 0, 0, 0, 0x80][..], b"literals"].concat();
    let parts = [plain.clone(), zstd.clone(), plain.clone(), lz4.clone()].concat();
    drive(
        "initrd",
        &[plain, packed, zstd, lz4, parts],
        60_000,
        fuzz_initrd,
    );
}

#[test]
fn bent_command_lines_do_no_harm() {
    let seeds = [
        &b"dom0_mem=512M,max:1G dom0_max_vcpus=1-4 console=dtuart dtuart=serial0 loglvl=all"[..],
        b"loglvl=error/all guest_loglvl=warning sched=null sync_console no-bootscrub=0 noreboot -- x",
    ]
    .map(<[u8]>::to_vec);
    drive("command_line", &seeds, 30_000, fuzz_command_line);
}

fn words(count: usize) -> Vec<u8> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..count)
        .flat_map(|_| random.next().to_le_bytes())
        .collect()
}

#[test]
fn random_instructions_do_no_harm() {
    let pairs: Vec<u8> = [
        0xa881_10a3u32,
        0x29bf_1fe6,
        0x68e0_2548,
        0xb840_4441,
        0x5800_0041,
    ]
    .iter()
    .flat_map(|word| word.to_le_bytes())
    .collect();
    drive("instruction", &[pairs, words(512)], 8_000, fuzz_instruction);
}

#[test]
fn random_syndromes_do_no_harm() {
    let aborts: Vec<u8> = [0x9341_0047u64, 0x9200_0047, 0x6232_b019, 0x5a00_0ea1]
        .iter()
        .flat_map(|esr| esr.to_le_bytes())
        .collect();
    drive("syndrome", &[aborts, words(512)], 8_000, fuzz_syndrome);
}
