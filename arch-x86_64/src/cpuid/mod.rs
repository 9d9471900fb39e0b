//! What a guest reads through CPUID.
//!
//! The host's leaves, cut to what this hypervisor handles ([`Policy::maximum`], once at boot), are completed for a domain
//! ([`Policy::for_domain`]) and looked up on each exit ([`Policy::cpuid`]), a few dozen instructions. The same policy says
//! which control-register bits exist, so that CPUID and the checks of CR4, EFER and XCR0 cannot disagree. A leaf beyond
//! the last reads as zeros, for every vendor, as on Xen.

pub mod features;
mod maximum;
pub mod pv;
mod topology;
pub mod xen;
pub mod xstate;

#[cfg(test)]
pub(crate) mod tests;

use features::{
    ext1_edx, ext8_ebx, leaf1_ecx, leaf1_ecx_own, leaf1_edx, leaf7_ebx, leaf7_ecx, leaf7_edx,
};
pub use maximum::Handled;
use xen::XenLeaves;
use xstate::Xstate;

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

const CR4_OSXSAVE: u64 = 1 << 18;
const BASIC: usize = 0xe;
const EXTENDED: usize = 0x22;
const FIRST_EXTENDED: u32 = 0x8000_0000;
const CACHES: usize = 8;

/// Who made the CPU; Hygon counts as AMD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel, and whoever follows it.
    Intel,
    /// AMD, and whoever follows it.
    Amd,
}

impl Vendor {
    /// From EBX of leaf 0: "AuthenticAMD" and "HygonGenuine" are AMD's way, the rest Intel's.
    #[must_use]
    pub const fn of(name: u32) -> Self {
        const AUTHENTIC: u32 = u32::from_le_bytes(*b"Auth");
        const HYGON: u32 = u32::from_le_bytes(*b"Hygo");
        match name {
            AUTHENTIC | HYGON => Self::Amd,
            _ => Self::Intel,
        }
    }
}

/// What of a vCPU shows in its leaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuFacts {
    /// Id of its local APIC.
    pub apic_id: u32,
    /// Its number in the domain.
    pub vcpu_id: u32,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// XCR0 as the guest has set it.
    pub xcr0: u64,
}

/// What of a domain shows in its leaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct DomainFacts {
    /// Its number.
    pub domain: u16,
    /// How many vCPUs it may have; their APIC ids are twice their numbers.
    pub vcpus: u32,
    /// Its clock.
    pub time: xen::Time,
    /// What leaf 0x4000_0004 says.
    pub container: xen::Container,
    /// The TSC never changes its rate for this guest: it stays on this machine.
    pub invariant_tsc: bool,
}

/// The leaves of a domain.
#[derive(Clone, Debug)]
pub struct Policy {
    vendor: Vendor,
    basic: [Leaf; BASIC],
    /// Leaf 4.
    caches: [Leaf; CACHES],
    /// Leaf 7, sub-leaves 0 and 1.
    features: [Leaf; 2],
    /// Leaf 0xb.
    topology: [Leaf; 2],
    /// Leaf 0xd.
    xstate: Xstate,
    extended: [Leaf; EXTENDED],
    xen: XenLeaves,
}

