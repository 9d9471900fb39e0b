//! What a guest wants when it stops, and who gives it.

use alloc::string::String;
use core::{
    fmt::{self, Write as _},
    sync::atomic::Ordering::Relaxed,
};

use xenolith_core::{
    Hypervisor, VcpuRef,
    guest::Caller,
    hypercall::{self, Outcome},
};

use super::{
    cause::Exit,
    decode::{self, Wait},
    fp, inject, interrupts, mmio,
    regs::{FS, FS_CLEAN, GuestRegs, SIE, number, print},
    sbi,
    vcpu::ArchVcpu,
};
use crate::{
    Riscv64,
    cpu::{
        percpu::PerCpu,
        regs::{read, set},
        run,
    },
    mm::guest_access,
    sbi as firmware,
};

/// Bytes of an `ecall`.
const ECALL: u64 = 4;

/// An exit being served: the CPU, the vCPU that it runs, and that vCPU's registers. Passed on by value, so that it stays
/// in registers where nothing out of line is called.
pub struct Context<'a> {
    /// The executing CPU.
    pub cpu: &'static PerCpu,
    /// The vCPU that stopped.
    pub vcpu: &'a VcpuRef<Riscv64>,
    /// The architecture's part of that vCPU.
    pub arch: &'a ArchVcpu,
    /// Its registers.
    pub regs: &'a mut GuestRegs,
}

impl Context<'_> {
    /// The hypervisor.
    #[inline(always)]
    pub fn hv(&self) -> &'static Hypervisor<Riscv64> {
        self.cpu.hv
    }

    /// The guest cannot go on: its domain ends with its registers on the console.
    #[cold]
    pub fn crash(&self, why: fmt::Arguments<'_>) {
        let mut text = String::new();
        let regs = &*self.regs;
        let shown = (regs.pc, regs.sstatus, &regs.x);
        let _ = print(&mut text, self.arch.index, shown).and_then(|()| {
            writeln!(
                text,
                "vsstatus {:#x} vstvec {:#x} vsepc {:#x} vscause {:#x} vstval {:#x} vsatp {:#x}",
                read!("vsstatus"),
                read!("vstvec"),
                read!("vsepc"),
                read!("vscause"),
                read!("vstval"),
                read!("vsatp")
            )
        });
        for line in text.lines() {
            log::error!("{}: {line}", Name(self.vcpu));
        }
        if let Some(action) = self.hv().crash(self.vcpu.domain(), why) {
            action.carry_out(&self.hv().hal);
        }
    }
}

/// Serves an exit.
#[inline(always)]
pub fn serve(cx: Context<'_>, scause: u64) {
    match Exit::decode(scause, read!("stval"), read!("htval")) {
        Exit::Call if cx.regs.x[number::A7] == xenolith_abi::riscv::HYPERCALL_EXTENSION => {
            hypercall(cx);
        }
        Exit::Call => sbi::call(cx),
        Exit::Kick => firmware::clear_kick(),
        Exit::Timer => run::timer_interrupt(cx.cpu),
        Exit::External => interrupts::external(cx.cpu),
        exit => rare(cx, exit),
    }
}

#[inline(never)]
fn rare(mut cx: Context<'_>, exit: Exit) {
    match exit {
        Exit::GuestPage(tried, at) => mmio::fault(cx, tried, at),
        Exit::Virtual => refused(cx),
        Exit::Illegal => illegal(cx),
        Exit::Other(cause) => {
            // Nothing else is asked for: whatever it is, it is the guest's.
            log::debug!(
                "{}: exception {cause:#x} at {:#x}",
                Name(cx.vcpu),
                cx.regs.pc
            );
            inject::reflect(&mut cx, cause, read!("stval"));
        }
        _ => {}
    }
}

/// An instruction that HS-mode would have been allowed: waits are some, and all others do not exist for guests.
fn refused(mut cx: Context<'_>) {
    let word = trapped_instruction(cx.regs.pc);
    match decode::wait(word) {
        Some(Wait::Interrupt) if cx.regs.in_kernel() => {
            cx.regs.pc = cx.regs.pc.wrapping_add(4);
            cx.hv().block(cx.vcpu);
        }
        // It may end for no reason, and does once the others that wait for this CPU had it.
        Some(Wait::Reservation) => {
            cx.regs.pc = cx.regs.pc.wrapping_add(4);
            cx.hv().yield_now(cx.vcpu);
        }
        _ => inject::illegal(&mut cx, word),
    }
}

/// The instruction that trapped. `stval` may have it and is allowed not to; QEMU 7.2 has an earlier one there for HLV and HSV.
fn trapped_instruction(pc: u64) -> u64 {
    let told = read!("stval");
    guest_access::instruction(pc).map_or(told, u64::from)
}

/// Floating point that is not loaded yet, or something that does not exist.
fn illegal(mut cx: Context<'_>) {
    let word = trapped_instruction(cx.regs.pc);
    let is_first = cx.regs.sstatus & FS == 0 && read!("vsstatus") & FS != 0;
    if !is_first || !fp::is_given() || !u32::try_from(word).is_ok_and(decode::is_floating_point) {
        return inject::illegal(&mut cx, word);
    }
    // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
    unsafe { (*cx.arch.fp_ptr()).load() };
    cx.regs.sstatus |= FS_CLEAN;
    cx.cpu.fp_in_use.set(true);
}

/// Number in a6, arguments in a1 to a5, result in a0.
#[inline(always)]
fn hypercall(cx: Context<'_>) {
    const FIRST: usize = number::A1;
    let caller = Caller {
        hv: cx.hv(),
        vcpu: cx.vcpu,
    };
    let x = &cx.regs.x;
    let args = core::array::from_fn(|n| x[FIRST + n]);
    match hypercall::dispatch(caller, x[number::A6], args) {
        Outcome::Done(value) => {
            cx.regs.x[number::A0] = value.cast_unsigned();
            cx.regs.pc = cx.regs.pc.wrapping_add(ECALL);
        }
        // The guest makes the call again.
        Outcome::Again(args) => {
            for (n, arg) in args.into_iter().enumerate() {
                cx.regs.x[FIRST + n] = arg;
            }
        }
    }
    if cx.arch.take_interrupts.load(Relaxed) {
        take_interrupts(cx.arch);
    }
}

/// The guest blocks "with events enabled": it takes interrupts when it goes on.
#[cold]
fn take_interrupts(arch: &ArchVcpu) {
    arch.take_interrupts.store(false, Relaxed);
    set!("vsstatus", SIE);
}

/// A vCPU as messages name it: `d1v0`.
pub struct Name<'a>(pub &'a VcpuRef<Riscv64>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::write!(f, "d{}v{}", self.0.domain().id().0, self.0.id.0)
    }
}
