//! MSRs that are the same for every vCPU, or hold a value that changes nothing.
//!
//! They say what is not there: no performance counters, no microcode to load, machine-check banks in which nothing is ever
//! reported; and they swallow the writes by which kernels switch on bits of the chip that are the host's affair.

use super::{
    GeneralProtection,
    memory_types::{self, MemoryTypes},
};
use crate::cpuid::{Policy, Vendor, features::leaf7_edx};

mod index {
    pub const P5_MC_ADDR: u32 = 0x0;
    pub const P5_MC_TYPE: u32 = 0x1;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const MICROCODE_REVISION: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MISC_FEATURES: u32 = 0x140;
    pub const MCG_CAPABILITIES: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUG_CONTROL: u32 = 0x1d9;
    pub const LAST_BRANCH_FIRST: u32 = 0x1db;
    pub const LAST_BRANCH_LAST: u32 = 0x1de;
    pub const BANK_FIRST: u32 = 0x400;
    pub const BANK_LAST: u32 = BANK_FIRST + 4 * super::BANKS - 1;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const IORR_FIRST: u32 = 0xc001_0016;
    pub const IORR_LAST: u32 = 0xc001_0019;
    pub const TOP_MEM: u32 = 0xc001_001a;
    pub const TOP_MEM2: u32 = 0xc001_001d;
    pub const NB_CFG: u32 = 0xc001_001f;
    pub const INTERRUPT_PENDING: u32 = 0xc001_0055;
    pub const MMIO_CONFIG_BASE: u32 = 0xc001_0058;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const DC_CFG: u32 = 0xc001_1022;
    pub const BU_CFG: u32 = 0xc001_1023;
    pub const DE_CFG: u32 = 0xc001_1029;
    pub const BU_CFG2: u32 = 0xc001_102a;
}

const LOCKED: u64 = 1;
/// Fast strings; branch trace and precise events are not there.
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
/// Machine-check banks, each of four registers: control, status, address, more.
const BANKS: u32 = 2;
/// The TSC counts at the rate of the highest performance state.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
const VM_CR_SVM_DISABLE: u64 = 1 << 4;
const DE_CFG_LFENCE_SERIALIZING: u64 = 1 << 1;
/// Promises of the host's ARCH_CAPABILITIES that hold for a guest too: RDCL_NO, IBRS_ALL, RSBA, SSB_NO, MDS_NO,
/// IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, FB_CLEAR, RRSBA, BHI_NO, PBRSB_NO. The host flushes the L1
/// data cache on entry where it must: SKIP_L1DFL is always told.
const ARCH_CAPABILITIES: u64 =
    0b111 | 0b111 << 4 | 1 << 8 | 0b111 << 13 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 24;
const SKIP_L1DFL: u64 = 1 << 3;

/// What of the host's own MSRs guests are told, read once at boot.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostMsrs {
    /// MSR 0x8b as the host reads it.
    pub microcode_revision: u64,
    /// MSR 0x10a, or 0 where CPUID does not show it.
    pub arch_capabilities: u64,
}

/// What a vCPU has written here.
#[derive(Clone, Copy, Debug, Default)]
pub struct MsrState {
    memory_types: MemoryTypes,
}

/// The model's answers for one domain.
#[derive(Clone, Copy, Debug)]
pub struct MsrPolicy {
    vendor: Vendor,
    has_arch_capabilities: bool,
    physical_bits: u32,
    host: HostMsrs,
}

/// Whether the model answers for an index, on one vendor's CPUs at least.
pub(super) const fn is_modelled(index: u32) -> bool {
    is_common(index) || is_intel(index) || is_amd(index)
}

const fn is_common(index: u32) -> bool {
    use index::*;
    memory_types::is_one(index)
        || matches!(
            index,
            P5_MC_ADDR
                | P5_MC_TYPE
                | MICROCODE_REVISION
                | MCG_CAPABILITIES
                | MCG_STATUS
                | BANK_FIRST..=BANK_LAST
                | DEBUG_CONTROL
                | LAST_BRANCH_FIRST..=LAST_BRANCH_LAST
        )
}

