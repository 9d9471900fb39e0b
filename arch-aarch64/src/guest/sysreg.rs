//! Trapped system registers. What is not named here does not exist for guests, performance monitors among them (as
//! ID_AA64DFR0_EL1 says): an undefined instruction, logged once for a domain and register.

use core::sync::atomic::Ordering::Relaxed;

use spin::Once;
use xenolith_core::timer::VcpuTimer;
use xenolith_hal::ArchTimer;

use super::{
    debug_regs,
    esr::{SysReg, SysRegAccess},
    exit::{Context, Name},
    host_id,
    id_regs::IdRegs,
    inject,
    told::Oddity,
};
use crate::{irq, timer};

const ICC_SGI1R: SysReg = SysReg::new(3, 0, 12, 11, 5);
const ICC_ASGI1R: SysReg = SysReg::new(3, 0, 12, 11, 6);
const ICC_SGI0R: SysReg = SysReg::new(3, 0, 12, 11, 7);
const ICC_SRE: SysReg = SysReg::new(3, 0, 12, 12, 5);
const ACTLR: SysReg = SysReg::new(3, 0, 1, 0, 1);
const CNTP_TVAL: SysReg = SysReg::new(3, 3, 14, 2, 0);
const CNTP_CTL: SysReg = SysReg::new(3, 3, 14, 2, 1);
const CNTP_CVAL: SysReg = SysReg::new(3, 3, 14, 2, 2);
const OSLSR: SysReg = SysReg::new(2, 0, 1, 1, 4);
const OSLAR: SysReg = SysReg::new(2, 0, 1, 0, 4);
const OSDLR: SysReg = SysReg::new(2, 0, 1, 3, 4);
const MDRAR: SysReg = SysReg::new(2, 0, 1, 0, 0);
const MDCCSR: SysReg = SysReg::new(2, 3, 0, 1, 0);
const MDSCR: SysReg = SysReg::new(2, 0, 0, 2, 2);

static ID_REGS: Once<IdRegs> = Once::new();

/// Reads the host's identification registers, once.
pub fn init() {
    ID_REGS.call_once(|| IdRegs::new(host_id::read_host));
}

/// Serves a trapped access.
#[inline]
pub fn access(cx: Context<'_>, access: SysRegAccess) {
    let rt = access.rt();
    if access.is_read() {
        if let Some(value) = ID_REGS.get().and_then(|ids| ids.get(access.reg())) {
            cx.regs.set(rt, value);
            cx.regs.skip();
            return;
        }
    } else if access.reg() == ICC_SGI1R {
        irq::sgi(cx.vcpu, cx.arch, cx.regs.get(rt));
        cx.regs.skip();
        return;
    }
    rare(cx, access);
}

#[inline(never)]
fn rare(cx: Context<'_>, access: SysRegAccess) {
    let rt = access.rt();
    let done = if access.is_read() {
        read(&cx, access.reg()).map(|value| cx.regs.set(rt, value))
    } else {
        write(&cx, access.reg(), cx.regs.get(rt))
    };
    if done.is_some() {
        cx.regs.skip();
        return;
    }
    if cx.is_new(Oddity::Register(access.reg())) {
        log::warn!(
            "{}: {} of {:?} at {:#x} is undefined (logged once)",
            Name(cx.vcpu),
            if access.is_read() { "read" } else { "write" },
            access.reg(),
            cx.regs.pc
        );
    }
    inject::undefined(cx.regs);
}

/// A breakpoint or watchpoint that guests are shown was read or written, and does nothing.
fn breakpoint_used(cx: &Context<'_>) {
    if cx.is_new(Oddity::Breakpoints) {
        log::info!(
            "{}: breakpoints and watchpoints read as zero and do nothing (logged once)",
            Name(cx.vcpu)
        );
    }
}

fn read(cx: &Context<'_>, reg: SysReg) -> Option<u64> {
    let (control, deadline) = &cx.arch.physical_timer;
    Some(match reg {
        ACTLR | MDSCR | MDRAR | MDCCSR | OSDLR => 0,
        OSLSR => 1 << 3,
        ICC_SRE => 0b111,
        CNTP_CTL => {
            let control = control.load(Relaxed) & 3;
            let met = control & 1 != 0 && timer::ticks() >= deadline.load(Relaxed);
            control | u64::from(met) << 2
        }
        CNTP_CVAL => deadline.load(Relaxed),
        CNTP_TVAL => deadline.load(Relaxed).wrapping_sub(timer::ticks()) & 0xffff_ffff,
        reg if debug_regs::is_shown(reg) => {
            breakpoint_used(cx);
            0
        }
        _ => return None,
    })
}

fn write(cx: &Context<'_>, reg: SysReg, value: u64) -> Option<()> {
    let (control, deadline) = &cx.arch.physical_timer;
    match reg {
        ACTLR | MDSCR | OSDLR | OSLAR => {}
        ICC_SGI0R | ICC_ASGI1R => irq::sgi(cx.vcpu, cx.arch, value),
        CNTP_CTL => {
            control.store(value & 3, Relaxed);
            program_physical_timer(cx);
        }
        CNTP_CVAL => {
            deadline.store(value, Relaxed);
            program_physical_timer(cx);
        }
        CNTP_TVAL => {
            let span = i64::from(value as u32 as i32).cast_unsigned();
            deadline.store(timer::ticks().wrapping_add(span), Relaxed);
            program_physical_timer(cx);
        }
        reg if debug_regs::is_shown(reg) => breakpoint_used(cx),
        _ => return None,
    }
    Some(())
}

/// Hands the emulated physical timer's deadline to the core.
fn program_physical_timer(cx: &Context<'_>) {
    let (control, deadline) = &cx.arch.physical_timer;
    let which = VcpuTimer::Arch(ArchTimer::B);
    if control.load(Relaxed) & 3 == 1 {
        cx.hv()
            .set_timer(cx.vcpu, which, timer::nanos_at(deadline.load(Relaxed)));
    } else {
        cx.hv().cancel_timer(cx.vcpu, which);
        irq::lower_physical_timer(cx);
    }
}
