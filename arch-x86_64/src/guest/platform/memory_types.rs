//! The machine's memory type ranges, as the control domain's kernel asks for them: it may see what firmware left. New ones it does
//! not get, because page tables say as much.

use xenolith_abi::platform::{AddMemtype, DelMemtype, ReadMemtype};
use xenolith_core::Errno;

use crate::cpu::guarded;

const CAPABILITIES: u32 = 0xfe;
const FIRST_BASE: u32 = 0x200;
const FIRST_MASK: u32 = 0x201;

fn count() -> u32 {
    const COUNT: u64 = 0xff;
    guarded::read(CAPABILITIES).map_or(0, |found| (found & COUNT) as u32)
}

/// Tells a range; one that is not in use has no frames.
pub fn read(range: &mut ReadMemtype) -> Result<(), Errno> {
    const VALID: u64 = 1 << 11;
    const FRAMES: u64 = (1 << 40) - 1;
    if range.reg >= count() {
        return Err(Errno::EINVAL);
    }
    let register = |first: u32| guarded::read(first + range.reg * 2).map_err(|_| Errno::EINVAL);
    let (base, mask) = (register(FIRST_BASE)?, register(FIRST_MASK)?);
    (range.mfn, range.nr_mfns, range.kind) = match mask & VALID {
        0 => (0, 0, 0),
        _ => {
            let frames = mask >> 12 & FRAMES;
            (
                base >> 12,
                // A mask of no bits covers everything.
                1_u64.checked_shl(frames.trailing_zeros()).unwrap_or(0),
                (base & 0xff) as u32,
            )
        }
    };
    Ok(())
}

/// Only a range that there is could be taken away.
pub fn delete(range: DelMemtype) -> Result<i64, Errno> {
    match range.handle == 0 && range.reg < count() {
        true => Err(Errno::EOPNOTSUPP),
        false => Err(Errno::EINVAL),
    }
}

/// Only a range that the CPU could have could be added.
pub fn add(range: AddMemtype) -> Result<i64, Errno> {
    const LAST: u64 = 1 << 40;
    let is_one = range.nr_mfns.is_power_of_two()
        && range.mfn.is_multiple_of(range.nr_mfns)
        && range.mfn < LAST
        && matches!(range.kind, 0 | 1 | 4..=6);
    Err(if is_one {
        Errno::EOPNOTSUPP
    } else {
        Errno::EINVAL
    })
}
