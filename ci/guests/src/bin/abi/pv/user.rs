//! User code under a PV kernel: system calls, software interrupts, faults, and what `iret` makes of odd frames.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::user::{self, CODE, Iret, STACK_TOP};
use xenolith_guests::arch::{
    self, Fault, NON_CANONICAL, UNMAPPED, UPPER_HALF, exception, hypercall, segment, selector, trap,
};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::nr;

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("user.runs_and_traps_back", runs),
    ("user.a_system_call_reaches_the_kernel", system_call),
    ("user.int_80", int_80),
    ("user.page_faults", page_faults),
    ("user.privileged_instructions", privileged),
    ("user.registers_survive", registers),
    (
        "user.nested_task_flag_and_the_ways_into_the_kernel",
        nested_task,
    ),
    ("user.segments", segments),
    ("iret.frames", frames),
    ("iret.to_the_kernel", to_the_kernel),
    ("iret.takes_the_mask_from_the_flag", mask),
];

const INT3: u8 = 0xcc;
/// An address of the hypervisor's own.
const HYPERVISOR: u64 = 0xffff_8300_0000_0000;

fn told(fault: Option<Fault>) -> (u64, u64, u64) {
    fault.map_or((u64::MAX, 0, 0), |fault| {
        let of_hypervisor =
            fault.vector == exception::PAGE && fault.address >> 43 == HYPERVISOR >> 43;
        // Whether the hypervisor has something there is its own affair.
        let error = if of_hypervisor {
            fault.error & !1
        } else {
            fault.error
        };
        (fault.vector, error, fault.rip)
    })
}

/// The selectors and the stack of the last fault.
fn last() -> (u64, u64, u64) {
    let frame = arch::this_cpu().faulted_at.load();
    (frame.cs & 0xffff, frame.ss & 0xffff, frame.rsp)
}

fn runs() -> Outcome {
    let mut answers = Answers::default();
    answers.take(
        "breakpoint",
        told(user::run(&[INT3], 0)),
        (exception::BREAKPOINT, 0, CODE + 1),
    );
    answers.take("selectors and stack", last(), (0xe033, 0xe02b, STACK_TOP));
    let frame = arch::this_cpu().faulted_at.load();
    answers.take(
        "events were on",
        (frame.rflags >> 9 & 1, frame.cs >> 32 & 0xff),
        (1, 0),
    );
    answers.take(
        "ud2",
        told(user::run(&[0x0f, 0x0b], 0)),
        (exception::UNDEFINED, 0, CODE),
    );
    answers.take(
        "division by 0",
        told(user::run(&[0x31, 0xc9, 0xf7, 0xf1], 0)),
        (exception::DIVIDE, 0, CODE + 2),
    );
    answers.take(
        "from the kernel",
        told(arch::fault_of(|| {
            // SAFETY: traps.
            unsafe { core::arch::asm!("int3") }
        }))
        .0,
        exception::BREAKPOINT,
    );
    let frame = arch::this_cpu().faulted_at.load();
    answers.take(
        "the kernel's selectors",
        (frame.cs & 0xffff, frame.ss & 0xffff),
        (0xe030, 0xe02b),
    );
    answers.end()
}

/// mov eax, 5; sysenter
const SYSENTER: [u8; 7] = [0xb8, 5, 0, 0, 0, 0x0f, 0x34];

/// What a kernel sees of it: AMD's CPUs have none in long mode; on Intel's it comes where a callback says, if one was registered.
fn is_sysenter(vector: u64) -> bool {
    matches!(
        vector,
        trap::SYSCALL | exception::PROTECTION | exception::UNDEFINED
    )
}

