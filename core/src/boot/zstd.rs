//! zstd (RFC 8878), into a place that limits the output.
//!
//! Linux packs its kernels with a window of 128 MiB, whatever they unpack to. The library sets memory aside for the window
//! that a frame names, and panics where there is none. So it is shown a header with a window that covers the place for the
//! output, of which no frame can need more, and the memory is asked for first.

use alloc::vec::Vec;

use ruzstd::{
    decoding::{
        BlockDecodingStrategy, FrameDecoder,
        errors::{FrameDecoderError, ReadFrameHeaderError},
    },
    io::{Error, Read},
};

use super::decompress::{Codec, UnpackError};

const CODEC: Codec = Codec::Zstd;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Of the frame header descriptor (3.1.1.1.1).
const DICTIONARY: u8 = 3;
const CHECKSUM: u8 = 1 << 2;
const RESERVED: u8 = 1 << 3;
const SINGLE_SEGMENT: u8 = 1 << 5;
/// A window descriptor counts from this power of two, in eighths.
const LEAST_LOG: u32 = 10;
/// Smaller windows are not worth the care.
const LEAST_WINDOW: u64 = 4 << 20;
/// More than what the library sets aside beside the window.
const BESIDE: u64 = 1 << 20;

/// Unpacks all frames of `file` to the start of `out`; returns how many bytes there were.
pub(super) fn unpack(file: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
    let limit = out.len() as u64;
    let window = window_log_and_eighths(limit);
    make_room(limit)?;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(window_size(window));
    // Only a decoder that had a frame before sets the whole buffer aside at once; else it grows, old beside new.
    decoder
        .reset(header(0, window).as_slice())
        .map_err(refused)?;
    let mut rest = file;
    let mut made = 0;
    while !rest.is_empty() {
        let mut frame = match Frame::open(rest, limit, window)? {
            Some(frame) => frame,
            None => {
                rest = skipped(rest)?;
                continue;
            }
        };
        decoder.reset(&mut frame).map_err(refused)?;
        loop {
            let one = BlockDecodingStrategy::UptoBlocks(1);
            decoder.decode_blocks(&mut frame, one).map_err(refused)?;
            let place = out.get_mut(made..).unwrap_or_default();
            made += decoder
                .read(place)
                .map_err(|_| UnpackError::Damaged(CODEC))?;
            if decoder.can_collect() != 0 {
                return Err(UnpackError::TooLong(CODEC, limit));
            }
            if decoder.is_finished() {
                break;
            }
        }
        rest = frame.rest;
    }
    Ok(made)
}

fn refused(error: FrameDecoderError) -> UnpackError {
    match error {
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_)) => {
            UnpackError::Damaged(CODEC)
        }
        FrameDecoderError::ReadFrameHeaderError(_)
        | FrameDecoderError::FailedToReadBlockHeader(_)
        | FrameDecoderError::FailedToReadChecksum(_) => UnpackError::Truncated(CODEC),
        _ => UnpackError::Damaged(CODEC),
    }
}

/// The shortest header of a frame with this window.
fn header(descriptor: u8, (log, eighths): (u32, u8)) -> [u8; 6] {
    let [a, b, c, d] = MAGIC;
    let window = (log.saturating_sub(LEAST_LOG) as u8) << 3 | eighths;
    [a, b, c, d, descriptor, window]
}

/// A frame with a header of our own.
struct Frame<'f> {
    header: [u8; 6],
    /// How much of the header was read.
    read: usize,
    /// What follows the header.
    rest: &'f [u8],
}

impl<'f> Frame<'f> {
    /// `None` is a frame to be skipped.
    fn open(file: &'f [u8], limit: u64, window: (u32, u8)) -> Result<Option<Self>, UnpackError> {
        let truncated = UnpackError::Truncated(CODEC);
        let (magic, after) = file.split_first_chunk::<4>().ok_or(truncated)?;
        if matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
            return Ok(None);
        }
        let (&descriptor, mut after) = after.split_first().ok_or(truncated)?;
        if *magic != MAGIC || descriptor & RESERVED != 0 {
            return Err(UnpackError::Damaged(CODEC));
        }
        if descriptor & DICTIONARY != 0 {
            return Err(UnpackError::Unsupported(CODEC));
        }
        let single = descriptor & SINGLE_SEGMENT != 0;
        if !single {
            after = after.get(1..).ok_or(truncated)?;
        }
        let length = match descriptor >> 6 {
            0 => usize::from(single),
            more => 1 << more,
        };
        let (content, rest) = after.split_at_checked(length).ok_or(truncated)?;
        let added = if length == 2 { 256 } else { 0 };
        let content = little(content).saturating_add(added);
        if length != 0 && content > limit {
            return Err(UnpackError::TooLong(CODEC, limit));
        }
        Ok(Some(Self {
            header: header(descriptor & CHECKSUM, window),
            read: 0,
            rest,
        }))
    }
}

