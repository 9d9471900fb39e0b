//! Kernel images: what a kernel file is, what memory it wants, and how its bytes get there.
//!
//! The arm64 `Image` header follows Linux's booting document (section "Call the kernel image"), that of RISC-V its
//! boot-image-header document; an image may be packed with gzip.

use core::fmt;

use super::gzip::{self, GzipError, Sink};

/// Where the bytes of a kernel stand in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As they are.
    Plain,
    /// In gzip.
    Gzip,
}

/// What kind of kernel a machine starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The arm64 `Image`.
    Arm64,
    /// The RISC-V `Image`.
    Riscv64,
}

impl Format {
    /// What stands at offset 56 of its header.
    const fn magic(self) -> &'static [u8; 4] {
        match self {
            Self::Arm64 => b"ARM\x64",
            Self::Riscv64 => b"RSC\x05",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv",
        }
    }

    const fn other(self) -> (Self, &'static str) {
        match self {
            Self::Arm64 => (Self::Riscv64, "an Image for RISC-V"),
            Self::Riscv64 => (Self::Arm64, "an Image for arm64"),
        }
    }
}

/// The header of an `Image`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Distance of the image from a multiple of 2 MiB, in bytes.
    pub text_offset: u64,
    /// Memory that the image takes from its start, in bytes, what it clears itself included.
    pub image_size: u64,
    /// Byte order, page size and placement bits.
    pub flags: u64,
}

/// A kernel file that has been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    file: &'a [u8],
    /// What its header says.
    pub header: Header,
    /// How it is packed.
    pub packing: Packing,
    /// Length of the unpacked file in bytes; as its trailer claims when it is packed.
    pub length: u64,
}

/// Why a file is no kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Not a format that is known here, where this one is wanted.
    Unknown(Format),
    /// A format that is known, and not for this.
    Foreign(&'static str, Format),
    /// Shorter than its header says.
    Truncated {
        /// Bytes that the headers ask for.
        needed: u64,
        /// Bytes that are there.
        present: u64,
    },
    /// The header asks for the impossible.
    Header(&'static str, u64),
    /// It cannot be unpacked.
    Gzip(GzipError),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel: ")?;
        match self {
            Self::Unknown(wanted) => {
                let name = wanted.name();
                write!(
                    f,
                    "no {name} Image (plain or gzip) found; give arch/{name}/boot/Image or vmlinuz"
                )
            }
            Self::Foreign(what, wanted) => {
                let name = wanted.name();
                write!(f, "it is {what}; give a plain or gzip {name} Image")
            }
            Self::Truncated { needed, present } => write!(
                f,
                "truncated: {needed} bytes needed, {present} present; load the whole file and check the module's size"
            ),
            Self::Header(field, value) => {
                write!(
                    f,
                    "the Image header is damaged ({field} is {value:#x}); load the file again"
                )
            }
            Self::Gzip(error) => error.fmt(f),
        }
    }
}

impl From<GzipError> for ImageError {
    fn from(error: GzipError) -> Self {
        Self::Gzip(error)
    }
}

/// Images are placed at a multiple of this plus `text_offset`.
pub const IMAGE_ALIGN: u64 = 2 << 20;
/// What text_offset is when a header is too old to tell image_size.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// No kernel is larger; the limit keeps a damaged header from asking for all memory.
const MAX_IMAGE: u64 = 1 << 30;
const HEADER: usize = 64;
const MAGIC: core::ops::Range<usize> = 56..60;

fn le32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn le64(data: &[u8], at: usize) -> Option<u64> {
    let low = le32(data, at)?;
    let high = le32(data, at.checked_add(4)?)?;
    Some(u64::from(high) << 32 | u64::from(low))
}