fn system_call() -> Outcome {
    let mut answers = Answers::default();
    // mov eax, 5; syscall; int3
    let code = [0xb8, 5, 0, 0, 0, 0x0f, 0x05, INT3];
    answers.take(
        "rax 5",
        told(user::run(&code, 0)),
        (trap::SYSCALL, 0, CODE + 7),
    );
    let frame = arch::this_cpu().faulted_at.load();
    answers.take("rax", frame.rax, 5);
    answers.take("rcx is the address behind it", frame.rcx, CODE + 7);
    answers.take("r11 is the flags", frame.r11, 0x202);
    answers.take(
        "selectors",
        (frame.cs & 0xffff, frame.ss & 0xffff),
        (0xe033, 0xe02b),
    );
    let calls = || {
        arch::this_cpu()
            .syscalls
            .load(core::sync::atomic::Ordering::SeqCst)
    };
    let before = calls();
    // xor eax, eax; syscall; syscall; int3
    let code = [0x31, 0xc0, 0x0f, 0x05, 0x0f, 0x05, INT3];
    answers.take(
        "twice rax 0",
        told(user::run(&code, 0)),
        (exception::BREAKPOINT, 0, CODE + 7),
    );
    answers.take("both came", calls() - before, 2);
    // A hypercall's number means nothing from there: mov eax, 17; syscall
    let code = [0xb8, 17, 0, 0, 0, 0x0f, 0x05, INT3];
    answers.take("rax 17", told(user::run(&code, 0)).0, trap::SYSCALL);
    answers.take(
        "sysenter",
        is_sysenter(told(user::run(&SYSENTER, 0)).0),
        true,
    );
    answers.end()
}

fn int_80() -> Outcome {
    let mut answers = Answers::default();
    answers.take(
        "int 0x80",
        told(user::run(&[0xcd, 0x80, INT3], 0)),
        (0x80, 0, CODE + 2),
    );
    answers.take("selectors", last(), (0xe033, 0xe02b, STACK_TOP));
    answers.take(
        "int3 as int 3",
        told(user::run(&[0xcd, 3], 0)),
        (exception::BREAKPOINT, 0, CODE + 2),
    );
    answers.end()
}

fn page_faults() -> Outcome {
    let mut answers = Answers::default();
    let read = [0x48, 0x8b, 0x07];
    let write = [0x48, 0x89, 0x07];
    let call = [0xff, 0xe7];
    let at = |code: &[u8], address: u64| {
        user::run(code, address).map_or((0, 0, 0), |fault| {
            (fault.vector, fault.error, fault.address)
        })
    };
    let page = exception::PAGE;
    for (what, code, address, error) in [
        ("read of nothing", &read[..], UNMAPPED, 4),
        ("write of nothing", &write[..], UNMAPPED, 6),
        ("run of nothing", &call[..], UNMAPPED, 0x14),
        ("read of the kernel's", &read[..], arch::image().start, 4),
        (
            "write of the machine-to-physical table",
            &write[..],
            UPPER_HALF,
            6,
        ),
    ] {
        answers.take(what, at(code, address), (page, error, address));
    }
    let target = user::set_entry(
        9,
        arch::tables::entry_for(Page::take().frame(), arch::tables::bit::READ),
    );
    answers.take(
        "write of a page to read",
        at(&write, target),
        (page, 7, target),
    );
    user::set_entry(9, 0);
    answers.take(
        "no address",
        told(user::run(&read, NON_CANONICAL)),
        (exception::PROTECTION, 0, CODE),
    );
    answers.take(
        "read of the machine-to-physical table from the kernel",
        arch::fault_of(|| {
            arch::read64(UPPER_HALF);
        }),
        None,
    );
    // Whether the hypervisor has something there is its own affair.
    let hidden = |error: u64| error & !1;
    let (vector, error, address) = at(&read, HYPERVISOR);
    answers.take(
        "read of the hypervisor's",
        (vector, hidden(error), address),
        (page, 4, HYPERVISOR),
    );
    for (what, address) in [("nothing", UNMAPPED), ("the hypervisor's", HYPERVISOR)] {
        let fault = arch::fault_of(|| {
            arch::read64(address);
        });
        let seen = fault.map(|fault| (fault.vector, hidden(fault.error), fault.address));
        answers.take(
            format_args!("{what} from the kernel"),
            seen,
            Some((page, 0, address)),
        );
    }
    answers.end()
}

