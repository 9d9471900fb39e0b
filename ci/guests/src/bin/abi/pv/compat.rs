//! 32-bit programs under a 64-bit kernel: the hypervisor's flat 32-bit code segment, and their ways into the kernel.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, bit, empty_table, entry_for, machine_address, mmu_update,
};
use xenolith_guests::arch::upcall::{callback, callback_op};
use xenolith_guests::arch::user::{self, Iret};
use xenolith_guests::arch::{self, Fault, exception, selector, trap};
use xenolith_guests::buffer::Page;

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("compat.runs_and_traps_back", runs),
    ("compat.system_calls", system_calls),
];

/// Where the program's code and stack are: below 4 GiB.
const CODE: u64 = 0x40_0000;
const STACK_TOP: u64 = CODE + 0x2000;
const INT3: u8 = 0xcc;

/// A page of code and one of stack in the lowest slot of the user's root.
struct Low {
    text: Page,
    tables: [Page; 3],
}

impl Low {
    fn new() -> Self {
        let [level1, level2, level3] = [0; 3].map(|_| empty_table());
        let text = Page::take();
        let set = |table: Page, index: u64, entry: u64| {
            let errno = mmu_update(machine_address(table.address()) + index * 8, entry);
            assert!(errno == 0, "a table for low addresses: {errno}");
        };
        set(user::root(), 0, entry_for(level3.frame(), bit::TABLE));
        set(level3, 0, entry_for(level2.frame(), bit::TABLE));
        set(level2, CODE >> 21, entry_for(level1.frame(), bit::TABLE));
        set(level1, 0, entry_for(text.frame(), bit::READ_WRITE));
        set(level1, 1, entry_for(Page::take().frame(), bit::READ_WRITE));
        Self {
            text,
            tables: [level3, level2, level1],
        }
    }

    fn run(&self, code: &[u8]) -> (u64, u64, u64) {
        self.run_with(code, Iret::USER.rflags)
    }

    fn run_with(&self, code: &[u8], rflags: u64) -> (u64, u64, u64) {
        user::use_root();
        self.text.fill(INT3);
        for (offset, byte) in (0u64..).zip(code) {
            self.text.write::<u8>(offset, *byte);
        }
        let frame = Iret {
            rip: CODE,
            cs: u64::from(selector::CODE_32),
            rsp: STACK_TOP,
            rflags,
            ..Iret::USER
        };
        told(user::iret(&frame, 0))
    }

    /// Takes it all away; the tables are memory again.
    fn end(self, answers: &mut Answers) {
        let slot = machine_address(user::root().address());
        answers.take("the lowest slot emptied", mmu_update(slot, 0), 0);
        for table in self.tables {
            answers.take("a table is memory again", tables::make_writable(table), 0);
        }
    }
}

fn told(fault: Option<Fault>) -> (u64, u64, u64) {
    fault.map_or((u64::MAX, 0, 0), |fault| {
        (fault.vector, fault.error, fault.rip)
    })
}

fn runs() -> Outcome {
    let mut answers = Answers::default();
    let low = Low::new();
    let last = || arch::this_cpu().faulted_at.load();
    let breakpoint = |behind: u64| (exception::BREAKPOINT, 0, CODE + behind);
    answers.take("breakpoint", low.run(&[INT3]), breakpoint(1));
    answers.take(
        "selectors and stack",
        (last().cs & 0xffff, last().ss & 0xffff, last().rsp),
        (0xe023, 0xe02b, STACK_TOP),
    );
    // mov eax, -1; inc eax: in 64-bit code the latter is a prefix.
    let code = [0xb8, 0xff, 0xff, 0xff, 0xff, 0x40, INT3];
    answers.take("32-bit code", low.run(&code), breakpoint(7));
    answers.take("32-bit registers", last().rax, 0);
    // push 7; pop ecx; push ecx
    let code = [0x6a, 7, 0x59, 0x51, INT3];
    answers.take("its stack", low.run(&code), breakpoint(5));
    answers.take("pushed", (last().rcx, last().rsp), (7, STACK_TOP - 4));
    // mov eax, [0x1000]
    let fault = low.run(&[0xa1, 0, 0x10, 0, 0]);
    answers.take("read of nothing", fault, (exception::PAGE, 4, CODE));
    answers.take("where", trap::cr2(), 0x1000);
    // ljmp selector:CODE+7; or rax, -1 in 64-bit code
    let far = |selector: u16| {
        let [low_byte, high_byte] = selector.to_le_bytes();
        let [a, b, c, d] = (CODE as u32 + 7).to_le_bytes();
        low.run(&[
            0xea, a, b, c, d, low_byte, high_byte, 0x48, 0x83, 0xc8, 0xff, INT3,
        ])
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
    low.end(&mut answers);
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
    let fault = low.run(&[0xb8, 5, 0, 0, 0, 0xcd, 0x80, INT3]);
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
    let fault = low.run(&code);
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
    let fault = low.run(&code);
    // By the callback of 64-bit calls, or refused.
    answers.take(
        format_args!("syscall without a callback {fault:x?}"),
        [trap::SYSCALL, exception::UNDEFINED, exception::PROTECTION].contains(&fault.0),
        true,
    );
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
            let fault = low.run_with(&[0x0f, 0x34], rflags);
            answers.take(
                format_args!("sysenter {what} a callback, flags {rflags:#x}: {fault:x?}"),
                refused.contains(&fault.0) || fault == called && address != 0,
                true,
            );
            answers.take("after it", low.run(&[INT3]).0, exception::BREAKPOINT);
        }
    }
    low.end(&mut answers);
    answers.end()
}
