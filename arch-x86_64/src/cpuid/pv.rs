//! What a PV guest reads by a forced CPUID: what every guest may have (`A` in `arch-x86/cpufeatureset.h`), and Xen's leaves as PV
//! guests know them. What belongs to paging and to emulated controllers (`S`, `H`) is not there.

use super::{
    DomainFacts, Handled, Leaf, Policy, Vendor,
    features::{
        EXT1_EDX_COPIES, ext1_edx, ext8_ebx, ext21_eax, leaf1_ecx, leaf1_edx, leaf1_edx_pv,
        leaf7_ebx, leaf7_ecx, leaf7_edx,
    },
};

/// What of a PV domain shows in its leaves, beside [`DomainFacts`].
#[derive(Clone, Copy, Debug)]
pub struct PvFacts {
    /// It owns the machine's devices.
    pub hardware: bool,
    /// Bits of the highest machine address of RAM.
    pub address_bits: u8,
}

mod hidden {
    use super::*;

    pub const LEAF1_EDX: u32 =
        leaf1_edx::VME | leaf1_edx::PSE | leaf1_edx::MTRR | leaf1_edx::PGE | leaf1_edx::PSE36;
    pub const LEAF1_ECX: u32 = leaf1_ecx::PCID | leaf1_ecx::X2APIC;
    pub const LEAF7_EBX: u32 = leaf7_ebx::SMEP | leaf7_ebx::SMAP | leaf7_ebx::INVPCID;
    pub const LEAF7_ECX: u32 = leaf7_ecx::UMIP | leaf7_ecx::MOVDIRI | leaf7_ecx::MOVDIR64B;
    pub const LEAF7_EDX: u32 = leaf7_edx::AVX512_VP2INTERSECT;
    pub const EXT1_EDX: u32 = ext1_edx::PAGE1GB;
    pub const EXT8_EBX: u32 = ext8_ebx::IBRS
        | ext8_ebx::STIBP
        | ext8_ebx::IBRS_ALWAYS
        | ext8_ebx::STIBP_ALWAYS
        | ext8_ebx::IBRS_FAST
        | ext8_ebx::SSBD;
    pub const EXT21_EAX: u32 = ext21_eax::NO_NESTED_DATA_BP;
}

/// Bits of CR4 that a PV guest's kernel has to itself.
pub mod cr4 {
    /// RDTSC is the kernel's alone.
    pub const TSD: u64 = 1 << 2;
    /// DR4 and DR5 are not there.
    pub const DE: u64 = 1 << 3;
    /// RDFSBASE and its like.
    pub const FSGSBASE: u64 = 1 << 16;
    /// XSAVE and XSETBV.
    pub const OSXSAVE: u64 = 1 << 18;
}

impl Policy {
    /// The leaves of a PV domain, on a host whose leaves `host` reads.
    pub fn paravirtual(
        host: impl Fn(u32, u32) -> Leaf,
        handled: Handled,
        domain: &DomainFacts,
        facts: &PvFacts,
    ) -> Self {
        let mut policy = Self::maximum(&host, handled).for_domain(domain);
        let leaf1 = &mut policy.basic[1];
        leaf1[2] &= !hidden::LEAF1_ECX;
        leaf1[3] &= !hidden::LEAF1_EDX;
        leaf1[3] |= host(1, 0)[3] & leaf1_edx_pv::ACPI;
        if policy.vendor == Vendor::Amd {
            // SYSENTER is not for long mode there.
            leaf1[3] &= !leaf1_edx::SEP;
        }
        if facts.hardware {
            // Kernels look at the bit before they ask the hypervisor for the ranges.
            leaf1[3] |= leaf1_edx::MTRR;
        }
        let copies = leaf1[3] & EXT1_EDX_COPIES;
        let extended = &mut policy.extended;
        extended[1][3] &= !hidden::EXT1_EDX;
        if policy.vendor == Vendor::Amd {
            extended[1][3] = extended[1][3] & !EXT1_EDX_COPIES | copies;
        } else {
            // Xen shows it there too.
            extended[1][3] |= copies & leaf1_edx::MTRR;
        }
        extended[8][1] &= !hidden::EXT8_EBX;
        extended[0x21][0] &= !hidden::EXT21_EAX;
        let features = &mut policy.features[0];
        features[1] &= !hidden::LEAF7_EBX;
        features[2] &= !hidden::LEAF7_ECX;
        features[3] &= !hidden::LEAF7_EDX;
        // It comes with the x2APIC.
        policy.topology = Default::default();
        policy.set_pv_leaves(facts);
        policy
    }

