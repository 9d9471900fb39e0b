//! Thin typed calls, one module per hypercall family. Each gives back what the hypervisor said.

pub mod event;
pub mod grant;
pub mod hvm;
pub mod memory;
pub mod multicall;
pub mod nr;
pub mod sched;
pub mod shared;
pub mod translated;

use crate::arch::hypercall;

/// This domain, in any field that names one.
pub const SELF: u16 = 0x7ff0;

/// Errno values as hypercalls give them (negative).
#[allow(missing_docs)]
pub mod errno {
    pub const EPERM: i64 = -1;
    pub const ENOENT: i64 = -2;
    pub const ESRCH: i64 = -3;
    pub const ENXIO: i64 = -6;
    pub const E2BIG: i64 = -7;
    pub const ENOMEM: i64 = -12;
    pub const EACCES: i64 = -13;
    pub const EFAULT: i64 = -14;
    pub const EBUSY: i64 = -16;
    pub const EEXIST: i64 = -17;
    pub const ENODEV: i64 = -19;
    pub const EINVAL: i64 = -22;
    pub const ENOSPC: i64 = -28;
    pub const ENOSYS: i64 = -38;
    pub const ENODATA: i64 = -61;
    pub const EOPNOTSUPP: i64 = -95;
}

/// A call `number(sub, &mut argument)`.
pub fn call<T>(number: u64, sub: u64, argument: &mut T) -> i64 {
    hypercall(number, [sub, (&raw mut *argument) as u64, 0, 0, 0])
}

/// A call `number(sub, address)`, for addresses that need not be good.
pub fn call_at(number: u64, sub: u64, address: u64) -> i64 {
    hypercall(number, [sub, address, 0, 0, 0])
}

/// Writes to the hypervisor's console.
pub fn console_write(bytes: &[u8]) -> i64 {
    hypercall(
        nr::CONSOLE_IO,
        [0, bytes.len() as u64, bytes.as_ptr() as u64, 0, 0],
    )
}

/// `xen_version` with a buffer of the caller's choice.
pub fn version<T>(sub: u64, buffer: &mut T) -> i64 {
    call(nr::XEN_VERSION, sub, buffer)
}

/// This domain's number, for places where `SELF` is not taken. The status of an unbound port tells it.
pub fn own_domain() -> u16 {
    let Ok(port) = event::alloc_unbound(SELF, SELF) else {
        return SELF;
    };
    let own = event::status_of(port).map_or(SELF, |status| status.a as u16);
    event::close(port);
    own
}
