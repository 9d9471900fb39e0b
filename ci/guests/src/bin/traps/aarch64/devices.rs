//! Odd accesses to the emulated interrupt controller: wrong sizes, wrong alignment, instructions
//! without a valid syndrome, reserved registers.

use core::arch::asm;

use xenolith_guests::arch::{self, fault_of, gic, gic::gicd};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, read, write};

pub(crate) const CASES: &[Case] = &[
    ("devices.wrong_sizes", wrong_sizes),
    ("devices.unaligned", unaligned),
    ("devices.pairs", pairs),
    ("devices.post_index", post_index),
    ("devices.reserved_registers", reserved),
    ("devices.read_only_registers_ignore_writes", read_only),
    ("devices.load_to_the_zero_register", zero_register),
    ("devices.sign_extending_load", sign_extending),
    ("devices.every_word_of_the_distributor_reads", every_word),
    ("devices.cpu_interface", cpu_interface),
];

fn faults(name: &str, f: impl FnOnce()) {
    value(
        format_args!("devices.{name}.faults"),
        i64::from(fault_of(f).is_some()),
    );
}

fn wrong_sizes() -> Outcome {
    let typer = gic::dist(gicd::TYPER);
    let enable = gic::dist(gicd::ISENABLER + 4);
    let priority = gic::dist(gicd::IPRIORITYR + 64);
    faults("typer_load8", || {
        arch::read8(typer);
    });
    faults("typer_load16", || {
        arch::read16(typer);
    });
    faults("typer_load64", || {
        arch::read64(gic::dist(gicd::CTLR));
    });
    faults("enable_store8", || arch::write8(enable, 0));
    faults("enable_store16", || arch::write16(enable, 0));
    faults("enable_store64", || {
        arch::write64(gic::dist(gicd::ISENABLER + 8), 0)
    });
    faults("priority_load8", || {
        arch::read8(priority);
    });
    faults("priority_load16", || {
        arch::read16(priority);
    });
    faults("priority_store16", || arch::write16(priority, 0xa0a0));
    faults("priority_store32", || arch::write32(priority, 0xa0a0_a0a0));
    Ok(())
}

/// The CPU itself refuses these on device memory; QEMU lets them through to the hypervisor.
fn unaligned() -> Outcome {
    faults("load_at_1", || {
        arch::read32(gic::dist(gicd::TYPER + 1));
    });
    faults("store_at_2", || {
        arch::write32(gic::dist(gicd::ISENABLER + 6), 0)
    });
    faults("load64_at_4", || {
        arch::read64(gic::dist(gicd::TYPER));
    });
    Ok(())
}

fn pairs() -> Outcome {
    let at = gic::dist(gicd::ISENABLER + 8);
    // SAFETY: (both) accesses to a device register; a fault is skipped.
    faults("ldp", || unsafe {
        asm!("ldp {:w}, {:w}, [{}]", out(reg) _, out(reg) _, in(reg) at)
    });
    // SAFETY: as above; setting no enable bits changes nothing.
    faults("stp", || unsafe { asm!("stp wzr, wzr, [{}]", in(reg) at) });
    Ok(())
}

fn post_index() -> Outcome {
    let at = gic::dist(gicd::TYPER);
    let (mut number, mut pointer) = (0u32, at);
    let fault = fault_of(|| {
        // SAFETY: a device read with post-index, which has no valid syndrome.
        unsafe { asm!("ldr {:w}, [{}], #4", out(reg) number, inout(reg) pointer) }
    });
    value("devices.ldr_post.faults", i64::from(fault.is_some()));
    if fault.is_none() {
        expect!((number, pointer), (arch::read32(at), at + 4));
    }
    let mut pointer = gic::dist(gicd::ISENABLER + 8);
    let fault = fault_of(|| {
        // SAFETY: a device write with post-index; setting no enable bits changes nothing.
        unsafe { asm!("str wzr, [{}], #4", inout(reg) pointer) }
    });
    value("devices.str_post.faults", i64::from(fault.is_some()));
    Ok(())
}

fn reserved() -> Outcome {
    for offset in [
        0x00c, 0x020, 0x03c, 0x0fc, 0x0c0, 0xf04, 0xfd0, 0xfe8, 0xffc,
    ] {
        let mut number = 0;
        let fault = fault_of(|| number = arch::read32(gic::dist(offset)));
        let shown = if fault.is_some() {
            -1
        } else {
            i64::from(number)
        };
        value(format_args!("devices.gicd_{offset:x}"), shown);
        faults_at(offset);
    }
    Ok(())
}

fn faults_at(offset: u64) {
    let fault = fault_of(|| arch::write32(gic::dist(offset), 0));
    value(
        format_args!("devices.gicd_{offset:x}.write_faults"),
        i64::from(fault.is_some()),
    );
}

fn read_only() -> Outcome {
    let typer = arch::read32(gic::dist(gicd::TYPER));
    faults("typer_store", || {
        arch::write32(gic::dist(gicd::TYPER), !typer)
    });
    faults("iidr_store", || arch::write32(gic::dist(gicd::IIDR), 0));
    expect!(arch::read32(gic::dist(gicd::TYPER)), typer);
    Ok(())
}

fn zero_register() -> Outcome {
    let at = gic::dist(gicd::TYPER);
    // SAFETY: a device read whose result is dropped.
    let fault = fault_of(|| unsafe { asm!("ldr wzr, [{}]", in(reg) at) });
    ensure!(fault.is_none(), "{fault:?}");
    Ok(())
}

fn sign_extending() -> Outcome {
    let at = gic::dist(gicd::IPRIORITYR + 64);
    arch::write8(at, 0xf8);
    let plain = arch::read8(at);
    let wide: i64;
    // SAFETY: a device read.
    unsafe { asm!("ldrsb {}, [{}]", out(reg) wide, in(reg) at) };
    expect!(wide, i64::from(plain as i8), "ldrsb");
    let word: i64;
    // SAFETY: a device read.
    unsafe { asm!("ldrsw {}, [{}]", out(reg) word, in(reg) at) };
    expect!(word, i64::from(arch::read32(at) as i32), "ldrsw");
    arch::write8(at, 0xa0);
    Ok(())
}

fn every_word() -> Outcome {
    let end = if gic::version() == 3 {
        0x1_0000
    } else {
        0x1000
    };
    let mut faulted = 0;
    for offset in (0..end).step_by(4) {
        let fault = fault_of(|| {
            arch::read32(gic::dist(offset));
        });
        faulted += i64::from(fault.is_some());
    }
    value("devices.distributor_words_that_fault", faulted);
    Ok(())
}

fn cpu_interface() -> Outcome {
    if gic::version() == 3 {
        value(
            "devices.icc_sre",
            read!("s3_0_c12_c12_5").map_or(-1, |number| number as i64),
        );
        let fault = write!("s3_0_c12_c12_5", 0);
        value("devices.icc_sre_write_faults", i64::from(fault.is_some()));
        value(
            "devices.icc_sgi0r_faults",
            i64::from(write!("s3_0_c12_c11_7", 0).is_some()),
        );
        value(
            "devices.icc_asgi1r_faults",
            i64::from(write!("s3_0_c12_c11_6", 0).is_some()),
        );
        value(
            "devices.icc_dir_faults",
            i64::from(write!("s3_0_c12_c11_1", 5).is_some()),
        );
        let Ok(control) = read!("s3_0_c12_c12_4") else {
            return Ok(());
        };
        value("devices.icc_ctlr", control as i64);
    }
    Ok(())
}
