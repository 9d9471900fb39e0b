//! `vm_assist`: behaviours that a domain switches on and off.
//!
//! Header: `xen.h` (`VMASST_*`). A translated domain has only the one that every architecture has: whether the copy of a
//! vCPU's runstate in its guest's memory says when it changes. A paravirtual one may switch all of them; those that are for
//! 32-bit kernels come to nothing.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_abi::vm_assist::{Assist, AssistCommand};
use xenolith_hal::Hal;

use crate::{Errno, guest::Caller};

/// Serves `vm_assist`. A behaviour that does not exist is `EINVAL` before the command is looked at.
#[inline(never)]
pub fn vm_assist<H: Hal>(caller: Caller<'_, H>, cmd: u32, kind: u32) -> Result<i64, Errno> {
    let domain = caller.domain();
    let which = Assist::try_from(kind)?;
    if which != Assist::RunstateUpdateFlag && !domain.is_pv() {
        return Err(Errno::EINVAL);
    }
    let on = AssistCommand::try_from(cmd)? == AssistCommand::Enable;
    match on {
        true => domain.assists.fetch_or(which.bit(), Relaxed),
        false => domain.assists.fetch_and(!which.bit(), Relaxed),
    };
    if which == Assist::RunstateUpdateFlag {
        domain.sched.runstate_update_flag.store(on, Relaxed);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use crate::hypercall::rig::*;
    use xenolith_abi::{Errno, Nr};

    #[test]
    fn the_runstate_flag_goes_on_and_off() {
        let rig = Rig::new();
        let call = |cmd, kind| rig.call(1, Nr::VmAssist, [cmd, kind, 0, 0, 0]);
        let is_on = |id: usize| rig.domains[id].sched.runstate_update_flag.load(Relaxed);
        assert_eq!(call(0, 5), Ok(0));
        assert!(is_on(1) && !is_on(0));
        assert_eq!(call(1, 5), Ok(0));
        assert!(!is_on(1));
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
