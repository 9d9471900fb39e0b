//! Unpacking gzip (RFC 1952) in chunks: the output never exists as a whole in the hypervisor's memory.
//!
//! Output goes to a [`Sink`] as it comes; its length is limited, and length and checksum of the trailer are checked.

use alloc::{boxed::Box, vec};
use core::fmt;

use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress},
};

/// Takes the bytes of an image, in order, without gaps.
pub trait Sink {
    /// Takes the next bytes; `Err` ends the unpacking.
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull>;
}

/// A [`Sink`] can take no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkFull;

impl<F: FnMut(&[u8]) -> Result<(), SinkFull>> Sink for F {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self(bytes)
    }
}

/// Why a file cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GzipError {
    /// It does not start like gzip.
    NotGzip,
    /// It ends too early.
    Truncated,
    /// The data contradicts itself or its checksum.
    Damaged,
    /// It unpacks to more than allowed.
    TooLong(u64),
    /// The sink refused.
    Full,
}

impl fmt::Display for GzipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGzip => write!(f, "not a gzip file"),
            Self::Truncated => write!(f, "the gzip file is truncated; load the whole file"),
            Self::Damaged => write!(f, "the gzip file is damaged; load it again"),
            Self::TooLong(limit) => write!(f, "the gzip file unpacks to more than {limit} bytes"),
            Self::Full => write!(f, "the place for the unpacked file is too small"),
        }
    }
}

/// Whether a file starts like gzip with deflate.
#[must_use]
pub fn is_gzip(file: &[u8]) -> bool {
    file.starts_with(&[0x1f, 0x8b, 8])
}

/// The unpacked length that the trailer gives, modulo 4 GiB. Not to be trusted before the whole file is unpacked.
#[must_use]
pub fn claimed_length(file: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*file.last_chunk::<4>()?))
}

const WINDOW: usize = 32 * 1024;

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// The compressed data after the header.
pub(super) fn body(file: &[u8]) -> Result<&[u8], GzipError> {
    if !is_gzip(file) {
        return Err(GzipError::NotGzip);
    }
    let cut = GzipError::Truncated;
    let flags = *file.get(3).ok_or(cut)?;
    if flags & RESERVED != 0 {
        return Err(GzipError::Damaged);
    }
    let mut rest = file.get(10..).ok_or(cut)?;
    if flags & FEXTRA != 0 {
        let (len, after) = rest.split_first_chunk::<2>().ok_or(cut)?;
        rest = after
            .get(usize::from(u16::from_le_bytes(*len))..)
            .ok_or(cut)?;
    }
    for text in [FNAME, FCOMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|b| *b == 0).ok_or(cut)?;
            rest = rest.get(end + 1..).ok_or(cut)?;
        }
    }
    if flags & FHCRC != 0 {
        rest = rest.get(2..).ok_or(cut)?;
    }
    Ok(rest)
}

/// Unpacks at most `limit` bytes into `sink` and returns how many there were.
pub fn unpack(file: &[u8], limit: u64, sink: &mut dyn Sink) -> Result<u64, GzipError> {
    let mut crc = Crc::new();
    let (total, rest) = inflate(body(file)?, |chunk, total| {
        if total > limit {
            return Err(GzipError::TooLong(limit));
        }
        crc.add(chunk);
        sink.put(chunk).map_err(|SinkFull| GzipError::Full)?;
        Ok(true)
    })?;
    let (sum, rest) = rest.split_first_chunk::<4>().ok_or(GzipError::Truncated)?;
    let (length, _) = rest.split_first_chunk::<4>().ok_or(GzipError::Truncated)?;
    if u32::from_le_bytes(*sum) != crc.value() || u32::from_le_bytes(*length) != total as u32 {
        return Err(GzipError::Damaged);
    }
    Ok(total)
}

/// Unpacks only the start of the file: as many bytes as fit `out`. Returns how many there were.
pub fn unpack_start(file: &[u8], out: &mut [u8]) -> Result<usize, GzipError> {
    let mut filled = 0;
    inflate(body(file)?, |chunk, _| {
        let room = out.get_mut(filled..).unwrap_or_default();
        let count = room.len().min(chunk.len());
        for (to, from) in room.iter_mut().zip(chunk) {
            *to = *from;
        }
        filled += count;
        Ok(filled < out.len())
    })?;
    Ok(filled)
}

