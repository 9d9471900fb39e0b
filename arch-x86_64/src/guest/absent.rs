//! Calls that Xen has on x86 with nothing behind them here, answered as far as a guest can tell: `xenpmu_op`, `dm_op`, and the
//! continuation of a call of the tools.

use xenolith_abi::DomId;
use xenolith_core::{
    Errno,
    guest::Caller,
    hypercall::{Control, Outcome},
};
use xenolith_hal::GuestVirt;

use crate::X86_64;

const XENPMU: u64 = 40;
const DM: u64 = 41;
const PAGING_CONTINUATION: u64 = 49;

/// Serves the call, if it is one of these.
pub fn call(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Option<Outcome> {
    let errno = match nr {
        XENPMU | PAGING_CONTINUATION => Errno::EOPNOTSUPP,
        DM => dm_op(caller, args),
        _ => return None,
    };
    Some(errno.into())
}

/// `dm_op` is for device models, and no domain has one. What is wrong with the arguments is told first.
fn dm_op(caller: Caller<'_, X86_64>, [domain, count, buffers, ..]: [u64; 5]) -> Errno {
    const MOST_BUFFERS: u32 = 2;
    if count as u32 > MOST_BUFFERS {
        return Errno::E2BIG;
    }
    for index in 0..u64::from(count as u32) {
        // Each is a pointer and a size.
        let at =
            GuestVirt(buffers).plus(index * 2 * caller.size_of::<xenolith_abi::narrow::Long>());
        if let Err(errno) = caller.read::<u32>(at) {
            return errno;
        }
    }
    match Control::over(caller, DomId(domain as u16)) {
        Ok(control) if control.is_own() => Errno::EPERM,
        Ok(_) => Errno::EOPNOTSUPP,
        Err(errno) => errno,
    }
}
