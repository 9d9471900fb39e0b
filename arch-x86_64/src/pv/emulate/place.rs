//! Where the instruction at which a guest stopped is, and which code it is part of.

use xenolith_hal::{AtomicOp, Hal};

use super::decode::{self, Code, LONGEST};
use crate::{
    cpu::descriptors::{FIRST, USER_CODE, USER_CODE_32},
    pv::{access, run::Stopped},
};

const PAGE: u64 = 0xfff;

/// The address of the instruction, and its kind of code. `None`: code of 16 bits, or one whose segment is gone meanwhile.
#[inline(always)]
pub fn of(cx: &mut Stopped<'_>) -> Option<(u64, Code)> {
    let frame = cx.frame();
    let (rip, cs) = (frame.rip, frame.cs as u16);
    if cs == USER_CODE {
        return Some((rip, Code::Long));
    }
    in_segment(cx, rip, cs)
}

/// The same for a code segment of the guest's own.
#[inline(never)]
fn in_segment(cx: &mut Stopped<'_>, rip: u64, cs: u16) -> Option<(u64, Code)> {
    if cs == USER_CODE_32 {
        return Some((rip & 0xffff_ffff, Code::Short));
    }
    decode::place(descriptor(cx, cs)?, rip)
}

/// A descriptor of the guest's own.
fn descriptor(cx: &Stopped<'_>, selector: u16) -> Option<u64> {
    const LOCAL: u16 = 4;
    let page = usize::from(selector >> 12);
    let frame = if selector & LOCAL != 0 {
        // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
        let frames = unsafe { &*cx.pv.local_frames.get() };
        frames.iter().find(|(at, _)| *at == page)?.1
    } else {
        if selector >= FIRST {
            return None;
        }
        // SAFETY: as above.
        *unsafe { &*cx.pv.descriptors.get() }.get(page)?
    };
    let offset = usize::from(selector & 0xff8);
    let hal = &cx.hv().hal;
    hal.atomic64(frame, offset, AtomicOp::Load).ok()
}

/// All bytes of the instruction at an address, as far as they can be read: how many.
#[inline(never)]
pub fn whole(at: u64, bytes: &mut [u8; LONGEST]) -> Option<usize> {
    let here = ((PAGE + 1 - (at & PAGE)) as usize).min(LONGEST);
    let (first, second) = bytes.split_at_mut_checked(here)?;
    access::read(at, first).ok()?;
    let more = match second {
        [] => 0,
        second => access::read(at.wrapping_add(here as u64), second).map_or(0, |()| second.len()),
    };
    Some(here + more)
}