fn privileged() -> Outcome {
    let mut answers = Answers::default();
    for (name, code) in [
        ("hlt", &[0xf4][..]),
        ("cli", &[0xfa]),
        ("sti", &[0xfb]),
        ("mov cr0", &[0x0f, 0x20, 0xc0]),
        ("mov cr3", &[0x0f, 0x22, 0xd8]),
        ("mov cr4", &[0x0f, 0x20, 0xe0]),
        ("rdmsr", &[0x0f, 0x32]),
        ("wrmsr", &[0x0f, 0x30]),
        ("invlpg", &[0x0f, 0x01, 0x3f]),
        ("lgdt", &[0x0f, 0x01, 0x17]),
        ("lidt", &[0x0f, 0x01, 0x1f]),
        ("lldt", &[0x0f, 0x00, 0xd0]),
        ("ltr", &[0x0f, 0x00, 0xd8]),
        ("mov dr0", &[0x0f, 0x21, 0xc0]),
        ("clts", &[0x0f, 0x06]),
        ("lmsw", &[0x0f, 0x01, 0xf0]),
        ("in", &[0x66, 0xba, 0xf0, 0x05, 0xec]),
        ("out", &[0x66, 0xba, 0xf0, 0x05, 0xee]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("sysret", &[0x48, 0x0f, 0x07]),
    ] {
        answers.take(
            name,
            user::run(code, UNMAPPED).map(|fault| (fault.vector, fault.error)),
            Some((exception::PROTECTION, 0)),
        );
    }
    // xor eax, eax; cpuid; int3: with the prefix it is the hypervisor's.
    answers.take(
        "cpuid",
        told(user::run(&[0x31, 0xc0, 0x0f, 0xa2, INT3], 0)).0,
        exception::BREAKPOINT,
    );
    let forced = [
        0xb8, 0, 0, 0, 0x40, 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2, INT3,
    ];
    answers.take(
        "cpuid with the prefix",
        told(user::run(&forced, 0)).0,
        exception::BREAKPOINT,
    );
    answers.take(
        "of the hypervisor",
        arch::this_cpu().faulted_at.load().rbx,
        0x566e_6558,
    );
    answers.take(
        "rdtsc",
        told(user::run(&[0x0f, 0x31, INT3], 0)).0,
        exception::BREAKPOINT,
    );
    answers.end()
}

fn registers() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    // Sets each register to a number of its own, makes a system call, and traps.
    let mut code = [0u8; 96];
    let mut used = 0;
    let mut put = |bytes: &[u8]| {
        code[used..used + bytes.len()].copy_from_slice(bytes);
        used += bytes.len();
    };
    for register in (0u8..16).filter(|register| ![0, 1, 4, 11].contains(register)) {
        // mov r32, imm8 + 0x40
        if register >= 8 {
            put(&[0x41]);
        }
        put(&[0xb8 + (register & 7), 0x40 + register, 0, 0, 0]);
    }
    put(&[0x31, 0xc0, 0x0f, 0x05, INT3]);
    let fault = user::run(&code, 0);
    answers.take("trap", told(fault).0, exception::BREAKPOINT);
    let frame = arch::this_cpu().faulted_at.load();
    let seen = [
        frame.rdx, frame.rbx, frame.rbp, frame.rsi, frame.rdi, frame.r8, frame.r9, frame.r10,
        frame.r12, frame.r13, frame.r14, frame.r15,
    ];
    let wanted = [2, 3, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15].map(|register| 0x40 + register);
    answers.take("registers", seen, wanted);
    // iret restores rax, rcx and r11 of the frame.
    user::load(&[INT3]);
    let fault = user::iret(
        &Iret {
            rax: 1,
            rcx: 2,
            r11: 3,
            ..Iret::USER
        },
        4,
    );
    answers.take("trap", told(fault).0, exception::BREAKPOINT);
    let frame = arch::this_cpu().faulted_at.load();
    answers.take(
        "of the frame",
        (frame.rax, frame.rcx, frame.r11, frame.rdi),
        (1, 2, 3, 4),
    );
    let fault = user::iret(
        &Iret {
            rax: 1,
            rcx: 2,
            r11: 3,
            flags: 0x100,
            ..Iret::USER
        },
        4,
    );
    answers.take("trap", told(fault).0, exception::BREAKPOINT);
    let frame = arch::this_cpu().faulted_at.load();
    answers.take(
        "as from a system call",
        (frame.rax, frame.rcx, frame.r11),
        (1, CODE, 0x202),
    );
    answers.end()
}

