//! From the host's leaves to the most that any guest may be shown, and from there to a domain's own.

use super::{
    BASIC, CACHES, DomainFacts, EXTENDED, FIRST_EXTENDED, Leaf, Policy, Vendor,
    features::{
        EXT1_EDX_COPIES, ext1_ecx, ext1_edx, ext7_edx, ext8_ebx, ext21_eax, leaf1_ecx,
        leaf1_ecx_own, leaf1_edx, leaf7_1_eax, leaf7_ebx, leaf7_ecx, leaf7_edx, needs_avx,
        needs_avx512, needs_spec_ctrl,
    },
    xen::XenLeaves,
    xstate::{self, Xstate},
};

/// What the backend switches or handles of the features that need it to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handled {
    /// XCR0 and the extended states.
    pub xsave: bool,
    /// TSC_AUX, so that RDTSCP and RDPID read the guest's own.
    pub tsc_aux: bool,
    /// CR4.PCIDE and INVPCID.
    pub pcid: bool,
    /// SPEC_CTRL and PRED_CMD.
    pub spec_ctrl: bool,
}

const INTEL_MAX_EXTENDED: u32 = 0x8000_0008;
const LINEAR_BITS: u32 = 48;

impl Policy {
    /// The most that a guest may be shown on this host, whose leaves `host` reads.
    pub fn maximum(host: impl Fn(u32, u32) -> Leaf, handled: Handled) -> Self {
        let leaf0 = host(0, 0);
        let max_basic = leaf0[0];
        let max_extended = host(FIRST_EXTENDED, 0)[0];
        let read = |leaf: u32, subleaf| {
            let max = if leaf >= FIRST_EXTENDED {
                max_extended
            } else {
                max_basic
            };
            if leaf <= max {
                host(leaf, subleaf)
            } else {
                [0; 4]
            }
        };
        let mut policy = Self {
            vendor: Vendor::of(leaf0[1]),
            basic: [[0; 4]; BASIC],
            caches: [[0; 4]; CACHES],
            features: [[0; 4]; 2],
            topology: [[0; 4]; 2],
            xstate: Xstate::default(),
            extended: [[0; 4]; EXTENDED],
            xen: XenLeaves::default(),
        };
        policy.take_basic(&read);
        policy.take_extended(&read, max_extended);
        policy.take_xstate(&read, handled);
        policy.drop_unhandled(handled);
        policy
    }

    fn take_basic(&mut self, read: &impl Fn(u32, u32) -> Leaf) {
        let [_, b, c, d] = read(0, 0);
        self.basic[0] = [BASIC as u32 - 1, b, c, d];
        let [a, b, c, d] = read(1, 0);
        self.basic[1] = [
            a,
            b & 0xff00,
            // The model of the local APIC has x2APIC whatever the host has.
            c & leaf1_ecx::LISTED | leaf1_ecx::X2APIC | leaf1_ecx_own::HYPERVISOR,
            d & leaf1_edx::LISTED | leaf1_edx::APIC,
        ];
        if self.vendor == Vendor::Intel {
            self.basic[2] = read(2, 0);
            for (index, cache) in (0..).zip(&mut self.caches) {
                *cache = read(4, index);
                if cache[0] & 0x1f == 0 {
                    *cache = [0; 4];
                    break;
                }
            }
        }
        let [last, b, c, d] = read(7, 0);
        let more = if last >= 1 {
            read(7, 1)[0] & leaf7_1_eax::LISTED
        } else {
            0
        };
        self.features = [
            [
                u32::from(more != 0),
                b & leaf7_ebx::LISTED,
                c & leaf7_ecx::LISTED,
                d & leaf7_edx::LISTED,
            ],
            [more, 0, 0, 0],
        ];
    }

