//! A look at an initial ramdisk before a kernel gets it, so that a wrong file is told in one line and not by a kernel
//! that finds no root.
//!
//! The file is the guest's business: nothing is refused here, a [`Doubt`] is only told. What Linux takes is known (its
//! document "initramfs buffer format", and the file systems of old block ramdisks); other kernels may take other things.
//! Only headers are read, never content, so the cost follows the number of parts, files and blocks, which has a bound.
//! The formats: cpio `newc`, RFC 1952, RFC 8878, lz4's legacy frame, the .xz file format.

use alloc::{format, string::String};
use core::fmt;

use super::{
    gzip::{self, GzipError},
    range::PhysRange,
};

/// What is doubtful about a ramdisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It has no bytes.
    Empty,
    /// Neither an archive nor packed data nor a file system begins at this offset; the four bytes there.
    Unknown(usize, [u8; 4]),
    /// It is something known that Linux does not take as a ramdisk, and what to do about it.
    Foreign(&'static str, &'static str),
    /// What begins at this offset goes on behind the end of the file.
    Cut(&'static str, usize),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "empty; check that its file was loaded and its size told"),
            Self::Unknown(at, bytes) => {
                write!(f, "neither cpio nor a known compression (")?;
                for byte in bytes {
                    write!(f, "{byte:02x} ")?;
                }
                write!(
                    f,
                    "at offset {at:#x}); check the file and the module's place"
                )
            }
            Self::Foreign(what, remedy) => write!(f, "{what}, which Linux does not take; {remedy}"),
            Self::Cut(what, at) => write!(
                f,
                "truncated: the {what} at offset {at:#x} goes on behind the end; load the whole file and check the module's size"
            ),
        }
    }
}

