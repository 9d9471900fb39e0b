//! `vm_assist`: behaviours that a domain switches on and off.
//!
//! Header: `xen.h` (`VMASST_*`). Only the one that every architecture has is known here.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_abi::vm_assist::{Assist, AssistCommand};
use xenolith_hal::Hal;

use crate::{Errno, guest::Caller};

/// What a domain has switched on.
#[derive(Debug, Default)]
pub struct Assists(AtomicU64);

impl Assists {
    /// Everything off.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether a behaviour is on.
    #[inline]
    pub fn is_on(&self, assist: Assist) -> bool {
        self.0.load(Relaxed) & Self::bit(assist) != 0
    }

    const fn bit(assist: Assist) -> u64 {
        1 << assist.number()
    }
}

/// Serves `vm_assist`. A behaviour that does not exist is `EINVAL` before the command is looked at.
#[inline(never)]
pub fn vm_assist<H: Hal>(caller: Caller<'_, H>, cmd: u32, kind: u32) -> Result<i64, Errno> {
    let assist = Assist::try_from(kind)?;
    if assist != Assist::RunstateUpdateFlag {
        return Err(Errno::EINVAL);
    }
    let (on, bit) = (&caller.domain().assists.0, Assists::bit(assist));
    match AssistCommand::try_from(cmd)? {
        AssistCommand::Enable => on.fetch_or(bit, Relaxed),
        AssistCommand::Disable => on.fetch_and(!bit, Relaxed),
    };
    Ok(0)
}

#[cfg(test)]
mod tests {
    use crate::hypercall::rig::*;
    use xenolith_abi::{Errno, Nr, vm_assist::Assist};

    #[test]
    fn the_runstate_flag_goes_on_and_off() {
        let rig = Rig::new();
        let flag = Assist::RunstateUpdateFlag;
        let call = |cmd, kind| rig.call(1, Nr::VmAssist, [cmd, kind, 0, 0, 0]);
        assert_eq!(call(0, 5), Ok(0));
        assert!(rig.domains[1].assists.is_on(flag) && !rig.domains[0].assists.is_on(flag));
        assert_eq!(call(1, 5), Ok(0));
        assert!(!rig.domains[1].assists.is_on(flag));
    }

    #[test]
    fn unknown_behaviours_are_invalid_and_unknown_commands_not_implemented() {
        let rig = Rig::new();
        let call = |cmd, kind| rig.call(1, Nr::VmAssist, [cmd, kind, 0, 0, 0]);
        for kind in [0, 1, 4, 6, 32, 63, 64, u64::from(u32::MAX)] {
            assert_eq!(call(0, kind), Err(Errno::EINVAL));
            assert_eq!(call(9, kind), Err(Errno::EINVAL));
        }
        assert_eq!(call(2, 5), Err(Errno::ENOSYS));
    }
}