    fn take_extended(&mut self, read: &impl Fn(u32, u32) -> Leaf, max: u32) {
        let limit = match self.vendor {
            Vendor::Intel => INTEL_MAX_EXTENDED,
            Vendor::Amd => FIRST_EXTENDED + EXTENDED as u32 - 1,
        };
        let [_, b, c, d] = read(FIRST_EXTENDED, 0);
        self.extended[0] = [max.clamp(INTEL_MAX_EXTENDED, limit), b, c, d];
        let [a, b, c, d] = read(FIRST_EXTENDED + 1, 0);
        let copies = if self.vendor == Vendor::Amd {
            self.basic[1][3] & EXT1_EDX_COPIES
        } else {
            0
        };
        self.extended[1] = [a, b, c & ext1_ecx::LISTED, d & ext1_edx::LISTED | copies];
        // The brand, then caches and TLBs.
        for index in [2, 3, 4, 5, 6, 0x19, 0x1a] {
            if (index as u32) <= limit - FIRST_EXTENDED {
                self.extended[index] = read(FIRST_EXTENDED + index as u32, 0);
            }
        }
        self.extended[7][3] = read(FIRST_EXTENDED + 7, 0)[3] & ext7_edx::LISTED;
        let [a, b, _, _] = read(FIRST_EXTENDED + 8, 0);
        let physical = if a & 0xff == 0 { 36 } else { a & 0xff };
        self.extended[8] = [LINEAR_BITS << 8 | physical, b & ext8_ebx::LISTED, 0, 0];
        if limit > INTEL_MAX_EXTENDED {
            self.extended[0x21][0] = read(FIRST_EXTENDED + 0x21, 0)[0] & ext21_eax::LISTED;
        }
    }

    fn take_xstate(&mut self, read: &impl Fn(u32, u32) -> Leaf, handled: Handled) {
        if handled.xsave && self.basic[1][2] & leaf1_ecx::XSAVE != 0 {
            self.xstate = Xstate::from_host(read);
        }
        let states = self.xstate.supported;
        let [features, more] = &mut self.features;
        if states == 0 {
            self.basic[1][2] &= !leaf1_ecx::XSAVE;
        }
        if states & xstate::AVX == 0 {
            self.basic[1][2] &= !needs_avx::LEAF1_ECX;
            features[1] &= !needs_avx::LEAF7_EBX;
            features[2] &= !needs_avx::LEAF7_ECX;
            more[0] &= !needs_avx::LEAF7_1_EAX;
            self.extended[1][2] &= !needs_avx::EXT1_ECX;
        }
        if states & xstate::AVX512 == 0 {
            features[1] &= !needs_avx512::LEAF7_EBX;
            features[2] &= !needs_avx512::LEAF7_ECX;
            features[3] &= !needs_avx512::LEAF7_EDX;
            more[0] &= !needs_avx512::LEAF7_1_EAX;
        }
    }

    fn drop_unhandled(&mut self, handled: Handled) {
        let features = &mut self.features[0];
        if !handled.tsc_aux {
            self.extended[1][3] &= !ext1_edx::RDTSCP;
            features[2] &= !leaf7_ecx::RDPID;
        }
        if !handled.pcid {
            self.basic[1][2] &= !leaf1_ecx::PCID;
        }
        if self.basic[1][2] & leaf1_ecx::PCID == 0 {
            features[1] &= !leaf7_ebx::INVPCID;
        }
        if !handled.spec_ctrl {
            features[3] &= !needs_spec_ctrl::LEAF7_EDX;
            self.extended[8][1] &= !needs_spec_ctrl::EXT8_EBX;
        }
    }

    /// The leaves of one domain.
    #[must_use]
    pub fn for_domain(&self, domain: &DomainFacts) -> Self {
        let mut policy = self.clone();
        policy.xen = XenLeaves {
            time: domain.time,
            container: domain.container,
            domain: domain.domain,
            rdtscp: self.has_extended(ext1_edx::RDTSCP),
            pv_address_bits: None,
        };
        if !domain.invariant_tsc {
            policy.extended[7][3] &= !ext7_edx::INVARIANT_TSC;
        }
        policy.set_topology(domain.vcpus);
        policy
    }
}
