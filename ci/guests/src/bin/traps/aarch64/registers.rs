//! System registers that a guest gets emulated, gets as zero, or does not get.

use xenolith_guests::arch::{self, class};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, read, write};

pub(crate) const CASES: &[Case] = &[
    ("registers.unknown_ones_are_undefined", unknown),
    ("registers.of_the_hypervisor_are_undefined", hypervisor),
    ("registers.debug", debug),
    ("registers.performance_monitors", monitors),
    ("registers.auxiliary", auxiliary),
    (
        "registers.a_fault_names_its_instruction",
        fault_names_instruction,
    ),
    ("registers.cache_by_set_and_way", set_way),
    ("registers.floating_point_survives_a_switch", floating_point),
];

fn unknown() -> Outcome {
    macro_rules! undefined {
        ($($name:literal),*) => {
            $(
                match read!($name) {
                    Ok(number) => ensure!(false, "{} reads {:#x}", $name, number),
                    Err(fault) => expect!(fault.class(), class::UNKNOWN, concat!("read of ", $name)),
                }
                match write!($name, 0) {
                    None => ensure!(false, "{} takes a write", $name),
                    Some(fault) => expect!(fault.class(), class::UNKNOWN, concat!("write of ", $name)),
                }
            )*
        };
    }
    undefined!(
        "s3_0_c9_c15_7",
        "s3_0_c14_c3_7",
        "s3_3_c6_c0_0",
        "s3_2_c1_c0_0",
        "s3_0_c8_c8_0"
    );
    Ok(())
}

fn hypervisor() -> Outcome {
    macro_rules! undefined {
        ($($name:literal),*) => {
            $(match read!($name) {
                Ok(number) => ensure!(false, "{} reads {:#x}", $name, number),
                Err(fault) => expect!(fault.class(), class::UNKNOWN, $name),
            })*
        };
    }
    undefined!(
        "hcr_el2",
        "vttbr_el2",
        "esr_el2",
        "vbar_el2",
        "sctlr_el2",
        "cnthctl_el2",
        "scr_el3",
        "spsr_el2"
    );
    // SAFETY: EL2's TLB maintenance, undefined here; the fault is skipped.
    let fault = arch::fault_of(|| unsafe { core::arch::asm!("tlbi alle2", "nop") });
    ensure!(
        fault.is_some_and(|fault| fault.class() == class::UNKNOWN),
        "tlbi alle2"
    );
    Ok(())
}

/// Prints what a register reads, and whether it faults at a read and at a write of zero.
macro_rules! behaviour {
    ($($name:literal),* $(,)?) => {
        $(
            match read!($name) {
                Ok(number) => value(concat!("register.", $name), number as i64),
                Err(fault) => value(concat!("register.", $name, ".read_fault_class"), fault.class() as i64),
            }
            if let Some(fault) = write!($name, 0) {
                value(concat!("register.", $name, ".write_fault_class"), fault.class() as i64);
            }
        )*
    };
}

fn debug() -> Outcome {
    behaviour!(
        "mdscr_el1",
        "dbgbvr0_el1",
        "dbgbcr0_el1",
        "dbgwvr0_el1",
        "dbgwcr0_el1",
        "dbgbvr5_el1",
        "dbgvcr32_el2"
    );
    behaviour!(
        "osdlr_el1",
        "osdtrrx_el1",
        "oseccr_el1",
        "dbgprcr_el1",
        "dbgclaimset_el1",
        "dbgclaimclr_el1"
    );
    for (name, number) in [
        ("oslsr_el1", read!("oslsr_el1")),
        ("mdccsr_el0", read!("mdccsr_el0")),
        ("mdrar_el1", read!("mdrar_el1")),
        ("dbgauthstatus_el1", read!("dbgauthstatus_el1")),
    ] {
        value(
            format_args!("register.{name}"),
            number.map_or(-1, |number| number as i64),
        );
    }
    // Kernels clear what every CPU has at least without asking.
    macro_rules! needed {
        ($($name:literal),*) => {
            $(
                expect!(read!($name).map_err(|fault| fault.class()), Ok(0), concat!("read of ", $name));
                ensure!(write!($name, 0).is_none(), "{} cannot be cleared", $name);
            )*
        };
    }
    needed!("dbgbvr0_el1", "dbgbcr0_el1", "dbgbvr1_el1", "dbgbcr1_el1");
    needed!("dbgwvr0_el1", "dbgwcr0_el1", "dbgwvr1_el1", "dbgwcr1_el1");
    needed!("mdscr_el1", "osdlr_el1");
    let fault = write!("oslar_el1", 0);
    ensure!(fault.is_none(), "the OS lock cannot be cleared: {fault:?}");
    Ok(())
}

