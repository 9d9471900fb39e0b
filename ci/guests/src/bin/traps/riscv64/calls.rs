//! The SBI: what there is, and how bad calls are refused. RISC-V SBI specification 2.0.

use core::arch::asm;

use xenolith_guests::arch::sbi::{self, base, call, error, error_of, extension, hsm, rfence};
use xenolith_guests::arch::{self, hypercall};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::EFAULT;
use xenolith_guests::xen::{call_at, event, memory, nr};
use xenolith_guests::{ensure, expect};

use super::{Case, NOTHING, Outcome, says};

pub(crate) const CASES: &[Case] = &[
    ("calls.identity", identity),
    ("calls.probes", probes),
    ("calls.unknown_extensions", unknown_extensions),
    ("calls.unknown_functions", unknown_functions),
    ("calls.hart_state_refusals", hart_state),
    ("calls.masks_of_harts", masks),
    ("calls.fences_of_hypervisors", hypervisor_fences),
    ("calls.debug_console", debug_console),
    ("calls.debug_console_refusals", debug_console_refuses),
    ("calls.keep_the_other_registers", keep_registers),
    ("calls.hypercall_keeps_the_other_registers", hypercall_keeps),
    ("calls.reset_refusals", reset_refuses),
    ("calls.hypercalls_with_wild_pointers", wild_pointers),
];

/// No hart of a test machine has this id.
const NO_HART: u64 = 60;
const VERSION_2_0: i64 = 0x0200_0000;
const KNOWN: [u64; 6] = [
    extension::BASE,
    extension::TIME,
    extension::IPI,
    extension::RFENCE,
    extension::HSM,
    extension::SRST,
];
/// Far above any function's number.
const NO_FUNCTION: u64 = 0x7f;

fn identity() -> Outcome {
    let of = |function| call(extension::BASE, function, [0; 5]);
    for function in base::SPEC_VERSION..=base::MACHINE {
        let answer = call(extension::BASE, function, [extension::BASE, 0, 0, 0, 0]);
        expect!(answer.error, error::SUCCESS, "function {function}");
        value(format_args!("sbi.base_{function}"), answer.value);
    }
    says("sbi.version", of(base::SPEC_VERSION).value, VERSION_2_0)?;
    says("sbi.implementation", of(base::IMPLEMENTATION).value, 7)
}

fn probes() -> Outcome {
    for number in KNOWN {
        ensure!(sbi::has(number), "extension {number:#x} is not there");
    }
    says("sbi.has_dbcn", i64::from(sbi::has(extension::DBCN)), 1)?;
    for number in [
        0x0f,
        0x11,
        0x0800_0000,
        0x0900_0000,
        extension::BASE | 1 << 32,
        u64::MAX,
    ] {
        ensure!(!sbi::has(number), "extension {number:#x} is there");
    }
    for number in [0x50_4d55, 0x5355_5350, 0x4350_5043, 0x4e41_434c, 0x53_5441] {
        let there = i64::from(sbi::has(number));
        value(format_args!("sbi.has_{number:x}"), there);
    }
    Ok(())
}

fn unknown_extensions() -> Outcome {
    for number in [
        0x0f,
        0x11,
        0xff,
        0x0800_0000,
        0x0900_0000,
        0x0aff_ffff,
        0xdead_beef,
        extension::BASE | 1 << 32,
        extension::HSM | 1 << 63,
        u64::MAX,
    ] {
        for function in [0, 1, u64::MAX] {
            let answer = error_of(number, function, [0; 3]);
            expect!(answer, error::NOT_SUPPORTED, "{number:#x}.{function:#x}");
        }
    }
    Ok(())
}

fn unknown_functions() -> Outcome {
    for number in KNOWN.into_iter().filter(|&number| sbi::has(number)) {
        for function in [NO_FUNCTION, 1 << 31, u64::MAX] {
            let answer = error_of(number, function, [0; 3]);
            expect!(answer, error::NOT_SUPPORTED, "{number:#x}.{function:#x}");
        }
    }
    if sbi::has(extension::DBCN) {
        let answer = error_of(extension::DBCN, NO_FUNCTION, [0; 3]);
        expect!(answer, error::NOT_SUPPORTED, "debug console");
    }
    Ok(())
}

