//! The hypercall: `grant_table_op`.
//!
//! Most sub-operations take an array. The call stops between two elements when an interrupt waits and is then made again
//! for the rest: the guest's argument and count move on, as on Xen. Each element has its own status; the call fails only
//! when an element cannot be read or written.

use core::mem::offset_of;

use xenolith_abi::{
    Errno, GrantHandle, Wire,
    grant_table::{
        CacheFlush, GrantCopy, GrantStatus, GrantTableOp as Op, MapGrantRef, SwapGrantRef,
        Transfer, UnmapAndReplace, UnmapGrantRef,
    },
};
use xenolith_hal::{GuestVirt, Hal, Mfn};
use zerocopy::{FromBytes, IntoBytes};

use super::{cache, copy, copy::Copier, map::Unmap, pv, setup, transfer, version};
use crate::{
    guest::Caller,
    hypercall::{Outcome, Rows},
};

/// Serves `grant_table_op`: the sub-operation, a pointer and how many elements it points to.
pub fn grant_table_op<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    cmd: u64,
    arg: GuestVirt,
    count: u64,
) -> Outcome {
    // Both numbers are 32 bits wide; a count that would be negative is refused.
    let (cmd, count) = (cmd as u32, count as u32);
    if i32::try_from(count).is_err() {
        return Err(Errno::EINVAL).into();
    }
    let op = match Op::try_from(cmd) {
        Ok(op) => op,
        // Numbers this large are sub-operations with a memory of where they were, which none here has.
        Err(_) if cmd >> 20 != 0 => return Err(Errno::EINVAL).into(),
        Err(errno) => return Err(errno).into(),
    };
    let array = Array {
        caller,
        cmd,
        arg,
        count,
    };
    match op {
        Op::UnmapAndReplace | Op::Transfer | Op::GetStatusFrames | Op::CacheFlush
            if H::HVM_CALLS && !caller.domain().is_pv() =>
        {
            Errno::ENOSYS.into()
        }
        Op::MapGrantRef => array.map::<A>(),
        Op::UnmapGrantRef => array.unmap::<A>(),
        Op::UnmapAndReplace => array.unmap_and_replace::<A>(),
        Op::Copy => array.copy(),
        Op::SwapGrantRef => array.swap(),
        Op::CacheFlush => array.cache_flush(),
        Op::Transfer if caller.domain().is_pv() => array.transfer(),
        // Ownership of single pages moves only between guests that know machine frames.
        Op::Transfer => Err(Errno::EOPNOTSUPP).into(),
        Op::SetupTable => array.single(setup::setup_table),
        Op::QuerySize => array.single(setup::query_size),
        Op::GetStatusFrames => array.single(setup::get_status_frames),
        Op::SetVersion => version::set_version(caller, arg).map(|()| 0).into(),
        Op::GetVersion => version::get_version(caller, arg).map(|()| 0).into(),
        Op::DumpTable => Err(Errno::ENOSYS).into(),
    }
}

/// The array that a call works on.
struct Array<'a, H: Hal> {
    caller: Caller<'a, H>,
    cmd: u32,
    arg: GuestVirt,
    count: u32,
}

/// The number that tells an element's status.
#[inline(always)]
pub(super) fn status_of(result: Result<(), GrantStatus>) -> u16 {
    let status = result.err().unwrap_or(GrantStatus::Okay);
    status.number().cast_unsigned()
}

/// What a mapping came to goes into the element that asked for it.
#[inline(always)]
pub(super) fn tell_mapped(op: &mut MapGrantRef, mapped: Result<(GrantHandle, Mfn), GrantStatus>) {
    if let Ok((handle, mfn)) = mapped {
        op.handle = handle;
        op.dev_bus_addr = mfn.base().0;
    }
    op.status = status_of(mapped.map(drop)).cast_signed();
}

