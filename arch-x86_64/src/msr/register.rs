//! MSRs that the guest's own instructions use, so that the backend keeps them loaded: which exist, what may stand there.

use super::GeneralProtection;
use crate::cpuid::{
    Policy, Vendor,
    features::{ext1_edx, ext8_ebx, leaf7_edx},
};

/// A register that the backend holds for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the manuals")]
pub enum Register {
    Efer,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    FsBase,
    GsBase,
    KernelGsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Pat,
    TscAux,
    SpecCtrl,
}

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Whether an address is canonical with four levels of paging.
const fn is_canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}

/// Types that exist: uncached, write-combining, write-through, write-protected, write-back, weakly uncached.
const fn is_pat(value: u64) -> bool {
    let bytes = value.to_le_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !matches!(bytes[index], 0 | 1 | 4..=7) {
            return false;
        }
        index += 1;
    }
    true
}

impl Register {
    /// Whether the guest has it.
    #[must_use]
    pub const fn exists(self, policy: &Policy) -> bool {
        match self {
            Self::TscAux => policy.has_extended(ext1_edx::RDTSCP),
            Self::SpecCtrl => Self::spec_ctrl_bits(policy) != 0,
            Self::Star
            | Self::Lstar
            | Self::Cstar
            | Self::Sfmask
            | Self::FsBase
            | Self::GsBase
            | Self::KernelGsBase => policy.has_extended(ext1_edx::LM),
            _ => true,
        }
    }

    /// IBRS, STIBP and SSBD, as far as CPUID shows them.
    const fn spec_ctrl_bits(policy: &Policy) -> u64 {
        use {ext8_ebx as amd, leaf7_edx as intel};
        let mut bits = 0;
        if policy.has_leaf7_edx(intel::IBRS) || policy.has_ext8_ebx(amd::IBRS) {
            bits |= 1;
        }
        if policy.has_leaf7_edx(intel::STIBP) || policy.has_ext8_ebx(amd::STIBP) {
            bits |= 1 << 1;
        }
        if policy.has_leaf7_edx(intel::SSBD) || policy.has_ext8_ebx(amd::SSBD) {
            bits |= 1 << 2;
        }
        bits
    }

    /// Whether a value may stand in it; for [`Register::Efer`] use [`check_efer`]. Tells what to load: AMD's registers
    /// for SYSENTER have 32 bits.
    pub fn check(self, value: u64, policy: &Policy) -> Result<u64, GeneralProtection> {
        let good = match self {
            Self::Lstar | Self::Cstar | Self::FsBase | Self::GsBase | Self::KernelGsBase => {
                is_canonical(value)
            }
            Self::SysenterEsp | Self::SysenterEip if policy.vendor() == Vendor::Intel => {
                is_canonical(value)
            }
            Self::SysenterEsp | Self::SysenterEip | Self::SysenterCs => {
                return Ok(value & 0xffff_ffff);
            }
            Self::Sfmask | Self::TscAux => value >> 32 == 0,
            Self::Pat => is_pat(value),
            Self::SpecCtrl => value & !Self::spec_ctrl_bits(policy) == 0,
            Self::Star => true,
            Self::Efer => value & !policy.efer_valid() == 0,
        };
        if good && self.exists(policy) {
            Ok(value)
        } else {
            Err(GeneralProtection)
        }
    }
}

/// What a write of EFER leaves there: LMA is the CPU's own, LME stays while paging is on.
pub fn check_efer(
    old: u64,
    new: u64,
    paging: bool,
    policy: &Policy,
) -> Result<u64, GeneralProtection> {
    if new & !policy.efer_valid() != 0 || paging && (old ^ new) & EFER_LME != 0 {
        return Err(GeneralProtection);
    }
    Ok(new & !EFER_LMA | old & EFER_LMA)
}
