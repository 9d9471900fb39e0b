//! The kernel inside a bzImage, unpacked on the host for an emulator in which unpacking takes minutes, or packed in another
//! way.
//!
//! The header is that of Linux's boot protocol (Documentation/x86/boot.rst), from version 2.08 on.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{paths, process};

const MAGIC: &[u8] = b"HdrS";
/// Size of what follows the sectors, in units of 16 bytes.
const SYSTEM_SIZE: usize = 0x1f4;
const PAYLOAD_SIZE: usize = 0x24c;
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
    let whole = unpacked_payload(payload, output)?;
    let mut elf = paths::read(&whole)?;
    leave_zeroes_out(&mut elf).context("the unpacked kernel is no whole ELF file")?;
    paths::write(output, &elf)?;
    std::fs::remove_file(&whole)?;
    Ok(output.to_path_buf())
}

/// Unpacks by xz to a file beside `output`, whose own name comes last so that it never names half a file.
fn unpacked_payload(payload: &[u8], output: &Path) -> Result<PathBuf> {
    // xz takes the end of the name away.
    let whole = output.with_added_extension("whole");
    let packed = whole.with_added_extension("xz");
    paths::write(&packed, payload)?;
    // The payload's length in clear stands behind the stream.
    let mut xz = Command::new("xz");
    xz.args(["--decompress", "--force", "--single-stream"]);
    process::output(xz.arg(&packed))?;
    Ok(whole)
}

/// The same kernel packed by zstd as Linux's build does it, with a window as large as the kernel; faster, so less tightly.
pub(crate) fn packed_by_zstd(kernel: &Path, output: &Path) -> Result<PathBuf> {
    let mut file = paths::read(kernel)?;
    let place = place(&file).context("the kernel is no bzImage")?;
    let payload = file
        .get(place.clone())
        .filter(|bytes| bytes.starts_with(XZ));
    let whole = unpacked_payload(payload.context("the kernel is not packed by xz")?, output)?;
    let length = whole.metadata()?.len() as u32;
    // The build packs a stream, whose frame tells no length.
    let mut zstd = Command::new("zstd");
    zstd.args([
        "--quiet",
        "--force",
        "-1",
        "--long=27",
        "--no-content-size",
        "-o",
    ]);
    process::output(zstd.arg(output).arg(&whole))?;
    let mut payload = paths::read(output)?;
    payload.extend(length.to_le_bytes());
    let size = payload.len() as u32;
    file.splice(place.start.., payload);
    for (field, value) in [
        (PAYLOAD_SIZE, size),
        (SYSTEM_SIZE, (file.len() / 16) as u32),
    ] {
        let field = file.get_mut(field..field + 4).context("no header")?;
        field.copy_from_slice(&value.to_le_bytes());
    }
    paths::write(output, &file)?;
    std::fs::remove_file(&whole)?;
    Ok(output.to_path_buf())
}

/// The same kernel with another word for the length that it unpacks to, which stands at the payload's end.
pub(crate) fn claiming(mut kernel: Vec<u8>, length: u32) -> Vec<u8> {
    if let Some(Range { end, .. }) = place(&kernel)
        && let Some(word) = kernel.get_mut(end.saturating_sub(4)..end)
    {
        word.copy_from_slice(&length.to_le_bytes());
    }
    kernel
}

/// Shortens an ELF64 file by the zeroes at the end of its segments, which a loader adds again, and by its list of sections,
/// which no loader reads: a third of Debian's kernel.
fn leave_zeroes_out(elf: &mut Vec<u8>) -> Option<()> {
    const HEADER: usize = 56;
    const LOAD: u32 = 1;
    const FILE_SIZE: usize = 32;
    let (start, count) = (long(elf, 32)? as usize, half(elf, 56)?);
    let mut end = start + usize::from(count) * HEADER;
    for header in (start..end).step_by(HEADER) {
        if word(elf, header)? != LOAD {
            continue;
        }
        let (from, size) = (long(elf, header + 8)?, long(elf, header + FILE_SIZE)?);
        let content = elf.get(from as usize..(from + size) as usize)?;
        let kept = content.iter().rposition(|byte| *byte != 0)? + 1;
        end = end.max(from as usize + kept);
        let field = elf.get_mut(header + FILE_SIZE..header + FILE_SIZE + 8)?;
        field.copy_from_slice(&(kept as u64).to_le_bytes());
    }
    elf.truncate(end);
    // Where the sections' list is; its count and the number of the one with their names.
    elf.get_mut(40..48)?.fill(0);
    elf.get_mut(60..64)?.fill(0);
    Some(())
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The packed kernel.
fn payload(file: &[u8]) -> Option<&[u8]> {
    file.get(place(file)?)
}

/// Where it is: behind the sectors that only a BIOS's boot loader needs.
fn place(file: &[u8]) -> Option<Range<usize>> {
    if file.get(0x202..0x206)? != MAGIC {
        return None;
    }
    let sectors = match file.get(0x1f1)? {
        0 => 4,
        count => usize::from(*count),
    };
    let start = (sectors + 1) * 512 + word(file, 0x248)? as usize;
    Some(start..start + word(file, PAYLOAD_SIZE)? as usize)
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

    #[test]
    fn an_elf_file_ends_with_the_last_byte_that_is_not_zero() {
        let mut elf = vec![0; 300];
        elf[32] = 64;
        elf[40] = 200;
        elf[56] = 1;
        elf[60] = 7;
        elf[64] = 1;
        elf[64 + 8] = 128;
        elf[64 + 32] = 100;
        elf[140] = 1;
        leave_zeroes_out(&mut elf).unwrap();
        assert_eq!((elf.len(), elf[64 + 32], elf[40], elf[60]), (141, 13, 0, 0));
        elf[64 + 32] = 200;
        assert_eq!(leave_zeroes_out(&mut elf), None);
    }
}