impl Header {
    /// Reads the header from the first bytes of an image of this format.
    pub fn parse(start: &[u8], wanted: Format) -> Result<Self, ImageError> {
        let short = ImageError::Truncated {
            needed: HEADER as u64,
            present: start.len() as u64,
        };
        if start.get(MAGIC) != Some(wanted.magic()) {
            let (other, its_name) = wanted.other();
            let foreign = |what| ImageError::Foreign(what, wanted);
            return Err(match start {
                [0x27, 0x05, 0x19, 0x56, ..] => foreign("a U-Boot uImage"),
                [0xd0, 0x0d, 0xfe, 0xed, ..] => foreign("a device tree or FIT image"),
                [0x7f, b'E', b'L', b'F', ..] => foreign("an ELF file"),
                [0xfd, b'7', b'z', b'X', b'Z', ..] => foreign("packed with xz"),
                [0x28, 0xb5, 0x2f, 0xfd, ..] => foreign("packed with zstd"),
                [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => {
                    foreign("packed with lz4")
                }
                [0x1f, 0x8b, ..] => foreign("packed twice"),
                [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => {
                    foreign("a self-unpacking EFI image")
                }
                _ if start.get(MAGIC) == Some(other.magic()) => foreign(its_name),
                _ if start.len() < HEADER => short,
                _ => ImageError::Unknown(wanted),
            });
        }
        let field = |at| le64(start, at).ok_or(short);
        let mut header = Self {
            text_offset: field(8)?,
            image_size: field(16)?,
            flags: field(24)?,
        };
        match wanted {
            // Where RAM begins it says; anywhere else any multiple will do.
            Format::Riscv64 if header.image_size == 0 => {
                return Err(ImageError::Header("image_size", 0));
            }
            Format::Riscv64 => header.text_offset = 0,
            Format::Arm64 if header.image_size == 0 => header.text_offset = OLD_TEXT_OFFSET,
            Format::Arm64 => {}
        }
        if header.text_offset >= IMAGE_ALIGN || !header.text_offset.is_multiple_of(4096) {
            return Err(ImageError::Header("text_offset", header.text_offset));
        }
        if header.image_size > MAX_IMAGE {
            return Err(ImageError::Header("image_size", header.image_size));
        }
        Ok(header)
    }
}

impl<'a> Kernel<'a> {
    /// Looks at a file, which must be of this format. A packed one is unpacked only as far as its header.
    pub fn parse(file: &'a [u8], wanted: Format) -> Result<Self, ImageError> {
        if !gzip::is_gzip(file) {
            let header = Header::parse(file, wanted)?;
            let needed = sections_end(file).unwrap_or(0);
            let length = file.len() as u64;
            if needed > length {
                return Err(ImageError::Truncated {
                    needed,
                    present: length,
                });
            }
            return Self::new(file, header, Packing::Plain, length);
        }
        let mut start = [0; HEADER];
        let count = gzip::unpack_start(file, &mut start)?;
        let header = Header::parse(start.get(..count).unwrap_or_default(), wanted)?;
        let length = gzip::claimed_length(file).map_or(0, u64::from);
        Self::new(file, header, Packing::Gzip, length)
    }

    fn new(
        file: &'a [u8],
        header: Header,
        packing: Packing,
        length: u64,
    ) -> Result<Self, ImageError> {
        if length > MAX_IMAGE {
            return Err(ImageError::Header("length", length));
        }
        Ok(Self {
            file,
            header,
            packing,
            length,
        })
    }

    /// Memory that the kernel takes from its load address on, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.header.image_size.max(self.length)
    }

    /// Distance of its load address from a multiple of [`IMAGE_ALIGN`].
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.header.text_offset
    }

    /// Hands the unpacked bytes to `sink`, in order from the load address on.
    pub fn load(&self, sink: &mut dyn Sink) -> Result<u64, ImageError> {
        match self.packing {
            Packing::Plain => {
                sink.put(self.file).map_err(|_| GzipError::Full)?;
                Ok(self.length)
            }
            Packing::Gzip => Ok(gzip::unpack(self.file, self.memory_size(), sink)?),
        }
    }
}

/// The end of the last section in the file, from the PE header that an `Image` with EFI stub carries: the one place that
/// tells how long the file should be.
fn sections_end(file: &[u8]) -> Option<u64> {
    if !file.starts_with(b"MZ") {
        return None;
    }
    let pe = le32(file, 60)? as usize;
    if file.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let coff = file.get(pe..)?;
    let sections = (le32(coff, 4)? >> 16) as usize;
    let optional = (le32(coff, 20)? & 0xffff) as usize;
    let mut end = 0;
    for index in 0..sections {
        let section = index
            .checked_mul(40)?
            .checked_add(optional)?
            .checked_add(24)?;
        let size = le32(coff, section.checked_add(16)?)?;
        let at = le32(coff, section.checked_add(20)?)?;
        end = end.max(u64::from(size) + u64::from(at));
    }
    Some(end)
}

