//! What a guest wants when it stops, and who gives it.

use xenolith_core::{Errno, Hypervisor, VcpuRef, guest::Caller, hypercall::Outcome};
use xenolith_hal::{Hal, Nanos};

use super::{
    control, cpuid,
    hardware::{Event, Exit, Hardware},
    instruction, memory, msr, narrow, port,
    regs::GuestRegs,
    rows::Rows,
};
use crate::{
    X86_64,
    cpu::{
        machine_check::{self, ForGuest},
        percpu::PerCpu,
    },
};

/// An exit being served: the CPU, the vCPU that it runs, and that vCPU's state.
pub struct Context<'a, H> {
    /// The executing CPU.
    pub cpu: &'static PerCpu,
    /// The vCPU that stopped.
    pub vcpu: &'a VcpuRef<X86_64>,
    /// Its general registers.
    pub regs: &'a mut GuestRegs,
    /// The rest of its state.
    pub hw: &'a mut H,
}

impl<H: Hardware> Context<'_, H> {
    /// The hypervisor.
    #[inline(always)]
    pub fn hv(&self) -> &'static Hypervisor<X86_64> {
        self.cpu.hv
    }

    /// The time.
    #[inline]
    pub fn now(&self) -> Nanos {
        self.hv().hal.now()
    }

    /// Takes over what the guest may have changed of its local APIC without an exit.
    #[inline]
    pub fn sync_lapic(&mut self) {
        self.hw.sync(&self.vcpu.arch.lapic);
    }

    /// Goes on behind the instruction that was intercepted, which has `length` bytes.
    #[inline(always)]
    pub fn skip(&mut self, length: u64) {
        let next = self.hw.rip().wrapping_add(length);
        // Outside 64-bit code the instruction pointer has 32 bits.
        let next = if instruction::is_64_bit(self.hw) {
            next
        } else {
            next & 0xffff_ffff
        };
        self.hw.set_rip(next);
        self.hw.end_shadow();
    }

    /// Delivers an exception.
    pub fn raise(&mut self, event: Event) {
        self.hw.inject(event);
    }

    /// The guest cannot go on: its domain ends with its registers on the console.
    #[cold]
    pub fn crash(&mut self, why: core::fmt::Arguments<'_>) {
        let mut text = alloc::string::String::new();
        let _ = dump(self, &mut text);
        for line in text.lines() {
            log::error!("{}: {line}", Name(self.vcpu));
        }
        let action = self.hv().crash(self.vcpu.domain(), why);
        if let Some(action) = action {
            action.carry_out(&self.hv().hal);
        }
    }
}

/// Serves an exit.
#[inline(always)]
pub fn serve<H: Hardware>(cx: &mut Context<'_, H>) {
    let interrupted = cx.hw.take_interrupted();
    if let Some(event) = interrupted {
        cx.hw.inject(event);
    }
    match cx.hw.exit() {
        Exit::Hypercall => hypercall(cx),
        Exit::Interrupt => crate::cpu::run::open_interrupts(),
        Exit::Memory(fault) => memory::fault(cx, fault, interrupted.is_some()),
        Exit::Cpuid => cpuid::serve(cx),
        Exit::ReadMsr => msr::read(cx),
        Exit::WriteMsr => msr::write(cx),
        other => rare(cx, other),
    }
}

