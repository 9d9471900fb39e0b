//! INS and OUTS of PV guests, in 64-bit code. A repeated one goes on for a bounded number of elements; the guest then comes to the
//! same instruction again, as after an interrupt.

use xenolith_hal::{AtomicOp, Hal};

use super::{
    decode::{Segment, StringAccess},
    io,
    port::advanced,
    serve::Done,
};
use crate::pv::{
    access,
    run::Stopped,
    switch::{self, Base},
    tables, trap,
    vcpu::Mode,
};

/// Elements between two looks at what else there is to do.
const MOST: usize = 64;
const DIRECTION: u64 = 1 << 10;

/// Bits of a page fault's error code.
mod fault {
    pub const PRESENT: u64 = 1;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
}

enum Step {
    Next,
    Faulted,
}

/// Serves one.
pub(super) fn serve(cx: &mut Stopped<'_>, what: StringAccess) -> Done {
    let port = cx.frame().rdx as u16;
    if !io::is_allowed(cx, port, what.size) {
        return Done::No;
    }
    let mask = match what.short_address {
        true => 0xffff_ffff,
        false => u64::MAX,
    };
    let rounds = if what.repeats { MOST } else { 1 };
    for _ in 0..rounds {
        if what.repeats && cx.frame().rcx & mask == 0 {
            return Done::Yes;
        }
        let step = match what.input {
            true => input(cx, port, what, mask),
            false => output(cx, port, what, mask),
        };
        if let Step::Faulted = step {
            return Done::Stays;
        }
        if what.repeats {
            let frame = cx.frame();
            frame.rcx = advanced(frame.rcx, u64::MAX, mask);
        }
    }
    match what.repeats && cx.frame().rcx & mask != 0 {
        true => Done::Stays,
        false => Done::Yes,
    }
}

/// How far an element brings its register.
fn stride(cx: &mut Stopped<'_>, size: u8) -> u64 {
    match cx.frame().rflags & DIRECTION {
        0 => size.into(),
        _ => u64::from(size).wrapping_neg(),
    }
}

fn input(cx: &mut Stopped<'_>, port: u16, what: StringAccess, mask: u64) -> Step {
    let at = cx.frame().rdi & mask;
    // A device's word is lost once it is read: the place is looked at before.
    if !is_writable(cx, at, what.size) {
        return Step::Faulted;
    }
    let value = io::read(cx, port, what.size).to_le_bytes();
    let bytes = value.get(..usize::from(what.size)).unwrap_or_default();
    if access::write(at, bytes).is_err() {
        memory_fault(cx, at, what.size, fault::WRITE);
        return Step::Faulted;
    }
    let by = stride(cx, what.size);
    let frame = cx.frame();
    frame.rdi = advanced(frame.rdi, by, mask);
    Step::Next
}

fn output(cx: &mut Stopped<'_>, port: u16, what: StringAccess, mask: u64) -> Step {
    let base = match what.segment {
        Segment::Flat => 0,
        Segment::Fs => switch::base(Base::Fs),
        // Of who runs.
        Segment::Gs => switch::base(Base::GsKernel),
    };
    let at = base.wrapping_add(cx.frame().rsi & mask);
    let mut bytes = [0; 4];
    let read = bytes
        .get_mut(..usize::from(what.size))
        .is_some_and(|bytes| access::read(at, bytes).is_ok());
    if !read {
        memory_fault(cx, at, what.size, 0);
        return Step::Faulted;
    }
    io::write(cx, port, what.size, u32::from_le_bytes(bytes));
    let by = stride(cx, what.size);
    let frame = cx.frame();
    frame.rsi = advanced(frame.rsi, by, mask);
    Step::Next
}

/// The entry that maps an address for who runs.
fn entry(cx: &Stopped<'_>, address: u64) -> Option<u64> {
    let hv = cx.hv();
    let (table, at) = tables::entry_of(hv, cx.pv.root()?, address)?;
    hv.hal.atomic64(table, at, AtomicOp::Load).ok()
}

/// Whether an element can be written; if not, the fault was delivered.
fn is_writable(cx: &mut Stopped<'_>, at: u64, size: u8) -> bool {
    const PRESENT_WRITABLE: u64 = 0b11;
    let last = at.wrapping_add(u64::from(size) - 1);
    let good = [at, last].into_iter().all(|at| {
        access::is_guest(at)
            && entry(cx, at).is_some_and(|entry| entry & PRESENT_WRITABLE == PRESENT_WRITABLE)
    });
    if !good {
        memory_fault(cx, at, size, fault::WRITE);
    }
    good
}

/// The fault that the CPU would raise.
#[cold]
fn memory_fault(cx: &mut Stopped<'_>, at: u64, size: u8, kind: u64) {
    let last = at.wrapping_add(u64::from(size) - 1);
    if !access::is_guest(at) || !access::is_guest(last) {
        return trap::protection_fault(cx, 0);
    }
    let present = |address| {
        entry(cx, address)
            .filter(|entry| entry & 1 != 0 && (kind & fault::WRITE == 0 || entry & 2 != 0))
    };
    // The first of the two pages, unless it is the other one.
    let address = match present(at) {
        Some(_) => last & !0xfff,
        None => at,
    };
    let is_present = entry(cx, address).is_some_and(|entry| entry & 1 != 0);
    let user = match cx.pv.mode.get() {
        Mode::Kernel => 0,
        Mode::User => fault::USER,
    };
    let error = kind | user | if is_present { fault::PRESENT } else { 0 };
    trap::give_page_fault(cx, address, error);
}
