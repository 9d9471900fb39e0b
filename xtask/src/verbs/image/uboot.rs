//! A disk image with the hypervisor, dom0's files and a U-Boot script that starts them. The script does what a person would type at U-Boot's prompt: load the files, describe them under `/chosen` in Xen's
//! bindings, `booti`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::boards::{Board, Modules, UBoot};
use crate::emulator::{self, Boot, Dom0, Files};
use crate::fetch::Debian;
use crate::layout::{self, DiskLayout, Place};
use crate::{disk, paths, process};

/// Where Debian's package keeps its U-Boots.
const UBOOTS: &str = "/usr/lib/u-boot";

/// Makes the image for a run in the emulator, with the firmware that starts it.
pub(super) fn boot(board: &'static Board, files: &Files, image: &Path) -> Result<Boot> {
    let uboot = uboot(board)?;
    let Some((word, firmware)) = uboot.firmware else {
        bail!(
            "no U-Boot starts board {} in the emulator; `cargo xtask image` makes the image for the real board",
            board.name
        )
    };
    let firmware = PathBuf::from(UBOOTS).join(firmware);
    if !firmware.exists() {
        bail!(
            "{} is missing: `cargo xtask setup` installs it (package u-boot-qemu)",
            firmware.display()
        );
    }
    write(board, files, image)?;
    let image = emulator::escaped(&image.display().to_string());
    let mut words = vec![word.to_string(), firmware.display().to_string()];
    words.extend(
        uboot
            .disk
            .iter()
            .map(|word| word.replace("{image}", &image)),
    );
    Ok(Boot::Image { words })
}

fn uboot(board: &'static Board) -> Result<&'static UBoot> {
    board
        .uboot
        .as_ref()
        .with_context(|| format!("board {} does not boot by U-Boot yet", board.name))
}

/// Writes the image.
pub(super) fn write(board: &'static Board, files: &Files, output: &Path) -> Result<()> {
    let uboot = uboot(board)?;
    let dom0 = files
        .dom0
        .as_ref()
        .context("there is nothing to boot but the hypervisor")?;
    let places =
        layout::place_for_boot_loader(board.memory_start, board.memory << 20, files.sizes(dom0)?)?;
    let text = script(uboot, &places, files, dom0);
    let source = output.with_extension("scr.txt");
    let compiled = output.with_extension("scr");
    paths::write(&source, text.as_bytes())?;
    let arch = match board.arch {
        Arch::Riscv64 => "riscv",
        _ => "arm64",
    };
    let mut mkimage = Command::new("mkimage");
    mkimage
        .args([
            "-A", arch, "-T", "script", "-C", "none", "-n", "Xenolith", "-d",
        ])
        .arg(&source)
        .arg(&compiled);
    process::output(&mut mkimage)?;
    let mut content = vec![
        ("boot.scr", compiled),
        ("xenolith.bin", files.hypervisor.clone()),
        ("kernel", dom0.kernel.clone()),
    ];
    content.extend(dom0.initrd.clone().map(|initrd| ("initrd", initrd)));
    content.extend(tree(board)?.map(|tree| ("board.dtb", tree)));
    disk::write(output, &content)
}

/// The device tree that the image carries: the chip's, without corrections for the emulator.
fn tree(board: &Board) -> Result<Option<PathBuf>> {
    match board.modules {
        Modules::DeviceTree { file, .. } => Ok(Some(Debian::fetch(board.arch)?.device_tree(file)?)),
        _ => Ok(None),
    }
}

/// The script. `$filesize` is what the latest `load` has read.
fn script(uboot: &UBoot, places: &DiskLayout, files: &Files, dom0: &Dom0) -> String {
    let load = |place: u64, name: &str| format!("load {} 0:1 {place:#x} {name}\n", uboot.interface);
    let mut text = String::from(
        "# Loads Xenolith and dom0, and describes dom0's files under /chosen as Xen's bindings say.\n",
    );
    text.push_str(&load(places.hypervisor, "xenolith.bin"));
    match uboot.tree_address {
        // Where it is, U-Boot may have something behind it.
        Some(variable) => text.push_str(&format!(
            "setenv tree {:#x}\nfdt addr ${{{variable}}}\nfdt move ${{{variable}}} ${{tree}}\n",
            places.tree
        )),
        None => text.push_str(&format!(
            "setenv tree {:#x}\n{}",
            places.tree,
            load(places.tree, "board.dtb")
        )),
    }
    text.push_str("fdt addr ${tree}\nfdt resize 0x2000\n");
    text.push_str("fdt set /chosen \\#address-cells <0x2>\nfdt set /chosen \\#size-cells <0x2>\n");
    text.push_str(&format!(
        "fdt set /chosen xen,xen-bootargs \"{}\"\n",
        files.words
    ));
    text.push_str(&load(places.modules.kernel.address, "kernel"));
    text.push_str(&node(
        "multiboot,kernel",
        places.modules.kernel,
        &dom0.words,
    ));
    if let Some(place) = places.modules.initrd {
        text.push_str(&load(place.address, "initrd"));
        text.push_str(&node("multiboot,ramdisk", place, ""));
    }
    text.push_str(&format!("booti {:#x} - ${{tree}}\n", places.hypervisor));
    text
}

fn node(kind: &str, place: Place, words: &str) -> String {
    let Place { address, .. } = place;
    let path = format!("/chosen/module@{address:x}");
    let mut text = format!("fdt mknod /chosen module@{address:x}\n");
    text.push_str(&format!(
        "fdt set {path} compatible \"{kind}\" \"multiboot,module\"\n"
    ));
    text.push_str(&format!(
        "fdt set {path} reg <{:#x} {:#x} 0x0 0x${{filesize}}>\n",
        address >> 32,
        address & 0xffff_ffff
    ));
    if !words.is_empty() {
        text.push_str(&format!("fdt set {path} bootargs \"{words}\"\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_describes_each_module_right_after_loading_it() {
        let place = |address, size| Place { address, size };
        let modules = layout::Layout {
            kernel: place(0x4a00_0000, 1),
            initrd: Some(place(0x4d00_0000, 1)),
        };
        let places = DiskLayout {
            hypervisor: 0x4800_0000,
            tree: 0x4860_0000,
            modules,
        };
        let dom0 = Dom0 {
            kernel: "k".into(),
            initrd: Some("i".into()),
            words: "console=hvc0".into(),
        };
        let files = Files {
            hypervisor: "x".into(),
            words: "dom0_mem=1G".into(),
            dom0: Some(dom0.clone()),
        };
        let uboot = UBoot {
            interface: "mmc",
            tree_address: None,
            firmware: None,
            disk: &[],
        };
        let text = script(&uboot, &places, &files, &dom0);
        let order = [
            "load mmc 0:1 0x48000000 xenolith.bin",
            "0x48600000 board.dtb",
            "0x4a000000 kernel",
            "module@4a000000",
            "0x4d000000 initrd",
            "booti 0x48000000 - ${tree}",
        ];
        let positions: Vec<_> = order
            .iter()
            .map(|part| {
                text.find(part)
                    .unwrap_or_else(|| panic!("{part} in {text}"))
            })
            .collect();
        assert!(positions.is_sorted(), "{text}");
    }
}
