//! MSRs of PV guests, as Xen 4.17 has them: who answers for which.
//!
//! Segment bases and a few words are a vCPU's own; most of the rest is what a CPU without counters, thermal control and
//! machine checks says. Memory type ranges, the local APIC's registers and those of system calls are not there at all: a PV
//! guest has hypercalls for them.

use crate::cpuid::Vendor;

/// The page attribute table of every CPU: the first four entries as after reset, then write-combining, write-protected and twice
/// uncached. PV guests choose from it and cannot change it.
pub const PAT: u64 = 0x0000_0501_0007_0406;

/// IA32_MISC_ENABLE: fast strings; branch trace, precise events and task priority messages are not there. AMD's CPUs have no such
/// register, and their kernels do not ask.
pub const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12 | 1 << 23;

/// EFER as a guest sees it: SCE, LME, LMA, NXE, LMSLE, FFXSR.
pub const EFER_SHOWN: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14;

/// Who answers for an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PvMsr {
    /// FS base.
    FsBase,
    /// GS base of the kernel that runs.
    GsBase,
    /// GS base of its programs.
    UserGsBase,
    /// EFER: reads as the CPU's, and can be written with what it reads.
    Efer,
    /// Where an APIC would be; not to be written.
    ApicBase,
    /// The time-stamp counter; not to be written.
    Tsc,
    /// TSC_AUX, where the guest has it.
    TscAux,
    /// [`PAT`]; not to be written.
    Pat,
    /// SPEC_CTRL, where the guest has it.
    SpecCtrl,
    /// PRED_CMD, where the guest has it.
    PredictionCommand,
    /// A write fills one of the guest's pages with hypercalls.
    HypercallPage,
    /// [`MISC_ENABLE`]; writes are dropped.
    MiscEnable,
    /// Reads as 0; writes are dropped.
    Nothing,
    /// Reads as 0; not to be written.
    ReadsZero,
    /// Not to be read; writes are dropped.
    Dropped,
    /// Controls a machine-check bank: all errors are told; writes are dropped.
    BankControl,
    /// Reads as 0, and nothing else can be written.
    Zero,
    /// How many machine-check banks there are; writes are dropped.
    BankCount,
    /// [`crate::msr::MsrPolicy`].
    Model,
    /// #GP.
    Unknown,
}

/// Machine-check banks that are shown; there are registers for more.
pub const BANKS: u32 = 2;
const BANK_FIRST: u32 = 0x400;
const BANK_LAST: u32 = 0x47f;

/// Who answers for an index.
#[must_use]
pub const fn classify(index: u32, vendor: Vendor) -> PvMsr {
    match index {
        0xc000_0100 => PvMsr::FsBase,
        0xc000_0101 => PvMsr::GsBase,
        0xc000_0102 => PvMsr::UserGsBase,
        0xc000_0080 => PvMsr::Efer,
        0xc000_0103 => PvMsr::TscAux,
        0x10 => PvMsr::Tsc,
        0x1b => PvMsr::ApicBase,
        0x48 => PvMsr::SpecCtrl,
        0x49 => PvMsr::PredictionCommand,
        0x277 => PvMsr::Pat,
        0x4000_0000 => PvMsr::HypercallPage,
        // Machine checks: addresses of old, capabilities, status, control.
        0x0 | 0x1 => PvMsr::ReadsZero,
        0x17a | 0x17b => PvMsr::Nothing,
        BANK_FIRST..=BANK_LAST => bank(index - BANK_FIRST),
        // What the CPU's clock does meanwhile is nobody's affair.
        0xe7 | 0xe8 => PvMsr::Dropped,
        0x140 => PvMsr::Zero,
        0x1a0 => PvMsr::MiscEnable,
        0x179 => PvMsr::BankCount,
        0x8b | 0x10a => PvMsr::Model,
        _ => match vendor {
            Vendor::Intel => intel(index),
            Vendor::Amd => amd(index),
        },
    }
}

