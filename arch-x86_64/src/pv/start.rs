//! The registers that a vCPU of a PV guest starts with: dom0's and others' made at boot, or what the guest says for a further vCPU
//! (`VCPUOP_initialise`, `struct vcpu_guest_context`).

use xenolith_abi::errno::Errno;
use xenolith_core::{VcpuRef, guest::Caller};
use xenolith_hal::GuestVirt;

use crate::X86_64;

/// `VCPUOP_initialise`.
pub fn initialise(_: Caller<'_, X86_64>, _: &VcpuRef<X86_64>, _: GuestVirt) -> Result<i64, Errno> {
    Err(Errno::ENOSYS)
}
