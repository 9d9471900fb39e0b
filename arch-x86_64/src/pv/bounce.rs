//! Entering the guest's kernel for something: a frame on its stack, and its handler's address (`arch-x86/xen-x86_64.h`, "stack
//! frame"; `callback.h`).
//!
//! From the lowest address on: RCX, R11; for the failsafe callback DS, ES, FS, GS; the error code if there is one; RIP, CS with the
//! upcall mask in its upper half, RFLAGS with IF as the inverse of that mask, RSP, SS.

use core::fmt;

use super::{
    access,
    entry::SYSCALL,
    frame::Frame,
    hypercall::is_canonical,
    run::Stopped,
    switch,
    vcpu::{Callback, Mode, Trap},
};
use crate::cpu::descriptors::{USER_CODE, USER_DATA};

/// What the CPU takes from a frame's flags in the handler: nothing that belongs to what was interrupted.
pub(super) const CLEARED: u64 =
    flags::TRAP | flags::NESTED | flags::RESUME | flags::ALIGNMENT | flags::IOPL | flags::VM86;

/// Bits of RFLAGS.
#[allow(missing_docs, reason = "flags are named as they are")]
pub mod flags {
    pub const FIXED: u64 = 1 << 1;
    pub const TRAP: u64 = 1 << 8;
    pub const INTERRUPTS: u64 = 1 << 9;
    pub const IOPL: u64 = 3 << 12;
    pub const NESTED: u64 = 1 << 14;
    pub const RESUME: u64 = 1 << 16;
    pub const VM86: u64 = 1 << 17;
    pub const ALIGNMENT: u64 = 1 << 18;
    /// Every flag that there is.
    pub const ALL: u64 = 0x3f_7fd7;
}

/// Where the kernel is entered, and what it finds.
#[derive(Clone, Copy, Debug)]
pub struct Bounce {
    /// The handler.
    pub address: u64,
    /// Event upcalls are masked there.
    pub masks_events: bool,
    /// An error code.
    pub error: Option<u64>,
    /// Segment registers stand on the stack too.
    pub segments: Option<[u16; 4]>,
}

impl Bounce {
    /// To a callback.
    #[must_use]
    pub const fn to(callback: Callback) -> Self {
        Self {
            address: callback.address,
            masks_events: callback.masks_events,
            error: None,
            segments: None,
        }
    }

    /// To the handler of an exception.
    #[must_use]
    pub const fn trap(trap: Trap, error: Option<u64>) -> Self {
        Self {
            address: trap.address,
            masks_events: trap.masks_events(),
            error,
            segments: None,
        }
    }
}

impl Frame {
    /// What of a frame is the same in every handler.
    #[inline(always)]
    pub(super) fn be_in_handler(&mut self) {
        self.cs = USER_CODE.into();
        self.ss = USER_DATA.into();
        // The handler takes nothing from RCX and R11 but what stands on its stack.
        self.vector = SYSCALL;
    }
}

impl Stopped<'_> {
    /// The guest's kernel goes on at a handler. If it has none, or its stack cannot be written, the domain ends.
    #[inline]
    pub fn enter_kernel(&mut self, what: Bounce, why: &dyn fmt::Display) {
        if !self.try_enter_kernel(what) {
            self.crash(format_args!("no way into its kernel for {why}"));
        }
    }

    #[inline]
    fn try_enter_kernel(&mut self, what: Bounce) -> bool {
        if what.address == 0 || !is_canonical(what.address) {
            return false;
        }
        let pv = self.pv;
        let masked = self.upcall_masked();
        let frame = self.frame();
        let mut cs = frame.cs & 0xffff;
        let mut stack = frame.rsp;
        if pv.mode.get() == Mode::User {
            stack = pv.kernel_stack.get();
            if !switch::to_kernel(pv) {
                return false;
            }
        } else {
            // The kernel thinks that it runs in ring 0.
            cs &= !3;
        }
        let rflags = frame.rflags & !(flags::INTERRUPTS | flags::IOPL)
            | u64::from(pv.iopl.get()) << 12
            | if masked { 0 } else { flags::INTERRUPTS };
        let cs = cs | u64::from(masked) << 32;
        let top = stack & !0xf;
        let tail = [frame.rip, cs, rflags, frame.rsp, frame.ss];
        let head = [frame.rcx, frame.r11];
        let Some(bottom) = push(top, tail, head, &what) else {
            return false;
        };
        let frame = self.frame();
        frame.rip = what.address;
        frame.rflags = frame.rflags & !CLEARED | flags::INTERRUPTS;
        frame.rsp = bottom;
        frame.be_in_handler();
        if what.masks_events && !masked {
            self.set_upcall_mask(true);
        }
        true
    }
}

#[inline(always)]
fn push(
    top: u64,
    [rip, cs, rflags, rsp, ss]: [u64; 5],
    [rcx, r11]: [u64; 2],
    what: &Bounce,
) -> Option<u64> {
    match (what.error, what.segments) {
        (None, None) => put(top, &[rcx, r11, rip, cs, rflags, rsp, ss]),
        (Some(error), None) => put(top, &[rcx, r11, error, rip, cs, rflags, rsp, ss]),
        (_, Some([ds, es, fs, gs])) => put(
            top,
            &[
                rcx,
                r11,
                ds.into(),
                es.into(),
                fs.into(),
                gs.into(),
                rip,
                cs,
                rflags,
                rsp,
                ss,
            ],
        ),
    }
}

#[inline(always)]
fn put<const N: usize>(top: u64, words: &[u64; N]) -> Option<u64> {
    let bottom = top.wrapping_sub(N as u64 * 8);
    // Where the first and the last word may lie, all may.
    if !access::is_guest(top.wrapping_sub(8)) {
        return None;
    }
    access::write_words(bottom, words).ok()?;
    Some(bottom)
}
