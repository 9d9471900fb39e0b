//! Calls that Xen has with nothing behind them in a usual build: no security policy.

use xenolith_hal::{GuestVirt, Hal};

use crate::{Errno, guest::Caller};

/// Serves `xsm_op`. Kernels and tools take the answer as "no policy".
pub fn xsm_op<H: Hal>(_: Caller<'_, H>, _op: GuestVirt) -> Errno {
    Errno::ENOSYS
}

#[cfg(test)]
mod tests {
    use crate::hypercall::rig::*;
    use xenolith_abi::{Errno, Nr, physdev::PhysdevOp};

    #[test]
    fn no_device_can_be_announced_and_no_policy_asked_for() {
        let rig = Rig::new();
        for op in PhysdevOp::ALL {
            let answer = rig.call(0, Nr::PhysdevOp, [op.number().into(), PAGE, 0, 0, 0]);
            assert_eq!(answer, Err(Errno::ENOSYS));
        }
        assert_eq!(
            rig.call(0, Nr::XsmOp, [PAGE, 0, 0, 0, 0]),
            Err(Errno::ENOSYS)
        );
    }
}
