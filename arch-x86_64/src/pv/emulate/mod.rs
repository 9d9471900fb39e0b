//! Instructions that a PV guest's kernel uses as if it ran in ring 0, and the hypervisor does for it.

use super::run::Stopped;

/// An instruction that the CPU does not have, or one with the prefix that asks for emulation. False: the guest gets the exception.
pub fn undefined(_: &mut Stopped<'_>) -> bool {
    false
}

/// An instruction that ring 3 may not use. True: it is done, or another exception was delivered.
pub fn privileged(_: &mut Stopped<'_>) -> bool {
    false
}
