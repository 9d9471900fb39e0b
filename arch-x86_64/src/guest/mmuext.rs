//! `mmuext_op` (`xen.h`), as a domain in hardware virtualization may call it: tables can be pinned and unpinned, which comes to
//! nothing where the CPU walks the guest's own tables, and all else is not for it.

use core::mem::size_of;

use xenolith_abi::{DomId, x86_64::MmuextOp};
use xenolith_core::{Errno, guest::Caller, hypercall::Outcome};
use xenolith_hal::{GuestVirt, Hal};

use crate::X86_64;

/// The last of the operations that pin and unpin.
const UNPIN_TABLE: u32 = 4;
/// In the number of operations: the call goes on, and the count of those that are done holds earlier ones.
const GOES_ON: u32 = 1 << 31;

/// Serves the call: operations, their number, where to count those that are done, and whose tables they are about.
pub fn mmuext_op(caller: Caller<'_, X86_64>, args: [u64; 5]) -> Outcome {
    let [ops, count, done_at, owner, _] = args;
    let done_at = (done_at != 0).then_some(GuestVirt(done_at));
    let before = match (count as u32 & GOES_ON, done_at) {
        (0, _) | (_, None) => 0,
        (_, Some(at)) => caller.read::<u32>(at).unwrap_or(0),
    };
    let count = count as u32 & !GOES_ON;
    if let Err(errno) = may_name(caller, DomId(owner as u16)) {
        return errno.into();
    }
    let (mut done, mut result) = (0, Ok(0));
    while done < count {
        if done != 0 && caller.hv.hal.interrupt_waits() {
            break;
        }
        if let Err(errno) = one(caller, GuestVirt(ops), done) {
            result = Err(errno);
            break;
        }
        done += 1;
    }
    let told = done_at.map(|at| caller.write(at, &before.wrapping_add(done)));
    if let (Ok(_), Some(Err(errno))) = (result, told) {
        result = Err(errno);
    }
    if result.is_err() || done == count {
        return result.into();
    }
    let ops = ops.wrapping_add(u64::from(done) * caller.size_of::<MmuextOp>());
    let left = (count - done) | GOES_ON;
    Outcome::Again([
        ops,
        left.into(),
        done_at.map_or(0, |at| at.0),
        owner,
        args[4],
    ])
}

/// Whose tables a caller may name: its own, or as the control domain those of others.
fn may_name(caller: Caller<'_, X86_64>, owner: DomId) -> Result<(), Errno> {
    let own = caller.domain();
    if owner == DomId::SELF {
        return Ok(());
    }
    // Its own number is not another domain's.
    if owner == own.id() || caller.hv.domains.get(owner).is_none() {
        return Err(Errno::ESRCH);
    }
    own.config.privileged.then_some(()).ok_or(Errno::EPERM)
}

fn one(caller: Caller<'_, X86_64>, ops: GuestVirt, index: u32) -> Result<(), Errno> {
    let op: MmuextOp = caller.read_at(ops, index.into())?;
    match op.cmd {
        0..=UNPIN_TABLE => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

const _: () = assert!(size_of::<MmuextOp>() == 24);