/// Runs the decompressor; `take` gets each chunk with the total length so far and says whether to go on. Returns the
/// total and the input that is left.
fn inflate(
    mut input: &[u8],
    mut take: impl FnMut(&[u8], u64) -> Result<bool, GzipError>,
) -> Result<(u64, &[u8]), GzipError> {
    let mut state: Box<DecompressorOxide> = Box::default();
    let mut window = vec![0; WINDOW];
    let mut at = 0;
    let mut total = 0;
    loop {
        let (status, used, made) = decompress(&mut state, input, &mut window, at, 0);
        input = input.get(used..).ok_or(GzipError::Damaged)?;
        total += made as u64;
        let chunk = window
            .get(at..at.saturating_add(made))
            .ok_or(GzipError::Damaged)?;
        if !take(chunk, total)? {
            return Ok((total, input));
        }
        at = (at + made) % WINDOW;
        match status {
            TINFLStatus::Done => return Ok((total, input)),
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                return Err(GzipError::Truncated);
            }
            _ => return Err(GzipError::Damaged),
        }
    }
}

/// CRC-32 as gzip uses it.
struct Crc(u32);

const CRC_TABLE: [u32; 256] = crc_table();

#[allow(
    clippy::indexing_slicing,
    reason = "constant evaluation, index below the length"
)]
const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 {
                value >> 1 ^ 0xedb8_8320
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
}

impl Crc {
    fn new() -> Self {
        Self(u32::MAX)
    }

    #[allow(clippy::indexing_slicing, reason = "a byte indexes 256 entries")]
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = CRC_TABLE[usize::from(self.0 as u8 ^ byte)] ^ self.0 >> 8;
        }
    }

    fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// A gzip file of `data`.
    pub(in crate::boot) fn pack(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0x1f, 0x8b, 8, FNAME, 0, 0, 0, 0, 0, 3];
        out.extend_from_slice(b"Image\0");
        out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
        let mut crc = Crc::new();
        crc.add(data);
        out.extend_from_slice(&crc.value().to_le_bytes());
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        out
    }

    /// CRC-32 of `data`.
    pub(in crate::boot) fn checksum(data: &[u8]) -> u32 {
        let mut crc = Crc::new();
        crc.add(data);
        crc.value()
    }

    fn unpacked(file: &[u8], limit: u64) -> Result<Vec<u8>, GzipError> {
        let mut out = Vec::new();
        let mut sink = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        unpack(file, limit, &mut sink)?;
        Ok(out)
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        let mut crc = Crc::new();
        crc.add(b"123456789");
        assert_eq!(crc.value(), 0xcbf4_3926);
    }

    #[test]
    fn a_long_file_comes_out_as_it_went_in() {
        let data: Vec<u8> = (0..300_000u32)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        let file = pack(&data);
        assert_eq!(unpacked(&file, 300_000).unwrap(), data);
        assert_eq!(claimed_length(&file), Some(300_000));
        assert_eq!(unpacked(&file, 299_999), Err(GzipError::TooLong(299_999)));
        let mut start = [0; 100];
        assert_eq!(unpack_start(&file, &mut start), Ok(100));
        assert_eq!(start[..], data[..100]);
    }

    #[test]
    fn a_full_sink_ends_the_unpacking() {
        let mut sink = |_: &[u8]| Err(SinkFull);
        assert_eq!(unpack(&pack(b"abc"), 10, &mut sink), Err(GzipError::Full));
    }

    proptest! {
        #[test]
        fn every_cut_is_noticed(data in proptest::collection::vec(any::<u8>(), 1..3000), cut in any::<prop::sample::Index>()) {
            let file = pack(&data);
            let cut = cut.index(file.len());
            prop_assert!(unpacked(&file[..cut], 1 << 20).is_err());
        }

        #[test]
        fn a_flipped_bit_never_yields_other_data(
            data in proptest::collection::vec(any::<u8>(), 1..2000), at in any::<prop::sample::Index>(), bit in 0..8u32
        ) {
            let mut file = pack(&data);
            let at = at.index(file.len());
            file[at] ^= 1u8 << bit;
            if let Ok(out) = unpacked(&file, 1 << 20) {
                prop_assert_eq!(out, data);
            }
        }

        #[test]
        fn garbage_is_survived(mut file in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for (to, from) in file.iter_mut().zip([0x1f, 0x8b, 8]) {
                *to = from;
            }
            let _ = unpacked(&file, 1 << 20);
        }
    }
}
