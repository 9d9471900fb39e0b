//! Accesses to guest-physical addresses where nothing is: an abort at the instruction, every time.

use core::arch::asm;

use xenolith_guests::arch::{self, Access, Fault, class, fault_of};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("nothing.loads_of_every_size", loads),
    ("nothing.stores_of_every_size", stores),
    ("nothing.pairs_and_post_index", pairs),
    ("nothing.exclusives_and_atomics", exclusives),
    ("nothing.cacheable_mapping", cacheable),
    ("nothing.instruction_fetch", fetch),
    ("nothing.beyond_the_physical_range", beyond),
    ("nothing.cache_maintenance", maintenance),
    ("nothing.thousand_times", thousand),
];

/// In a hole of every board's map.
const NOTHING: u64 = 0x3fff_f000;
const WRITE: u64 = 1 << 6;

fn data_abort(what: &str, fault: Option<Fault>, address: u64, write: bool) -> Outcome {
    let Some(fault) = fault else {
        ensure!(false, "{what}: no fault");
        return Ok(());
    };
    expect!(fault.class(), class::DATA_ABORT, "{what}: class");
    expect!(fault.far, address, "{what}: address");
    value(format_args!("nothing.{what}.status"), fault.status() as i64);
    value(
        format_args!("nothing.{what}.write_bit_is_right"),
        i64::from((fault.esr & WRITE != 0) == write),
    );
    Ok(())
}

fn loads() -> Outcome {
    let at = NOTHING + 0x100;
    data_abort(
        "load8",
        fault_of(|| {
            arch::read8(at);
        }),
        at,
        false,
    )?;
    data_abort(
        "load16",
        fault_of(|| {
            arch::read16(at);
        }),
        at,
        false,
    )?;
    data_abort(
        "load32",
        fault_of(|| {
            arch::read32(at);
        }),
        at,
        false,
    )?;
    data_abort(
        "load64",
        fault_of(|| {
            arch::read64(at);
        }),
        at,
        false,
    )
}

fn stores() -> Outcome {
    let at = NOTHING + 0x200;
    data_abort("store8", fault_of(|| arch::write8(at, 1)), at, true)?;
    data_abort("store16", fault_of(|| arch::write16(at, 1)), at, true)?;
    data_abort("store32", fault_of(|| arch::write32(at, 1)), at, true)?;
    data_abort("store64", fault_of(|| arch::write64(at, 1)), at, true)
}

fn pairs() -> Outcome {
    let at = NOTHING + 0x300;
    // SAFETY: (all below) accesses to nothing; the fault is skipped, the outputs are not used.
    let fault =
        fault_of(|| unsafe { asm!("ldp {}, {}, [{}]", out(reg) _, out(reg) _, in(reg) at) });
    data_abort("ldp", fault, at, false)?;
    // SAFETY: as above.
    let fault = fault_of(|| unsafe { asm!("stp xzr, xzr, [{}]", in(reg) at) });
    data_abort("stp", fault, at, true)?;
    // SAFETY: as above.
    let fault = fault_of(|| unsafe { asm!("ldr {}, [{}], #8", out(reg) _, inout(reg) at => _) });
    data_abort("ldr_post", fault, at, false)?;
    // SAFETY: as above.
    let fault = fault_of(|| unsafe { asm!("str xzr, [{}], #8", inout(reg) at => _) });
    data_abort("str_post", fault, at, true)
}

fn exclusives() -> Outcome {
    let at = NOTHING + 0x400;
    // SAFETY: accesses to nothing; the fault is skipped, the outputs are not used.
    let fault = fault_of(|| unsafe { asm!("ldxr {}, [{}]", out(reg) _, in(reg) at) });
    data_abort("ldxr", fault, at, false)?;
    // SAFETY: as above.
    let fault = fault_of(|| unsafe { asm!("ldar {}, [{}]", out(reg) _, in(reg) at) });
    data_abort("ldar", fault, at, false)?;
    // SAFETY: as above.
    let fault = fault_of(|| unsafe { asm!("stlr xzr, [{}]", in(reg) at) });
    data_abort("stlr", fault, at, true)
}

fn cacheable() -> Outcome {
    let at = arch::map_page(0, NOTHING, Access::ReadWrite);
    data_abort(
        "cacheable_load",
        fault_of(|| {
            arch::read32(at);
        }),
        at,
        false,
    )?;
    data_abort(
        "cacheable_store",
        fault_of(|| arch::write32(at, 1)),
        at,
        true,
    )?;
    arch::unmap_page(0);
    Ok(())
}

fn fetch() -> Outcome {
    let at = arch::map_page(0, NOTHING, Access::Execute);
    // SAFETY: a call to nothing; the fault handler returns to the link register.
    let fault = fault_of(|| unsafe { asm!("blr {}", in(reg) at, out("x30") _) });
    arch::unmap_page(0);
    let Some(fault) = fault else {
        ensure!(false, "no fault");
        return Ok(());
    };
    expect!(fault.class(), class::INSTRUCTION_ABORT);
    expect!((fault.far, fault.elr), (at, at));
    value("nothing.fetch.esr", fault.esr as i64);
    Ok(())
}

/// The top of what this guest's own tables can name.
fn beyond() -> Outcome {
    let at = 500 << 30;
    let fault = fault_of(|| {
        arch::read32(at);
    });
    ensure!(fault.is_some(), "no fault");
    value(
        "nothing.beyond.status",
        fault.map_or(0, |fault| fault.status()) as i64,
    );
    Ok(())
}

fn maintenance() -> Outcome {
    // SAFETY: cache maintenance on an address with nothing behind it.
    let fault = fault_of(|| unsafe { asm!("dc civac, {}", in(reg) NOTHING) });
    value("nothing.dc_civac_faults", i64::from(fault.is_some()));
    // SAFETY: as above.
    let fault = fault_of(|| unsafe { asm!("at s1e1r, {}", "isb", in(reg) NOTHING) });
    ensure!(fault.is_none(), "at s1e1r: {fault:?}");
    Ok(())
}

fn thousand() -> Outcome {
    for _ in 0..1000 {
        let fault = fault_of(|| {
            arch::read32(NOTHING);
        });
        ensure!(fault.is_some());
    }
    Ok(())
}