fn hart_state() -> Outcome {
    let own = arch::hart_of(0);
    let state = call(extension::HSM, hsm::STATUS, [own, 0, 0, 0, 0]);
    expect!((state.error, state.value), (0, hsm::STARTED), "itself");
    let entry = arch::secondary_entry();
    let start = |hart, entry| error_of(extension::HSM, hsm::START, [hart, entry, 0]);
    expect!(start(own, entry), error::ALREADY_AVAILABLE, "itself");
    for hart in [NO_HART, 1 << 32 | own, 1 << 63, u64::MAX] {
        says(
            "sbi.start_of_no_hart",
            start(hart, entry),
            error::INVALID_PARAM,
        )?;
        let state = error_of(extension::HSM, hsm::STATUS, [hart, 0, 0]);
        says("sbi.state_of_no_hart", state, error::INVALID_PARAM)?;
    }
    for kind in [1, 0x0fff_ffff, 0x8000_0001, 0x8fff_ffff] {
        let answer = error_of(extension::HSM, hsm::SUSPEND, [kind, entry, 0]);
        expect!(answer, error::INVALID_PARAM, "suspend {kind:#x}");
    }
    Ok(())
}

/// Masks that name nobody do nothing; masks that name a hart which is not there are refused.
fn masks() -> Outcome {
    let own = arch::hart_of(0);
    arch::irq_off();
    for (number, function) in [
        (extension::IPI, 0),
        (extension::RFENCE, rfence::FENCE_I),
        (extension::RFENCE, rfence::SFENCE_VMA),
        (extension::RFENCE, rfence::SFENCE_VMA_ASID),
    ] {
        let ask = |mask, base| call(number, function, [mask, base, 0, 4096, 0]).error;
        expect!(ask(0, 0), 0, "nobody, {number:#x}.{function}");
        expect!(ask(1, own), 0, "itself, {number:#x}.{function}");
        expect!(ask(1 << own, 0), 0, "itself by the mask");
        expect!(ask(0, u64::MAX), 0, "all, {number:#x}.{function}");
        for (what, mask, base) in [
            ("masks.no_hart", 1, NO_HART),
            ("masks.no_hart_by_the_mask", 1 << NO_HART | 1 << own, 0),
            ("masks.beyond_the_base", 1 << 63, own),
            ("masks.around_the_end", 2 | 4, u64::MAX - 1),
            ("masks.high_base", 1, 1 << 63),
        ] {
            says(what, ask(mask, base), error::INVALID_PARAM)?;
        }
    }
    arch::clear_software();
    Ok(())
}

/// Of those a guest has none: the hypervisor extension is not for it.
fn hypervisor_fences() -> Outcome {
    for function in 3..=rfence::HFENCE_VVMA {
        let answer = call(extension::RFENCE, function, [0; 5]).error;
        says("sbi.hfence", answer, error::NOT_SUPPORTED)?;
    }
    Ok(())
}

fn debug_console() -> Outcome {
    if !sbi::has(extension::DBCN) {
        return Ok(());
    }
    let text = b"[guest] a line by the debug console\n";
    let at = text.as_ptr() as u64;
    let mut done = 0;
    while done < text.len() as u64 {
        let rest = text.len() as u64 - done;
        let answer = call(extension::DBCN, 0, [rest, at + done, 0, 0, 0]);
        expect!(answer.error, 0);
        ensure!(
            (1..=rest as i64).contains(&answer.value),
            "{} of {rest} bytes",
            answer.value
        );
        done += answer.value as u64;
    }
    let nothing = call(extension::DBCN, 0, [0, at, 0, 0, 0]);
    expect!((nothing.error, nothing.value), (0, 0), "no bytes");
    for byte in *b"[guest] by bytes\n" {
        let answer = error_of(extension::DBCN, 2, [byte.into(), 0, 0]);
        expect!(answer, 0, "byte {byte}");
    }
    let page = Page::take();
    let typed = call(extension::DBCN, 1, [16, page.address(), 0, 0, 0]);
    expect!((typed.error, typed.value), (0, 0), "nobody types");
    Ok(())
}

