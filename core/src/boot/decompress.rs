//! Unpacking whole files into memory that the caller gives: gzip, xz, lz4 (the legacy frame of kernels) and zstd.
//!
//! The place for the output is its limit, so no file can take more memory than was set aside for it. xz needs a work area
//! of its window's size beside; zstd's window comes from the heap. Formats: RFC 1952, the .xz file format
//! 1.2.1, lz4's frame format (legacy), RFC 8878.

use core::fmt;

use xz4rust::{XzDecoder, XzError};

use super::{
    gzip::{self, GzipError, SinkFull},
    zstd,
};

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// lz4, legacy frame.
    Lz4,
    /// zstd.
    Zstd,
}

/// Why a file cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpackError {
    /// It ends too early.
    Truncated(Codec),
    /// It contradicts itself or its checksum.
    Damaged(Codec),
    /// It unpacks to more than this many bytes.
    TooLong(Codec, u64),
    /// Its window is larger than the work area.
    Window(Codec, u64),
    /// It uses what is not known here.
    Unsupported(Codec),
}

impl Codec {
    /// From the first bytes of a file.
    #[must_use]
    pub fn of(file: &[u8]) -> Option<Self> {
        match file {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Bytes of work area that unpacking this file takes.
    #[must_use]
    pub fn work_size(self, file: &[u8]) -> usize {
        match self {
            Self::Xz => xz_window(file).unwrap_or(XZ_LEAST),
            Self::Gzip | Self::Lz4 | Self::Zstd => 0,
        }
    }

    /// Bytes that unpacking to `length` bytes takes from the heap, beside small ones, in one piece.
    #[must_use]
    pub fn heap_size(self, length: u64) -> u64 {
        match self {
            Self::Zstd => zstd::heap_size(length),
            Self::Gzip | Self::Xz | Self::Lz4 => 0,
        }
    }

    /// Unpacks the whole file to the start of `out`; returns how many bytes there were. `work` has at least
    /// [`work_size`](Self::work_size) bytes; what is in it does not matter.
    pub fn unpack(
        self,
        file: &[u8],
        out: &mut [u8],
        work: &mut [u8],
    ) -> Result<usize, UnpackError> {
        match self {
            Self::Gzip => gunzip(file, out),
            Self::Xz => unxz(file, out, work),
            Self::Lz4 => unlz4(file, out),
            Self::Zstd => zstd::unpack(file, out),
        }
    }
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(codec) => write!(
                f,
                "its {} data is truncated; load the whole file",
                codec.name()
            ),
            Self::Damaged(codec) => {
                write!(f, "its {} data is damaged; load it again", codec.name())
            }
            Self::TooLong(codec, limit) => write!(
                f,
                "its {} data unpacks to more than the {limit} bytes that it claims",
                codec.name()
            ),
            Self::Window(codec, size) => write!(
                f,
                "its {} data needs a window of {} MiB, for which there is no room; pack it with xz, lz4 or gzip",
                codec.name(),
                size >> 20
            ),
            Self::Unsupported(codec) => write!(
                f,
                "its {} data uses an unknown filter or checksum; pack it as Linux does",
                codec.name()
            ),
        }
    }
}

fn gunzip(file: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
    let limit = out.len() as u64;
    let mut filled = 0usize;
    let mut sink = |bytes: &[u8]| {
        let end = filled.checked_add(bytes.len()).ok_or(SinkFull)?;
        out.get_mut(filled..end)
            .ok_or(SinkFull)?
            .copy_from_slice(bytes);
        filled = end;
        Ok(())
    };
    gzip::unpack(file, limit, &mut sink).map_err(|error| match error {
        GzipError::Truncated => UnpackError::Truncated(Codec::Gzip),
        GzipError::TooLong(_) | GzipError::Full => UnpackError::TooLong(Codec::Gzip, limit),
        GzipError::NotGzip | GzipError::Damaged => UnpackError::Damaged(Codec::Gzip),
    })?;
    Ok(filled)
}

/// The smallest window that the decoder takes.
const XZ_LEAST: usize = 4096;
/// A larger window is refused; Linux packs with 32 MiB, and newer versions with 128 MiB.
const XZ_MOST: usize = 256 << 20;

