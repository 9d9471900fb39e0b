//! Hypercalls that only x86 has, and the devices of the control domain (`physdev.h`).

use xenolith_abi::{
    hvm_vcpu::VcpuHvmContext,
    platform::{PlatformOp, PlatformOpArg},
    vcpu::VcpuOp,
};
use xenolith_core::{
    Errno, VcpuRef,
    guest::Caller,
    hypercall::{self, Outcome},
    timer::VcpuTimer,
};
use xenolith_hal::{GuestVirt, Hal, Nanos};

use super::{absent, mmuext::mmuext_op, platform, start::Start};
use crate::X86_64;

/// What x86 has beyond the common hypercalls.
pub struct Rows;

/// What guests of every kind have.
pub fn common_call(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Option<Outcome> {
    const SET_TIMER: u64 = 15;
    match nr {
        SET_TIMER => {
            let [low, high, ..] = args;
            let narrow = caller.vcpu.arch.narrow.get();
            set_timer(caller, if narrow { high << 32 | low } else { low });
            Some(Outcome::Done(0))
        }
        _ => absent::call(caller, nr, args),
    }
}

impl hypercall::Rows<X86_64> for Rows {
    fn call(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Option<Outcome> {
        const MMUEXT: u64 = 26;
        match nr {
            MMUEXT => Some(mmuext_op(caller, args)),
            _ => common_call(caller, nr, args),
        }
    }

    fn vcpu_op(
        caller: Caller<'_, X86_64>,
        op: VcpuOp,
        vcpu: &VcpuRef<X86_64>,
        arg: GuestVirt,
    ) -> Result<i64, Errno> {
        match op {
            VcpuOp::Initialise => initialise(caller, vcpu, arg),
            VcpuOp::SendNmi => {
                if vcpu.arch.lapic.signals().post_nmi() {
                    caller.hv.notify(vcpu);
                }
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
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
        physdev_op(caller, cmd, arg)
    }
}

/// `VCPUOP_initialise`: registers for a vCPU that waits for its start. It runs with them once `VCPUOP_up` is called.
fn initialise(
    caller: Caller<'_, X86_64>,
    vcpu: &VcpuRef<X86_64>,
    arg: GuestVirt,
) -> Result<i64, Errno> {
    let context: VcpuHvmContext = caller.read(arg)?;
    let mut place = vcpu.arch.start.lock();
    if !vcpu.arch.lapic.signals().is_waiting_for_start() {
        return Err(Errno::EEXIST);
    }
    let start = Start::new(&context, &caller.domain().arch.policy)?;
    // Who is told of them takes them out of their place after this.
    *place = Some(start);
    if vcpu.arch.lapic.signals().give_registers() {
        Ok(0)
    } else {
        Err(Errno::EEXIST)
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

/// Interrupts of a domain in hardware virtualization come through its emulated controllers, which it programs itself, so
/// most operations have nothing to do: devices and interrupts are announced, and that is all.
fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
    use xenolith_abi::physdev::PhysdevOp;
    if !caller.domain().config.privileged {
        return Err(Errno::ENOSYS);
    }
    match PhysdevOp::try_from(cmd)? {
        PhysdevOp::PciDeviceAdd
        | PhysdevOp::PciDeviceRemove
        | PhysdevOp::PciMmcfgReserved
        | PhysdevOp::DbgpOp => caller.read::<u32>(arg).map(|_| 0),
        _ => Err(Errno::ENOSYS),
    }
}