    fn set_pv_leaves(&mut self, facts: &PvFacts) {
        self.xen.pv_address_bits = Some(facts.address_bits);
        if facts.hardware {
            // Its time is the machine's: there is nothing to convert.
            let time = &mut self.xen.time;
            time.tsc_khz = 0;
            time.incarnation = 0;
        }
    }

    /// Which of the bits in [`cr4`] the guest has.
    #[inline]
    #[must_use]
    pub const fn pv_cr4(&self) -> u64 {
        let [_, _, c, d] = self.basic[1];
        let b7 = self.features[0][1];
        let mut bits = 0;
        if d & leaf1_edx::TSC != 0 {
            bits |= cr4::TSD;
        }
        if d & leaf1_edx::DE != 0 {
            bits |= cr4::DE;
        }
        if b7 & leaf7_ebx::FSGSBASE != 0 {
            bits |= cr4::FSGSBASE;
        }
        if c & leaf1_ecx::XSAVE != 0 {
            bits |= cr4::OSXSAVE;
        }
        bits
    }

    /// Whether it has TSC_AUX.
    #[must_use]
    pub const fn has_tsc_aux(&self) -> bool {
        self.has_extended(ext1_edx::RDTSCP) || self.features[0][2] & leaf7_ecx::RDPID != 0
    }
}

