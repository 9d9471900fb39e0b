//! Hypercalls that only x86 has. One set for guests of both kinds, so that what is compiled for it is there once; who calls is
//! looked at where the two differ.

use xenolith_abi::{
    grant_table::GrantStatus,
    platform::{PlatformOp, PlatformOpArg},
    vcpu::VcpuOp,
};
use xenolith_core::{
    Errno, VcpuRef,
    grant::PvMapping,
    guest::Caller,
    hypercall::{self, Outcome},
    timer::VcpuTimer,
};
use xenolith_hal::{GuestVirt, Hal, Nanos};

use super::{absent, mmuext::mmuext_op, physdev, platform};
use crate::{
    X86_64,
    pv::{self, machine::ThisCpu},
};

/// What x86 has beyond the common hypercalls.
pub struct Rows;

impl Rows {
    /// Serves a hypercall, whoever calls.
    #[inline(never)]
    pub fn serve(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Outcome {
        hypercall::dispatch_row::<_, Self>(caller, nr, args)
    }
}

impl hypercall::Rows<X86_64> for Rows {
    #[inline(always)]
    fn call(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Option<Outcome> {
        const SET_TIMER: u64 = 15;
        const MMUEXT: u64 = 26;
        if nr == SET_TIMER {
            let [low, high, ..] = args;
            let narrow = caller.vcpu.arch.narrow.get();
            set_timer(caller, if narrow { high << 32 | low } else { low });
            return Some(Outcome::Done(0));
        }
        let own = match caller.vcpu.arch.pv() {
            Some(pv) => pv::hypercall::call(caller, pv, nr, args),
            None => (nr == MMUEXT).then(|| mmuext_op(caller, args)),
        };
        match own {
            Some(outcome) => Some(outcome),
            None => absent::call(caller, nr, args),
        }
    }

    #[inline]
    fn serve(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Outcome {
        Self::serve(caller, nr, args)
    }

    #[inline(always)]
    fn map_granted(caller: Caller<'_, X86_64>, mapping: &PvMapping) -> Result<(), GrantStatus> {
        let cpu = ThisCpu::of().ok_or(GrantStatus::GeneralError)?;
        cpu.tables().map_granted(caller, mapping)
    }

    fn unmap_granted(
        caller: Caller<'_, X86_64>,
        mapping: &PvMapping,
        new: Option<GuestVirt>,
    ) -> Result<(), GrantStatus> {
        let cpu = ThisCpu::of().ok_or(GrantStatus::GeneralError)?;
        cpu.tables().unmap_granted(caller, mapping, new)
    }

    fn flush_granted(caller: Caller<'_, X86_64>) {
        if let Some(cpu) = ThisCpu::of() {
            cpu.tables().flush_granted(caller);
        }
    }

    fn vcpu_op(
        caller: Caller<'_, X86_64>,
        op: VcpuOp,
        vcpu: &VcpuRef<X86_64>,
        arg: GuestVirt,
    ) -> Outcome {
        if vcpu.arch.pv().is_some() {
            return pv::hypercall::vcpu_op(caller, op, vcpu, arg);
        }
        match op {
            VcpuOp::Initialise => physdev::initialise(caller, vcpu, arg).into(),
            VcpuOp::SendNmi => {
                if vcpu.arch.lapic.signals().post_nmi() {
                    caller.hv.notify(vcpu);
                }
                Outcome::Done(0)
            }
            _ => Errno::ENOSYS.into(),
        }
    }

    fn platform_op(
        caller: Caller<'_, X86_64>,
        what: PlatformOp,
        op: &mut PlatformOpArg,
    ) -> Result<i64, Errno> {
        platform::platform_op(caller, what, op)
    }

    fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
        match caller.vcpu.arch.pv() {
            Some(_) => pv::physdev::physdev_op(caller, cmd, arg),
            None => physdev::physdev_op(caller, cmd, arg),
        }
    }
}

/// `set_timer_op`: the calling vCPU's one-shot timer, as an absolute time; 0 stops it. A time that has passed, or one that
/// is negative, fires at once.
fn set_timer(caller: Caller<'_, X86_64>, deadline: u64) {
    match deadline {
        0 => {
            caller.hv.cancel_timer(caller.vcpu, VcpuTimer::Singleshot);
        }
        _ if deadline.cast_signed() < 0 => {
            let now = caller.hv.hal.now();
            caller.hv.set_timer(caller.vcpu, VcpuTimer::Singleshot, now);
        }
        _ => caller
            .hv
            .set_timer(caller.vcpu, VcpuTimer::Singleshot, Nanos(deadline)),
    }
}
