//! Accesses to guest-physical addresses where nothing is: an access fault at the instruction, with the address, every time.

use core::arch::asm;

use xenolith_guests::arch::{self, Access, cause, entry_for, fault_of, fault_of_code, sbi};
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, NOTHING, Outcome, faulted};

pub(crate) const CASES: &[Case] = &[
    ("nothing.loads_of_every_size", loads),
    ("nothing.stores_of_every_size", stores),
    ("nothing.short_instructions", short),
    ("nothing.atomics", atomics),
    ("nothing.through_a_page", page),
    ("nothing.instruction_fetch", fetch),
    ("nothing.fetch_from_a_device", fetch_from_device),
    ("nothing.beyond_the_physical_range", beyond),
    ("nothing.across_its_border", across),
    ("nothing.tables_where_nothing_is", tables),
    ("nothing.tables_in_a_device", tables_in_device),
    ("nothing.page_faults_stay_the_guests", page_faults),
    ("nothing.thousand_times", thousand),
];

fn load(what: &str, fault: Option<arch::Fault>, address: u64) -> Outcome {
    faulted(what, fault, cause::LOAD_ACCESS, address)
}

fn store(what: &str, fault: Option<arch::Fault>, address: u64) -> Outcome {
    faulted(what, fault, cause::STORE_ACCESS, address)
}

/// The address is right; of the kind of access QEMU 7.2 may say that it was a load.
fn access(what: &str, fault: Option<arch::Fault>, cause: u64, address: u64) -> Outcome {
    ensure!(
        fault.is_some_and(|fault| {
            (fault.cause == cause || fault.cause == cause::LOAD_ACCESS) && fault.value == address
        }),
        "{what}: {fault:x?}"
    );
    let is_right = fault.is_some_and(|fault| fault.cause == cause);
    value(
        format_args!("nothing.{what}_is_told_as_such"),
        is_right.into(),
    );
    Ok(())
}

fn loads() -> Outcome {
    let at = NOTHING + 0x100;
    let read8 = || {
        arch::read8(at);
    };
    let read16 = || {
        arch::read16(at);
    };
    let read32 = || {
        arch::read32(at);
    };
    let read64 = || {
        arch::read64(at);
    };
    load("8 bits", fault_of(read8), at)?;
    load("16 bits", fault_of(read16), at)?;
    load("32 bits", fault_of(read32), at)?;
    load("64 bits", fault_of(read64), at)
}

fn stores() -> Outcome {
    let at = NOTHING + 0x200;
    store("8 bits", fault_of(|| arch::write8(at, 1)), at)?;
    store("16 bits", fault_of(|| arch::write16(at, 1)), at)?;
    store("32 bits", fault_of(|| arch::write32(at, 1)), at)?;
    store("64 bits", fault_of(|| arch::write64(at, 1)), at)
}

/// Compressed loads and stores: what runs next is two bytes behind.
fn short() -> Outcome {
    let at = NOTHING + 0x300;
    let mut after: u64 = 0;
    // SAFETY: (all below) accesses to nothing; the fault is skipped, the outputs are not used.
    let fault = fault_of(|| unsafe {
        asm!(".option push", ".option arch, +c", "li a4, 0", "c.lw a5, 8(a3)", "addi a4, a4, 1", ".option pop",
             in("a3") at, out("a5") _, out("a4") after)
    });
    load("c.lw", fault, at + 8)?;
    expect!(after, 1, "behind c.lw");
    // SAFETY: as above.
    let fault = fault_of(|| unsafe {
        asm!(".option push", ".option arch, +c", "li a4, 0", "c.sd a5, 8(a3)", "addi a4, a4, 1", ".option pop",
             in("a3") at, in("a5") 0u64, out("a4") after)
    });
    store("c.sd", fault, at + 8)?;
    expect!(after, 1, "behind c.sd");
    Ok(())
}

fn atomics() -> Outcome {
    let at = NOTHING + 0x400;
    // LR.W a1, (a0); SC.W a1, a1, (a0); AMOADD.D a1, a1, (a0); AMOSWAP.W a1, a1, (a0)
    load("lr", fault_of_code(&[0x1005_25af], at), at)?;
    for (name, code) in [("amoadd", 0x00b5_35af), ("amoswap", 0x08b5_25af)] {
        let fault = fault_of_code(&[code], at);
        access(name, fault, cause::STORE_ACCESS, at)?;
    }
    // Without a reservation it may fail before it looks at the address.
    let fault = fault_of_code(&[0x18b5_25af], at);
    value("nothing.sc_faults", i64::from(fault.is_some()));
    Ok(())
}

fn page() -> Outcome {
    let at = arch::map_page(0, NOTHING, Access::ReadWrite) + 0x10;
    let read = fault_of(|| {
        arch::read32(at);
    });
    let write = fault_of(|| arch::write32(at, 1));
    arch::unmap_page(0);
    load("load", read, at)?;
    store("store", write, at)
}

