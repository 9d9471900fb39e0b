//! `platform_op`: what the control domain's kernel asks of the machine.
//!
//! Header: `platform.h`. Common to all architectures is setting the wall clock; what the machine is asked beyond that, the
//! architecture answers ([`Rows::platform_op`]).

use xenolith_abi::platform::{
    EnterAcpiSleep, INTERFACE_VERSION, PlatformOp, PlatformOpArg, Settime64,
};
use xenolith_hal::{GuestVirt, Hal, Nanos};
use zerocopy::{FromBytes, IntoBytes};

use super::{Rows, access::Privilege};
use crate::{Errno, domain::MachineAction, guest::Caller};

/// Serves `platform_op`.
#[inline(never)]
pub fn platform_op<H: Hal, A: Rows<H>>(caller: Caller<'_, H>, at: GuestVirt) -> Result<i64, Errno> {
    let mut op: PlatformOpArg = caller.read(at)?;
    if op.interface_version != INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    Privilege::of(caller)?;
    match PlatformOp::try_from(op.cmd)? {
        PlatformOp::Settime64 => {
            let (time, _) =
                Settime64::read_from_prefix(op.body.as_bytes()).map_err(|_| Errno::EINVAL)?;
            set_time(caller, time)
        }
        PlatformOp::EnterAcpiSleep if H::PLATFORM_SLEEP => {
            let (sleep, _) =
                EnterAcpiSleep::read_from_prefix(op.body.as_bytes()).map_err(|_| Errno::EINVAL)?;
            enter_sleep(caller, sleep)
        }
        what => {
            let result = A::platform_op(caller, what, &mut op)?;
            caller.write(at, &op)?;
            Ok(result)
        }
    }
}

/// The kernel has prepared for a sleep and leaves the last step to the hypervisor. Only soft-off is done: sleeping would
/// have to stop every domain and wake the machine again.
fn enter_sleep<H: Hal>(caller: Caller<'_, H>, sleep: EnterAcpiSleep) -> Result<i64, Errno> {
    const SOFT_OFF: u32 = 5;
    /// The registers of machines without the usual ones.
    const EXTENDED: u32 = 1;
    match (sleep.flags, sleep.sleep_state) {
        (EXTENDED, _) => return Err(Errno::EPERM),
        (0, SOFT_OFF) => {}
        (0, 1..SOFT_OFF) => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    log::info!("domain {} powers the machine off", caller.domain().id().0);
    MachineAction::PowerOff.carry_out(&caller.hv.hal)
}

fn set_time<H: Hal>(caller: Caller<'_, H>, time: Settime64) -> Result<i64, Errno> {
    if time.mbz != 0 {
        return Err(Errno::EINVAL);
    }
    let since_1970 = time
        .secs
        .saturating_mul(1_000_000_000)
        .saturating_add(time.nsecs.into());
    let at_boot = Nanos(since_1970).since(Nanos(time.system_time));
    caller.hv.set_wallclock(at_boot);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::rig::*;
    use xenolith_abi::Nr;

    fn settime(version: u32, cmd: u32, time: Settime64) -> PlatformOpArg {
        let mut body = [0; 16];
        body.as_mut_bytes()[..size_of::<Settime64>()].copy_from_slice(time.as_bytes());
        PlatformOpArg {
            cmd,
            interface_version: version,
            body,
        }
    }

    const TIME: Settime64 = Settime64 {
        secs: 5_000_000_010,
        nsecs: 7,
        mbz: 0,
        system_time: 10_000_000_000,
    };

    #[test]
    fn the_wall_clock_of_every_domain_follows_dom0() {
        let rig = Rig::new();
        let op = settime(INTERFACE_VERSION, 62, TIME);
        assert_eq!(rig.call_on(0, Nr::PlatformOp, &op), Ok(0));
        for domain in &rig.domains {
            let layout = xenolith_abi::arm::SHARED_INFO;
            let word = |offset| {
                let mut word = 0u32;
                rig.hv
                    .hal
                    .read_frame(domain.shared_info, offset, word.as_mut_bytes())
                    .unwrap();
                word
            };
            let seconds = u64::from(word(layout.wc_sec_hi)) << 32 | u64::from(word(layout.wc_sec));
            assert_eq!(seconds, 5_000_000_000);
            assert_eq!(word(layout.wc_nsec), 7);
            assert_eq!(word(layout.wc_version) % 2, 0);
            assert_ne!(word(layout.wc_version), 0);
        }
    }

    #[test]
    fn only_a_privileged_domain_with_the_right_version_sets_the_clock() {
        let rig = Rig::new();
        let good = settime(INTERFACE_VERSION, 62, TIME);
        assert_eq!(
            rig.call_on(0, Nr::PlatformOp, &settime(1, 62, TIME)),
            Err(Errno::EACCES)
        );
        assert_eq!(rig.call_on(1, Nr::PlatformOp, &good), Err(Errno::EPERM));
        assert_eq!(
            rig.call(0, Nr::PlatformOp, [NOWHERE, 0, 0, 0, 0]),
            Err(Errno::EFAULT)
        );
        let unclean = Settime64 { mbz: 1, ..TIME };
        assert_eq!(
            rig.call_on(0, Nr::PlatformOp, &settime(INTERFACE_VERSION, 62, unclean)),
            Err(Errno::EINVAL)
        );
        for cmd in [17, 35, 50, 63, 64, u32::MAX] {
            assert_eq!(
                rig.call_on(0, Nr::PlatformOp, &settime(INTERFACE_VERSION, cmd, TIME)),
                Err(Errno::ENOSYS)
            );
        }
    }
}
