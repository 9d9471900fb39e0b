//! CPUID: every leaf answers, and what it claims fits a guest.

use core::arch::asm;

use xenolith_guests::arch::{self, apic, regs, regs::cpuid};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("cpuid.all_leaves_answer", all),
    ("cpuid.claims_fit_a_guest", claims),
    ("cpuid.follows_control_registers", follows),
    ("cpuid.beyond_the_last_leaf", beyond),
    ("cpuid.read_twice_alike", alike),
    ("cpuid.upper_halves_are_cleared", upper_halves),
    ("cpuid.forced_prefix_is_no_prefix", forced),
];

fn show(leaf: u32, subleaf: u32) {
    let words = cpuid(leaf, subleaf);
    let pairs = [
        ("a", words.eax),
        ("b", words.ebx),
        ("c", words.ecx),
        ("d", words.edx),
    ];
    for (name, word) in pairs {
        if word != 0 {
            value(
                format_args!("cpuid.{leaf:x}.{subleaf:x}.{name}"),
                i64::from(word),
            );
        }
    }
}

fn all() -> Outcome {
    for base in [0, 0x8000_0000] {
        let last = cpuid(base, 0).eax;
        ensure!(last > base && last < base + 0x100, "last leaf {last:#x}");
        for leaf in base..=last {
            show(leaf, 0);
            if matches!(leaf, 4 | 7 | 0xb | 0xd) {
                show(leaf, 1);
                show(leaf, 2);
            }
        }
    }
    Ok(())
}

fn claims() -> Outcome {
    let first = cpuid(1, 0);
    expect!(first.ecx >> 31, 1, "hypervisor present");
    expect!(first.ecx >> 5 & 1, 0, "VMX");
    expect!(first.ecx >> 3 & 1, 0, "MONITOR");
    expect!(first.edx >> 9 & 1, 1, "APIC");
    expect!(first.edx >> 5 & 1, 1, "MSRs");
    let extended = cpuid(0x8000_0001, 0);
    expect!(extended.ecx >> 2 & 1, 0, "SVM");
    expect!(extended.edx >> 29 & 1, 1, "long mode");
    expect!(extended.edx >> 20 & 1, 1, "no-execute");
    let bits = cpuid(0x8000_0008, 0).eax;
    value("cpuid.physical_bits", i64::from(bits & 0xff));
    ensure!((36..=52).contains(&(bits & 0xff)) && bits >> 8 & 0xff >= 48);
    value("cpuid.x2apic", i64::from(first.ecx >> 21 & 1));
    value("cpuid.deadline", i64::from(first.ecx >> 24 & 1));
    Ok(())
}

/// OSXSAVE and APIC follow what the guest set.
fn follows() -> Outcome {
    let cr4 = regs::cr4();
    let has_xsave = cpuid(1, 0).ecx >> 26 & 1 != 0;
    expect!(cpuid(1, 0).ecx >> 27 & 1, 0, "OSXSAVE at first");
    if has_xsave {
        regs::set_cr4(cr4 | 1 << 18);
        let set = cpuid(1, 0).ecx >> 27 & 1;
        regs::set_cr4(cr4);
        expect!(set, 1, "OSXSAVE when set");
    }
    expect!(cpuid(1, 0).ebx >> 24, apic::id() & 0xff);
    Ok(())
}

fn beyond() -> Outcome {
    for leaf in [
        cpuid(0, 0).eax + 1,
        0x2000_0000,
        0x4fff_ff00,
        0x8fff_ffff,
        0xc000_0000,
        u32::MAX,
    ] {
        let words = cpuid(leaf, 0);
        value(
            format_args!("cpuid.beyond_{leaf:x}_is_zero"),
            i64::from([words.eax, words.ebx, words.ecx, words.edx] == [0; 4]),
        );
    }
    Ok(())
}

fn alike() -> Outcome {
    for leaf in [0, 1, 0x8000_0001, arch::leaves()] {
        let (first, second) = (cpuid(leaf, 0), cpuid(leaf, 0));
        expect!(
            [first.eax, first.ecx, first.edx],
            [second.eax, second.ecx, second.edx]
        );
    }
    Ok(())
}

fn upper_halves() -> Outcome {
    let (a, c, d): (u64, u64, u64);
    // SAFETY: CPUID with rbx kept.
    unsafe {
        asm!("push rbx", "cpuid", "pop rbx", inout("rax") 0xffff_ffff_0000_0000u64 => a,
             inout("rcx") 0xffff_ffff_0000_0000u64 => c, inout("rdx") u64::MAX => d)
    };
    expect!([a >> 32, c >> 32, d >> 32], [0, 0, 0]);
    Ok(())
}

/// Xen's prefix for CPUID of PV guests is an undefined instruction here.
fn forced() -> Outcome {
    // SAFETY: UD2 first; the fault leaves the closure.
    let fault = arch::fault_of(|| unsafe {
        asm!("ud2", ".ascii \"xen\"", "push rbx", "cpuid", "pop rbx", inout("eax") 0 => _, out("ecx") _, out("edx") _)
    });
    super::undefined("ud2", fault)
}