/// Where no monitors are claimed their registers are undefined, or read as zero all the same.
fn monitors() -> Outcome {
    for (name, seen) in [
        ("pmcr_el0", read!("pmcr_el0")),
        ("pmccntr_el0", read!("pmccntr_el0")),
        ("pmintenset_el1", read!("pmintenset_el1")),
    ] {
        let fine = match seen {
            Ok(_) => true,
            Err(fault) => fault.class() == class::UNKNOWN,
        };
        ensure!(fine, "{name}: {seen:?}");
    }
    behaviour!(
        "pmcr_el0",
        "pmcntenset_el0",
        "pmcntenclr_el0",
        "pmovsclr_el0",
        "pmselr_el0",
        "pmccntr_el0"
    );
    behaviour!(
        "pmxevtyper_el0",
        "pmxevcntr_el0",
        "pmuserenr_el0",
        "pmintenset_el1",
        "pmintenclr_el1",
        "pmccfiltr_el0"
    );
    behaviour!("pmevcntr0_el0", "pmevtyper0_el0", "pmovsset_el0");
    value(
        "register.pmceid0_el0",
        read!("pmceid0_el0").map_or(-1, |number| number as i64),
    );
    value(
        "register.pmceid1_el0",
        read!("pmceid1_el0").map_or(-1, |number| number as i64),
    );
    Ok(())
}

fn auxiliary() -> Outcome {
    behaviour!("actlr_el1", "afsr0_el1", "afsr1_el1", "amair_el1");
    behaviour!("s3_1_c15_c2_0", "s3_1_c15_c2_1", "s3_1_c11_c0_2");
    Ok(())
}

fn fault_names_instruction() -> Outcome {
    let Err(first) = read!("hcr_el2") else {
        return Ok(());
    };
    let image = arch::image();
    ensure!(image.contains(&first.elr), "ELR {:#x}", first.elr);
    ensure!(first.elr % 4 == 0);
    expect!(first.esr >> 25 & 1, 1, "instruction length");
    Ok(())
}

/// Set/way maintenance is caught, and done some other way.
fn set_way() -> Outcome {
    // SAFETY: cleans one line of the first-level cache.
    let fault = arch::fault_of(|| unsafe { core::arch::asm!("dc cisw, xzr", "dsb sy") });
    ensure!(fault.is_none(), "{fault:?}");
    // SAFETY: as above.
    let fault = arch::fault_of(|| unsafe { core::arch::asm!("dc csw, xzr", "dsb sy") });
    ensure!(fault.is_none(), "{fault:?}");
    Ok(())
}

fn floating_point() -> Outcome {
    let (first, last): (u64, u64);
    xenolith_guests::arch::irq_off();
    // SAFETY: this guest's code never uses FP registers itself, so the case has them for its own.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp", ".arch_extension simd",
            "mrs {t}, cpacr_el1", "orr {t}, {t}, #(3 << 20)", "msr cpacr_el1, {t}", "isb",
            "fmov d0, {a}", "fmov d31, {b}", t = out(reg) _, a = in(reg) 0x1111_2222_3333u64, b = in(reg) !0u64,
        );
    }
    for _ in 0..10 {
        xenolith_guests::xen::sched::yield_now();
    }
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(".arch_extension fp", "fmov {a}, d0", "fmov {b}, d31", a = out(reg) first, b = out(reg) last);
    }
    expect!((first, last), (0x1111_2222_3333, !0));
    Ok(())
}
