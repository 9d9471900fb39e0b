//! What a CPU has to be told for a PV vCPU beside its registers: the bits of CR4 that its kernel chose, TSC_AUX, SPEC_CTRL.

use x86_64::registers::{
    control::{Cr4, Cr4Flags},
    model_specific::Msr,
};

use super::control::loaded_cr4;
use crate::{guest::vcpu::ArchDomain, msr::Register, pv::vcpu::PvVcpu, speculation::apply};

const TSC_AUX: u32 = 0xc000_0103;
const SPEC_CTRL: u32 = 0x48;

/// Sets it all for a vCPU of the domain.
pub fn load(pv: &PvVcpu, domain: &ArchDomain) {
    let policy = &domain.policy;
    load_cr4(pv.cr4.get() & policy.pv_cr4());
    if policy.has_tsc_aux() {
        load_tsc_aux(pv.tsc_aux.get());
    }
    if Register::SpecCtrl.exists(policy) {
        load_spec_ctrl(pv.spec_ctrl.get());
    }
}

/// The hypervisor's own SPEC_CTRL holds again.
pub fn unload(pv: &PvVcpu) {
    if pv.spec_ctrl.get() != 0 {
        load_spec_ctrl(0);
    }
}

/// Sets the bits of CR4 that a kernel chose among those it has.
#[inline]
pub fn load_cr4(chosen: u64) {
    let own = Cr4::read_raw();
    let new = loaded_cr4(chosen, own);
    if new != own {
        // SAFETY: TSD, DE and FSGSBASE alone change, which the guest's CPU has and the hypervisor needs neither way.
        unsafe { Cr4::write(Cr4Flags::from_bits_retain(new)) }
    }
}

/// Sets TSC_AUX, where the domain has it.
pub fn load_tsc_aux(value: u32) {
    // SAFETY: the policy shows it only where the CPU has it; the hypervisor does not use it.
    unsafe { Msr::new(TSC_AUX).write(value.into()) }
}

/// Sets SPEC_CTRL, where the domain has it: what the guest asks for, and what the hypervisor does. So it need not be changed
/// between the two.
pub fn load_spec_ctrl(value: u32) {
    // SAFETY: the policy shows it only where the CPU has it, and only bits that exist pass its check.
    unsafe { Msr::new(SPEC_CTRL).write(u64::from(value) | apply::host_spec_ctrl()) }
}