fn debug_console_refuses() -> Outcome {
    if !sbi::has(extension::DBCN) {
        return Ok(());
    }
    let good = Page::take().address();
    for function in [0, 1] {
        for (low, high) in [
            (NOTHING, 0),
            (arch::device_address(), 0),
            (u64::MAX, 0),
            (u64::MAX - 8, 0),
            (1 << 63, 0),
            (good, 1),
            (good, u64::MAX),
        ] {
            let answer = error_of(extension::DBCN, function, [16, low, high]);
            expect!(
                answer,
                error::INVALID_PARAM,
                "function {function} at {high:#x}:{low:#x}"
            );
        }
    }
    Ok(())
}

fn keep_registers() -> Outcome {
    let mut got = [0u64; 13];
    // SAFETY: the base extension's version; a0 and a1 change.
    unsafe {
        asm!("ecall", inout("a0") 0u64 => _, inout("a1") 1u64 => _,
             inout("a2") 2u64 => got[0], inout("a3") 3u64 => got[1], inout("a4") 4u64 => got[2],
             inout("a5") 5u64 => got[3], inout("a6") 0u64 => got[4], inout("a7") extension::BASE => got[5],
             inout("t0") 20u64 => got[6], inout("t1") 21u64 => got[7], inout("t2") 22u64 => got[8],
             inout("t6") 26u64 => got[9], inout("s2") 32u64 => got[10], inout("s11") 41u64 => got[11],
             inout("ra") 51u64 => got[12])
    };
    let base = extension::BASE;
    expect!(got, [2, 3, 4, 5, 0, base, 20, 21, 22, 26, 32, 41, 51]);
    Ok(())
}

fn hypercall_keeps() -> Outcome {
    if sbi::is_bare() {
        return Ok(());
    }
    let mut got = [0u64; 9];
    let version: u64;
    // SAFETY: xen_version 0; a0 to a5 change.
    unsafe {
        asm!("ecall", inout("a0") 0u64 => version, inout("a1") 0u64 => _, inout("a2") 0u64 => _,
             inout("a3") 0u64 => _, inout("a4") 0u64 => _, inout("a5") 0u64 => _,
             inout("a6") nr::XEN_VERSION => got[0], inout("a7") extension::XEN => got[1],
             inout("t0") 20u64 => got[2], inout("t1") 21u64 => got[3], inout("t2") 22u64 => got[4],
             inout("t6") 26u64 => got[5], inout("s2") 32u64 => got[6], inout("s11") 41u64 => got[7],
             inout("ra") 51u64 => got[8])
    };
    let (number, xen) = (nr::XEN_VERSION, extension::XEN);
    expect!(got, [number, xen, 20, 21, 22, 26, 32, 41, 51]);
    expect!(version as i64, hypercall(nr::XEN_VERSION, [0; 5]));
    Ok(())
}

/// Kinds and reasons that the specification keeps for later. The guest is gone if one of them is taken.
fn reset_refuses() -> Outcome {
    for (kind, reason) in [(3, 0), (0xefff_ffff, 0), (0, 2), (0, 0xdfff_ffff), (1, 2)] {
        let answer = error_of(extension::SRST, 0, [kind, reason, 0]);
        if sbi::is_bare() {
            value(format_args!("sbi.reset_{kind:x}_{reason:x}"), answer);
        } else {
            expect!(answer, error::INVALID_PARAM, "{kind:#x} for {reason:#x}");
        }
    }
    Ok(())
}

/// Where nothing is, in devices, in no address space at all, beyond what the second stage has.
fn wild_pointers() -> Outcome {
    if sbi::is_bare() {
        return Ok(());
    }
    for (number, sub) in [
        (nr::XEN_VERSION, 1),
        (nr::XEN_VERSION, 6),
        (nr::EVENT_CHANNEL_OP, event::op::SEND),
        (nr::MEMORY_OP, memory::op::ADD_TO_PHYSMAP),
    ] {
        for address in [
            NOTHING,
            arch::device_address(),
            arch::UNMAPPED,
            arch::NON_CANONICAL,
            arch::UPPER_HALF,
            250 << 30,
            u64::MAX - 7,
        ] {
            let errno = call_at(number, sub, address);
            expect!(errno, EFAULT, "{number}.{sub} at {address:#x}");
        }
    }
    Ok(())
}