/// The flag makes an IRET of the CPU's fault, in whoever has it set.
fn nested_task() -> Outcome {
    const NESTED: u64 = 1 << 14;
    let mut answers = Answers::default();
    user::use_root();
    let run = |code: &[u8]| {
        user::load(code);
        let frame = Iret {
            rflags: 0x202 | NESTED,
            ..Iret::USER
        };
        told(user::iret(&frame, 0)).0
    };
    let flags = || arch::this_cpu().faulted_at.load().rflags & NESTED;
    answers.take("breakpoint", run(&[INT3]), exception::BREAKPOINT);
    answers.take("the program's flags", flags(), NESTED);
    // mov eax, 5; syscall
    let code = [0xb8, 5, 0, 0, 0, 0x0f, 0x05, INT3];
    answers.take("syscall", run(&code), trap::SYSCALL);
    answers.take("flags of the system call", flags(), NESTED);
    answers.take("int 0x80", run(&[0xcd, 0x80]), 0x80);
    answers.take("flags of int 0x80", flags(), NESTED);
    // A system call that returns at once: xor eax, eax; syscall
    let code = [0x31, 0xc0, 0x0f, 0x05, INT3];
    answers.take("syscall and back", run(&code), exception::BREAKPOINT);
    answers.take("sysenter", is_sysenter(run(&SYSENTER)), true);
    answers.take(
        "without it",
        told(user::run(&[INT3], 0)).0,
        exception::BREAKPOINT,
    );
    answers.take("the flag is gone", flags(), 0);
    answers.end()
}

/// The user's gs base is another than the kernel's, and both come back.
fn segments() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    page.write::<u64>(0, 0xabcd);
    let at = user::map(8, page);
    answers.take("base", arch::set_segment_base(segment::GS_USER, at), 0);
    answers.take("fs", arch::set_segment_base(segment::FS, at), 0);
    // mov rax, gs:[0]; mov rdx, fs:[0]; int3
    let code = [
        0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x64, 0x48, 0x8b, 0x14, 0x25, 0, 0, 0, 0, INT3,
    ];
    answers.take("trap", told(user::run(&code, 0)).0, exception::BREAKPOINT);
    let frame = arch::this_cpu().faulted_at.load();
    answers.take(
        "read by gs and fs",
        (frame.rax, frame.rdx),
        (0xabcd, 0xabcd),
    );
    answers.take("the kernel's", arch::cpu_index(), 0);
    // A selector loaded by user code: mov eax, 0xe02b; mov ds, eax; mov gs, eax; int3
    let code = [0xb8, 0x2b, 0xe0, 0, 0, 0x8e, 0xd8, 0x8e, 0xe8, INT3];
    answers.take(
        "selectors",
        told(user::run(&code, 0)).0,
        exception::BREAKPOINT,
    );
    answers.take("the kernel's still", arch::cpu_index(), 0);
    arch::set_segment_base(segment::GS_USER, 0);
    arch::set_segment_base(segment::FS, 0);
    user::set_entry(8, 0);
    answers.end()
}

fn frames() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    user::load(&[INT3, INT3]);
    // As if the user's next instruction had faulted.
    let refused = |selector: u64| (exception::PROTECTION, selector, CODE);
    let plain = (exception::BREAKPOINT, 0, CODE + 1);
    for (what, frame, wanted) in [
        ("plain", Iret::USER, plain),
        (
            "flags of ring 0",
            Iret {
                rflags: 0x3202,
                ..Iret::USER
            },
            plain,
        ),
        (
            "all flags but the single step",
            Iret {
                rflags: 0x3f_7ed7,
                ..Iret::USER
            },
            plain,
        ),
        (
            "no flags",
            Iret {
                rflags: 0,
                ..Iret::USER
            },
            plain,
        ),
        (
            "high flags",
            Iret {
                rflags: 0xffff_ffff_0000_0202,
                ..Iret::USER
            },
            plain,
        ),
        (
            "single step",
            Iret {
                rflags: 0x302,
                ..Iret::USER
            },
            plain,
        ),
        (
            "code selector 3",
            Iret {
                cs: 3,
                ..Iret::USER
            },
            refused(0),
        ),
        (
            "code selector of data",
            Iret {
                cs: 0xe02b,
                ..Iret::USER
            },
            refused(0xe028),
        ),
        (
            "code selector of the hypervisor",
            Iret {
                cs: 0xe00b,
                ..Iret::USER
            },
            refused(0xe008),
        ),
        (
            "code selector of nothing",
            Iret {
                cs: 0xfff7,
                ..Iret::USER
            },
            refused(0xfff4),
        ),
        (
            "stack selector 0",
            Iret {
                ss: 0,
                ..Iret::USER
            },
            refused(0),
        ),
        (
            "stack selector 3",
            Iret {
                ss: 3,
                ..Iret::USER
            },
            refused(0),
        ),
        (
            "stack selector of code",
            Iret {
                ss: 0xe033,
                ..Iret::USER
            },
            refused(0xe030),
        ),
        (
            "stack selector of nothing",
            Iret {
                ss: 0xfff3,
                ..Iret::USER
            },
            refused(0xfff0),
        ),
        (
            "no address",
            Iret {
                rip: NON_CANONICAL,
                ..Iret::USER
            },
            (exception::PROTECTION, 0, NON_CANONICAL),
        ),
        (
            "no stack",
            Iret {
                rsp: NON_CANONICAL,
                ..Iret::USER
            },
            plain,
        ),
        (
            "the hypervisor's stack",
            Iret {
                rsp: UPPER_HALF,
                ..Iret::USER
            },
            plain,
        ),
        (
            "unknown flags of the frame",
            Iret {
                flags: !0x100,
                ..Iret::USER
            },
            plain,
        ),
    ] {
        answers.take(what, told(user::iret(&frame, 0)), wanted);
    }
    for address in [
        UNMAPPED,
        UPPER_HALF,
        HYPERVISOR,
        arch::image().start,
        u64::MAX,
    ] {
        let fault = user::iret(
            &Iret {
                rip: address,
                ..Iret::USER
            },
            0,
        );
        let wanted = (exception::PAGE, 0x14, address);
        answers.take(format_args!("to {address:#x}"), told(fault), wanted);
        // By the way out of a system call.
        let fault = user::iret(
            &Iret {
                rip: address,
                flags: 0x100,
                ..Iret::USER
            },
            0,
        );
        answers.take(
            format_args!("to {address:#x} by sysret"),
            told(fault),
            wanted,
        );
    }
    let fault = user::iret(
        &Iret {
            rip: NON_CANONICAL,
            flags: 0x100,
            ..Iret::USER
        },
        0,
    );
    answers.take(
        "no address by sysret",
        told(fault),
        (exception::PROTECTION, 0, NON_CANONICAL),
    );
    answers.end()
}

