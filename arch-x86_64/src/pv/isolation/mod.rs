//! Page tables of PV guests isolated from the hypervisor (against Meltdown; Xen's XPTI).
//!
//! While an isolated guest runs, CR3 holds a root of its CPU's: a copy of the guest's root whose hypervisor part shows only what
//! entry and exit need ([`root`]). The first instructions behind the guest load the guest's own root, in which all of the
//! hypervisor is, and the last ones before it the copy ([`super::guard`]). Each CPU has a copy for kernels and one for programs.
//!
//! Invariant: no CPU runs a guest on a copy that has an entry which the guest's root has no more, once whoever changed the entry
//! goes on. A change is counted, then every CPU in a guest is made to stop and to look at the count ([`cpu`]).

pub mod root;

#[cfg(target_os = "none")]
pub mod cpu;
