//! Images from which GRUB starts the hypervisor and dom0 by Multiboot 2: a CD, and a disk with a FAT partition. Both hold
//! GRUB for BIOS and for 64-bit EFI.
//!
//! `grub-mkrescue` makes the CD. The disk is made without `grub-install`, which wants block devices and root's rights:
//! GRUB's first sector and its core, as `grub-mkimage` makes it, stand one after the other, which is where the first
//! sector looks for the core unless it is told another place (GRUB manual, "Installation", "BIOS installation").

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::emulator::Files;
use crate::{disk, paths, process};

/// What the images are made with.
pub(crate) const TOOLS: &[&str] = &[
    "grub-mkrescue",
    "grub-mkimage",
    "xorriso",
    "mformat",
    "/usr/lib/grub/i386-pc",
    "/usr/lib/grub/x86_64-efi",
];
/// Where Debian's packages keep GRUB's parts.
const GRUB: &str = "/usr/lib/grub";
/// What GRUB on the disk can do: read the partition, read the menu, start.
const MODULES: &[&str] = &[
    "fat",
    "multiboot2",
    "normal",
    "part_msdos",
    "serial",
    "test",
];
/// The firmware's name of the program that starts from a disk which nobody installed.
const EFI_PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";
/// The first sector's code ends where the table of partitions begins, and a number of the disk before it.
const CODE: usize = 440;

/// How GRUB tells what it loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Multiboot 1. From a CD in Bochs, Debian's GRUB never reaches Xen's first instruction by the other one.
    Multiboot,
    /// Multiboot 2.
    #[default]
    Multiboot2,
}

impl Protocol {
    /// GRUB's words for the first file and for the others.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Protocol::Multiboot => ("multiboot", "module"),
            Protocol::Multiboot2 => ("multiboot2", "module2"),
        }
    }
}

/// What an image holds beside GRUB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content<'a> {
    /// The hypervisor and dom0.
    pub(crate) files: &'a Files,
    /// The modules behind dom0's.
    pub(crate) more: &'a [PathBuf],
    /// How they are told.
    pub(crate) protocol: Protocol,
    /// How long the menu waits.
    pub(crate) seconds: u32,
}

/// Writes a CD image. `folder` is for what goes onto the CD.
pub(crate) fn disc(content: &Content, folder: &Path, output: &Path) -> Result<()> {
    let mut make = Command::new("grub-mkrescue");
    make.args(["--locales=", "--fonts=", "--themes=", "-o"])
        .arg(output);
    for (name, file) in listed(content, folder)? {
        make.arg(format!("{name}={}", grafted(&file)));
    }
    process::output(&mut make).map(drop)
}

/// A path as xorriso reads it behind the name that the file gets on the CD.
fn grafted(file: &Path) -> String {
    let path = file.display().to_string();
    path.replace('\\', r"\\").replace('=', r"\=")
}

/// Writes a disk image. `folder` is for what goes onto the disk.
pub(crate) fn disk(content: &Content, folder: &Path, output: &Path) -> Result<()> {
    let mut content = listed(content, folder)?;
    let efi = folder.join("BOOTX64.EFI");
    core("x86_64-efi", "/boot/grub", &[], &efi)?;
    content.push((EFI_PROGRAM.into(), efi));
    disk::write(output, &content)?;
    // The prefix without a disk means the disk that the BIOS started from.
    let bios = folder.join("core.img");
    core("i386-pc", "(,msdos1)/boot/grub", &["biosdisk"], &bios)?;
    let first = paths::read(&Path::new(GRUB).join("i386-pc/boot.img"))?;
    let first = first.get(..CODE).context("GRUB's boot.img is cut short")?;
    let core = paths::read(&bios)?;
    ensure!(
        disk::SECTOR + core.len() as u64 <= disk::START,
        "GRUB's core has {} bytes, too many for the gap before the partition",
        core.len()
    );
    let mut image = OpenOptions::new().write(true).open(output)?;
    image.write_all(first)?;
    image.seek(SeekFrom::Start(disk::SECTOR))?;
    image.write_all(&core)?;
    Ok(())
}

