//! Hypercalls that only x86 has, and the devices of the control domain (`physdev.h`).

use xenolith_abi::vcpu::VcpuOp;
use xenolith_core::{
    Errno, VcpuRef,
    guest::Caller,
    hypercall::{self, Outcome},
    timer::VcpuTimer,
};
use xenolith_hal::{GuestVirt, Hal, Nanos};

use crate::X86_64;

/// What x86 has beyond the common hypercalls.
pub struct Rows;

impl hypercall::Rows<X86_64> for Rows {
    fn call(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Option<Outcome> {
        const SET_TIMER: u64 = 15;
        (nr == SET_TIMER).then(|| {
            set_timer(caller, args[0]);
            Outcome::Done(0)
        })
    }

    fn vcpu_op(
        caller: Caller<'_, X86_64>,
        op: VcpuOp,
        vcpu: &VcpuRef<X86_64>,
        _: GuestVirt,
    ) -> Result<i64, Errno> {
        match op {
            VcpuOp::SendNmi => {
                if vcpu.arch.lapic.signals().post_nmi() {
                    caller.hv.notify(vcpu);
                }
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
        physdev_op(caller, cmd, arg)
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
fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, _arg: GuestVirt) -> Result<i64, Errno> {
    use xenolith_abi::physdev::PhysdevOp;
    if !caller.domain().config.privileged {
        return Err(Errno::ENOSYS);
    }
    match PhysdevOp::try_from(cmd)? {
        PhysdevOp::SetupGsi
        | PhysdevOp::PciDeviceAdd
        | PhysdevOp::PciDeviceRemove
        | PhysdevOp::PciMmcfgReserved
        | PhysdevOp::DbgpOp => Ok(0),
        _ => Err(Errno::ENOSYS),
    }
}
