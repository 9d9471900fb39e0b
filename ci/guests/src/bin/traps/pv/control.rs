//! Control and debug registers, the machine status word, and CLTS.

use core::arch::asm;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, memory, regs, tables};
use xenolith_guests::report::value;

use super::{Case, FINE, Outcome, PROTECTION, UNDEFINED, told};

pub(crate) const CASES: &[Case] = &[
    ("control.cr0", cr0),
    ("control.cr2", cr2),
    ("control.cr3", cr3),
    ("control.cr4", cr4),
    ("control.cr8_and_unknown_ones", others),
    ("control.debug_registers", debug),
];

const TASK_SWITCHED: u64 = 8;

fn cr0() -> Outcome {
    let mut answers = Answers::default();
    let before = regs::cr0();
    value("control.cr0", before as i64);
    answers.take("as it is", told(|| regs::set_cr0(before)), FINE);
    answers.take(
        "task switched",
        told(|| regs::set_cr0(before | TASK_SWITCHED)),
        FINE,
    );
    answers.take("seen", regs::cr0(), before | TASK_SWITCHED);
    // SAFETY: clears the flag.
    answers.take(
        "clts",
        told(|| unsafe { asm!("clts", options(nostack)) }),
        FINE,
    );
    answers.take("seen", regs::cr0(), before & !TASK_SWITCHED);
    for bit in [0, 1, 2, 4, 5, 16, 18, 29, 30, 31, 32] {
        answers.take(
            format_args!("bit {bit} changed"),
            told(|| regs::set_cr0(before ^ 1 << bit)),
            PROTECTION,
        );
    }
    answers.take("as before", regs::cr0(), before);
    for word in [before as u16, before as u16 | 8, before as u16 & !1] {
        // SAFETY: what the hypervisor makes of it is the question.
        let set = told(|| unsafe { asm!("lmsw {:x}", in(reg) word, options(nostack)) });
        answers.take(format_args!("status word {word:#x}"), set, PROTECTION);
    }
    answers.end()
}

fn cr2() -> Outcome {
    let mut answers = Answers::default();
    answers.take(
        "read",
        told(|| {
            regs::cr2();
        }),
        FINE,
    );
    answers.take("write", told(|| regs::set_cr2(0x1234_5000)), FINE);
    answers.take("seen", regs::cr2(), 0x1234_5000);
    answers.take("told in vcpu_info", arch::trap::cr2(), 0x1234_5000);
    arch::fault_of(|| {
        arch::read64(arch::UNMAPPED + 8);
    });
    answers.take("after a fault", regs::cr2(), arch::UNMAPPED + 8);
    answers.end()
}

fn cr3() -> Outcome {
    let mut answers = Answers::default();
    let root = memory::frame_of(tables::root()) << 12;
    answers.take("read", regs::cr3(), root);
    answers.take("write", told(|| regs::set_cr3(root)), FINE);
    answers.take(
        "no frame",
        told(|| regs::set_cr3(0xf_ffff_ffff << 12)),
        PROTECTION,
    );
    answers.take("a device", told(|| regs::set_cr3(0xb8 << 12)), PROTECTION);
    answers.take(
        "a page that is no table",
        told(|| regs::set_cr3(memory::frame_of(arch::image().end - 4096) << 12)),
        PROTECTION,
    );
    answers.take("still the root", regs::cr3(), root);
    answers.end()
}

fn cr4() -> Outcome {
    let mut answers = Answers::default();
    let before = regs::cr4();
    value("control.cr4", before as i64);
    answers.take("as it is", told(|| regs::set_cr4(before)), FINE);
    // Time-stamp disable, debug extensions and FSGSBASE are the guest's; others stay.
    for bit in [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 16, 17, 18, 20, 21, 22, 24, 32, 63,
    ] {
        let set = told(|| regs::set_cr4(before ^ 1 << bit));
        value(
            format_args!("control.cr4_bit_{bit}_changed_faults"),
            i64::from(set != FINE),
        );
        value(
            format_args!("control.cr4_bit_{bit}_changed"),
            (regs::cr4() ^ before) as i64,
        );
        told(|| regs::set_cr4(before));
    }
    answers.take("as before", regs::cr4(), before);
    answers.end()
}

fn others() -> Outcome {
    let mut answers = Answers::default();
    answers.take(
        "read of cr8",
        told(|| {
            regs::cr8();
        }),
        PROTECTION,
    );
    answers.take("write of cr8", told(|| regs::set_cr8(0)), PROTECTION);
    let bytes: [(&str, fn()); 3] = [
        // SAFETY: control registers that there are not.
        ("cr1", || unsafe {
            asm!(".byte 0x0f, 0x20, 0xc8", out("rax") _, options(nostack))
        }),
        // SAFETY: as above.
        ("cr5", || unsafe {
            asm!(".byte 0x0f, 0x20, 0xe8", out("rax") _, options(nostack))
        }),
        // SAFETY: as above.
        ("cr9", || unsafe {
            asm!(".byte 0x44, 0x0f, 0x20, 0xc8", out("rax") _, options(nostack))
        }),
    ];
    for (name, read) in bytes {
        // Which comes first, the missing register or the missing right, a CPU decides.
        let seen = told(read);
        answers.take(name, seen == PROTECTION || seen == UNDEFINED, true);
    }
    answers.end()
}

fn debug() -> Outcome {
    let mut answers = Answers::default();
    // SAFETY: debug registers without a breakpoint armed.
    let set0 =
        |address: u64| told(|| unsafe { asm!("mov dr0, {}", in(reg) address, options(nostack)) });
    let get0 = || {
        let address: u64;
        // SAFETY: a register read.
        unsafe { asm!("mov {}, dr0", out(reg) address, options(nostack)) };
        address
    };
    answers.take("write", set0(0x5000), FINE);
    answers.take("read", get0(), 0x5000);
    answers.take("of the hypervisor", set0(arch::UPPER_HALF), PROTECTION);
    answers.take("still", get0(), 0x5000);
    answers.take("clear", set0(0), FINE);
    let get7 = || {
        let word: u64;
        // SAFETY: a register read.
        unsafe { asm!("mov {}, dr7", out(reg) word, options(nostack)) };
        word
    };
    answers.take("dr7", get7(), 0x400);
    // SAFETY: reserved bits; the general-detect bit, which would have debug registers trap.
    let set7 = |word: u64| told(|| unsafe { asm!("mov dr7, {}", in(reg) word, options(nostack)) });
    answers.take("dr7 cleared", set7(0), FINE);
    answers.take("dr7 with general detect", set7(1 << 13), PROTECTION);
    answers.take("dr7 of 33 bits", set7(1 << 32), PROTECTION);
    answers.end()
}
