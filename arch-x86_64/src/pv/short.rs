//! Short ways between a guest's programs, its kernel and the hypervisor: a system call, a page fault, an upcall and the return
//! from them, when nothing is unusual.
//!
//! The entry code has stored those registers that a function of the calling convention may change, and no others: the guest's
//! RBX, RBP and R12 to R15 are in the CPU or on this stack. So nothing here looks at them. What is not plain (a handler that is none,
//! a stack that cannot be written, a pending NMI, ...) is left to the long way ([`super::run`]), which finds everything as it was.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{
    access,
    bounce::{CLEARED, flags},
    entry::SYSCALL,
    frame::Frame,
    gate::Gate,
    hypercall::is_canonical,
    switch,
    vcpu::{Callback, Info, Mode, PvVcpu},
};
use crate::cpu::descriptors::{USER_CODE, USER_DATA};

/// The guest goes on at the frame's RIP, by SYSRET; all other registers are those of the frame.
pub const SYSRET: u64 = 0;
/// The guest goes on with the frame, by IRET.
pub const IRET: u64 = 1;
/// The frame is what the guest goes on with, after a look at what waits for it.
pub const LOOK: u64 = 2;
/// Nothing was done.
pub const LONG_WAY: u64 = 3;

/// Where the guest was.
pub(super) struct Interrupted {
    rcx: u64,
    r11: u64,
    cs: u64,
    ss: u64,
    /// Its kernel did not run.
    from_user: bool,
    /// It took no event upcalls.
    masked: bool,
}

impl Interrupted {
    /// Where the frame says, in the kernel with upcalls open.
    #[inline(always)]
    pub(super) fn open_kernel(frame: &Frame) -> Self {
        Self {
            rcx: frame.rcx,
            r11: frame.r11,
            cs: frame.cs,
            ss: frame.ss,
            from_user: false,
            masked: false,
        }
    }

    /// In a SYSCALL.
    #[inline(always)]
    fn by_syscall(frame: &Frame, from_user: bool, masked: bool) -> Self {
        Self {
            rcx: frame.rip,
            r11: frame.rflags,
            cs: USER_CODE.into(),
            ss: USER_DATA.into(),
            from_user,
            masked,
        }
    }
}

/// The kernel goes on at a handler, as [`super::bounce`] says. False: it does not, and nothing has changed.
#[inline(always)]
pub(super) fn enter_kernel(
    (pv, info): (&PvVcpu, &Info),
    frame: &mut Frame,
    at: &Interrupted,
    to: Callback,
    error: Option<u64>,
) -> bool {
    if to.address == 0 || !is_canonical(to.address) {
        return false;
    }
    let (from_user, masked) = (at.from_user, at.masked);
    let (stack, cs) = match from_user {
        true => (pv.kernel_stack.get(), at.cs & 0xffff),
        // The kernel thinks that it runs in ring 0.
        false => (frame.rsp, at.cs & 0xfffc),
    };
    let cs = cs | u64::from(masked) << 32;
    let rflags = frame.rflags & !(flags::INTERRUPTS | flags::IOPL)
        | u64::from(pv.iopl.get()) << 12
        | if masked { 0 } else { flags::INTERRUPTS };
    let words = if error.is_some() { 8 } else { 7 };
    let bottom = (stack & !0xf).wrapping_sub(words * 8);
    if !access::is_not_own(bottom) || from_user && !switch::to_kernel(pv) {
        return false;
    }
    let tail = [frame.rip, cs, rflags, frame.rsp, at.ss];
    let [rip, cs, rflags, rsp, ss] = tail;
    let written = match error {
        None => access::write_words(bottom, &[at.rcx, at.r11, rip, cs, rflags, rsp, ss]),
        Some(error) => {
            access::write_words(bottom, &[at.rcx, at.r11, error, rip, cs, rflags, rsp, ss])
        }
    };
    if written.is_err() {
        if from_user {
            switch::to_user(pv);
        }
        return false;
    }
    frame.rip = to.address;
    frame.rflags = frame.rflags & !CLEARED | flags::INTERRUPTS;
    frame.rsp = bottom;
    if to.masks_events {
        info.mask.store(1, Relaxed);
    }
    true
}

/// What the entry code gives: the frame and the PV part of the vCPU whose it is.
///
/// # Safety
/// `frame` is that of the executing CPU's gate, a vCPU is loaded, and nothing else refers to the frame.
#[inline(always)]
unsafe fn parts<'a>(frame: *mut Frame) -> (&'a mut Frame, &'a PvVcpu) {
    // SAFETY: as the caller says; `run_vcpu` filled the head of the gate.
    unsafe {
        let gate = Gate::of(frame);
        (&mut *frame, &*(*gate).head.pv)
    }
}

