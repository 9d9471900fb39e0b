//! `vcpu_op`: operations on one vCPU of the caller's domain (`public/vcpu.h`).

use core::sync::atomic::Ordering::SeqCst;

use xenolith_abi::{runstate::RunstateInfo, vcpu as wire, vcpu::VcpuOp};
use xenolith_hal::{Gfn, GuestVirt, Hal, Nanos};

use crate::{
    Errno, VcpuId, VcpuRef,
    guest::Caller,
    hypercall::{Outcome, Rows},
    timer::VcpuTimer,
};

/// The shortest period of the periodic timer, as in Xen.
const SHORTEST_PERIOD: u64 = 1_000_000;

/// Serves `vcpu_op`. `Initialise`, `SendNmi`, `GetPhysid` and the time area are the architecture's own ([`Rows::vcpu_op`]).
pub fn vcpu_op<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    cmd: u32,
    vcpu_id: u32,
    arg: GuestVirt,
) -> Outcome {
    let id = u16::try_from(vcpu_id).ok();
    let Some(vcpu) = id.and_then(|id| VcpuRef::new(caller.domain(), VcpuId(id))) else {
        return Errno::ENOENT.into();
    };
    match VcpuOp::try_from(cmd) {
        Ok(VcpuOp::RegisterVcpuInfo) => register_vcpu_info(caller, &vcpu, arg).into(),
        Ok(VcpuOp::RegisterRunstateMemoryArea) => register_runstate_area(caller, &vcpu, arg).into(),
        // Where firmware calls start vCPUs and the CPU has a timer for guests, Xen knows nothing else.
        _ if !H::VCPU_OP_COMPLETE => Errno::EINVAL.into(),
        Err(errno) => errno.into(),
        Ok(op) => match complete(caller, op, &vcpu, arg) {
            Ok(Some(answer)) => Outcome::Done(answer),
            Ok(None) => A::vcpu_op(caller, op, &vcpu, arg),
            Err(errno) => errno.into(),
        },
    }
}

/// `None`: it is the architecture's own.
fn complete<H: Hal>(
    caller: Caller<'_, H>,
    op: VcpuOp,
    vcpu: &VcpuRef<H>,
    arg: GuestVirt,
) -> Result<Option<i64>, Errno> {
    let hv = caller.hv;
    match op {
        VcpuOp::Up => {
            if !hv.hal.has_start(&vcpu.arch) {
                return Err(Errno::EINVAL);
            }
            hv.vcpu_up(vcpu);
        }
        VcpuOp::Down => {
            hv.vcpu_down(vcpu);
        }
        VcpuOp::IsUp => return Ok(Some(hv.vcpu_is_up(vcpu).into())),
        VcpuOp::GetRunstateInfo => caller.write(arg, &hv.runstate(vcpu).to_wire())?,
        VcpuOp::SetPeriodicTimer => {
            let what: wire::SetPeriodicTimer = caller.read(arg)?;
            if what.period_ns < SHORTEST_PERIOD || what.period_ns > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            vcpu.timers.period.store(what.period_ns, SeqCst);
            let first = hv.hal.now().plus(Nanos(what.period_ns));
            hv.set_timer(vcpu, VcpuTimer::Periodic, first);
        }
        VcpuOp::StopPeriodicTimer => {
            vcpu.timers.period.store(0, SeqCst);
            hv.cancel_timer(vcpu, VcpuTimer::Periodic);
        }
        VcpuOp::SetSingleshotTimer => {
            own(caller, vcpu)?;
            let what: wire::SetSingleshotTimer = caller.read(arg)?;
            // A time that has passed is due now, also for those who want one in the future (`vcpu.h` leaves that open).
            let deadline = Nanos(what.timeout_abs_ns);
            hv.set_timer(vcpu, VcpuTimer::Singleshot, deadline);
        }
        VcpuOp::StopSingleshotTimer => {
            own(caller, vcpu)?;
            hv.cancel_timer(vcpu, VcpuTimer::Singleshot);
        }
        // It could not be told of events.
        VcpuOp::Initialise if vcpu.domain().is_pv() && vcpu.domain().info_area(vcpu).is_none() => {
            return Err(Errno::EINVAL);
        }
        _ => return Ok(None),
    }
    Ok(Some(0))
}

/// `EINVAL` unless the vCPU is the calling one.
fn own<H: Hal>(caller: Caller<'_, H>, vcpu: &VcpuRef<H>) -> Result<(), Errno> {
    if caller.vcpu == vcpu {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn register_vcpu_info<H: Hal>(
    caller: Caller<'_, H>,
    vcpu: &VcpuRef<H>,
    arg: GuestVirt,
) -> Result<i64, Errno> {
    let what: wire::RegisterVcpuInfo = caller.read(arg)?;
    if caller.vcpu != vcpu && caller.hv.vcpu_is_up(vcpu) {
        return Err(Errno::EINVAL);
    }
    caller
        .hv
        .register_vcpu_info(vcpu, Gfn(what.mfn), what.offset)?;
    Ok(0)
}

fn register_runstate_area<H: Hal>(
    caller: Caller<'_, H>,
    vcpu: &VcpuRef<H>,
    arg: GuestVirt,
) -> Result<i64, Errno> {
    let what: wire::RegisterRunstateMemoryArea = caller.read(arg)?;
    let address = GuestVirt(what.addr.address());
    vcpu.sched.area.forget();
    if address.0 != 0 {
        let translate = |address| {
            caller
                .hv
                .hal
                .guest_phys(&caller.vcpu.arch, &caller.domain().p2m, address)
        };
        // An address that is not mapped is no error, as in Xen: the copy is just not kept.
        let size = caller.size_of::<RunstateInfo>() as usize;
        let _ = vcpu.sched.area.register(address, size, translate);
        caller.hv.update_runstate_area(vcpu);
    }
    Ok(0)
}