/// Looks at a ramdisk: one part after the other, as far as the end of a part can be found without unpacking it.
pub fn check(file: &[u8]) -> Result<(), Doubt> {
    if file.is_empty() {
        return Err(Doubt::Empty);
    }
    let whole = file;
    let file = without_bootconfig(file);
    let mut at = 0;
    for turn in 0..MOST_PARTS {
        let rest = file.get(at..).unwrap_or_default();
        let Some(zeroes) = rest.iter().take(MOST_PADDING).position(|byte| *byte != 0) else {
            // Nothing but padding is left, or more of it than is worth reading.
            return if at == 0 {
                Err(unknown(0, rest))
            } else {
                Ok(())
            };
        };
        at = at.saturating_add(zeroes);
        match part(file, at) {
            // The two bytes by which some file systems are known stand by chance in other files, so those come first.
            Err(Doubt::Unknown(..)) if turn == 0 && is_file_system(whole) => return Ok(()),
            Err(doubt) => return Err(doubt),
            Ok(Some(end)) if end > at => at = end,
            Ok(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Whether a kernel's command line says where its root is, or that it brings its own.
fn names_root(line: &str) -> bool {
    const WORDS: [&str; 4] = ["root=", "nfsroot=", "rdinit=", "initrd="];
    line.split_ascii_whitespace()
        .any(|word| WORDS.iter().any(|known| word.starts_with(known)))
}

/// What there is to say of a domain's ramdisk, one line, if anything. `file` is where it lies and its bytes, if there is
/// one; `line` is the kernel's command line.
#[must_use]
pub fn warning(domain: &str, file: Option<(PhysRange, &[u8])>, line: &str) -> Option<String> {
    if let Some((range, bytes)) = file {
        let doubt = check(bytes).err()?;
        return Some(format!(
            "{domain}'s initrd at {range}: {doubt}; {domain} gets it as it is and may not boot"
        ));
    }
    (!names_root(line)).then(|| {
        format!(
            "{domain} has no initrd and no root= on its command line: load an initrd as a further module or name its root, \
             unless its kernel brings its own"
        )
    })
}

/// More parts than any ramdisk has; the rest is not looked at.
const MOST_PARTS: usize = 256;
/// More files or blocks than any part has.
const MOST_STEPS: usize = 1 << 20;
/// Zeroes between two parts that are worth skipping.
const MOST_PADDING: usize = 1 << 20;

/// Where the part at an offset ends. `None` where nobody can say without unpacking it: the rest stays unseen.
fn part(file: &[u8], at: usize) -> Result<Option<usize>, Doubt> {
    let rest = file.get(at..).unwrap_or_default();
    match rest {
        [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..] => cpio(file, at).map(Some),
        [b'0', b'7', b'0', b'7', b'0', b'7', ..] => {
            Err(Doubt::Foreign("an old cpio", "pack it with cpio -H newc"))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => zstd(file, at),
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4(file, at).map(Some),
        [0x04, 0x22, 0x4d, 0x18, ..] => {
            Err(Doubt::Foreign("in lz4's new frame", "pack it with lz4 -l"))
        }
        [0x1f, 0x8b, ..] => gzip_part(rest, at),
        // Magic number, and the bytes of the shortest file.
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => least(rest, 32, "xz data", at),
        [b'B', b'Z', b'h', ..] => least(rest, 14, "bzip2 data", at),
        [0x5d, 0, 0, ..] => least(rest, 18, "lzma data", at),
        [0x89, b'L', b'Z', b'O', ..] => least(rest, 38, "lzo data", at),
        [0x1f, 0x9e, ..] => Ok(None),
        [0x27, 0x05, 0x19, 0x56, ..] => Err(Doubt::Foreign(
            "wrapped for U-Boot by mkimage",
            "give the file that was wrapped",
        )),
        [0xd0, 0x0d, 0xfe, 0xed, ..] => Err(Doubt::Foreign(
            "a device tree or FIT image",
            "give a cpio, plain or packed",
        )),
        [0x7f, b'E', b'L', b'F', ..] => Err(Doubt::Foreign(
            "an ELF file",
            "give a cpio, plain or packed",
        )),
        _ if rest.get(56..60) == Some(b"ARM\x64") => Err(Doubt::Foreign(
            "a kernel's Image",
            "give a cpio, plain or packed",
        )),
        _ => Err(unknown(at, rest)),
    }
}

fn unknown(at: usize, rest: &[u8]) -> Doubt {
    let mut bytes = [0; 4];
    for (to, from) in bytes.iter_mut().zip(rest) {
        *to = *from;
    }
    Doubt::Unknown(at, bytes)
}

fn least(rest: &[u8], size: usize, what: &'static str, at: usize) -> Result<Option<usize>, Doubt> {
    if rest.len() < size {
        return Err(Doubt::Cut(what, at));
    }
    Ok(None)
}

/// The file without what Linux lets one append (its document "Boot Configuration"): data, its size and sum, a mark.
fn without_bootconfig(file: &[u8]) -> &[u8] {
    let inner = || {
        let rest = file.strip_suffix(b"#BOOTCONFIG\n")?;
        let size = rest.len().checked_sub(8)?;
        let data = le32(rest, size)? as usize;
        rest.get(..size.checked_sub(data)?)
    };
    inner().unwrap_or(file)
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

/// A file system of an old block ramdisk (romfs, cramfs, squashfs, ext2 to ext4, minix).
fn is_file_system(file: &[u8]) -> bool {
    const SUPER: usize = 1024;
    let starts = [0, 512].into_iter().any(|at| {
        let rest = file.get(at..).unwrap_or_default();
        rest.starts_with(b"-rom1fs-") || rest.starts_with(&[0x45, 0x3d, 0xcd, 0x28])
    });
    let word = |at: usize| file.get(SUPER..)?.get(at..at.checked_add(2)?);
    starts
        || file.starts_with(b"hsqs")
        || word(56) == Some(&[0x53, 0xef])
        || matches!(word(16), Some([0x7f | 0x8f, 0x13] | [0x68 | 0x78, 0x24]))
}

/// Walks the headers of a cpio archive to its trailer. Names and contents are padded to four bytes from its start.
fn cpio(file: &[u8], start: usize) -> Result<usize, Doubt> {
    const HEADER: usize = 110;
    const FILE_SIZE: usize = 54;
    const NAME_SIZE: usize = 94;
    const TRAILER: &[u8] = b"TRAILER!!!";
    let cut = Doubt::Cut("cpio archive", start);
    let archive = file.get(start..).unwrap_or_default();
    let mut at = 0usize;
    for _ in 0..MOST_STEPS {
        let entry = archive.get(at..).ok_or(cut)?;
        let Some(header) = entry.get(..HEADER) else {
            return Err(cut);
        };
        if !matches!(header, [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..]) {
            return Err(unknown(start.saturating_add(at), entry));
        }
        let damaged = || unknown(start.saturating_add(at), entry);
        let size = hex(header, FILE_SIZE).ok_or_else(damaged)?;
        let name = hex(header, NAME_SIZE).ok_or_else(damaged)?;
        let named = entry.get(HEADER..).and_then(|rest| rest.get(..name));
        let named = named.ok_or(cut)?;
        let content = padded(at, HEADER.checked_add(name)).ok_or(cut)?;
        let end = padded(content, Some(size)).ok_or(cut)?;
        if named.strip_suffix(&[0]) == Some(TRAILER) {
            return Ok(start.saturating_add(end).min(file.len()));
        }
        if content
            .checked_add(size)
            .is_none_or(|end| end > archive.len())
        {
            return Err(cut);
        }
        at = end;
    }
    Ok(file.len())
}

fn padded(at: usize, more: Option<usize>) -> Option<usize> {
    at.checked_add(more?)?.checked_next_multiple_of(4)
}

/// Eight hexadecimal digits.
fn hex(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = bytes.get(at..at.checked_add(8)?)?;
    digits.iter().try_fold(0usize, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | digit as usize)
    })
}

/// gzip tells its length only at its end. What stands there must be possible where nothing else was appended: deflated data
/// grows 1032-fold at most, and an archive's length is a multiple of four.
fn gzip_part(rest: &[u8], at: usize) -> Result<Option<usize>, Doubt> {
    const SHORTEST: usize = 2 + 8;
    const MOST_RATIO: u64 = 1032;
    let cut = Doubt::Cut("gzip data", at);
    let body = gzip::body(rest).map_err(|error| match error {
        GzipError::Truncated => cut,
        _ => unknown(at, rest),
    })?;
    let length = gzip::claimed_length(rest).map_or(0, u64::from);
    let most = (rest.len() as u64).saturating_mul(MOST_RATIO);
    if body.len() < SHORTEST || !length.is_multiple_of(4) || length > most {
        return Err(cut);
    }
    Ok(None)
}

/// Walks the blocks of a zstd frame, or skips a frame that is to be skipped.
fn zstd(file: &[u8], start: usize) -> Result<Option<usize>, Doubt> {
    let cut = Doubt::Cut("zstd data", start);
    let frame = file.get(start..).unwrap_or_default();
    if let [0x50..=0x5f, ..] = frame {
        let size = le32(frame, 4).ok_or(cut)? as usize;
        let end = start.saturating_add(8).saturating_add(size);
        return if end > file.len() {
            Err(cut)
        } else {
            Ok(Some(end))
        };
    }
    const SINGLE_SEGMENT: u8 = 1 << 5;
    const CHECKSUM: u8 = 1 << 2;
    let descriptor = *frame.get(4).ok_or(cut)?;
    let single = descriptor & SINGLE_SEGMENT != 0;
    let dictionary = match descriptor & 3 {
        3 => 4,
        size => usize::from(size),
    };
    let content_size = match descriptor >> 6 {
        0 => usize::from(single),
        power => 1 << power,
    };
    let mut at = 5usize
        .saturating_add(usize::from(!single))
        .saturating_add(dictionary)
        .saturating_add(content_size);
    for _ in 0..MOST_STEPS {
        let Some([a, b, c]) = frame.get(at..at.saturating_add(3)) else {
            return Err(cut);
        };
        let header = u32::from_le_bytes([*a, *b, *c, 0]);
        let size = match header >> 1 & 3 {
            // A repeated byte.
            1 => 1,
            // No such block: whoever unpacks it will say so.
            3 => return Ok(None),
            _ => (header >> 3) as usize,
        };
        at = at.saturating_add(3).saturating_add(size);
        if header & 1 != 0 {
            let sum = if descriptor & CHECKSUM != 0 { 4 } else { 0 };
            let end = at.saturating_add(sum);
            return if end > frame.len() {
                Err(cut)
            } else {
                Ok(Some(start.saturating_add(end)))
            };
        }
    }
    Ok(None)
}

/// Walks the blocks of lz4's legacy frame, which ends where the file does or where no size of a block stands.
fn lz4(file: &[u8], start: usize) -> Result<usize, Doubt> {
    // 8 MiB of data that does not pack.
    const LARGEST: usize = (8 << 20) + (8 << 20) / 255 + 16;
    let cut = Doubt::Cut("lz4 data", start);
    let mut at = start.saturating_add(4);
    for _ in 0..MOST_STEPS {
        if at == file.len() {
            break;
        }
        let size = le32(file, at).ok_or(cut)? as usize;
        if size == 0 || size > LARGEST {
            break;
        }
        at = at.saturating_add(4).saturating_add(size);
        if at > file.len() {
            return Err(cut);
        }
    }
    Ok(at)
}

/// Fuzzing: any bytes as a ramdisk.
pub fn fuzz_initrd(bytes: &[u8]) {
    let _ = check(bytes);
}

#[cfg(test)]
mod tests;