const fn is_intel(index: u32) -> bool {
    use index::*;
    matches!(
        index,
        PLATFORM_ID
            | FEATURE_CONTROL
            | PLATFORM_INFO
            | ARCH_CAPABILITIES
            | MISC_FEATURES
            | MISC_ENABLE
    )
}

const fn is_amd(index: u32) -> bool {
    use index::*;
    matches!(
        index,
        SYSCFG | HWCR | IORR_FIRST
            ..=IORR_LAST
                | TOP_MEM
                | TOP_MEM2
                | NB_CFG
                | INTERRUPT_PENDING
                | MMIO_CONFIG_BASE
                | VM_CR
                | DC_CFG
                | BU_CFG
                | DE_CFG
                | BU_CFG2
    )
}

const fn only_if(good: bool) -> Result<(), GeneralProtection> {
    if good { Ok(()) } else { Err(GeneralProtection) }
}

impl MsrPolicy {
    /// For a domain that reads this CPUID.
    #[must_use]
    pub const fn new(cpuid: &Policy, host: HostMsrs) -> Self {
        Self {
            vendor: cpuid.vendor(),
            has_arch_capabilities: cpuid.has_leaf7_edx(leaf7_edx::ARCH_CAPABILITIES),
            physical_bits: cpuid.physical_bits(),
            host,
        }
    }

    fn exists(&self, index: u32) -> Result<(), GeneralProtection> {
        let own = match self.vendor {
            Vendor::Intel => is_intel(index),
            Vendor::Amd => is_amd(index),
        };
        let shown = index != index::ARCH_CAPABILITIES || self.has_arch_capabilities;
        only_if(is_common(index) || own && shown)
    }

    /// What the guest reads.
    pub fn read(&self, state: &MsrState, index: u32) -> Result<u64, GeneralProtection> {
        self.exists(index)?;
        if memory_types::is_one(index) {
            return state.memory_types.read(index);
        }
        Ok(match index {
            index::FEATURE_CONTROL => LOCKED,
            index::MICROCODE_REVISION => self.host.microcode_revision,
            index::MCG_CAPABILITIES => BANKS.into(),
            index::ARCH_CAPABILITIES => {
                self.host.arch_capabilities & ARCH_CAPABILITIES | SKIP_L1DFL
            }
            index::MISC_ENABLE => MISC_ENABLE,
            index::HWCR => HWCR_TSC_FREQ_SEL,
            index::VM_CR => VM_CR_SVM_DISABLE,
            index::DE_CFG => DE_CFG_LFENCE_SERIALIZING,
            _ => 0,
        })
    }

    /// The guest writes; what is neither kept nor refused is dropped.
    pub fn write(
        &self,
        state: &mut MsrState,
        index: u32,
        value: u64,
    ) -> Result<(), GeneralProtection> {
        self.exists(index)?;
        match index {
            _ if memory_types::is_one(index) => {
                state.memory_types.write(index, value, self.physical_bits)
            }
            // The status of a bank: nothing is in it, so clearing it is all that there is to do.
            index::BANK_FIRST..=index::BANK_LAST if index & 3 == 1 => only_if(value == 0),
            // Kernels write zero before they ask for the revision.
            index::MICROCODE_REVISION => only_if(self.vendor == Vendor::Intel),
            index::MCG_STATUS | index::MISC_FEATURES => only_if(value == 0),
            // Nothing is recorded: branch records and single steps by branch are switched on to no effect.
            index::DEBUG_CONTROL => only_if(value & !self.debug_control_bits() == 0),
            index::PLATFORM_ID
            | index::PLATFORM_INFO
            | index::FEATURE_CONTROL
            | index::ARCH_CAPABILITIES
            | index::MCG_CAPABILITIES
            | index::VM_CR => Err(GeneralProtection),
            _ => Ok(()),
        }
    }

    const fn debug_control_bits(&self) -> u64 {
        match self.vendor {
            Vendor::Intel => 0b11,
            Vendor::Amd => 0x3f,
        }
    }
}
