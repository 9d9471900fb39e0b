//! From an exception of a guest to what its instruction asks for.

use super::{
    decode::{Code, FORCED_CPUID, LONGEST, Operation, decode},
    io, model, moves, place, strings,
};
use crate::{
    cpuid::{Leaf, VcpuFacts, pv::cr4},
    pv::{access, bounce::flags, run::Stopped, trap, vcpu::Mode},
    timer,
};

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It is done: the guest goes on behind it.
    Yes,
    /// It is not done here: the guest gets the exception.
    No,
    /// The guest goes on at it, after another exception that it has now, or to go on with it.
    Stays,
}

impl From<bool> for Done {
    fn from(done: bool) -> Self {
        if done { Self::Yes } else { Self::No }
    }
}

/// An instruction that the CPU does not have, or CPUID with the prefix that asks for emulation. False: the guest gets the exception.
/// It is short, because kernels ask often while they start.
#[inline(always)]
pub fn undefined(cx: &mut Stopped<'_>) -> bool {
    const LENGTH: u32 = FORCED_CPUID.len() as u32;
    const UNUSED: u32 = u64::BITS - 8 * LENGTH;
    let [b0, b1, b2, b3, b4, b5, b6] = FORCED_CPUID;
    let wanted = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, 0]);
    let Some((at, code)) = place::of(cx) else {
        return false;
    };
    // The word is one byte longer, which may be on a page that is not there.
    let forced = match access::read_word(at) {
        Ok(word) => word << UNUSED == wanted << UNUSED,
        Err(_) => {
            let mut bytes = [0; FORCED_CPUID.len()];
            access::read(at, &mut bytes).is_ok() && bytes == FORCED_CPUID
        }
    };
    if forced {
        cpuid(cx);
        skip(cx, LENGTH as u8, code);
    }
    forced
}

/// An instruction that ring 3 may not use. True: it is done, or another exception was delivered.
pub fn privileged(cx: &mut Stopped<'_>) -> bool {
    let Some((at, code)) = place::of(cx) else {
        return false;
    };
    let short = access::read_word(at).map(u64::to_le_bytes);
    let found = short.ok().and_then(|bytes| decode(&bytes, code));
    let Some((operation, length)) = found.or_else(|| {
        let mut bytes = [0; LONGEST];
        let count = place::whole(at, &mut bytes)?;
        decode(bytes.get(..count)?, code)
    }) else {
        return false;
    };
    let done = match operation {
        Operation::In { port, size } => io::input(cx, port, size),
        Operation::Out { port, size } => io::output(cx, port, size),
        Operation::Strings(access) => strings::serve(cx, access),
        // The flag that kernels mean is the upcall mask; who may use ports may believe that this one is his.
        Operation::InterruptFlag => io::has_privilege(cx).into(),
        Operation::Cpuid => {
            cpuid(cx);
            Done::Yes
        }
        Operation::VirtualMachines => {
            trap::undefined(cx);
            Done::Stays
        }
        _ if cx.pv.mode.get() == Mode::User => Done::No,
        Operation::ReadMsr => model::read(cx),
        Operation::WriteMsr => model::write(cx),
        Operation::ReadControl { control, general } => moves::read_control(cx, control, general),
        Operation::WriteControl { control, general } => moves::write_control(cx, control, general),
        Operation::ClearTaskSwitched => {
            moves::set_task_switched(cx, false);
            Done::Yes
        }
        Operation::ReadDebug { debug, general } => moves::read_debug(cx, debug, general),
        Operation::WriteDebug { debug, general } => moves::write_debug(cx, debug, general),
        Operation::ReadTsc => {
            read_tsc(cx);
            Done::Yes
        }
        Operation::ReadTscAux => model::read_tsc_aux(cx),
        Operation::SetXcr => moves::set_xcr(cx),
        Operation::FlushCaches => {
            moves::flush_caches(cx);
            Done::Yes
        }
        Operation::FlushPage => return flush_page(cx, at),
    };
    if done == Done::Yes {
        skip(cx, length, code);
    }
    done != Done::No
}

/// The page of INVLPG, whose length is known only now.
#[cold]
fn flush_page(cx: &mut Stopped<'_>, at: u64) -> bool {
    let length = moves::flush_page(cx, at);
    if let Some(length) = length {
        skip(cx, length, Code::Long);
    }
    length.is_some()
}

/// The guest goes on behind the instruction.
#[inline(always)]
fn skip(cx: &mut Stopped<'_>, length: u8, code: Code) {
    let frame = cx.frame();
    let next = frame.rip.wrapping_add(length.into());
    frame.rip = match code {
        Code::Long => next,
        Code::Short => next & 0xffff_ffff,
    };
    frame.rflags &= !flags::RESUME;
    if frame.rflags & flags::TRAP != 0 {
        single_step(cx);
    }
}

/// The guest's debugger wants to know of each instruction.
#[cold]
fn single_step(cx: &mut Stopped<'_>) {
    const DEBUG: u8 = 1;
    const STATUS: usize = 6;
    const STEP: u64 = 1 << 14;
    let mut kept = cx.pv.debug.get();
    kept[STATUS] |= STEP;
    cx.pv.debug.set(kept);
    trap::give(cx, DEBUG, None);
}

pub(super) fn read_tsc(cx: &mut Stopped<'_>) {
    // As the instruction itself reads it where it is allowed.
    set_edx_eax(cx, timer::own_ticks());
}

/// The result of an instruction that gives two halves.
#[inline(always)]
pub(super) fn set_edx_eax(cx: &mut Stopped<'_>, value: u64) {
    let frame = cx.frame();
    frame.rax = value & 0xffff_ffff;
    frame.rdx = value >> 32;
}

#[inline(always)]
fn cpuid(cx: &mut Stopped<'_>) {
    let vcpu = cx.vcpu;
    let leaf = cx.frame().rax as u32;
    let [a, b, c, d] = match vcpu.domain().arch.policy.common_leaf(leaf) {
        Some(words) => words,
        None => own_leaf(cx, leaf),
    };
    let frame = cx.frame();
    frame.rax = a.into();
    frame.rbx = b.into();
    frame.rcx = c.into();
    frame.rdx = d.into();
}

/// A leaf that is not the same for all.
#[inline(never)]
fn own_leaf(cx: &mut Stopped<'_>, leaf: u32) -> Leaf {
    let arch = &cx.vcpu.arch;
    let policy = &cx.vcpu.domain().arch.policy;
    // XSAVE is on for a kernel before it says so.
    let chosen = match cx.pv.mode.get() {
        Mode::Kernel => cr4::OSXSAVE,
        Mode::User => cx.pv.cr4.get(),
    };
    let facts = VcpuFacts {
        apic_id: arch.index as u32 * 2,
        vcpu_id: arch.index as u32,
        cr4: chosen & policy.pv_cr4(),
        // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
        xcr0: unsafe { (*arch.fpu_ptr()).xcr0 },
    };
    policy.cpuid(leaf, cx.frame().rcx as u32, &facts)
}
