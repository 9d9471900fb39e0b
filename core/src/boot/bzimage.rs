//! Linux's bzImage: the boot protocol's header, and the packed kernel behind the real-mode code.
//!
//! Follows the Linux/x86 boot protocol 2.08 and later ("setup_header", "payload_offset"). The payload is a packed ELF
//! kernel, with the length of the ELF file in its last four bytes, whatever the packing.

use core::fmt;

use super::decompress::{Codec, UnpackError};

/// A bzImage that has been looked at.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    /// The protocol's version, major number in the high byte.
    pub version: u16,
    /// What the kernel can do (`xloadflags`); 0 before 2.12.
    pub load_flags: u16,
    /// How the payload is packed.
    pub codec: Codec,
    /// The packed ELF kernel, without the length behind it.
    pub payload: &'a [u8],
    /// Length of the ELF file in bytes, as the payload claims.
    pub length: u32,
}

/// Why a file is no bzImage that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BzImageError {
    /// It has no header of the boot protocol.
    NotBzImage,
    /// Its protocol is older than 2.08, so that it does not tell where the payload is.
    Old(u16),
    /// It is shorter than its header says.
    Truncated {
        /// Bytes that the header asks for.
        needed: u64,
        /// Bytes that are there.
        present: u64,
    },
    /// A field of the header is impossible.
    Header(&'static str, u64),
    /// The payload is packed in a way that is not known.
    Packing([u8; 4]),
    /// The payload claims to unpack to more than a kernel can have.
    Length(u64),
    /// The payload unpacks to another length than it claims.
    OtherLength {
        /// Bytes that it claims.
        claimed: u64,
        /// Bytes that there were.
        unpacked: u64,
    },
    /// The payload cannot be unpacked.
    Unpack(UnpackError),
}

impl fmt::Display for BzImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel: ")?;
        match self {
            Self::NotBzImage => write!(f, "not a bzImage; give vmlinuz or an ELF kernel"),
            Self::Old(version) => write!(
                f,
                "the bzImage speaks boot protocol {}.{:02}; Linux 2.6.26 or newer is needed",
                version >> 8,
                version & 0xff
            ),
            Self::Truncated { needed, present } => write!(
                f,
                "truncated: {needed} bytes needed, {present} present; load the whole file and check the module's size"
            ),
            Self::Header(field, value) => write!(
                f,
                "the bzImage header is damaged ({field} is {value:#x}); load the file again"
            ),
            Self::Packing(start) => write!(
                f,
                "the bzImage is packed in an unknown way (starts with {start:02x?}); use gzip, xz, lz4 or zstd"
            ),
            Self::Length(length) => write!(
                f,
                "the bzImage claims to unpack to {length} bytes; at most {MOST} are possible"
            ),
            Self::OtherLength { claimed, unpacked } => write!(
                f,
                "the bzImage claims {claimed} unpacked bytes and has {unpacked}; load the file again"
            ),
            Self::Unpack(error) => error.fmt(f),
        }
    }
}

/// No kernel is longer; keeps a damaged length from asking for all memory.
const MOST: u32 = 1 << 30;
const SECTOR: u64 = 512;
/// What `setup_sects` means when it is 0.
const OLD_SECTORS: u8 = 4;
const FIRST_WITH_PAYLOAD: u16 = 0x208;
const FIRST_WITH_LOAD_FLAGS: u16 = 0x20c;

/// Where fields stand in the file.
mod field {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOAD_FLAGS: usize = 0x236;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

fn half(file: &[u8], at: usize) -> Option<u16> {
    let bytes = file.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    let bytes = file.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Whether a file starts like a bzImage.
#[must_use]
pub fn is_bzimage(file: &[u8]) -> bool {
    half(file, field::BOOT_FLAG) == Some(0xaa55) && word(file, field::MAGIC) == Some(MAGIC)
}

const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

impl<'a> BzImage<'a> {
    /// Looks at a file.
    pub fn parse(file: &'a [u8]) -> Result<Self, BzImageError> {
        if !is_bzimage(file) {
            return Err(BzImageError::NotBzImage);
        }
        let short = BzImageError::Truncated {
            needed: field::PAYLOAD_LENGTH as u64 + 4,
            present: file.len() as u64,
        };
        let version = half(file, field::VERSION).ok_or(short)?;
        if version < FIRST_WITH_PAYLOAD {
            return Err(BzImageError::Old(version));
        }
        let sectors = match *file.get(field::SETUP_SECTORS).ok_or(short)? {
            0 => OLD_SECTORS,
            sectors => sectors,
        };
        let offset = word(file, field::PAYLOAD_OFFSET).ok_or(short)?;
        let length = word(file, field::PAYLOAD_LENGTH).ok_or(short)?;
        let start = (u64::from(sectors) + 1) * SECTOR + u64::from(offset);
        let end = start + u64::from(length);
        let payload = usize::try_from(start)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| file.get(start..end))
            .ok_or(BzImageError::Truncated {
                needed: end,
                present: file.len() as u64,
            })?;
        let (payload, claimed) = payload
            .split_last_chunk::<4>()
            .ok_or(BzImageError::Header("payload_length", length.into()))?;
        let codec = Codec::of(payload).ok_or(BzImageError::Packing(
            payload.first_chunk().copied().unwrap_or_default(),
        ))?;
        let claimed = u32::from_le_bytes(*claimed);
        if claimed > MOST {
            return Err(BzImageError::Length(claimed.into()));
        }
        // With gzip the length is also the end of the file itself.
        let payload = match codec {
            Codec::Gzip => file.get(start as usize..end as usize).unwrap_or(payload),
            _ => payload,
        };
        Ok(Self {
            version,
            load_flags: match version {
                FIRST_WITH_LOAD_FLAGS.. => half(file, field::LOAD_FLAGS).unwrap_or(0),
                _ => 0,
            },
            codec,
            payload,
            length: claimed,
        })
    }

    /// Bytes of work area that unpacking takes.
    #[must_use]
    pub fn work_size(&self) -> usize {
        self.codec.work_size(self.payload)
    }

    /// Bytes that unpacking takes from the heap in one piece.
    #[must_use]
    pub fn heap_size(&self) -> u64 {
        self.codec.heap_size(self.length.into())
    }

    /// Unpacks the ELF kernel to the start of `out`, which has room for [`length`](Self::length) bytes, and returns it.
    pub fn unpack<'o>(&self, out: &'o mut [u8], work: &mut [u8]) -> Result<&'o [u8], BzImageError> {
        let room = (self.length as usize).min(out.len());
        let place = out.get_mut(..room).unwrap_or_default();
        let unpacked = self
            .codec
            .unpack(self.payload, place, work)
            .map_err(BzImageError::Unpack)?;
        if unpacked as u64 != u64::from(self.length) {
            return Err(BzImageError::OtherLength {
                claimed: self.length.into(),
                unpacked: unpacked as u64,
            });
        }
        Ok(out.get(..unpacked).unwrap_or_default())
    }
}

