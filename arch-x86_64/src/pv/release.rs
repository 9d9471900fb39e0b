//! The end of PV domains: their frames and page tables are let go only when no CPU can use them any more.

use xenolith_hal::{DomId, Mfn};

use super::{flush, machine::ThisCpu};
use crate::cpu::percpu::PerCpu;

/// No CPU keeps a translation to a frame that is about to become somebody else's.
pub fn forget_frame(mfn: Mfn, owner: DomId) {
    let Some(cpu) = PerCpu::try_current() else {
        return;
    };
    let record = cpu.hv.memory.record(mfn);
    match record.and_then(|record| record.last_unmapped()) {
        Some(stamp) => flush::older(cpu, Some(owner), stamp),
        None => flush::older(cpu, Some(owner), u64::MAX),
    }
}

/// Lets go of a domain's tables. False: there is more to do, and an interrupt waits.
pub fn drop_page_tables(domain: DomId) -> bool {
    let Some(cpu) = PerCpu::try_current() else {
        return true;
    };
    let Some(domain) = cpu.hv.domains.get(domain) else {
        return true;
    };
    let Some(pv) = &domain.arch.pv else {
        return true;
    };
    for vcpu in &domain.vcpus {
        if let Some(pv) = vcpu.arch.pv() {
            super::descriptors::forget(pv);
        }
    }
    ThisCpu(cpu)
        .tables()
        .release_domain(&domain, &pv.release_at)
}
