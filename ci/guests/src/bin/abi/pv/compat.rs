//! 32-bit programs under a 64-bit kernel: the hypervisor's flat 32-bit code segment, and their ways into the kernel.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::low::{CODE, Low, STACK_TOP};
use xenolith_guests::arch::upcall::{callback, callback_op};
use xenolith_guests::arch::user::Iret;
use xenolith_guests::arch::{self, Fault, exception, selector, trap};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("compat.runs_and_traps_back", runs),
    ("compat.system_calls", system_calls),
];

const INT3: u8 = 0xcc;

fn told(fault: Option<Fault>) -> (u64, u64, u64) {
    fault.map_or((u64::MAX, 0, 0), |fault| {
        (fault.vector, fault.error, fault.rip)
    })
}

fn told_with(low: &Low, code: &[u8], rflags: u64) -> (u64, u64, u64) {
    told(low.run(code, rflags))
}

fn run(low: &Low, code: &[u8]) -> (u64, u64, u64) {
    told_with(low, code, Iret::USER.rflags)
}

fn runs() -> Outcome {
    let mut answers = Answers::default();
    let low = Low::new();
    let last = || arch::this_cpu().faulted_at.load();
    let breakpoint = |behind: u64| (exception::BREAKPOINT, 0, CODE + behind);
    answers.take("breakpoint", run(&low, &[INT3]), breakpoint(1));
    answers.take(
        "selectors and stack",
        (last().cs & 0xffff, last().ss & 0xffff, last().rsp),
        (0xe023, 0xe02b, STACK_TOP),
    );
    // mov eax, -1; inc eax: in 64-bit code the latter is a prefix.
    let code = [0xb8, 0xff, 0xff, 0xff, 0xff, 0x40, INT3];
    answers.take("32-bit code", run(&low, &code), breakpoint(7));
    answers.take("32-bit registers", last().rax, 0);
    // push 7; pop ecx; push ecx
    let code = [0x6a, 7, 0x59, 0x51, INT3];
    answers.take("its stack", run(&low, &code), breakpoint(5));
    answers.take("pushed", (last().rcx, last().rsp), (7, STACK_TOP - 4));
    // mov eax, [0x1000]
    let fault = run(&low, &[0xa1, 0, 0x10, 0, 0]);
    answers.take("read of nothing", fault, (exception::PAGE, 4, CODE));
    answers.take("where", trap::cr2(), 0x1000);
    // ljmp selector:CODE+7; or rax, -1 in 64-bit code
    let far = |selector: u16| {
        let [low_byte, high_byte] = selector.to_le_bytes();
        let [a, b, c, d] = (CODE as u32 + 7).to_le_bytes();
        run(
            &low,
            &[
                0xea, a, b, c, d, low_byte, high_byte, 0x48, 0x83, 0xc8, 0xff, INT3,
            ],
        )
    };
    answers.take("to 64-bit code", far(selector::USER_CODE), breakpoint(12));
    answers.take("64-bit registers", last().rax, u64::MAX);
    for hypervisors in [0xe008, 0xe00b, 0xe010] {
        answers.take(
            format_args!("to {hypervisors:#x}"),
            far(hypervisors),
            (exception::PROTECTION, u64::from(hypervisors & !3), CODE),
        );
    }
    answers.take("the tables are memory again", low.end(), 0);
    answers.end()
}

unsafe extern "C" {
    fn pv_case_syscall_32();
}

core::arch::global_asm!(
    r#"
    .global pv_case_syscall_32
pv_case_syscall_32:
    int3
    ud2
"#
);

fn system_calls() -> Outcome {
    let mut answers = Answers::default();
    let low = Low::new();
    // mov eax, 5; int 0x80
    let fault = run(&low, &[0xb8, 5, 0, 0, 0, 0xcd, 0x80, INT3]);
    answers.take("int 0x80", fault, (0x80, 0, CODE + 7));
    let frame = arch::this_cpu().faulted_at.load();
    answers.take(
        "number and segment",
        (frame.rax, frame.cs & 0xffff),
        (5, 0xe023),
    );
    // mov eax, 5; syscall. AMD's CPUs have it in 32-bit code, Intel's do not.
    let code = [0xb8, 5, 0, 0, 0, 0x0f, 0x05, INT3];
    let entry = pv_case_syscall_32 as *const () as u64;
    let register = |address| {
        callback_op(
            callback::REGISTER,
            callback::SYSCALL_32,
            callback::MASK_EVENTS,
            address,
        )
    };
    answers.take("callback", register(entry), 0);
    let fault = run(&low, &code);
    let undefined = (exception::UNDEFINED, 0, CODE + 5);
    let called = (exception::BREAKPOINT, 0, entry + 1);
    answers.take(
        format_args!("syscall {fault:x?}"),
        fault == called || fault == undefined,
        true,
    );
    let segment = arch::this_cpu().faulted_at.load().cs & 3;
    answers.take("by the kernel's entry", segment == 0, fault == called);
    answers.take("no callback", register(0), 0);
    let fault = run(&low, &code);
    answers.take("syscall without a callback", fault, undefined);
    // sysenter: a hypervisor may have it from 32-bit code of AMD's CPUs too. It leaves the nested-task flag as it is, with
    // which an IRET of the hypervisor's would fault.
    let refused = [exception::PROTECTION, exception::UNDEFINED];
    let register = |address| {
        let kind = callback::SYSENTER;
        callback_op(callback::REGISTER, kind, callback::MASK_EVENTS, address)
    };
    for (what, address) in [("with", entry), ("without", 0)] {
        answers.take("callback of sysenter", register(address), 0);
        for rflags in [0x202, 0x4202] {
            let fault = told_with(&low, &[0x0f, 0x34], rflags);
            answers.take(
                format_args!("sysenter {what} a callback, flags {rflags:#x}: {fault:x?}"),
                refused.contains(&fault.0) || fault == called && address != 0,
                true,
            );
            answers.take("after it", run(&low, &[INT3]).0, exception::BREAKPOINT);
        }
    }
    answers.take("the tables are memory again", low.end(), 0);
    answers.end()
}
