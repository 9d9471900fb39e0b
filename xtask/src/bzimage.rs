//! The kernel inside a bzImage, unpacked on the host for an emulator in which unpacking takes minutes.
//!
//! The header is that of Linux's boot protocol (Documentation/x86/boot.rst), from version 2.08 on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{paths, process};

const MAGIC: &[u8] = b"HdrS";
const XZ: &[u8] = b"\xfd7zXZ\0";

/// The kernel's ELF file, made as `output` where it is not newer than the kernel; or the kernel as it is where it is not
/// packed by xz, as Debian's are.
pub(crate) fn unpacked(kernel: &Path, output: &Path) -> Result<PathBuf> {
    let time = |file: &Path| file.metadata().and_then(|data| data.modified()).ok();
    if time(output).is_some_and(|made| Some(made) > time(kernel)) {
        return Ok(output.to_path_buf());
    }
    let file = paths::read(kernel)?;
    let Some(payload) = payload(&file).filter(|bytes| bytes.starts_with(XZ)) else {
        return Ok(kernel.to_path_buf());
    };
    // xz takes the end of the name away.
    let packed = output.with_added_extension("xz");
    paths::write(&packed, payload)?;
    // The payload's length in clear stands behind the stream.
    let mut xz = Command::new("xz");
    xz.args(["--decompress", "--force", "--single-stream"]);
    process::output(xz.arg(&packed))?;
    Ok(output.to_path_buf())
}

/// The packed kernel, behind the sectors that only a BIOS's boot loader needs.
fn payload(file: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    if file.get(0x202..0x206)? != MAGIC {
        return None;
    }
    let sectors = match file.get(0x1f1)? {
        0 => 4,
        count => usize::from(*count),
    };
    let start = (sectors + 1) * 512 + number(0x248)? as usize;
    file.get(start..start + number(0x24c)? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_found_by_the_header_and_nothing_is_found_without_one() {
        let mut file = vec![0; 2000];
        assert_eq!(payload(&file), None);
        file[0x202..0x206].copy_from_slice(MAGIC);
        file[0x1f1] = 1;
        file[0x248] = 100;
        file[0x24c] = 3;
        file[1124..1127].copy_from_slice(b"abc");
        assert_eq!(payload(&file), Some(b"abc".as_slice()));
        file[0x24d] = 0xff;
        assert_eq!(payload(&file), None);
    }
}