/// Calls the address; it comes back by the link register.
fn fault_of_call(at: u64) -> Option<arch::Fault> {
    // SAFETY: a call to where no code is.
    fault_of(|| unsafe { asm!("jalr {}", in(reg) at, clobber_abi("C")) })
}

fn fetch() -> Outcome {
    let at = arch::map_page(0, NOTHING, Access::Execute) + 8;
    let fault = fault_of_call(at);
    arch::unmap_page(0);
    faulted("fetch", fault, cause::FETCH_ACCESS, at)?;
    expect!(fault.map(|fault| fault.pc), Some(at));
    Ok(())
}

fn fetch_from_device() -> Outcome {
    let at = arch::map_page(0, arch::device_address(), Access::Execute);
    let fault = fault_of_call(at);
    arch::unmap_page(0);
    ensure!(
        fault.is_some_and(|fault| matches!(fault.cause, cause::FETCH_ACCESS | cause::ILLEGAL)),
        "{fault:x?}"
    );
    value(
        "nothing.fetch_from_a_device_cause",
        fault.map_or(-1, |fault| fault.cause as i64),
    );
    Ok(())
}

/// What the guest's tables can name, and what the second stage cannot.
fn beyond() -> Outcome {
    for address in [250 << 30, 1 << 40, 1 << 41, 1 << 48, 1 << 55] {
        let at = arch::map_page(0, address, Access::ReadWrite);
        let fault = fault_of(|| {
            arch::read32(at);
        });
        arch::unmap_page(0);
        load("load", fault, at)?;
    }
    Ok(())
}

/// An access of which the second half is where nothing is.
fn across() -> Outcome {
    let page = Page::take();
    page.fill(0x5a);
    let end = arch::map_page(0, page.address(), Access::ReadWrite) + PAGE;
    arch::map_page(1, NOTHING, Access::ReadWrite);
    let read = fault_of(|| {
        arch::read64(end - 4);
    });
    let write = fault_of(|| arch::write64(end - 4, 0));
    arch::unmap_page(0);
    arch::unmap_page(1);
    for (fault, access, misaligned) in [
        (read, cause::LOAD_ACCESS, cause::LOAD_MISALIGNED),
        (write, cause::STORE_ACCESS, cause::STORE_MISALIGNED),
    ] {
        let Some(fault) = fault else {
            ensure!(false, "no fault");
            return Ok(());
        };
        ensure!(
            fault.cause == access || fault.cause == misaligned,
            "{fault:x?}"
        );
        ensure!((end - 4..=end).contains(&fault.value), "{fault:x?}");
    }
    Ok(())
}

/// The access that fails is the walk's, the fault is that of what the instruction wanted.
fn tables() -> Outcome {
    let at = arch::set_table(1, entry_for(NOTHING)) + 0x18;
    let read = fault_of(|| {
        arch::read32(at);
    });
    let write = fault_of(|| arch::write32(at, 1));
    let call = fault_of_call(at);
    arch::set_table(1, 0);
    // Without a second stage QEMU 7.2 takes a walk that fails for one that found nothing.
    if sbi::is_bare() {
        ensure!(read.is_some() && write.is_some() && call.is_some());
        return Ok(());
    }
    load("load", read, at)?;
    access("store", write, cause::STORE_ACCESS, at)?;
    access("fetch", call, cause::FETCH_ACCESS, at)
}

/// A walk through a device's registers finds something or faults; it is not an access of the guest's to the device.
fn tables_in_device() -> Outcome {
    let at = arch::set_table(1, entry_for(arch::device_address())) + 0x18;
    let mut loaded = 0;
    let read = fault_of(|| loaded = arch::read32(at));
    let write = fault_of(|| arch::write32(at, 1));
    arch::set_table(1, 0);
    ensure!(read.is_some(), "the load gave {loaded:#x}");
    ensure!(write.is_some(), "the store went through");
    for (name, fault) in [("load", read), ("store", write)] {
        let cause = fault.map_or(-1, |fault| fault.cause as i64);
        value(format_args!("nothing.table_in_a_device_{name}"), cause);
    }
    Ok(())
}

fn page_faults() -> Outcome {
    let at = arch::UNMAPPED + 0x20;
    let read = |at| {
        fault_of(|| {
            arch::read32(at);
        })
    };
    faulted("load", read(at), cause::LOAD_PAGE, at)?;
    let write = fault_of(|| arch::write32(at, 1));
    faulted("store", write, cause::STORE_PAGE, at)?;
    faulted("fetch", fault_of_call(at), cause::FETCH_PAGE, at)?;
    for at in [arch::NON_CANONICAL, arch::UPPER_HALF] {
        faulted("load", read(at), cause::LOAD_PAGE, at)?;
    }
    let page = arch::map_page(0, Page::take().address(), Access::ReadOnly);
    let write = fault_of(|| arch::write32(page, 1));
    let call = fault_of_call(page);
    arch::unmap_page(0);
    faulted("store to a read-only page", write, cause::STORE_PAGE, page)?;
    faulted("fetch from data", call, cause::FETCH_PAGE, page)
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
