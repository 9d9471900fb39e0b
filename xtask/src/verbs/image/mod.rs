//! `cargo xtask image`: images that a machine boots by itself. On ARM and RISC-V a disk image with a U-Boot script; on x86-64 a CD and
//! a disk image with GRUB.

mod uboot;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::arch::Arch;
use crate::boards::{Board, Modules};
use crate::emulator::{self, Boot, Files};
use crate::prepare::MachineArgs;
use crate::verbs::setup;
use crate::{grub, paths};

/// Debian's EFI firmware for QEMU's PCs.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";
/// Seconds in which a person can stop GRUB's menu of an image.
const MENU_SECONDS: u32 = 2;

/// What goes into the image.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// The file to write [default: target/xtask/BOARD.img, and on x86_64 BOARD.iso too]; a name that ends in .iso makes
    /// the CD image
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What the machine finds GRUB on, and by which firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Grub {
    /// The CD image, by BIOS
    Cd,
    /// The disk image, by BIOS
    Disk,
    /// The CD image, by EFI firmware
    EfiCd,
    /// The disk image, by EFI firmware
    EfiDisk,
}

/// Makes the images and says how to use them.
pub(crate) fn run(args: &ImageArgs, arch: Option<Arch>) -> Result<()> {
    let board = args.machine.board(arch)?;
    setup::ensure(board.arch)?;
    let files = args.machine.files(board)?;
    let default = |kind| image_path(board, args.machine.reference, kind);
    let outputs = match (&args.output, &board.modules) {
        (Some(file), _) => vec![std::path::absolute(file)?],
        (None, Modules::Multiboot) => vec![default("iso"), default("img")],
        (None, _) => vec![default("img")],
    };
    for output in outputs {
        write(board, &files, &output)?;
        println!("{}", paths::shown(&output));
        println!(
            "write it to {}: dd if={} of=/dev/DEVICE bs=4M conv=fsync",
            match board.modules {
                Modules::Multiboot => "a USB stick",
                _ => "an SD card",
            },
            paths::shown(&output)
        );
    }
    Ok(())
}

fn write(board: &'static Board, files: &Files, output: &Path) -> Result<()> {
    let Modules::Multiboot = board.modules else {
        return uboot::write(board, files, output);
    };
    setup::ensure_these(grub::TOOLS)?;
    if let Some(parent) = output.parent() {
        paths::make_dir(parent)?;
    }
    let is_disc = output.extension().is_some_and(|end| end == "iso");
    let make = if is_disc { grub::disc } else { grub::disk };
    let folder = paths::work().join(format!("grub-{}", std::process::id()));
    let content = grub::Content {
        files,
        more: &[],
        protocol: grub::Protocol::default(),
        seconds: MENU_SECONDS,
    };
    let made = make(&content, &folder, output);
    // What stays behind in it is of no use, and of no harm.
    let _ = std::fs::remove_dir_all(&folder);
    made
}

/// The U-Boot image for a run in the emulator, with the firmware that starts it.
pub(crate) fn boot_by_uboot(board: &'static Board, files: &Files, reference: bool) -> Result<Boot> {
    uboot::boot(board, files, &image_path(board, reference, "img"))
}

/// The GRUB image for a run in the emulator, with the firmware that starts it.
pub(crate) fn boot_by_grub(
    board: &'static Board,
    files: &Files,
    grub: Grub,
    reference: bool,
) -> Result<Boot> {
    let Modules::Multiboot = board.modules else {
        bail!("GRUB starts x86_64 only, not board {}", board.name)
    };
    let mut words = Vec::new();
    if matches!(grub, Grub::EfiCd | Grub::EfiDisk) {
        setup::ensure_these(&[OVMF])?;
        words.extend(["-bios".to_string(), OVMF.to_string()]);
    }
    let (kind, drive) = match grub {
        Grub::Cd | Grub::EfiCd => ("iso", "media=cdrom,readonly=on"),
        Grub::Disk | Grub::EfiDisk => ("img", "media=disk"),
    };
    let image = image_path(board, reference, kind);
    write(board, files, &image)?;
    let image = emulator::escaped(&image.display().to_string());
    words.extend([
        "-drive".to_string(),
        format!("if=ide,format=raw,{drive},file={image}"),
    ]);
    Ok(Boot::Image { words })
}

fn image_path(board: &Board, reference: bool, kind: &str) -> PathBuf {
    let on = if reference { "-xen" } else { "" };
    paths::work().join(format!("{}{on}.{kind}", board.name))
}