/// The window of the first block, from the filter list of its header (.xz file format, 3.1 and 5.3.1).
fn xz_window(file: &[u8]) -> Option<usize> {
    const STREAM_HEADER: usize = 12;
    const SIZES: [u8; 2] = [0x40, 0x80];
    const LZMA2: u64 = 0x21;
    let header = file.get(STREAM_HEADER..)?;
    let flags = *header.get(1)?;
    let mut rest = header.get(2..)?;
    for size in SIZES {
        if flags & size != 0 {
            rest = variable(rest)?.1;
        }
    }
    for _ in 0..=flags & 3 {
        let (filter, after) = variable(rest)?;
        let (length, after) = variable(after)?;
        let properties = after.get(..usize::try_from(length).ok()?)?;
        if filter == LZMA2 {
            let bits = u32::from(*properties.first()?);
            let size = (2 | (bits & 1) as usize).checked_shl((bits >> 1).checked_add(11)?)?;
            return (bits < 40 && size <= XZ_MOST).then_some(size);
        }
        rest = after.get(properties.len()..)?;
    }
    None
}

/// A number in seven bits a byte, lowest first.
fn variable(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

fn unxz(file: &[u8], out: &mut [u8], work: &mut [u8]) -> Result<usize, UnpackError> {
    const CODEC: Codec = Codec::Xz;
    let limit = out.len();
    let mut decoder = XzDecoder::with_fixed_size_dict(work);
    let (mut used, mut made) = (0usize, 0usize);
    loop {
        let input = file.get(used..).unwrap_or_default();
        let room = out.get_mut(made..).unwrap_or_default();
        let full = room.is_empty();
        let step = decoder
            .decode(input, room)
            .map_err(|error| from_xz(&error))?;
        used = used.saturating_add(step.input_consumed());
        made = made.saturating_add(step.output_produced());
        if step.is_end_of_stream() {
            return Ok(made);
        }
        if !step.made_progress() {
            return Err(if full && used < file.len() {
                UnpackError::TooLong(CODEC, limit as u64)
            } else {
                UnpackError::Truncated(CODEC)
            });
        }
    }
}

fn from_xz(error: &XzError) -> UnpackError {
    const CODEC: Codec = Codec::Xz;
    match error {
        XzError::NeedsLargerInputBuffer => UnpackError::Truncated(CODEC),
        XzError::DictionaryTooLarge(size) => UnpackError::Window(CODEC, *size),
        XzError::UnsupportedCheckType(_)
        | XzError::Crc64NotSupported
        | XzError::Sha256NotSupported => UnpackError::Unsupported(CODEC),
        _ => UnpackError::Damaged(CODEC),
    }
}

/// A block of the legacy frame unpacks to no more than this.
const LZ4_BLOCK: usize = 8 << 20;

fn unlz4(file: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
    const CODEC: Codec = Codec::Lz4;
    let limit = out.len() as u64;
    let mut rest = file.get(4..).ok_or(UnpackError::Truncated(CODEC))?;
    let mut made = 0usize;
    while !rest.is_empty() {
        let (size, after) = rest
            .split_first_chunk::<4>()
            .ok_or(UnpackError::Truncated(CODEC))?;
        let size = u32::from_le_bytes(*size) as usize;
        // A frame may follow another.
        if Codec::of(rest) == Some(CODEC) {
            rest = after;
            continue;
        }
        let block = after.get(..size).ok_or(UnpackError::Truncated(CODEC))?;
        rest = after.get(size..).unwrap_or_default();
        let room = out.get_mut(made..).unwrap_or_default();
        let whole = room.len() >= LZ4_BLOCK;
        let most = room.len().min(LZ4_BLOCK);
        let place = room.get_mut(..most).unwrap_or_default();
        made += lz4_flex::block::decompress_into(block, place).map_err(|error| match error {
            lz4_flex::block::DecompressError::OutputTooSmall { .. } if !whole => {
                UnpackError::TooLong(CODEC, limit)
            }
            _ => UnpackError::Damaged(CODEC),
        })?;
    }
    Ok(made)
}

/// Fuzzing: any bytes as a packed file. The first byte chooses how.
pub fn fuzz_unpack(bytes: &[u8]) {
    if let Some(codec) = Codec::of(bytes) {
        let mut out = alloc::vec![0; 64 << 10];
        let work = codec.work_size(bytes).min(1 << 20);
        let mut work = alloc::vec![0; work];
        let _ = codec.unpack(bytes, &mut out, &mut work);
    }
}

#[cfg(test)]
pub(in crate::boot) mod tests;
