//! Registers that a PV guest's kernel sets by hypercalls: its return to where it was interrupted, stacks, segment bases, debug
//! registers.

use xenolith_abi::errno::Errno;
use xenolith_core::hypercall::Outcome;

use super::{
    bounce::flags,
    entry::SYSCALL,
    hypercall::{is_canonical, read_words},
    run::Stopped,
    switch::{self, Base},
    vcpu::PvVcpu,
};
use crate::cpu::descriptors::{USER_CODE, USER_DATA};

type Result<T = i64> = core::result::Result<T, Errno>;

/// `iret` (`struct iret_context`): the registers to go on with stand on the kernel's stack. To a program if the code selector says
/// ring 3.
#[inline]
pub fn iret(cx: &mut Stopped<'_>) {
    const IN_SYSCALL: u64 = 1 << 8;
    let stack = cx.frame().rsp;
    let Some([rax, r11, rcx, how, rip, cs, rflags, rsp, ss]) = read_words(stack) else {
        return cx.crash(format_args!(
            "its stack cannot be read for its return, at {stack:#x}"
        ));
    };
    if cs & 3 == 3 && !switch::to_user(cx.pv) {
        return cx.crash(format_args!(
            "a return to a program without an address space"
        ));
    }
    let (cs, ss) = (cs & 0xffff | 3, ss & 0xffff | 3);
    let frame = cx.frame();
    frame.rax = rax;
    frame.rip = rip;
    frame.cs = cs;
    frame.rflags =
        rflags & flags::ALL & !(flags::IOPL | flags::VM86) | flags::INTERRUPTS | flags::FIXED;
    frame.rsp = rsp;
    frame.ss = ss;
    if how & IN_SYSCALL != 0 && cs == u64::from(USER_CODE) && ss == u64::from(USER_DATA) {
        frame.vector = SYSCALL;
    } else {
        frame.vector = 0;
        frame.r11 = r11;
        frame.rcx = rcx;
    }
    cx.set_upcall_mask(rflags & flags::INTERRUPTS == 0);
    if cx.pv.in_nmi.replace(false) {
        cx.vcpu.arch.look_before_entry();
    }
}

/// `stack_switch`: the kernel's stack when it is entered from a program.
#[inline]
pub fn stack_switch(pv: &PvVcpu, selector: u64, stack: u64) -> Result {
    pv.kernel_stack_selector.set(selector as u16 | 3);
    pv.kernel_stack.set(stack);
    Ok(0)
}

/// `fpu_taskswitch`: whether the kernel wants to be told of the next use of floating point.
pub fn fpu_taskswitch(pv: &PvVcpu, set: u32) -> Result {
    pv.task_switched.set(set != 0);
    switch::set_task_switched(set != 0);
    Ok(0)
}

/// `set_segment_base`.
pub fn set_segment_base(which: u32, value: u64) -> Result {
    const FS: u32 = 0;
    const GS_USER: u32 = 1;
    const GS_KERNEL: u32 = 2;
    const GS_USER_SELECTOR: u32 = 3;
    let base = match which {
        FS => Base::Fs,
        GS_USER => Base::GsUser,
        GS_KERNEL => Base::GsKernel,
        GS_USER_SELECTOR => {
            switch::set_user_gs(value as u16 | if value & !3 == 0 { 0 } else { 3 });
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL),
    };
    if !is_canonical(value) {
        return Err(Errno::EINVAL);
    }
    switch::set_base(base, value);
    Ok(0)
}

/// Registers 4 and 5 are other names of 6 and 7.
const fn named(number: u32) -> usize {
    match number {
        4 | 5 => number as usize + 2,
        number => number as usize,
    }
}

/// `get_debugreg`.
pub fn debug(pv: &PvVcpu, number: u32) -> Outcome {
    match pv.debug.get().get(named(number)) {
        Some(value) => Outcome::Done(value.cast_signed()),
        None => Errno::ENODEV.into(),
    }
}

/// `set_debugreg`: breakpoints are the guest's own addresses only, and hold in the guest only.
pub fn set_debug(pv: &PvVcpu, number: u32, value: u64) -> Result {
    const STATUS_FIXED: u64 = 0xffff_0ff0;
    const CONTROL_FIXED: u64 = 0x400;
    let mut kept = pv.debug.get();
    let number = named(number);
    match number {
        0..=3 => {
            if !is_canonical(value) || !super::access::is_guest(value) {
                return Err(Errno::EPERM);
            }
            kept[number] = value;
        }
        6 => {
            if value >> 32 != 0 {
                return Err(Errno::EINVAL);
            }
            kept[6] = value & 0xe00f | STATUS_FIXED;
        }
        7 => kept[7] = control(value)? | CONTROL_FIXED,
        _ => return Err(Errno::ENODEV),
    }
    pv.debug.set(kept);
    switch::load_debug(pv);
    Ok(0)
}

/// What DR7 may be: no I/O breakpoints, no general detection, no reserved bits.
fn control(value: u64) -> Result<u64> {
    const GENERAL_DETECT: u64 = 1 << 13;
    const TRANSACTIONS: u64 = 1 << 11;
    const DEFINED: u64 = 0xffff_03ff;
    if value >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    if value & GENERAL_DETECT != 0 {
        return Err(Errno::EPERM);
    }
    let value = value & DEFINED & !TRANSACTIONS;
    let io = |index: u64| value >> (16 + index * 4) & 3 == 2 && value >> (index * 2) & 3 != 0;
    if (0..4).any(io) {
        return Err(Errno::EPERM);
    }
    Ok(value)
}