impl Read for Frame<'_> {
    fn read(&mut self, place: &mut [u8]) -> Result<usize, Error> {
        let mut left = self.header.get(self.read..).unwrap_or_default();
        if left.is_empty() {
            return self.rest.read(place);
        }
        let count = left.read(place)?;
        self.read += count;
        Ok(count)
    }
}

fn little(bytes: &[u8]) -> u64 {
    let add = |value, byte: &u8| value << 8 | u64::from(*byte);
    bytes.iter().rev().fold(0, add)
}

/// What follows a frame to be skipped (3.1.2).
fn skipped(file: &[u8]) -> Result<&[u8], UnpackError> {
    let size = file.get(4..8).map(little);
    size.and_then(|size| usize::try_from(size).ok()?.checked_add(8))
        .and_then(|end| file.get(end..))
        .ok_or(UnpackError::Truncated(CODEC))
}

/// The smallest window that covers `limit` bytes and is no power of two: then the library's buffer, which is one and a bit,
/// has room for the block before which it was read out, even for a bad one.
fn window_log_and_eighths(limit: u64) -> (u32, u8) {
    let limit = limit.clamp(LEAST_WINDOW, 1 << 40);
    let log = limit.ilog2();
    let base = 1_u64 << log;
    let eighths = (limit - base).div_ceil(base / 8).max(1);
    match u8::try_from(eighths) {
        Ok(eighths @ 1..=7) => (log, eighths),
        _ => (log + 1, 1),
    }
}

const fn window_size((log, eighths): (u32, u8)) -> u64 {
    let base = 1 << log;
    base + base / 8 * eighths as u64
}

/// The most that the library asks for at once, for this much output.
pub(super) fn heap_size(limit: u64) -> u64 {
    (2 << window_log_and_eighths(limit).0) + BESIDE
}

/// Makes sure that the library finds the memory it will ask for: it cannot say that there is none.
fn make_room(limit: u64) -> Result<(), UnpackError> {
    let size = heap_size(limit);
    let mut room = Vec::<u8>::new();
    room.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX))
        .map_err(|_| UnpackError::Window(CODEC, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::decompress::tests::zstd;
    use alloc::vec;

    #[test]
    fn a_window_covers_the_output_with_room_for_a_block() {
        for limit in [0, 1, 4 << 20, (4 << 20) + 1, 60 << 20, 64 << 20, 1 << 30] {
            let window = window_log_and_eighths(limit);
            let (size, buffer) = (window_size(window), 2_u64 << window.0);
            assert!(size >= limit, "{limit:#x}");
            assert!(size + (512 << 10) <= buffer, "{limit:#x}");
        }
    }

    #[test]
    fn a_frame_with_linuxs_window_is_unpacked_with_what_its_output_needs() {
        let data: Vec<u8> = (0..300_000u32)
            .map(|i| (i.wrapping_mul(i) >> 9) as u8)
            .collect();
        let mut frame = zstd(&data);
        assert_eq!(frame[4] & !CHECKSUM, 0, "a window and no length");
        frame[5] = 17 << 3;
        let mut out = vec![0; data.len()];
        assert_eq!(unpack(&frame, &mut out), Ok(data.len()));
        assert!(out == data);
    }

    #[test]
    fn frames_follow_each_other_and_some_are_skipped() {
        let mut file = vec![0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        file.extend(zstd(b"one"));
        file.extend(zstd(b"two"));
        let mut out = [0; 6];
        assert_eq!(unpack(&file, &mut out), Ok(6));
        assert_eq!(&out, b"onetwo");
        let cut = [0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9];
        assert_eq!(unpack(&cut, &mut out), Err(UnpackError::Truncated(CODEC)));
    }

    #[test]
    fn a_frame_that_tells_too_much_is_refused_before_it_is_unpacked() {
        let mut file = zstd(&[7; 1000]);
        // A single segment that tells its length less 256 in two bytes.
        file[4] |= SINGLE_SEGMENT | 0x40;
        file.splice(5..6, 744_u16.to_le_bytes());
        assert_eq!(unpack(&file, &mut [0; 1000]), Ok(1000));
        assert_eq!(
            unpack(&file, &mut [0; 999]),
            Err(UnpackError::TooLong(CODEC, 999))
        );
        file[4] |= 1;
        assert_eq!(
            unpack(&file, &mut [0; 1000]),
            Err(UnpackError::Unsupported(CODEC))
        );
    }
}
