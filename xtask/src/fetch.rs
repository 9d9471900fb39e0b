//! Debian's files for a machine: the kernel, its device trees, busybox, and Debian's Xen for reference runs.
//!
//! They are taken out of Debian's packages once and kept in the cache; while the cache is complete nothing touches the
//! network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::debian::private_root::{PrivateRoot, unpack};
use crate::{paths, process};

/// Tests of two architectures may ask at once, and apt has one set of lists.
static FETCHING: Mutex<()> = Mutex::new(());

/// Where packages have the kernel's modules: older and newer ones.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// Files from Debian's packages, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Debian {
    folder: PathBuf,
}

impl Debian {
    /// The files for `arch`, fetched if they are not in the cache.
    pub(crate) fn fetch(arch: Arch) -> Result<Debian> {
        let folder = paths::cache().join(format!("debian-{}", arch.debian()));
        let stamp = folder.join("packages");
        let members = folder.join("members");
        let _alone = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
        let complete = fs::read_to_string(&members).is_ok_and(|have| have == listed(arch));
        if !stamp.exists() || !complete {
            fill(arch, &folder)?;
            paths::write(&members, listed(arch).as_bytes())?;
            // The stamp comes last: an interrupted fetch starts again.
        }
        Ok(Debian { folder })
    }

    /// The kernel as it is in the package.
    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        self.one_in("boot", "vmlinu")
    }

    /// The statically linked busybox.
    pub(crate) fn busybox(&self) -> PathBuf {
        let places = ["bin/busybox", "usr/bin/busybox"];
        let [old, new] = places.map(|place| self.folder.join(place));
        if old.exists() { old } else { new }
    }

    /// Debian's Xen, in the form that a boot loader starts.
    pub(crate) fn xen(&self) -> Result<PathBuf> {
        self.one_in("boot", "xen-")
    }

    /// A device tree of the kernel package.
    pub(crate) fn device_tree(&self, file: &str) -> Result<PathBuf> {
        Ok(self.one_in("usr/lib", "linux-image-")?.join(file))
    }

    /// A module of the kernel, by its file's name.
    pub(crate) fn module(&self, file: &str) -> Result<PathBuf> {
        let places = MODULES.map(|place| self.folder.join(place));
        let found = places.iter().find_map(|folder| find(folder, file));
        found.with_context(|| incomplete(&self.folder))
    }

    fn one_in(&self, folder: &str, prefix: &str) -> Result<PathBuf> {
        let folder = self.folder.join(folder);
        let entries = fs::read_dir(&folder).with_context(|| incomplete(&folder))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .collect();
        found.sort();
        found
            .into_iter()
            .next()
            .with_context(|| incomplete(&folder))
    }
}

/// The file of this name in a folder or below it.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter_map(|path| {
            if path.is_dir() {
                find(&path, name)
            } else {
                path.ends_with(name).then_some(path)
            }
        })
        .next()
}

fn incomplete(folder: &Path) -> String {
    format!(
        "{} is not complete: `cargo xtask clean --all` and run again",
        paths::shown(folder)
    )
}

/// Packages of an architecture, and what is taken out of each.
struct Wanted {
    /// The package that stands for the current kernel.
    kernel: &'static str,
    /// Members of the kernel's package.
    kernel_members: &'static [&'static str],
    /// Debian's Xen, where there is one, and members of its package.
    xen: Option<(&'static str, &'static [&'static str])>,
}

const ARM64: Wanted = Wanted {
    kernel: "linux-image-arm64",
    kernel_members: &["./boot/vmlinuz-*", "./usr/lib/linux-image-*/xilinx/*.dtb"],
    xen: Some(("xen-hypervisor-4.17-arm64", &["./boot/xen-4.17-arm64"])),
};

const RISCV64: Wanted = Wanted {
    kernel: "linux-image-riscv64",
    // Drivers as for x86-64, as far as they are no part of the kernel.
    kernel_members: &[
        "./boot/vmlinu*-*",
        "./usr/lib/modules/*/kernel/drivers/block/virtio_blk.ko*",
        "./usr/lib/modules/*/kernel/drivers/net/net_failover.ko*",
        "./usr/lib/modules/*/kernel/drivers/net/virtio_net.ko*",
        "./usr/lib/modules/*/kernel/drivers/virtio/virtio_mmio.ko*",
        "./usr/lib/modules/*/kernel/fs/fat/*.ko*",
        "./usr/lib/modules/*/kernel/fs/nls/nls_*.ko*",
        "./usr/lib/modules/*/kernel/net/core/failover.ko*",
    ],
    xen: None,
};

const AMD64: Wanted = Wanted {
    kernel: "linux-image-amd64",
    // The drivers of the devices that tests put into the machine, and what they need.
    kernel_members: &[
        "./boot/vmlinuz-*",
        "./lib/modules/*/kernel/block/*.ko",
        "./lib/modules/*/kernel/crypto/crct10dif_common.ko",
        "./lib/modules/*/kernel/drivers/ata/*.ko",
        "./lib/modules/*/kernel/drivers/block/virtio_blk.ko",
        "./lib/modules/*/kernel/drivers/net/*.ko",
        "./lib/modules/*/kernel/drivers/net/ethernet/intel/e1000*",
        "./lib/modules/*/kernel/drivers/scsi/s*.ko",
        "./lib/modules/*/kernel/drivers/virtio/*.ko",
        "./lib/modules/*/kernel/fs/fat/*.ko",
        "./lib/modules/*/kernel/fs/nls/*.ko",
        "./lib/modules/*/kernel/lib/crc*.ko",
        "./lib/modules/*/kernel/net/core/failover.ko",
    ],
    xen: Some(("xen-hypervisor-4.17-amd64", &["./boot/xen-4.17-amd64.gz"])),
};

const fn wanted(arch: Arch) -> &'static Wanted {
    match arch {
        Arch::Aarch64 => &ARM64,
        Arch::X86_64 => &AMD64,
        Arch::Riscv64 => &RISCV64,
    }
}

