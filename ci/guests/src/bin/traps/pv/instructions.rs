//! Instructions that a kernel of ring 0 would use, executed in ring 3: emulated, refused, or harmless.

use core::arch::asm;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, regs};
use xenolith_guests::report::value;

use super::{Case, FINE, Outcome, PROTECTION, UNDEFINED, told};

pub(crate) const CASES: &[Case] = &[
    ("instructions.emulated", emulated),
    ("instructions.refused", refused),
    ("instructions.not_virtualizable", not_virtualizable),
    ("instructions.of_virtual_machines", virtual_machines),
    ("instructions.time_stamp", time_stamp),
    ("cpuid.forced_and_plain", cpuid),
    ("cpuid.forced_leaves_of_the_hypervisor", hypervisor_leaves),
    ("cpuid.faulting_prefixes", prefixes),
];

macro_rules! each {
    ($answers:ident, $wanted:expr, $(($name:literal, $code:literal)),* $(,)?) => {
        $(
            // SAFETY: what the hypervisor makes of it is the question; registers that it may write are named.
            let seen = told(|| unsafe {
                asm!($code, in("rsi") arch::image().end - 8192, out("rax") _, out("rcx") _, out("rdx") _)
            });
            $answers.take($name, seen, $wanted);
        )*
    };
}

fn emulated() -> Outcome {
    let mut answers = Answers::default();
    each!(
        answers,
        FINE,
        ("wbinvd", "wbinvd"),
        ("clts", "clts"),
        ("rdtsc", "rdtsc"),
        ("pushf and popf", "pushfq; popfq"),
        ("pause", "pause"),
    );
    answers.end()
}

fn refused() -> Outcome {
    let mut answers = Answers::default();
    each!(
        answers,
        PROTECTION,
        ("hlt", "hlt"),
        ("cli", "cli"),
        ("sti", "sti"),
        ("lgdt", "lgdt [rsi]"),
        ("lidt", "lidt [rsi]"),
        ("lldt", "xor eax, eax; lldt ax"),
        ("ltr", "xor eax, eax; ltr ax"),
        ("swapgs", "swapgs"),
        ("sysretq", "xor ecx, ecx; sysretq"),
    );
    each!(
        answers,
        UNDEFINED,
        (
            "monitor",
            "xor eax, eax; xor ecx, ecx; xor edx, edx; monitor"
        ),
        ("rsm", "rsm"),
    );
    // Xen refuses it; a hypervisor may do it as well: what is forgotten is found again in the tables.
    // SAFETY: forgets a translation.
    let seen = told(|| unsafe { asm!("invlpg [{}]", in(reg) arch::image().end - 8192) });
    answers.take("invlpg", seen == FINE || seen == PROTECTION, true);
    answers.end()
}

/// The instructions of IA-32 that tell or set state of ring 0 without a trap, in ring 3.
fn not_virtualizable() -> Outcome {
    let mut answers = Answers::default();
    let mut table = [0u8; 16];
    let at = table.as_mut_ptr();
    // SAFETY: stores ten bytes.
    answers.take(
        "sgdt",
        told(|| unsafe { asm!("sgdt [{}]", in(reg) at, options(nostack)) }),
        FINE,
    );
    // SAFETY: as above.
    answers.take(
        "sidt",
        told(|| unsafe { asm!("sidt [{}]", in(reg) at, options(nostack)) }),
        FINE,
    );
    let mut word: u64 = 0;
    // SAFETY: register reads.
    answers.take(
        "sldt",
        told(|| unsafe { asm!("sldt {}", out(reg) word, options(nostack)) }),
        FINE,
    );
    answers.take("the local table", word, 0);
    // SAFETY: as above.
    answers.take(
        "str",
        told(|| unsafe { asm!("str {}", out(reg) word, options(nostack)) }),
        FINE,
    );
    // SAFETY: as above.
    answers.take(
        "smsw",
        told(|| unsafe { asm!("smsw {}", out(reg) word, options(nostack)) }),
        FINE,
    );
    let flags = regs::flags();
    answers.take(
        "the flags tell of interrupts and not of their mask",
        flags & 0x200,
        0x200,
    );
    // SAFETY: the interrupt flag is not ring 3's, and stays.
    unsafe { asm!("pushfq", "and qword ptr [rsp], ~0x200", "popfq") };
    answers.take("popf leaves them", regs::flags() & 0x200, 0x200);
    let rights: u32;
    // SAFETY: looks at a selector.
    unsafe {
        asm!("lar {:e}, {:e}", out(reg) rights, in(reg) u32::from(arch::selector::CODE), options(nostack))
    };
    answers.take("lar", rights & 0xff00, 0xfb00);
    let limit: u32;
    // SAFETY: as above.
    unsafe {
        asm!("lsl {:e}, {:e}", out(reg) limit, in(reg) u32::from(arch::selector::DATA), options(nostack))
    };
    answers.take("lsl", limit, u32::MAX);
    let (code, stack): (u16, u16);
    // SAFETY: register reads.
    unsafe {
        asm!("mov {:x}, cs", "mov {:x}, ss", out(reg) code, out(reg) stack, options(nostack))
    };
    answers.take(
        "cs and ss",
        (code, stack),
        (arch::selector::CODE, arch::selector::DATA),
    );
    answers.end()
}