/// Bits of the highest machine address, for [`PvFacts`]: `frames` is the number of the first frame behind all RAM.
#[must_use]
pub const fn address_bits(frames: u64) -> u8 {
    const PAGE_SHIFT: u32 = 12;
    let bits = u64::BITS - frames.saturating_sub(1).leading_zeros();
    (bits + PAGE_SHIFT) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::{VcpuFacts, xen};

    /// QEMU's `max,-smap`, as Xen runs on it.
    fn qemu_max(leaf: u32, subleaf: u32) -> Leaf {
        match (leaf, subleaf) {
            (0, _) => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
            (1, _) => [0x0006_0fb1, 0x0300_0800, 0xfef8_320b, 0x1fcb_fbff],
            (7, 0) => [0, 0x0198_07a9 | 1 << 20, 0x0021_0204, 0],
            (0xd, 0) => [0x207, 0x240, 0xa88, 0],
            (0xd, 1) => [5, 0, 0, 0],
            (0xd, 2) => [256, 576, 0, 0],
            (0x8000_0000, _) => [0x8000_0021, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
            (0x8000_0001, _) => [0x0006_0fb1, 0, 0x65, 0xedd3_fbff],
            (0x8000_0008, _) => [0x3028, 0, 0, 0],
            (0x8000_0021, _) => [5, 0, 0, 0],
            _ => [0; 4],
        }
    }

    const HANDLED: Handled = Handled {
        xsave: true,
        tsc_aux: true,
        pcid: false,
        spec_ctrl: false,
    };

    fn policy(facts: PvFacts) -> Policy {
        let domain = DomainFacts {
            vcpus: 1,
            time: xen::Time {
                tsc_khz: 2_500_000,
                host_khz: 2_500_000,
                ..Default::default()
            },
            ..Default::default()
        };
        Policy::paravirtual(qemu_max, HANDLED, &domain, &facts)
    }

    const DOM0: PvFacts = PvFacts {
        hardware: true,
        address_bits: 30,
    };

    fn leaf(policy: &Policy, leaf: u32, subleaf: u32) -> Leaf {
        policy.cpuid(leaf, subleaf, &VcpuFacts::default())
    }

    /// The words are what Xen 4.17 answers on that CPU model.
    #[test]
    fn a_driver_domain_reads_what_it_reads_on_xen() {
        let policy = policy(DOM0);
        let [a, _, c, d] = leaf(&policy, 1, 0);
        assert_eq!([a, c, d], [0x0006_0fb1, 0xf6d8_3203, 0x0fc9_d3f5]);
        assert_eq!(leaf(&policy, 7, 0)[1], 0x0188_0329);
        assert_eq!(leaf(&policy, 0x8000_0001, 0)[2..], [0x61, 0xe9d1_dbf5]);
        assert_eq!(leaf(&policy, 0x8000_0008, 0)[..2], [0x3028, 0]);
        assert_eq!(leaf(&policy, 0x8000_0021, 0)[0], 4);
        assert_eq!(leaf(&policy, 0xb, 0), [0; 4]);
        assert_eq!(leaf(&policy, 0xb, 1), [0; 4]);
    }

    #[test]
    fn the_hypervisors_leaves_are_those_of_pv_guests() {
        let policy = policy(DOM0);
        assert_eq!(leaf(&policy, 0x4000_0000, 0)[0], 0x4000_0005);
        assert_eq!(leaf(&policy, 0x4000_0002, 0), [1, 0x4000_0000, 1, 0]);
        assert_eq!(leaf(&policy, 0x4000_0003, 0), [4, 0, 0, 0]);
        assert_eq!(leaf(&policy, 0x4000_0003, 1), [0; 4]);
        assert_eq!(leaf(&policy, 0x4000_0003, 2), [2_500_000, 0, 0, 0]);
        assert_eq!(leaf(&policy, 0x4000_0004, 0), [0; 4]);
        assert_eq!(leaf(&policy, 0x4000_0005, 0), [0, 30, 0, 0]);
    }

    #[test]
    fn a_common_leaf_is_the_same_for_every_vcpu() {
        let policy = policy(DOM0);
        let ranges = [
            0..=0x20,
            0x3fff_ffff..=0x4000_0010,
            0x7fff_ffff..=0x8000_0030,
        ];
        for number in ranges.into_iter().flatten() {
            if let Some(common) = policy.common_leaf(number) {
                for vcpu_id in 0..3 {
                    let facts = VcpuFacts {
                        apic_id: vcpu_id * 2,
                        vcpu_id,
                        cr4: !0,
                        xcr0: 7,
                    };
                    assert_eq!(policy.cpuid(number, vcpu_id, &facts), common, "{number:#x}");
                }
            }
        }
        assert!(policy.common_leaf(0).is_some());
        assert_eq!(policy.common_leaf(1), None);
    }

    #[test]
    fn memory_type_ranges_are_for_who_owns_the_machine() {
        const MTRR: u32 = 1 << 12;
        let other = PvFacts {
            hardware: false,
            address_bits: 30,
        };
        for (facts, shown) in [(DOM0, MTRR), (other, 0)] {
            let policy = policy(facts);
            assert_eq!(leaf(&policy, 1, 0)[3] & MTRR, shown);
            assert_eq!(leaf(&policy, 0x8000_0001, 0)[3] & MTRR, shown);
        }
    }

    #[test]
    fn control_bits_follow_the_features() {
        let policy = policy(DOM0);
        let all = cr4::TSD | cr4::DE | cr4::FSGSBASE | cr4::OSXSAVE;
        assert_eq!(policy.pv_cr4(), all);
        let bare = |leaf, subleaf| match leaf {
            1 | 7 => [0; 4],
            _ => qemu_max(leaf, subleaf),
        };
        let domain = DomainFacts::default();
        let nothing = Policy::paravirtual(bare, HANDLED, &domain, &DOM0);
        assert_eq!(nothing.pv_cr4(), 0);
        assert!(nothing.has_tsc_aux());
    }

    #[test]
    fn address_bits_reach_the_last_frame() {
        assert_eq!(address_bits(0x4_0000), 30);
        assert_eq!(address_bits(0x4_0001), 31);
        assert_eq!(address_bits(0), 12);
    }
}
