//! Stage 2 faults of memory that is there after all.
//!
//! A translation is changed by first making it invalid (break before make), so while one CPU splits a block or replaces
//! a frame, others may fault on pages that stay mapped. Whoever changes translations holds their lock: a look under the
//! same lock tells whether the guest should simply try again.

use xenolith_core::VcpuRef;
use xenolith_hal::{GuestPhys, GuestVirt, P2m, P2mType};

use crate::{
    Aarch64,
    cpu::regs::read,
    mm::guest_access::{self, Want},
};

/// What the guest tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// A load, or a walk of its own tables.
    Load,
    /// A store.
    Store,
    /// An instruction fetch.
    Fetch,
}

/// The guest-physical address of a fault at `far`. `None` when the guest's tables lead elsewhere meanwhile.
#[inline]
pub fn address(vcpu: &VcpuRef<Aarch64>, far: u64, ipa_valid: bool) -> Option<GuestPhys> {
    if ipa_valid {
        return Some(GuestPhys((read!("hpfar_el2") & !0xf) << 8 | far & 0xfff));
    }
    guest_access::guest_phys(&vcpu.domain().p2m, GuestVirt(far), Want::Read).ok()
}

/// Whether what was tried at `far` is allowed now. The CPU's own walk answers for data; whether an instruction may be
/// fetched it does not tell, so the entry for `gpa` does.
#[inline]
pub fn is_over(vcpu: &VcpuRef<Aarch64>, far: u64, gpa: GuestPhys, tried: Tried) -> bool {
    let p2m = &vcpu.domain().p2m;
    match tried {
        Tried::Load => guest_access::is_reachable(p2m, GuestVirt(far), Want::Read),
        Tried::Store => guest_access::is_reachable(p2m, GuestVirt(far), Want::Write),
        Tried::Fetch => p2m.with_entry(gpa.frame(), |entry| {
            entry.is_some_and(|e| matches!(e.kind, P2mType::RamRw | P2mType::RamRo))
        }),
    }
}
