//! dom0's root: an initramfs of busybox and one script, made by our own code so that it needs no rights.
//!
//! The script gives a shell on the console; leaving the shell powers the machine off. `smoke` and a `run` without a
//! terminal type at the prompt of that shell, so they go the way a person goes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::cpio::Cpio;
use crate::paths;

/// What the shell writes when it waits for a command, in the root folder.
pub(crate) const PROMPT: &str = "dom0:/# ";

/// The end of the prompt in any folder.
pub(crate) const PROMPT_END: &str = "# ";

const INIT: &str = r#"#!/bin/busybox sh
# The first process of dom0.
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM="${TERM:-vt100}"
# For measuring: off again as soon as user space is there.
grep -qw xtask.poweroff /proc/cmdline && poweroff -f
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /tmp
if grep -q '\sxenfs$' /proc/filesystems && mkdir -p /proc/xen 2>/dev/null; then
	mount -t xenfs xenfs /proc/xen
fi
hostname dom0
# Kernel messages would break into what is typed; they stay in dmesg.
dmesg -n 3
export PS1='dom0:\w# '
# busybox's commands only ask the first process, which is this script and waits: make them act.
echo "alias poweroff='poweroff -f' reboot='reboot -f' halt='halt -f'" >/.shrc
export ENV=/.shrc
cat <<END

Debian's kernel $(uname -r) with $(nproc) CPUs; hypervisor: $(cat /sys/hypervisor/type 2>/dev/null || echo none)
Leaving this shell (exit) powers the machine off.

END
setsid cttyhack sh
sync
poweroff -f
"#;

/// Makes the root around a statically linked busybox, if it is not there already, and returns the file.
pub(crate) fn dom0(arch: &str, busybox: &Path) -> Result<PathBuf> {
    with(arch, busybox, "", &[])
}

/// A further file in the root.
pub(crate) struct Extra {
    path: String,
    content: Vec<u8>,
}

impl Extra {
    /// A program or data; `path` has no slash in front.
    pub(crate) fn new(path: &str, content: Vec<u8>) -> Extra {
        Extra {
            path: path.to_string(),
            content,
        }
    }
}

/// The same root with more files, all in one folder of the root.
pub(crate) fn with(arch: &str, busybox: &Path, folder: &str, extra: &[Extra]) -> Result<PathBuf> {
    let archive = write_archive(&paths::read(busybox)?, folder, extra)?;
    let end = if folder.is_empty() { "" } else { "-" };
    let path = paths::work().join(format!("dom0-{arch}{end}{folder}.cpio.gz"));
    if std::fs::read(&path).ok().as_deref() != Some(&archive) {
        paths::write(&path, &archive)?;
    }
    Ok(path)
}

fn write_archive(busybox: &[u8], folder: &str, extra: &[Extra]) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        cpio.folder(folder, 0o755)?;
    }
    cpio.character_device("dev/console", 0o600, 5, 1)?;
    cpio.character_device("dev/null", 0o666, 1, 3)?;
    cpio.file("bin/busybox", 0o755, busybox)?;
    cpio.link("bin/sh", "busybox")?;
    cpio.file("etc/passwd", 0o644, b"root::0:0:root:/:/bin/sh\n")?;
    cpio.file("etc/group", 0o644, b"root:x:0:\n")?;
    cpio.file("init", 0o755, INIT.as_bytes())?;
    if !folder.is_empty() {
        cpio.folder(folder, 0o755)?;
    }
    for file in extra {
        cpio.file(&file.path, 0o755, &file.content)?;
    }
    let mut archive = cpio.finish()?;
    archive.flush()?;
    Ok(archive.finish()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_root_is_a_gzipped_cpio_with_an_init() {
        let archive = write_archive(
            b"busybox",
            "more",
            &[Extra::new("more/file", b"x".to_vec())],
        )
        .unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(archive.as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(&plain[..6], b"070701");
        assert!(plain.windows(5).any(|window| window == b"init\0"));
    }

    #[test]
    fn the_prompt_is_the_one_that_init_sets() {
        assert!(INIT.contains(&format!("PS1='{}'", PROMPT.replace('/', "\\w"))));
    }
}