/// A GRUB that holds all its modules.
fn core(platform: &str, prefix: &str, more: &[&str], output: &Path) -> Result<()> {
    let mut make = Command::new("grub-mkimage");
    make.args(["-O", platform, "-p", prefix, "-o"]).arg(output);
    process::output(make.args(MODULES).args(more)).map(drop)
}

/// What stands in an image, by its name there.
fn listed(content: &Content, folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let Content { files, more, .. } = *content;
    let settings = folder.join("grub.cfg");
    paths::write(&settings, menu(content).as_bytes())?;
    let mut content = vec![
        ("boot/grub/grub.cfg".into(), settings),
        ("boot/xenolith.bin".into(), files.hypervisor.clone()),
    ];
    if let Some(dom0) = &files.dom0 {
        content.push(("boot/kernel".into(), dom0.kernel.clone()));
        let initrd = dom0.initrd.clone();
        content.extend(initrd.map(|initrd| ("boot/initrd".into(), initrd)));
    }
    let more = more.iter().enumerate();
    content.extend(more.map(|(number, file)| (format!("boot/module{number}"), file.clone())));
    Ok(content)
}

/// GRUB's settings: one entry, which starts after these seconds.
fn menu(content: &Content) -> String {
    let Content { files, seconds, .. } = *content;
    let (first, module) = content.protocol.words();
    // EFI firmware shows its own console on the serial line, a BIOS does not.
    let mut text = format!(
        "if [ $grub_platform = pc ]; then\n  serial --unit=0 --speed=115200\n  terminal_output console serial\nfi\n\
         set timeout={seconds}\nmenuentry Xenolith {{\n  {first} /boot/xenolith.bin{}\n",
        words(&files.words)
    );
    if let Some(dom0) = &files.dom0 {
        text += &format!("  {module} /boot/kernel{}\n", words(&dom0.words));
        if dom0.initrd.is_some() {
            text += &format!("  {module} /boot/initrd\n");
        }
    }
    for number in 0..content.more.len() {
        text += &format!("  {module} /boot/module{number}\n");
    }
    text + "}\n"
}

/// A command line behind a file's name, each word quoted for GRUB, whose quotes are those of a shell.
fn words(line: &str) -> String {
    line.split_whitespace()
        .map(|word| format!(" {}", process::quoted(word.as_ref())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::Dom0;

    #[test]
    fn a_path_cannot_end_a_name_on_the_cd() {
        assert_eq!(grafted(Path::new(r"/a=b/c\d")), r"/a\=b/c\\d");
    }

    #[test]
    fn the_menu_names_the_files_with_their_words_in_the_order_of_modules() {
        let dom0 = Dom0 {
            kernel: "k".into(),
            initrd: Some("i".into()),
            words: "console=hvc0 a;b".into(),
        };
        let files = Files {
            hypervisor: "x".into(),
            words: "dom0_mem=1G".into(),
            dom0: Some(dom0),
        };
        let content = Content {
            files: &files,
            more: &["d".into()],
            protocol: Protocol::Multiboot2,
            seconds: 0,
        };
        let text = menu(&content);
        let lines = "  multiboot2 /boot/xenolith.bin dom0_mem=1G\n  module2 /boot/kernel console=hvc0 'a;b'\n  \
                     module2 /boot/initrd\n  module2 /boot/module0\n}\n";
        assert!(text.ends_with(lines), "{text}");
        let text = menu(&Content {
            protocol: Protocol::Multiboot,
            ..content
        });
        let lines = lines
            .replace("multiboot2", "multiboot")
            .replace("module2", "module");
        assert!(text.ends_with(&lines), "{text}");
    }
}