#[inline(never)]
fn rare<H: Hardware>(cx: &mut Context<'_, H>, exit: Exit) {
    match exit {
        Exit::InterruptWindow => {}
        Exit::EndOfInterrupt(vector) => super::interrupts::ended(cx, vector),
        Exit::IllegalVectorToSelf => {
            cx.sync_lapic();
            cx.vcpu.arch.lapic.sent_itself_an_illegal_vector();
        }
        Exit::Halt => halt(cx),
        Exit::Port(access) => port::access(cx, access),
        Exit::ControlRegister(access) => control::access(cx, access),
        Exit::SetXcr => control::set_xcr(cx),
        Exit::Pause => {
            if instruction::skip(cx) {
                cx.hv().yield_now(cx.vcpu);
            }
        }
        // Nothing of the guest's memory is uncached unless it is a device's: there is nothing to flush.
        Exit::FlushCaches => {
            instruction::skip(cx);
        }
        Exit::ReadCounter => cx.raise(Event::PROTECTION),
        Exit::Exception { vector, error } => exception(cx, vector, error),
        Exit::Undefined => cx.raise(Event::UNDEFINED),
        Exit::TaskSwitch => cx.crash(format_args!("task switch by hardware")),
        Exit::Shutdown => {
            machine_check::after_shutdown(cx.hv(), cx.vcpu.domain().id());
            cx.crash(format_args!("triple fault"));
        }
        Exit::Failed(number) => {
            cx.crash(format_args!("the CPU refuses its state, exit {number:#x}"))
        }
        _ => {}
    }
}

fn exception<H: Hardware>(cx: &mut Context<'_, H>, vector: u8, error: u32) {
    const ALIGNMENT: u8 = 17;
    const MACHINE_CHECK: u8 = 18;
    match vector {
        // The machine's, not the guest's.
        MACHINE_CHECK => {
            if let ForGuest::Ends(address) = machine_check::in_guest(cx.hv(), cx.vcpu.domain().id())
            {
                cx.crash(format_args!("its memory at {address:#x} is bad"));
            }
        }
        _ => cx.raise(Event::Exception {
            vector,
            error: (vector == ALIGNMENT).then_some(error),
        }),
    }
}

fn halt<H: Hardware>(cx: &mut Context<'_, H>) {
    const INTERRUPTS: u64 = 1 << 9;
    if !instruction::skip(cx) {
        return;
    }
    if cx.hw.rflags() & INTERRUPTS == 0 {
        cx.vcpu.arch.lapic.signals().halt_deaf();
    }
    if cx.hw.delivers() {
        // What was given to the CPU to deliver, and was not taken before the guest halted, ends the halt.
        return;
    }
    cx.sync_lapic();
    cx.hv().block(cx.vcpu);
}

#[inline(always)]
fn hypercall<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(length) = instruction::length(cx, instruction::Kind::Hypercall) else {
        return;
    };
    // Kernels call; their programs may not, and in real mode there is nothing to call with.
    if cx.hw.cpl() != 0 || cx.hw.cr0() & 1 == 0 {
        cx.regs.rax = Errno::EPERM.neg() as i64 as u64;
        return cx.skip(length);
    }
    if !instruction::is_64_bit(cx.hw) {
        return narrow::hypercall(cx, length);
    }
    let caller = Caller {
        hv: cx.hv(),
        vcpu: cx.vcpu,
    };
    let r = &cx.regs;
    let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8];
    match Rows::serve(caller, r.rax, args) {
        Outcome::Done(value) => {
            cx.regs.rax = value.cast_unsigned();
            cx.skip(length);
        }
        Outcome::Again(args) => {
            let r = &mut cx.regs;
            [r.rdi, r.rsi, r.rdx, r.r10, r.r8] = args;
        }
    }
}

/// Writes the state of a stopped vCPU for a person to read.
fn dump<H: Hardware>(cx: &Context<'_, H>, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    let hw = &cx.hw;
    writeln!(
        out,
        "rip {:#018x} rsp {:#018x} rflags {:#x} cpl {} exit {:?}",
        hw.rip(),
        hw.rsp(),
        hw.rflags(),
        hw.cpl(),
        hw.exit()
    )?;
    writeln!(
        out,
        "cr0 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
        hw.cr0(),
        hw.cr3(),
        hw.cr4(),
        hw.efer()
    )?;
    cx.vcpu.arch.dump_registers(out)
}

/// A vCPU as messages name it: `d0v1`.
pub struct Name<'a>(pub &'a VcpuRef<X86_64>);

impl core::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::write!(f, "d{}v{}", self.0.domain().id().0, self.0.id.0)
    }
}