/// SYSCALL in 64-bit code of a program.
pub(super) unsafe extern "C" fn program_call(frame: *mut Frame) -> u64 {
    // SAFETY: called by the entry code alone, with the frame of its CPU.
    let (frame, pv) = unsafe { parts(frame) };
    let info = pv.info();
    let at = Interrupted::by_syscall(frame, true, info.mask.load(Relaxed) != 0);
    match enter_kernel((pv, info), frame, &at, pv.syscall.get(), None) {
        true => SYSRET,
        false => LONG_WAY,
    }
}

/// Events wait and nothing else: the kernel is told of them, behind a hypercall of its.
pub(super) unsafe extern "C" fn event(frame: *mut Frame) -> u64 {
    // SAFETY: as above.
    let (frame, pv) = unsafe { parts(frame) };
    let info = pv.info();
    if info.pending.load(SeqCst) == 0 {
        return LONG_WAY;
    }
    // A hypercall is its kernel's, and its upcalls were seen to be open.
    let at = Interrupted::by_syscall(frame, false, false);
    match enter_kernel((pv, info), frame, &at, pv.event_upcall(), None) {
        true => SYSRET,
        false => LONG_WAY,
    }
}

/// A page fault in ring 3, with all of [`Frame`] that the CPU gives.
pub(super) unsafe extern "C" fn page_fault(frame: *mut Frame) -> u64 {
    use super::trap::{fault_address, page, set_fault_address};
    const PAGE: u8 = 14;
    // SAFETY: as above.
    let (frame, pv) = unsafe { parts(frame) };
    let error = frame.error;
    let kernel = pv.mode.get() == Mode::Kernel;
    // The CPU's own look at a descriptor, a table that was checked badly, or perhaps a page table that the kernel writes.
    let unusual = error & (page::USER | page::RESERVED) != page::USER
        || kernel && error & (page::PRESENT | page::WRITE) == page::PRESENT | page::WRITE;
    if unusual {
        return LONG_WAY;
    }
    let trap = pv.trap(PAGE);
    let to = Callback {
        address: trap.address,
        masks_events: trap.masks_events(),
    };
    let info = pv.info();
    let at = Interrupted {
        rcx: frame.rcx,
        r11: frame.r11,
        cs: frame.cs,
        ss: frame.ss,
        from_user: !kernel,
        masked: info.mask.load(Relaxed) != 0,
    };
    // The kernel does not know that it runs in ring 3.
    let told = if kernel { error & !page::USER } else { error };
    let address = fault_address();
    if !enter_kernel((pv, info), frame, &at, to, Some(told)) {
        // The stack's own fault has told another address.
        set_fault_address(address);
        return LONG_WAY;
    }
    pv.cr2.set(address);
    info.cr2.store(address, Relaxed);
    SYSRET
}

/// The hypercall `iret`, as [`super::registers::iret`] has it.
pub(super) unsafe extern "C" fn iret(frame: *mut Frame) -> u64 {
    const IN_SYSCALL: u64 = 1 << 8;
    // SAFETY: as above.
    let (frame, pv) = unsafe { parts(frame) };
    if pv.in_nmi.get() {
        return LONG_WAY;
    }
    let Ok(words) = access::read_9_words(frame.rsp) else {
        return LONG_WAY;
    };
    let [_, _, _, how, ..] = words;
    match how & IN_SYSCALL != 0 {
        true => go_on::<true>(frame, pv, words),
        false => go_on::<false>(frame, pv, words),
    }
}

/// The guest goes on as the words on its stack say, in a SYSCALL or not.
#[inline(always)]
fn go_on<const IN_SYSCALL: bool>(
    frame: &mut Frame,
    pv: &PvVcpu,
    [rax, r11, rcx, _, rip, cs, rflags, rsp, ss]: [u64; 9],
) -> u64 {
    if IN_SYSCALL && !is_canonical(rip) || cs & 3 == 3 && !switch::to_user(pv) {
        return LONG_WAY;
    }
    let (cs, ss) = (cs & 0xffff | 3, ss & 0xffff | 3);
    frame.rax = rax;
    frame.rip = rip;
    frame.rflags =
        rflags & flags::ALL & !(flags::IOPL | flags::VM86) | flags::INTERRUPTS | flags::FIXED;
    frame.rsp = rsp;
    let masked = rflags & flags::INTERRUPTS == 0;
    let info = pv.info();
    info.mask.store(masked.into(), Relaxed);
    let waits = pv.looks.load(SeqCst) || !masked && info.pending.load(SeqCst) != 0;
    let by_sysret = IN_SYSCALL && cs == u64::from(USER_CODE) && ss == u64::from(USER_DATA);
    if by_sysret && !waits {
        return SYSRET;
    }
    frame.cs = cs;
    frame.ss = ss;
    frame.error = 0;
    // As SYSRET leaves them, where it is the way that was asked for.
    (frame.vector, frame.rcx, frame.r11) = match by_sysret {
        true => (SYSCALL, rip, frame.rflags),
        false => (0, rcx, r11),
    };
    match waits {
        true => LOOK,
        false => IRET,
    }
}
