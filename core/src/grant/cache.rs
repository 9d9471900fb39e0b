//! Cache maintenance on pages that the caller owns or was granted: guests cannot do it on pages they have only by grant,
//! and their devices need it.

use xenolith_abi::{
    DomId, Errno,
    grant_table::{CacheFlags, CacheFlush},
};
use xenolith_hal::{CacheOp, Hal, HostPhys, Mfn, PAGE_SIZE};

use super::GrantTable;
use crate::guest::Caller;

/// Does one element of `GNTTABOP_cache_flush`.
pub(super) fn cache_flush<H: Hal>(caller: Caller<'_, H>, op: &CacheFlush) -> Result<(), Errno> {
    let (offset, len) = (usize::from(op.offset), usize::from(op.length));
    if offset >= PAGE_SIZE || len > PAGE_SIZE || offset + len > PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    if len == 0 || op.op.is_empty() {
        return Ok(());
    }
    if op.op.contains(CacheFlags::SOURCE_GREF) {
        return Err(Errno::EOPNOTSUPP);
    }
    let kind = match (
        op.op.contains(CacheFlags::CLEAN),
        op.op.contains(CacheFlags::INVAL),
    ) {
        _ if op.op.0 & !(CacheFlags::CLEAN | CacheFlags::INVAL).0 != 0 => {
            return Err(Errno::EINVAL);
        }
        (true, true) => CacheOp::CleanInvalidate,
        (true, false) => CacheOp::Clean,
        _ => CacheOp::Invalidate,
    };
    let (hv, own) = (caller.hv, caller.domain());
    if own.is_pv() && kind == CacheOp::Invalidate {
        // Where there are such guests, no line is thrown away unwritten.
        return Err(Errno::EOPNOTSUPP);
    }
    let mfn = HostPhys(op.addr_or_gref).frame();
    let record = hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
    let owner = record.state().owner().ok_or(Errno::EPERM)?;
    let _frame = hv.get_frame(mfn, owner).ok_or(Errno::EPERM)?;
    if owner != own.id() {
        let granter = hv.domains.get(owner).ok_or(Errno::EPERM)?;
        if !granter.grants.lets_use(mfn, own.id()) {
            return Err(Errno::EINVAL);
        }
    }
    hv.hal.cache_maintenance(mfn, offset, len, kind);
    Ok(())
}

impl<H: Hal> GrantTable<H> {
    /// Whether a frame is in use by `grantee` through some grant of this table.
    fn lets_use(&self, mfn: Mfn, grantee: DomId) -> bool {
        let frames = self.frames.iter().map_while(spin::Once::get);
        frames.flat_map(|frame| &frame.entries).any(|entry| {
            let active = entry.lock();
            !active.pins.is_none() && active.grantee == grantee && active.mfn == mfn
        })
    }
}