impl Policy {
    /// What a vCPU reads.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, vcpu: &VcpuFacts) -> Leaf {
        if leaf < BASIC as u32 {
            return match leaf {
                1 => self.leaf1(vcpu),
                4 => row(&self.caches, subleaf),
                7 => row(&self.features, subleaf),
                0xb => self.topology_leaf(subleaf, vcpu),
                0xd => self.xstate.leaf(subleaf, vcpu.xcr0),
                _ => row(&self.basic, leaf),
            };
        }
        if leaf >= FIRST_EXTENDED {
            return row(&self.extended, leaf - FIRST_EXTENDED);
        }
        if leaf & !0xff == xen::FIRST {
            return self.xen.leaf(leaf, subleaf, vcpu.vcpu_id);
        }
        [0; 4]
    }

    /// A leaf that says the same whatever the sub-leaf and to every vCPU, if it is one: the quick part of [`Policy::cpuid`].
    #[inline]
    #[must_use]
    pub fn common_leaf(&self, leaf: u32) -> Option<Leaf> {
        if leaf >= FIRST_EXTENDED {
            return Some(row(&self.extended, leaf - FIRST_EXTENDED));
        }
        match leaf {
            1 | 4 | 7 | 0xb | 0xd => None,
            _ => self.basic.get(leaf as usize).copied(),
        }
    }

    fn leaf1(&self, vcpu: &VcpuFacts) -> Leaf {
        let [a, b, c, d] = self.basic[1];
        let osxsave = if vcpu.cr4 & CR4_OSXSAVE == 0 {
            0
        } else {
            leaf1_ecx_own::OSXSAVE
        };
        [a, b | vcpu.apic_id << 24, c | osxsave, d]
    }

    fn topology_leaf(&self, subleaf: u32, vcpu: &VcpuFacts) -> Leaf {
        if self.topology[0] == [0; 4] {
            // A PV guest has none, of any level.
            return [0; 4];
        }
        let [a, b, c, _] = row(&self.topology, subleaf);
        [a, b, c | subleaf & 0xff, vcpu.apic_id]
    }

    /// Whose CPU it is.
    #[must_use]
    pub const fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// The extended states, and which XCR0 values are good.
    #[must_use]
    pub const fn xstate(&self) -> &Xstate {
        &self.xstate
    }

    /// The clock that the guest is told of, to be changed only while no vCPU runs.
    pub const fn time_mut(&mut self) -> &mut xen::Time {
        &mut self.xen.time
    }

    /// Whether the guest has an instruction or register of leaf 0x8000_0001, EDX.
    #[must_use]
    pub const fn has_extended(&self, bit: u32) -> bool {
        self.extended[1][3] & bit != 0
    }

    /// Whether the guest has a feature of leaf 7.0, EDX.
    #[must_use]
    pub const fn has_leaf7_edx(&self, bit: u32) -> bool {
        self.features[0][3] & bit != 0
    }

    /// Whether the guest has a feature of leaf 0x8000_0008, EBX.
    #[must_use]
    pub const fn has_ext8_ebx(&self, bit: u32) -> bool {
        self.extended[8][1] & bit != 0
    }

    /// Whether a write of PRED_CMD is a prediction barrier, or refused.
    #[must_use]
    pub const fn has_prediction_barrier(&self) -> bool {
        self.has_leaf7_edx(leaf7_edx::IBRS) || self.has_ext8_ebx(ext8_ebx::IBPB)
    }

    /// Bits of a guest-physical address.
    #[must_use]
    pub const fn physical_bits(&self) -> u32 {
        self.extended[8][0] & 0xff
    }

    /// The bits of CR4 that the guest may set; others are #GP.
    #[must_use]
    pub fn cr4_valid(&self) -> u64 {
        use {leaf1_ecx as c1, leaf1_edx as d1, leaf7_ebx as b7, leaf7_ecx as c7};
        let [_, _, c, d] = self.basic[1];
        let [_, b7_bits, c7_bits, _] = self.features[0];
        let table = [
            (d, d1::VME, 0b11),
            (d, d1::TSC, 1 << 2),
            (d, d1::DE, 1 << 3),
            (d, d1::PSE, 1 << 4),
            (d, d1::PAE, 1 << 5),
            (d, d1::MCE, 1 << 6),
            (d, d1::PGE, 1 << 7),
            (d, d1::FXSR, 1 << 9),
            (d, d1::SSE, 1 << 10),
            (c7_bits, c7::UMIP, 1 << 11),
            (b7_bits, b7::FSGSBASE, 1 << 16),
            (c, c1::PCID, 1 << 17),
            (c, c1::XSAVE, CR4_OSXSAVE),
            (b7_bits, b7::SMEP, 1 << 20),
            (b7_bits, b7::SMAP, 1 << 21),
        ];
        // Performance counters read as absent; that RDPMC may be allowed to users does no harm.
        const PCE: u64 = 1 << 8;
        table
            .iter()
            .filter(|(register, feature, _)| register & feature != 0)
            .fold(PCE, |bits, (_, _, bit)| bits | bit)
    }

    /// The bits of EFER that the guest may set; others are #GP. LMA is read-only and counts as allowed.
    #[must_use]
    pub fn efer_valid(&self) -> u64 {
        let table = [
            (ext1_edx::SYSCALL, 1),
            (ext1_edx::LM, 1 << 8 | 1 << 10),
            (ext1_edx::NX, 1 << 11),
            (ext1_edx::FFXSR, 1 << 14),
        ];
        table
            .iter()
            .filter(|(feature, _)| self.has_extended(*feature))
            .fold(0, |bits, (_, bit)| bits | bit)
    }
}

fn row(table: &[Leaf], index: u32) -> Leaf {
    table.get(index as usize).copied().unwrap_or_default()
}