/// What is taken out of the kernel's package: a cache from before another list is not complete.
fn listed(arch: Arch) -> String {
    wanted(arch).kernel_members.join("\n")
}

fn fill(arch: Arch, folder: &Path) -> Result<()> {
    let wanted = wanted(arch);
    let root = PrivateRoot::new(arch)?;
    let kernel = root.behind_meta_package(wanted.kernel, "linux-image-6.")?;
    let mut parts: Vec<(&str, &[&str])> = vec![
        (kernel.as_str(), wanted.kernel_members),
        ("busybox-static", &["./*bin/busybox"]),
    ];
    parts.extend(wanted.xen);
    let names: Vec<&str> = parts.iter().map(|part| part.0).collect();
    let downloads = paths::cache().join("packages");
    let files = root.download(&names, &downloads)?;
    let _ = fs::remove_dir_all(folder);
    for (package, (_, members)) in files.iter().zip(parts) {
        unpack(package, members, folder)?;
    }
    gunzip_xen(&folder.join("boot"))?;
    for place in MODULES {
        unpack_modules(&folder.join(place))?;
    }
    let versions: Vec<String> = files
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    paths::write(
        &folder.join("packages"),
        (versions.join("\n") + "\n").as_bytes(),
    )?;
    let _ = fs::remove_dir_all(&downloads);
    Ok(())
}

/// Modules that are packed are unpacked: busybox does not do it, nor does every kernel.
fn unpack_modules(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() {
            unpack_modules(&path)?;
        } else if path.extension().is_some_and(|end| end == "xz") {
            process::output(Command::new("xz").arg("-d").arg(&path))?;
        }
    }
    Ok(())
}

/// A Xen that is packed is unpacked: emulators start the plain file.
fn gunzip_xen(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| incomplete(folder))? {
        let packed = entry?.path();
        if packed.extension().is_some_and(|end| end == "gz") {
            let mut plain = Vec::new();
            let file = paths::read(&packed)?;
            std::io::Read::read_to_end(
                &mut flate2::read::GzDecoder::new(file.as_slice()),
                &mut plain,
            )?;
            paths::write(&packed.with_extension(""), &plain)?;
            fs::remove_file(&packed)?;
        }
    }
    Ok(())
}

/// An emulator that counts instructions with several processors too: QEMU 10, which the machine has or which is
/// taken out of the backports' package. It is not installed.
pub(crate) fn newer_emulator(arch: Arch) -> Result<PathBuf> {
    const FIRST: u32 = 10;
    let installed = process::output(Command::new(arch.qemu()).arg("--version"))?;
    if major(&installed).is_some_and(|major| major >= FIRST) {
        return Ok(arch.qemu().into());
    }
    let folder = paths::cache().join("qemu-backports");
    let program = folder.join("usr/bin").join(arch.qemu());
    if !program.exists() {
        let downloads = paths::cache().join("packages-backports");
        let root = PrivateRoot::backports()?;
        let files = root.download(&["qemu-system-arm"], &downloads)?;
        let fresh = folder.with_extension("part");
        let _ = fs::remove_dir_all(&fresh);
        for package in &files {
            unpack(package, &["./usr/bin/qemu-system-*"], &fresh)?;
        }
        // Beside a folder of this name QEMU looks for its files in it, and not for those of the installed version.
        paths::make_dir(&fresh.join("usr/bin/qemu-bundle"))?;
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&fresh, &folder)
            .with_context(|| format!("cannot write {}", paths::shown(&folder)))?;
        let _ = fs::remove_dir_all(&downloads);
    }
    let said = process::output(Command::new(&program).arg("--version"))?;
    match major(&said) {
        Some(major) if major >= FIRST => Ok(program),
        _ => bail!("Debian's backports have no QEMU {FIRST}, which counts with several processors"),
    }
}

/// The first number of "QEMU emulator version 10.0.2 ...".
fn major(version: &str) -> Option<u32> {
    let (_, number) = version.split_once("version ")?;
    number.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulators_version_is_read_out_of_what_it_says() {
        assert_eq!(
            major("QEMU emulator version 10.0.2 (Debian 1:10)\n"),
            Some(10)
        );
        assert_eq!(major("QEMU emulator version 7.2.18\n"), Some(7));
        assert_eq!(major("not found"), None);
    }
}