/// Fuzzing: any bytes as a kernel file.
pub fn fuzz_image(bytes: &[u8]) {
    for wanted in [Format::Arm64, Format::Riscv64] {
        let Ok(kernel) = Kernel::parse(bytes, wanted) else {
            continue;
        };
        let mut taken = 0u64;
        let _ = kernel.load(&mut |chunk: &[u8]| {
            taken += chunk.len() as u64;
            Ok(())
        });
        assert!(taken <= kernel.memory_size());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloc::{string::ToString, vec, vec::Vec};
    use proptest::prelude::*;

    /// An `Image` of `length` bytes.
    pub(in crate::boot) fn image(text_offset: u64, image_size: u64, length: usize) -> Vec<u8> {
        let mut file = vec![0x5a; length.max(HEADER)];
        file[8..16].copy_from_slice(&text_offset.to_le_bytes());
        file[16..24].copy_from_slice(&image_size.to_le_bytes());
        file[24..32].copy_from_slice(&10u64.to_le_bytes());
        file[56..60].copy_from_slice(b"ARM\x64");
        file
    }

    fn with_pe(mut file: Vec<u8>, data_end: u32) -> Vec<u8> {
        file[..2].copy_from_slice(b"MZ");
        file[60..64].copy_from_slice(&64u32.to_le_bytes());
        file[64..68].copy_from_slice(b"PE\0\0");
        file[70..72].copy_from_slice(&1u16.to_le_bytes());
        file[84..86].copy_from_slice(&16u16.to_le_bytes());
        let section = 64 + 24 + 16;
        file[section + 16..section + 20].copy_from_slice(&(data_end - 64).to_le_bytes());
        file[section + 20..section + 24].copy_from_slice(&64u32.to_le_bytes());
        file
    }

    #[test]
    fn a_plain_image_is_read_and_loaded() {
        let file = image(0, 0x20_0000, 4096);
        let kernel = Kernel::parse(&file, Format::Arm64).unwrap();
        assert_eq!(kernel.packing, Packing::Plain);
        assert_eq!(kernel.memory_size(), 0x20_0000);
        let mut out = Vec::new();
        let mut sink = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        assert_eq!(kernel.load(&mut sink), Ok(4096));
        assert_eq!(out, file);
    }

    #[test]
    fn a_packed_image_loads_as_the_plain_one() {
        let file = image(0x8_0000, 0x10_0000, 100_000);
        let packed = gzip::tests::pack(&file);
        let kernel = Kernel::parse(&packed, Format::Arm64).unwrap();
        assert_eq!((kernel.packing, kernel.offset()), (Packing::Gzip, 0x8_0000));
        let mut out = Vec::new();
        let mut sink = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        kernel.load(&mut sink).unwrap();
        assert_eq!(out, file);
    }

    #[test]
    fn a_cut_image_is_noticed_by_its_sections() {
        let file = with_pe(image(0, 0x20_0000, 8192), 8192);
        assert!(Kernel::parse(&file, Format::Arm64).is_ok());
        let error = Kernel::parse(&file[..8000], Format::Arm64).unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel: truncated: 8192 bytes needed, 8000 present; load the whole file and check the module's size"
        );
    }

    #[test]
    fn what_is_no_image_is_named() {
        for (start, word) in [
            (&b"\x7fELF"[..], "ELF"),
            (&[0x27, 0x05, 0x19, 0x56], "uImage"),
            (&[0x5d, 0, 0, 0x80], "no arm64 Image"),
        ] {
            let mut file = vec![0; 4096];
            file[..4].copy_from_slice(start);
            let text = Kernel::parse(&file, Format::Arm64).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
        assert!(Kernel::parse(&[], Format::Arm64).is_err());
    }

    #[test]
    fn each_machine_takes_its_own_images() {
        let mut file = image(0x20_0000, 0x40_0000, 4096);
        let error = Kernel::parse(&file, Format::Riscv64).unwrap_err();
        assert!(error.to_string().contains("an Image for arm64; give"));
        file[56..60].copy_from_slice(b"RSC\x05");
        let error = Kernel::parse(&file, Format::Arm64).unwrap_err();
        assert!(error.to_string().contains("an Image for RISC-V; give"));
        let kernel = Kernel::parse(&file, Format::Riscv64).unwrap();
        assert_eq!((kernel.offset(), kernel.memory_size()), (0, 0x40_0000));
        let error = Kernel::parse(&[7; 64], Format::Riscv64).unwrap_err();
        assert!(error.to_string().contains("give arch/riscv/boot/Image"));
    }

    #[test]
    fn impossible_headers_are_refused() {
        assert!(Kernel::parse(&image(3 << 20, 4096, 64), Format::Arm64).is_err());
        assert!(Kernel::parse(&image(0, 1 << 40, 64), Format::Arm64).is_err());
        assert!(Kernel::parse(&image(12, 4096, 64), Format::Arm64).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            fuzz_image(&bytes);
        }

        #[test]
        fn damaged_images_are_survived(
            length in 64usize..4000,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            packed in any::<bool>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut file = with_pe(image(0, 0x10_0000, length + 200), length as u32);
            if packed { file = gzip::tests::pack(&file); }
            for (at, value) in damage { let at = at.index(file.len()); file[at] = value; }
            fuzz_image(&file);
            fuzz_image(&file[..cut.index(file.len())]);
        }
    }
}
