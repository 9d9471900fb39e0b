//! Hypercalls that only x86 has, and the devices of the control domain (`physdev.h`).

use xenolith_core::{
    Errno,
    guest::Caller,
    hypercall::{self, Outcome},
};
use xenolith_hal::GuestVirt;

use crate::X86_64;

/// What x86 has beyond the common hypercalls.
pub struct Rows;

impl hypercall::Rows<X86_64> for Rows {
    fn call(_: Caller<'_, X86_64>, _: u64, _: [u64; 5]) -> Option<Outcome> {
        None
    }

    fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
        physdev_op(caller, cmd, arg)
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
