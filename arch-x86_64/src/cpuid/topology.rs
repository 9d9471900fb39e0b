//! How a domain's vCPUs show as a processor: one package, each vCPU a core with one thread.
//!
//! APIC ids are twice the vCPU's number, as on Xen, so the lowest bit of an id is a thread's and the others are a core's.

use super::{
    Leaf, Policy, Vendor,
    features::{ext1_ecx_own, leaf1_edx_own},
};

const THREAD_BITS: u32 = 1;
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

impl Policy {
    pub(super) fn set_topology(&mut self, vcpus: u32) {
        let vcpus = vcpus.max(1);
        let ids = vcpus
            .saturating_mul(2)
            .checked_next_power_of_two()
            .unwrap_or(2);
        let id_bits = ids.trailing_zeros();
        if vcpus > 1 {
            self.basic[1][1] |= ids.min(0xff) << 16;
            self.basic[1][3] |= leaf1_edx_own::HTT;
            if self.vendor == Vendor::Amd {
                self.extended[1][2] |= ext1_ecx_own::CMP_LEGACY;
            }
        }
        self.topology = [
            [THREAD_BITS, 1, LEVEL_THREAD, 0],
            [id_bits, vcpus & 0xffff, LEVEL_CORE, 0],
        ];
        if self.vendor == Vendor::Amd {
            self.extended[8][2] = id_bits << 12 | (vcpus - 1).min(0xff);
        }
        for cache in &mut self.caches {
            set_sharing(cache, ids);
        }
    }
}

/// Leaf 4: the first two levels are a core's own, the others are everyone's.
fn set_sharing(cache: &mut Leaf, ids: u32) {
    let kind = cache[0] & 0x1f;
    if kind == 0 {
        return;
    }
    let level = cache[0] >> 5 & 7;
    let sharing = if level <= 2 { 1 } else { (ids - 1).min(0xfff) };
    let cores = (ids / 2 - 1).min(0x3f);
    cache[0] = cache[0] & 0x3fff | sharing << 14 | cores << 26;
}
