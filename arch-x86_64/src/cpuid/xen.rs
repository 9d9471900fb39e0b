//! The leaves 0x4000_0000 to 0x4000_0005 by which a guest knows Xen (public header arch-x86/cpuid.h).

use xenolith_abi::version::VERSION;

use super::Leaf;

/// First leaf.
pub const FIRST: u32 = 0x4000_0000;
/// MSR that a guest writes to have a hypercall page filled.
pub const HYPERCALL_PAGE_MSR: u32 = 0x4000_0000;
const LAST: u32 = FIRST + 5;
const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
const HYPERCALL_PAGES: u32 = 1;

/// Leaf 2, of PV guests: `MMU_PT_UPDATE_PRESERVE_AD` is there.
const PRESERVE_AD: u32 = 1;
const X2APIC_VIRT: u32 = 1 << 1;
const IOMMU_MAPPINGS: u32 = 1 << 2;
const VCPU_ID_PRESENT: u32 = 1 << 3;
const DOMID_PRESENT: u32 = 1 << 4;
const UPCALL_VECTOR: u32 = 1 << 6;

/// How a guest makes nanoseconds of its TSC: leaf 3. RDTSC is not trapped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Time {
    /// The guest's TSC, kHz.
    pub tsc_khz: u32,
    /// The host's TSC, kHz.
    pub host_khz: u32,
    /// What is added to the host's TSC.
    pub offset: u64,
    /// nanoseconds = (ticks shifted by `shift`) * `multiplier` / 2^32
    pub multiplier: u32,
    /// Left when positive, right when negative.
    pub shift: i8,
    /// The host's TSC counts alike on all CPUs, always.
    pub reliable: bool,
    /// How often the domain has moved.
    pub incarnation: u32,
}

/// What leaf 4 says of the container.
#[derive(Clone, Copy, Debug, Default)]
pub struct Container {
    /// Accesses to x2APIC registers are cheap: prefer them to event-channel IPIs.
    pub x2apic_virtualized: bool,
    /// Memory mapped from other domains may be given to devices.
    pub iommu_mappings: bool,
    /// A vector per vCPU (`HVMOP_set_evtchn_upcall_vector`) works with physical interrupts too.
    pub upcall_vector: bool,
}

/// The static leaves of one domain.
#[derive(Clone, Debug, Default)]
pub struct XenLeaves {
    /// Leaf 3.
    pub time: Time,
    /// Leaf 4.
    pub container: Container,
    /// Domain number, leaf 4.
    pub domain: u16,
    /// RDTSCP is there, leaf 3.
    pub(super) rdtscp: bool,
    /// Of a PV domain: bits of the highest machine address, leaf 5.
    pub(super) pv_address_bits: Option<u8>,
}

impl XenLeaves {
    /// A leaf, for a vCPU with this number.
    #[must_use]
    pub fn leaf(&self, leaf: u32, subleaf: u32, vcpu: u32) -> Leaf {
        let [b, c, d] = SIGNATURE;
        if let Some(bits) = self.pv_address_bits {
            match leaf - FIRST {
                2 => return [HYPERCALL_PAGES, HYPERCALL_PAGE_MSR, PRESERVE_AD, 0],
                3 if subleaf == 1 => return [0; 4],
                4 => return [0; 4],
                5 if subleaf == 0 => return [0, bits.into(), 0, 0],
                _ => {}
            }
        }
        match leaf - FIRST {
            0 => [LAST, b, c, d],
            1 => [VERSION, 0, 0, 0],
            2 => [HYPERCALL_PAGES, HYPERCALL_PAGE_MSR, 0, 0],
            3 => self.time(subleaf),
            4 if subleaf == 0 => [self.container_bits(), vcpu, self.domain.into(), 0],
            _ => [0; 4],
        }
    }

    fn time(&self, subleaf: u32) -> Leaf {
        let time = &self.time;
        match subleaf {
            0 => [
                u32::from(time.reliable) << 1 | u32::from(self.rdtscp) << 2,
                0,
                time.tsc_khz,
                time.incarnation,
            ],
            1 => [
                time.offset as u32,
                (time.offset >> 32) as u32,
                time.multiplier,
                i32::from(time.shift) as u32,
            ],
            2 => [time.host_khz, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn container_bits(&self) -> u32 {
        let container = &self.container;
        let bit = |set, bit| if set { bit } else { 0 };
        VCPU_ID_PRESENT
            | DOMID_PRESENT
            | bit(container.x2apic_virtualized, X2APIC_VIRT)
            | bit(container.iommu_mappings, IOMMU_MAPPINGS)
            | bit(container.upcall_vector, UPCALL_VECTOR)
    }
}
