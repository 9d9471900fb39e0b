//! Model-specific registers.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, fault_of, regs};
use xenolith_guests::report::value;

use super::{Case, FINE, Outcome, PROTECTION, told};

pub(crate) const CASES: &[Case] = &[
    ("msr.bases", bases),
    ("msr.efer", efer),
    ("msr.reads", reads),
    ("msr.writes_that_are_dropped_or_refused", writes),
    ("msr.the_hypercall_page", page),
];

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

fn read(index: u32) -> (Option<u64>, (u64, u64)) {
    let mut number = None;
    let fault = told(|| number = Some(regs::rdmsr(index)));
    (number, fault)
}

fn bases() -> Outcome {
    let mut answers = Answers::default();
    let own = (&raw const *arch::this_cpu()) as u64;
    answers.take("fs", read(FS_BASE).0, Some(0));
    answers.take("gs", read(GS_BASE).0, Some(own));
    answers.take("the user's gs", read(KERNEL_GS_BASE).0, Some(0));
    for index in [FS_BASE, KERNEL_GS_BASE] {
        answers.take(
            format_args!("write of {index:#x}"),
            told(|| regs::wrmsr(index, 0x7000)),
            FINE,
        );
        answers.take(
            format_args!("read of {index:#x}"),
            read(index).0,
            Some(0x7000),
        );
        answers.take(
            format_args!("no address in {index:#x}"),
            told(|| regs::wrmsr(index, arch::NON_CANONICAL)),
            PROTECTION,
        );
        answers.take(
            format_args!("{index:#x} back"),
            told(|| regs::wrmsr(index, 0)),
            FINE,
        );
    }
    answers.take("gs as it is", told(|| regs::wrmsr(GS_BASE, own)), FINE);
    answers.end()
}

fn efer() -> Outcome {
    let mut answers = Answers::default();
    let efer = read(EFER).0;
    value("msr.efer", efer.map_or(-1, |efer| efer as i64));
    let efer = efer.unwrap_or(0);
    answers.take("as it is", told(|| regs::wrmsr(EFER, efer)), FINE);
    for bit in [0, 8, 10, 11, 12, 14, 63] {
        let fault = told(|| regs::wrmsr(EFER, efer ^ 1 << bit));
        value(
            format_args!("msr.efer_bit_{bit}_changed_faults"),
            i64::from(fault != FINE),
        );
        answers.take(format_args!("bit {bit} stays"), read(EFER).0, Some(efer));
    }
    answers.end()
}

/// Registers that a kernel looks at; which of them read is the hypervisor's policy.
fn reads() -> Outcome {
    let mut answers = Answers::default();
    for index in [
        0x10,
        0x17,
        0x1b,
        0x3a,
        0x48,
        0x49,
        0x8b,
        0xce,
        0xcf,
        0xe7,
        0xe8,
        0xfe,
        0x10a,
        0x10b,
        0x122,
        0x123,
        0x140,
        0x174,
        0x175,
        0x176,
        0x179,
        0x17a,
        0x17b,
        0x186,
        0x198,
        0x19a,
        0x1a0,
        0x1a2,
        0x1d9,
        0x1fc,
        0x277,
        0x2ff,
        0x345,
        0x38f,
        0x400,
        0x480,
        0x606,
        0x6e0,
        0x802,
        0xd90,
        0x4000_0000,
        0x4b56_4d00,
        STAR,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        TSC_AUX,
        0xc000_0104,
        0xc001_0010,
        0xc001_0015,
        0xc001_001f,
        0xc001_0055,
        0xc001_0114,
        0xc001_0117,
        0xc001_0140,
        0xc001_1020,
        0xc001_1029,
        0xc001_1030,
    ] {
        let (number, fault) = read(index);
        value(
            format_args!("msr.{index:x}_reads"),
            i64::from(number.is_some()),
        );
        answers.take(
            format_args!("fault of {index:#x}"),
            fault == FINE || fault == PROTECTION,
            true,
        );
    }
    answers.take("one that there is not", read(0xdead).1, PROTECTION);
    answers.end()
}

fn writes() -> Outcome {
    let mut answers = Answers::default();
    for (index, number) in [
        (0x10, 0),
        (0x1b, 0xfee0_0900),
        (0x48, 0),
        (0x49, 0),
        (0x8b, 0),
        (0x140, 0),
        (0x174, 0),
        (0x175, 0),
        (0x176, 0),
        (0x1a0, 0),
        (0x1d9, 0),
        (0x277, 0x0007_0406_0007_0406),
        (0x2ff, 0),
        (0x6e0, 0),
        (STAR, 0),
        (0xc000_0082, 0),
        (0xc000_0084, 0),
        (TSC_AUX, 0),
        (0xc001_001f, 0),
        (0xdead, 0),
    ] {
        let fault = told(|| regs::wrmsr(index, number));
        value(
            format_args!("msr.{index:x}_takes_a_write"),
            i64::from(fault == FINE),
        );
        answers.take(
            format_args!("fault of {index:#x}"),
            fault == FINE || fault == PROTECTION,
            true,
        );
    }
    // Whatever was dropped or taken, the kernel still gets its system calls and traps.
    answers.take(
        "the hypervisor answers",
        arch::hypercall(17, [0; 5]) >> 16,
        4,
    );
    answers.end()
}

/// The register that CPUID leaf 2 names fills a page, for guests that look there and not at the notes.
fn page() -> Outcome {
    let mut answers = Answers::default();
    let leaf = arch::forced_cpuid(arch::leaves() + 2, 0);
    value("msr.hypercall_pages", i64::from(leaf.eax));
    value("msr.hypercall_page", i64::from(leaf.ebx));
    let page = xenolith_guests::buffer::Page::take();
    page.fill(0);
    let fault = told(|| regs::wrmsr(leaf.ebx, arch::memory::physical_frame(page.frame()) << 12));
    value(
        "msr.hypercall_page_by_pseudo_physical_address_faults",
        i64::from(fault != FINE),
    );
    let fault = told(|| regs::wrmsr(leaf.ebx, page.frame() << 12));
    answers.take("by machine address", fault, FINE);
    answers.take("it is filled", page.read::<u64>(0) != 0, true);
    let note = xenolith_guests::buffer::Page::at(arch::hypercall_page());
    for number in [0, 1, 12, 17, 23, 24, 63] {
        let at = number * 32;
        answers.take(
            format_args!("entry {number}"),
            page.read::<[u8; 12]>(at),
            note.read::<[u8; 12]>(at),
        );
    }
    answers.take(
        "no frame",
        told(|| regs::wrmsr(leaf.ebx, 0xf_ffff_ffff << 12)),
        PROTECTION,
    );
    let _ = fault_of(|| ());
    answers.end()
}