impl<'a, H: Hal> Array<'a, H> {
    /// For calls that take exactly one element.
    fn single(&self, f: impl FnOnce(Caller<'a, H>, GuestVirt) -> Result<(), Errno>) -> Outcome {
        if self.count != 1 {
            return Err(Errno::EINVAL).into();
        }
        f(self.caller, self.arg).map(|()| 0).into()
    }

    /// Calls `f` with each element and where it stands.
    fn each<T: Wire + FromBytes + IntoBytes>(
        &self,
        mut f: impl FnMut(GuestVirt, T) -> Result<(), Errno>,
    ) -> Outcome {
        let size = self.caller.size_of::<T>();
        for done in 0..self.count {
            let at = self.arg.plus(u64::from(done) * size);
            if done != 0 && self.caller.hv.hal.interrupt_waits() {
                let left = self.count - done;
                return Outcome::Again([self.cmd.into(), at.0, left.into(), 0, 0]);
            }
            let result = self.caller.read(at).and_then(|element| f(at, element));
            if let Err(errno) = result {
                return Err(errno).into();
            }
        }
        Outcome::Done(0)
    }

    /// The same for elements of which only the status changes, at `offset`.
    fn each_status<T: Wire + FromBytes + IntoBytes>(
        &self,
        offset: usize,
        mut f: impl FnMut(&T) -> Result<(), GrantStatus>,
    ) -> Outcome {
        let offset = self.caller.offset_in::<T>(offset);
        self.each(|at, element| {
            let status = status_of(f(&element));
            self.caller.write(at.plus(offset), &status)
        })
    }

    fn map<A: Rows<H>>(&self) -> Outcome {
        let (hv, own) = (self.caller.hv, self.caller.domain());
        let is_pv = own.is_pv();
        self.each(|at, mut op: MapGrantRef| {
            match is_pv {
                true => pv::map_one::<H, A>(self.caller, &mut op),
                false => {
                    let mapped = hv.map_grant(own, &op);
                    tell_mapped(&mut op, mapped);
                }
            }
            self.caller.write(at, &op)
        })
    }

    fn unmap<A: Rows<H>>(&self) -> Outcome {
        let (hv, own) = (self.caller.hv, self.caller.domain());
        if own.is_pv() {
            let mut unmapper = pv::Unmapper::<H, A>::new(self.caller);
            let status = offset_of!(UnmapGrantRef, status);
            return self.each_status(status, |op| unmapper.unmap(op));
        }
        self.each_status(offset_of!(UnmapGrantRef, status), |op: &UnmapGrantRef| {
            let unmap = Unmap {
                handle: op.handle,
                host_addr: op.host_addr,
                new_addr: 0,
            };
            hv.unmap_grant(own, &unmap)
        })
    }

    fn unmap_and_replace<A: Rows<H>>(&self) -> Outcome {
        let (hv, own) = (self.caller.hv, self.caller.domain());
        let status = offset_of!(UnmapAndReplace, status);
        if own.is_pv() {
            let mut unmapper = pv::Unmapper::<H, A>::new(self.caller);
            return self.each_status(status, |op| unmapper.replace(op));
        }
        self.each_status(status, |op: &UnmapAndReplace| {
            let unmap = Unmap {
                handle: op.handle,
                host_addr: op.host_addr,
                new_addr: op.new_addr,
            };
            hv.unmap_grant(own, &unmap)
        })
    }

    fn copy(&self) -> Outcome {
        let (hv, own) = (self.caller.hv, self.caller.domain());
        if self.count == 1 {
            let status = offset_of!(GrantCopy, status);
            return self.each_status(status, |op| copy::copy_alone(hv, own, op));
        }
        let mut copier = Copier::new(hv, own);
        self.each_status(offset_of!(GrantCopy, status), |op| copier.copy(op))
    }

    fn transfer(&self) -> Outcome {
        self.each_status(offset_of!(Transfer, status), |op| {
            transfer::transfer(self.caller, op)
        })
    }

    fn swap(&self) -> Outcome {
        self.each_status(offset_of!(SwapGrantRef, status), |op| {
            setup::swap_grant_ref(self.caller, op)
        })
    }

    fn cache_flush(&self) -> Outcome {
        self.each(|_, op: CacheFlush| cache::cache_flush(self.caller, &op))
    }
}
