//! Hypercalls of 32-bit code (`arch-x86/xen-x86_32.h`): the number in EAX, arguments in EBX, ECX, EDX, ESI, EDI.
//!
//! While such a call is served, the core takes the caller's structures to have their 32-bit form ([`xenolith_abi::narrow`]).
//! Which code calls says the code segment at the time, not how the domain began.

use xenolith_core::{guest::Caller, hypercall::Outcome};

use super::{exit::Context, hardware::Hardware, rows::Rows};

const LOW: u64 = 0xffff_ffff;

/// Serves the hypercall at which the guest stopped, by an instruction of `length` bytes.
#[cold]
#[inline(never)]
pub fn hypercall<H: Hardware>(cx: &mut Context<'_, H>, length: u64) {
    let caller = Caller {
        hv: cx.hv(),
        vcpu: cx.vcpu,
    };
    let r = &cx.regs;
    let args = [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi].map(|register| register & LOW);
    let narrow = &cx.vcpu.arch.narrow;
    narrow.set(true);
    let outcome = Rows::serve(caller, r.rax & LOW, args);
    narrow.set(false);
    match outcome {
        Outcome::Done(value) => {
            cx.regs.rax = value.cast_unsigned() & LOW;
            cx.skip(length);
        }
        Outcome::Again(args) => {
            let r = &mut cx.regs;
            [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi] = args.map(|argument| argument & LOW);
        }
    }
}