unsafe extern "C" {
    fn pv_case_int3();
}

core::arch::global_asm!(
    r#"
    .global pv_case_int3
pv_case_int3:
    int3
    ud2
"#
);

fn to_the_kernel() -> Outcome {
    let mut answers = Answers::default();
    let entry = pv_case_int3 as *const () as u64;
    let stack = Page::take().address() + 2048;
    let kernel = Iret {
        rip: entry,
        cs: u64::from(selector::CODE & !3),
        rsp: stack,
        rflags: 0x2,
        ..Iret::USER
    };
    for (what, frame, wanted) in [
        ("plain", kernel, (exception::BREAKPOINT, 0, entry + 1)),
        (
            "ring 1",
            Iret {
                cs: 0xe031,
                ..kernel
            },
            (exception::BREAKPOINT, 0, entry + 1),
        ),
        (
            "ring 2",
            Iret {
                cs: 0xe032,
                ..kernel
            },
            (exception::BREAKPOINT, 0, entry + 1),
        ),
        (
            "no code selector",
            Iret { cs: 0, ..kernel },
            (exception::PROTECTION, 0, entry),
        ),
        (
            "no stack selector",
            Iret { ss: 0, ..kernel },
            (exception::PROTECTION, 0, entry),
        ),
        (
            "nowhere",
            Iret {
                rip: UNMAPPED,
                ..kernel
            },
            (exception::PAGE, 0x10, UNMAPPED),
        ),
        (
            "to the hypervisor",
            Iret {
                rip: HYPERVISOR,
                ..kernel
            },
            (exception::PAGE, 0x10, HYPERVISOR),
        ),
        (
            "by sysret",
            Iret {
                flags: 0x100,
                ..kernel
            },
            (exception::BREAKPOINT, 0, entry + 1),
        ),
    ] {
        answers.take(what, told(user::iret(&frame, 0)), wanted);
        let seen = arch::this_cpu().faulted_at.load();
        answers.take(format_args!("{what}: its code selector"), seen.cs & 3, 0);
    }
    answers.end()
}

fn mask() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    user::load(&[INT3]);
    for (flags, masked) in [(0x202, 0), (0x2, 1)] {
        user::iret(
            &Iret {
                rflags: flags,
                ..Iret::USER
            },
            0,
        );
        let frame = arch::this_cpu().faulted_at.load();
        answers.take(
            format_args!("flags {flags:#x}"),
            frame.cs >> 32 & 0xff,
            masked,
        );
        answers.take(
            format_args!("flags {flags:#x} told"),
            frame.rflags & 0x200,
            flags & 0x200,
        );
    }
    arch::irq_off();
    let _ = hypercall(nr::XEN_VERSION, [0; 5]);
    answers.end()
}
