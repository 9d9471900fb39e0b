//! How guests access interrupt controller registers: sizes, and the banks that hold one bit per interrupt.

/// How wide an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 8 bits.
    Byte = 0,
    /// 16 bits.
    Half = 1,
    /// 32 bits.
    Word = 2,
    /// 64 bits.
    Double = 3,
}

/// An access that the hardware answers with an external abort: a width that the register does not have, or misaligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAccess;

impl Size {
    /// From the logarithm of the number of bytes, of which the lowest two bits count.
    #[inline]
    #[must_use]
    pub const fn from_log2(log2: u32) -> Self {
        match log2 & 3 {
            0 => Self::Byte,
            1 => Self::Half,
            2 => Self::Word,
            _ => Self::Double,
        }
    }

    /// How many bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self as u32
    }

    #[inline]
    pub(super) const fn check_aligned(self, offset: u32) -> Result<(), BadAccess> {
        if offset & (self.bytes() - 1) == 0 {
            Ok(())
        } else {
            Err(BadAccess)
        }
    }

    /// Only 32-bit accesses are allowed.
    #[inline]
    pub(super) const fn word(self) -> Result<(), BadAccess> {
        match self {
            Self::Word => Ok(()),
            _ => Err(BadAccess),
        }
    }

    /// Bytes and words are allowed; how many bytes.
    pub(super) const fn narrow(self) -> Result<u32, BadAccess> {
        match self {
            Self::Byte => Ok(1),
            Self::Word => Ok(4),
            _ => Err(BadAccess),
        }
    }
}

/// The part of a 64-bit register that an access reads: all of it, or the half at its offset.
pub(super) const fn halves(value: u64, offset: u32, size: Size) -> Result<u64, BadAccess> {
    match size {
        Size::Double => Ok(value),
        Size::Word => Ok(value >> ((offset & 4) * 8) & 0xffff_ffff),
        _ => Err(BadAccess),
    }
}

/// A run of registers with one bit per interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bank {
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

impl Bank {
    /// The bank and word that an offset below 0x400 names. `IGROUPR` is none: guests have one group only and it reads as
    /// zero to them.
    #[inline]
    pub(super) const fn at(offset: u32) -> Option<(Self, usize)> {
        let bank = match offset >> 7 {
            2 => Self::SetEnable,
            3 => Self::ClearEnable,
            4 => Self::SetPending,
            5 => Self::ClearPending,
            6 => Self::SetActive,
            7 => Self::ClearActive,
            _ => return None,
        };
        Some((bank, (offset as usize & 0x7f) >> 2))
    }
}
