//! `domctl` and `sysctl`: the tools' calls, of which nothing is served yet.
//!
//! Headers: `domctl.h`, `sysctl.h`. What comes before the sub-operation is answered as Xen does: whether the struct can
//! be read, its version, the domain it names, the caller's privilege.

use xenolith_abi::{DomId, domctl, sysctl};
use xenolith_hal::{GuestVirt, Hal};

use super::access::Privilege;
use crate::{Errno, guest::Caller};

/// Sizes of the whole structs: a header and 128 bytes for the sub-operation.
const DOMCTL_SIZE: usize = 16 + 128;
const SYSCTL_SIZE: usize = 8 + 128;

fn half(words: &[u32], at: usize) -> u32 {
    words.get(at).copied().unwrap_or(0)
}

/// Serves `sysctl`.
#[inline(never)]
pub fn sysctl<H: Hal>(caller: Caller<'_, H>, op: GuestVirt) -> Result<i64, Errno> {
    let words: [u32; SYSCTL_SIZE / 4] = caller.read(op)?;
    if half(&words, 1) != sysctl::INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    Privilege::of(caller)?;
    Err(Errno::ENOSYS)
}

/// Serves `domctl`.
#[inline(never)]
pub fn domctl<H: Hal>(caller: Caller<'_, H>, op: GuestVirt) -> Result<i64, Errno> {
    let words: [u32; DOMCTL_SIZE / 4] = caller.read(op)?;
    if half(&words, 1) != domctl::INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    let domain = DomId(half(&words, 2) as u16);
    if half(&words, 0) != domctl::DomctlOp::CreateDomain.number() {
        caller.hv.domains.get(domain).ok_or(Errno::ESRCH)?;
    }
    Privilege::of(caller)?;
    Err(Errno::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::rig::*;
    use xenolith_abi::Nr;

    fn op(cmd: u32, version: u32, domain: u32) -> [u32; DOMCTL_SIZE / 4] {
        let mut words = [0; DOMCTL_SIZE / 4];
        words[..3].copy_from_slice(&[cmd, version, domain]);
        words
    }

    #[test]
    fn tools_learn_of_a_wrong_version_before_anything_else() {
        let rig = Rig::new();
        for nr in [Nr::Domctl, Nr::Sysctl] {
            assert_eq!(rig.call_on(1, nr, &op(3, 0x14, 0)), Err(Errno::EACCES));
            assert_eq!(rig.call_on(1, nr, &op(3, 0x15, 0)), Err(Errno::EPERM));
            assert_eq!(rig.call_on(0, nr, &op(3, 0x15, 0)), Err(Errno::ENOSYS));
            assert_eq!(rig.call(0, nr, [NOWHERE, 0, 0, 0, 0]), Err(Errno::EFAULT));
        }
    }

    #[test]
    fn control_of_a_domain_that_does_not_exist_is_refused() {
        let rig = Rig::new();
        assert_eq!(
            rig.call_on(0, Nr::Domctl, &op(3, 0x15, 9)),
            Err(Errno::ESRCH)
        );
        assert_eq!(
            rig.call_on(0, Nr::Domctl, &op(1, 0x15, 9)),
            Err(Errno::ENOSYS)
        );
    }
}