const fn bank(at: u32) -> PvMsr {
    match at & 3 {
        0 if at / 4 < BANKS => PvMsr::BankControl,
        1 => PvMsr::Zero,
        _ => PvMsr::Nothing,
    }
}

const fn intel(index: u32) -> PvMsr {
    match index {
        0x3a | 0xce => PvMsr::Model,
        0x17 => PvMsr::ReadsZero,
        // Performance counters and what selects their events; speed and heat.
        0xc1..=0xc8
        | 0x186..=0x18d
        | 0x309..=0x30b
        | 0x345
        | 0x38d..=0x390
        | 0x198
        | 0x199
        | 0x19c => PvMsr::Nothing,
        0x19a | 0x1b0 => PvMsr::Dropped,
        _ => PvMsr::Unknown,
    }
}

const fn amd(index: u32) -> PvMsr {
    match index {
        // What each event counter can do.
        0xce | 0x345 => PvMsr::ReadsZero,
        // Counters, old and new; clock and voltage, performance states.
        0xc001_0000..=0xc001_0007
        | 0xc001_0200..=0xc001_020b
        | 0xc001_0041
        | 0xc001_0042
        | 0xc001_0061..=0xc001_006b
        // The north bridge's word, and the CPU's.
        | 0xc001_001f => PvMsr::Nothing,
        // The chipset's words.
        0xc001_0010 | 0xc001_0016..=0xc001_001a | 0xc001_001d | 0xc001_0112 => PvMsr::ReadsZero,
        0xc001_0015 | 0xc001_1029 => PvMsr::Model,
        _ => PvMsr::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(index: u32) -> PvMsr {
        let found = classify(index, Vendor::Amd);
        assert_eq!(found, classify(index, Vendor::Intel), "{index:#x}");
        found
    }

    #[test]
    fn what_hypercalls_are_for_is_not_there() {
        let ranges = [
            0x174..=0x176,
            0x200..=0x20f,
            0x250..=0x26f,
            0x2fe..=0x2ff,
            0x800..=0x8ff,
        ];
        for index in ranges
            .into_iter()
            .flatten()
            .chain(0xc000_0081..=0xc000_0084)
        {
            assert_eq!(both(index), PvMsr::Unknown, "{index:#x}");
        }
    }

    #[test]
    fn virtualization_and_power_limits_are_not_there() {
        for index in [
            0x480,
            0x48f,
            0x606,
            0x611,
            0xc001_0114,
            0xc001_0117,
            0xc001_0055,
            0xc001_1022,
            0xdead_beef,
        ] {
            assert_eq!(both(index), PvMsr::Unknown, "{index:#x}");
        }
    }

    #[test]
    fn machine_check_banks_are_quiet() {
        assert_eq!(both(0x400), PvMsr::BankControl);
        assert_eq!(both(0x404), PvMsr::BankControl);
        assert_eq!(both(0x408), PvMsr::Nothing);
        assert_eq!(both(0x401), PvMsr::Zero);
        assert_eq!(both(0x402), PvMsr::Nothing);
        assert_eq!(both(0x480), PvMsr::Unknown);
    }

    #[test]
    fn each_vendor_has_its_own() {
        for (index, intel, amd) in [
            (0x186, PvMsr::Nothing, PvMsr::Unknown),
            (0xc001_0010, PvMsr::Unknown, PvMsr::ReadsZero),
            (0xc001_0062, PvMsr::Unknown, PvMsr::Nothing),
            (0xc001_1029, PvMsr::Unknown, PvMsr::Model),
        ] {
            assert_eq!(classify(index, Vendor::Intel), intel, "{index:#x}");
            assert_eq!(classify(index, Vendor::Amd), amd, "{index:#x}");
        }
    }

    #[test]
    fn the_first_entries_of_the_attribute_table_are_those_after_reset() {
        const RESET: u64 = 0x0007_0406_0007_0406;
        assert_eq!(PAT as u32, RESET as u32);
    }
}
