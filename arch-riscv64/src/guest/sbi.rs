//! The firmware that a guest sees (RISC-V Supervisor Binary Interface specification 2.0): base, timer, interrupts between
//! harts, remote fences, hart states, reset, debug console. The version's other extensions are not there.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_abi::sched::ShutdownReason;
use xenolith_core::timer::VcpuTimer;
use xenolith_hal::{ArchTimer, Nanos};

use super::{
    exit::Context,
    interrupts,
    regs::number::{A0, A1, A6, A7},
    sbi_console, sbi_harts,
};
use crate::{cpu::regs::write, timer};

/// Error numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Error {
    /// No such extension or function.
    NotSupported = -2,
    /// An argument is wrong.
    InvalidParam = -3,
    /// An address is no place for this.
    InvalidAddress = -5,
    /// It runs already.
    AlreadyAvailable = -6,
}

/// What a call leaves behind.
pub enum Answer {
    /// Done, with a value.
    Value(u64),
    /// Not done.
    Failed(Error),
    /// Nothing is to be written: the vCPU does not go on here, or from elsewhere.
    Gone,
}

/// Extensions.
mod extension {
    pub const BASE: u64 = 0x10;
    pub const TIME: u64 = 0x5449_4d45;
    pub const IPI: u64 = 0x73_5049;
    pub const RFENCE: u64 = 0x5246_4e43;
    pub const HSM: u64 = 0x48_534d;
    pub const SRST: u64 = 0x5352_5354;
    pub const DBCN: u64 = 0x4442_434e;
}

/// 2.0.
const VERSION: u64 = 2 << 24;
/// The number that the specification has for the Xen Project.
const IMPLEMENTATION: u64 = 7;
/// 4.17, as `xen_version` says it.
const IMPLEMENTATION_VERSION: u64 = 4 << 16 | 17;

/// Serves a call: the extension is in a7, the function in a6.
#[inline(never)]
pub fn call(mut cx: Context<'_>) {
    cx.regs.pc = cx.regs.pc.wrapping_add(4);
    let (error, value) = match serve(&mut cx) {
        Answer::Value(value) => (0, value),
        Answer::Failed(error) => (error as i64, 0),
        Answer::Gone => return,
    };
    cx.regs.x[A0] = error.cast_unsigned();
    cx.regs.x[A1] = value;
}

fn serve(cx: &mut Context<'_>) -> Answer {
    let function = cx.regs.x[A6];
    let first = cx.regs.x[A0];
    match (cx.regs.x[A7], function) {
        (extension::BASE, _) => base(function, first),
        (extension::TIME, 0) => {
            set_timer(cx, first);
            Answer::Value(0)
        }
        (extension::IPI, 0) => sbi_harts::send_ipi(cx),
        (extension::RFENCE, _) => sbi_harts::remote_fence(cx, function),
        (extension::HSM, _) => sbi_harts::state(cx, function),
        (extension::SRST, 0) => reset(cx, first, cx.regs.x[A1]),
        (extension::DBCN, _) => sbi_console::call(cx, function),
        _ => Answer::Failed(Error::NotSupported),
    }
}

fn base(function: u64, argument: u64) -> Answer {
    Answer::Value(match function {
        0 => VERSION,
        1 => IMPLEMENTATION,
        2 => IMPLEMENTATION_VERSION,
        3 => u64::from(matches!(
            argument,
            extension::BASE
                | extension::TIME
                | extension::IPI
                | extension::RFENCE
                | extension::HSM
                | extension::SRST
                | extension::DBCN
                | xenolith_abi::riscv::HYPERCALL_EXTENSION
        )),
        // Vendor, architecture and implementation of the hart: none that anybody needs to work around.
        4..=6 => 0,
        _ => return Answer::Failed(Error::NotSupported),
    })
}

/// The timer fires when the guest's `time` reaches `at`.
fn set_timer(cx: &Context<'_>, at: u64) {
    if timer::is_guests_own() {
        write!("vstimecmp", at);
        return;
    }
    let waiting = &cx.arch.waiting;
    waiting.deadline.store(at, Relaxed);
    waiting.set_timer_line(false);
    let which = VcpuTimer::Arch(ArchTimer::A);
    match interrupts::deadline_of(&cx.vcpu.domain().arch, cx.arch) {
        Some(deadline) => cx.hv().set_timer(cx.vcpu, which, deadline.max(Nanos(1))),
        None => {
            cx.hv().cancel_timer(cx.vcpu, which);
        }
    }
}

/// Of a kind and for a reason, both of 32 bits: no reason, a failure, or one of the platform's own.
fn reset(cx: &Context<'_>, kind: u64, why: u64) -> Answer {
    let reason = match (kind as u32, why as u32) {
        (_, 2..0xe000_0000) => return Answer::Failed(Error::InvalidParam),
        (0, _) => ShutdownReason::Poweroff,
        (1 | 2, _) => ShutdownReason::Reboot,
        _ => return Answer::Failed(Error::InvalidParam),
    };
    let hv = cx.hv();
    if let Some(action) = hv.shutdown(cx.vcpu.domain(), reason.number()) {
        action.carry_out(&hv.hal);
    }
    Answer::Gone
}