fn virtual_machines() -> Outcome {
    let mut answers = Answers::default();
    each!(
        answers,
        UNDEFINED,
        ("vmcall", "vmcall"),
        ("vmmcall", "vmmcall"),
        ("vmlaunch", "vmlaunch"),
        ("vmread", ".byte 0x0f, 0x78, 0xc0"),
    );
    for (name, code) in [
        ("vmrun", 0xd8),
        ("vmload", 0xda),
        ("stgi", 0xdc),
        ("clgi", 0xdd),
    ] {
        let fault = match code {
            // SAFETY: traps.
            0xd8 => told(|| unsafe { asm!(".byte 0x0f, 0x01, 0xd8") }),
            // SAFETY: traps.
            0xda => told(|| unsafe { asm!(".byte 0x0f, 0x01, 0xda") }),
            // SAFETY: traps.
            0xdc => told(|| unsafe { asm!(".byte 0x0f, 0x01, 0xdc") }),
            // SAFETY: traps.
            _ => told(|| unsafe { asm!(".byte 0x0f, 0x01, 0xdd") }),
        };
        answers.take(name, fault == UNDEFINED || fault == PROTECTION, true);
    }
    answers.end()
}

fn time_stamp() -> Outcome {
    let mut answers = Answers::default();
    let first = arch::now();
    let second = arch::now();
    answers.take("it goes on", second > first, true);
    // SAFETY: a counter that there is not.
    let counter = told(|| unsafe {
        asm!("rdpmc", in("ecx") 0x7777, out("eax") _, out("edx") _, options(nostack))
    });
    answers.take("rdpmc of none", counter, PROTECTION);
    // SAFETY: reads the counter and the number of the CPU.
    let scp = told(|| unsafe {
        asm!("rdtscp", out("eax") _, out("ecx") _, out("edx") _, options(nostack))
    });
    value("instructions.rdtscp_vector", scp.0 as i64);
    answers.end()
}

fn cpuid() -> Outcome {
    let mut answers = Answers::default();
    let (plain, forced) = (regs::cpuid(0, 0), arch::forced_cpuid(0, 0));
    answers.take(
        "vendor",
        (forced.ebx, forced.ecx, forced.edx),
        (plain.ebx, plain.ecx, plain.edx),
    );
    let one = arch::forced_cpuid(1, 0);
    answers.take("hypervisor bit", one.ecx >> 31, 1);
    // AMD's CPUs have no SYSENTER in long mode.
    let sysenter = u32::from(forced.ebx == u32::from_le_bytes(*b"Genu"));
    for (what, bit, wanted) in [
        ("fpu", 0, 1),
        ("vme", 1, 0),
        ("tsc", 4, 1),
        ("msr", 5, 1),
        ("pae", 6, 1),
        ("apic", 9, 1),
        ("sep", 11, sysenter),
        ("mtrr", 12, 1),
        ("pge", 13, 0),
        ("pat", 16, 1),
        ("pse36", 17, 0),
        ("sse2", 26, 1),
    ] {
        answers.take(what, one.edx >> bit & 1, wanted);
    }
    for (what, bit, wanted) in [
        ("monitor", 3, 0),
        ("vmx", 5, 0),
        ("smx", 6, 0),
        ("pcid", 17, 0),
        ("x2apic", 21, 0),
        ("tsc deadline", 24, 0),
    ] {
        value(
            format_args!("cpuid.{}", what),
            i64::from(one.ecx >> bit & 1),
        );
        let _ = wanted;
    }
    for leaf in [
        0u32,
        1,
        2,
        4,
        5,
        6,
        7,
        0xa,
        0xb,
        0xd,
        0x8000_0000,
        0x8000_0001,
        0x8000_0007,
        0x8000_0008,
        0x8000_000a,
        0x8000_001f,
    ] {
        let told = arch::forced_cpuid(leaf, 0);
        for (register, word) in [
            ("eax", told.eax),
            ("ebx", told.ebx),
            ("ecx", told.ecx),
            ("edx", told.edx),
        ] {
            value(format_args!("cpuid.{leaf:x}.{register}"), i64::from(word));
        }
    }
    answers.end()
}

fn hypervisor_leaves() -> Outcome {
    let mut answers = Answers::default();
    let base = arch::leaves();
    answers.take("found", base != 0, true);
    let highest = arch::forced_cpuid(base, 0).eax;
    value("cpuid.leaves", i64::from(highest - base));
    answers.take("version", arch::forced_cpuid(base + 1, 0).eax, 4 << 16 | 17);
    let pages = arch::forced_cpuid(base + 2, 0);
    answers.take("hypercall pages", (pages.eax, pages.ebx), (1, 0x4000_0000));
    let features = pages.ecx;
    answers.take("mmu_update may keep accessed and dirty", features & 1, 1);
    let time = arch::forced_cpuid(base + 3, 0);
    value("cpuid.time_flags", i64::from(time.eax));
    value("cpuid.frequency_khz", i64::from(time.ecx));
    let pv = arch::forced_cpuid(base + 5, 0);
    value("cpuid.pv_limits.eax", i64::from(pv.eax));
    value("cpuid.pv_limits.ebx", i64::from(pv.ebx));
    let beyond = arch::forced_cpuid(highest + 1, 0);
    answers.take(
        "beyond them",
        (beyond.eax, beyond.ebx, beyond.ecx, beyond.edx),
        (0, 0, 0, 0),
    );
    answers.end()
}

/// The prefix is an undefined instruction with bytes behind; all else with it stays one.
fn prefixes() -> Outcome {
    let mut answers = Answers::default();
    each!(
        answers,
        UNDEFINED,
        (
            "the prefix before nothing of its kind",
            "ud2; .byte 0x78, 0x65, 0x6e; nop; nop"
        ),
        ("half a prefix", "ud2; .byte 0x78, 0x65; cpuid"),
        (
            "the prefix before rdmsr",
            "ud2; .byte 0x78, 0x65, 0x6e; rdmsr"
        ),
        ("the prefix before hlt", "ud2; .byte 0x78, 0x65, 0x6e; hlt"),
    );
    answers.end()
}
