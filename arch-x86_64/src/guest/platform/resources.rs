//! Registers that the control domain's kernel reads and writes on a CPU of its choice (`XENPF_resource_op`): the time, and what
//! monitors caches.

use alloc::vec::Vec;

use xenolith_abi::platform::{
    PlatformOpArg, RESOURCE_MSR_READ, RESOURCE_MSR_WRITE, ResourceEntry, ResourceOp,
};
use xenolith_core::{Errno, guest::Caller};
use xenolith_hal::{GuestVirt, Hal};

use super::{argument, running};
use crate::{X86_64, cpu::guarded};

/// Steps of one batch.
const MOST: u32 = 3;

mod msr {
    pub const TIME: u64 = 0x10;
    /// Which counter of whose use of the caches, and its value.
    pub const MONITOR_SELECT: u64 = 0xc8d;
    pub const MONITOR_COUNTER: u64 = 0xc8e;
}

/// Serves the call: how many steps were done, from the first on. The first that was not says why.
pub fn serve(caller: Caller<'_, X86_64>, op: &PlatformOpArg) -> Result<i64, Errno> {
    const SIZE: usize = size_of::<ResourceEntry>();
    let args: ResourceOp = argument(op)?;
    if args.nr_entries == 0 {
        return Ok(0);
    }
    if args.nr_entries > MOST {
        return Err(Errno::EINVAL);
    }
    let at = GuestVirt(args.entries.address());
    let count = args.nr_entries as usize;
    let mut entries: Vec<ResourceEntry> = Vec::new();
    for index in 0..count {
        let mut bytes = [0; SIZE];
        caller.read_bytes(at.plus((index * SIZE) as u64), &mut bytes)?;
        entries.push(zerocopy::transmute!(bytes));
    }
    let allowed = entries
        .iter()
        .take_while(|entry| check(entry).is_ok())
        .count();
    let mut done = 0;
    if allowed != 0 {
        let cpu = running(caller.hv, args.cpu).ok_or(Errno::ENODEV)?;
        // Of other CPUs nothing but the time can be told from here, which is the same on all.
        let is_here = cpu == caller.hv.hal.cpu();
        for entry in entries.iter_mut().take(allowed) {
            match carry_out(caller, entry, is_here) {
                Ok(()) => done += 1,
                Err(errno) => {
                    entry.cmd = told(errno);
                    break;
                }
            }
        }
    }
    if done == allowed
        && let Some(entry) = entries.get_mut(done)
        && let Err(errno) = check(entry)
    {
        entry.cmd = told(errno);
    }
    for (index, entry) in entries.iter().enumerate().take(done + 1) {
        let bytes: [u8; SIZE] = zerocopy::transmute!(*entry);
        caller.write_bytes(at.plus((index * SIZE) as u64), &bytes)?;
    }
    Ok(done as i64)
}

const fn told(errno: Errno) -> u32 {
    errno.neg_i32() as u32
}

/// What can be refused before any step is done.
fn check(entry: &ResourceEntry) -> Result<(), Errno> {
    if entry.rsvd != 0 {
        return Err(Errno::EINVAL);
    }
    match (entry.cmd, entry.idx) {
        (RESOURCE_MSR_READ | RESOURCE_MSR_WRITE, index) if index >> 32 != 0 => Err(Errno::EINVAL),
        (
            RESOURCE_MSR_READ | RESOURCE_MSR_WRITE,
            msr::TIME | msr::MONITOR_SELECT | msr::MONITOR_COUNTER,
        ) => Ok(()),
        (RESOURCE_MSR_READ | RESOURCE_MSR_WRITE, _) => Err(Errno::EPERM),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn carry_out(
    caller: Caller<'_, X86_64>,
    entry: &mut ResourceEntry,
    is_here: bool,
) -> Result<(), Errno> {
    match (entry.cmd, entry.idx) {
        (RESOURCE_MSR_READ, msr::TIME) => entry.val = caller.hv.hal.now().0,
        (_, msr::TIME) => return Err(Errno::EPERM),
        _ if !is_here => return Err(Errno::EOPNOTSUPP),
        (RESOURCE_MSR_READ, index) => {
            entry.val = guarded::read(index as u32).map_err(|_| Errno::EPERM)?;
        }
        (_, index) => {
            // SAFETY: says what is counted, and nothing else.
            unsafe { guarded::write(index as u32, entry.val) }.map_err(|_| Errno::EPERM)?;
        }
    }
    Ok(())
}