/// Fuzzing: any bytes as a bzImage.
pub fn fuzz_bzimage(bytes: &[u8]) {
    if let Ok(image) = BzImage::parse(bytes) {
        let mut out = alloc::vec![0; (image.length as usize).min(64 << 10)];
        let mut work = alloc::vec![0; image.work_size().min(1 << 20)];
        let _ = image.unpack(&mut out, &mut work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{decompress::tests as packed, elf::Elf, elf::tests::kernel64};
    use alloc::{string::ToString, vec, vec::Vec};
    use proptest::prelude::*;

    fn bzimage(payload: &[u8], length: u32, with_length: bool) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[field::SETUP_SECTORS] = 1;
        file[field::BOOT_FLAG..][..2].copy_from_slice(&[0x55, 0xaa]);
        file[field::MAGIC..][..4].copy_from_slice(b"HdrS");
        file[field::VERSION..][..2].copy_from_slice(&0x20fu16.to_le_bytes());
        file[field::LOAD_FLAGS] = 0x7f;
        let size = payload.len() as u32 + 4 * u32::from(with_length);
        file[field::PAYLOAD_OFFSET..][..4].copy_from_slice(&16u32.to_le_bytes());
        file[field::PAYLOAD_LENGTH..][..4].copy_from_slice(&size.to_le_bytes());
        file.extend([0x90; 16]);
        file.extend(payload);
        if with_length {
            file.extend(length.to_le_bytes());
        }
        file.extend([0; 8]);
        file
    }

    fn kernel() -> Vec<u8> {
        kernel64(&[(0x10_0000, 0x4000, vec![0x90; 0x3000])], 0x10_0000)
    }

    #[test]
    fn a_kernel_in_each_packing_comes_out_and_is_elf() {
        let kernel = kernel();
        for (codec, payload) in packed::all(&kernel) {
            let file = bzimage(&payload, kernel.len() as u32, codec != Codec::Gzip);
            let image = BzImage::parse(&file).unwrap();
            assert_eq!((image.codec, image.load_flags), (codec, 0x7f));
            assert_eq!(image.length as usize, kernel.len());
            let mut out = vec![0; kernel.len() + 5];
            let mut work = vec![0; image.work_size()];
            let elf = image.unpack(&mut out, &mut work).unwrap();
            assert_eq!(Elf::parse(elf).unwrap().pvh_entry(), Ok(0x10_0000));
        }
    }

    #[test]
    fn a_payload_that_lies_about_its_length_is_refused() {
        let kernel = kernel();
        for (codec, payload) in packed::all(&kernel) {
            if codec == Codec::Gzip {
                continue;
            }
            for claim in [kernel.len() as u32 - 1, kernel.len() as u32 + 1] {
                let file = bzimage(&payload, claim, true);
                let image = BzImage::parse(&file).unwrap();
                let mut out = vec![0; claim as usize];
                let mut work = vec![0; image.work_size()];
                assert!(image.unpack(&mut out, &mut work).is_err(), "{codec:?}");
            }
            let file = bzimage(&payload, u32::MAX, true);
            assert_eq!(
                BzImage::parse(&file).unwrap_err(),
                BzImageError::Length(u32::MAX.into())
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let refusal = |file: &[u8]| BzImage::parse(file).unwrap_err().to_string();
        let (_, payload) = packed::all(&kernel()).swap_remove(0);
        let file = bzimage(&payload, 100, true);
        assert!(refusal(&file[..100]).contains("not a bzImage"));
        assert!(refusal(&file[..0x210]).contains("truncated: 592 bytes needed, 528 present"));
        assert!(refusal(&file[..1050]).contains("truncated"));
        let mut old = file.clone();
        old[field::VERSION] = 7;
        assert!(refusal(&old).contains("protocol 2.07"));
        assert!(refusal(&bzimage(b"BZh9....", 10, true)).contains("[42, 5a, 68, 39]"));
        assert!(refusal(&bzimage(b"", 10, false)).contains("payload_length"));
    }

    proptest! {
        #[test]
        fn damaged_files_are_survived(
            which in 0usize..4, cut in any::<prop::sample::Index>(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let kernel = kernel();
            let (_, payload) = packed::all(&kernel).swap_remove(which);
            let mut file = bzimage(&payload, kernel.len() as u32, which != 0);
            for (at, value) in damage { let at = at.index(file.len()); file[at] = value; }
            fuzz_bzimage(&file);
            fuzz_bzimage(&file[..cut.index(file.len())]);
        }
    }
}
