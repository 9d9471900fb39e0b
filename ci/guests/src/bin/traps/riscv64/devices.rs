//! Odd accesses to the interrupt controller: sizes, alignment, short and atomic instructions, registers that are not there.

use core::arch::asm;

use xenolith_guests::arch::plic::{self, reg};
use xenolith_guests::arch::{self, fault_of, fault_of_code};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("devices.wrong_sizes", wrong_sizes),
    ("devices.unaligned", unaligned),
    ("devices.short_instructions", short),
    ("devices.signs_of_loads", signs),
    ("devices.load_to_the_zero_register", zero_register),
    ("devices.atomics", atomics),
    ("devices.reserved_registers", reserved),
    ("devices.contexts_of_nobody", contexts),
    ("devices.completing_what_was_not_claimed", completing),
    ("devices.uart_of_every_size", uart),
];

/// A source that no device of a guest's has, with the sign bit of its word.
const SOURCE: u32 = 31;
const BIT: u32 = 1 << SOURCE;

fn faults(name: &str, f: impl FnOnce()) {
    value(
        format_args!("devices.{name}.faults"),
        i64::from(fault_of(f).is_some()),
    );
}

fn wrong_sizes() -> Outcome {
    let at = plic::register(reg::PRIORITY + 4);
    let before = arch::read32(at);
    faults("load8", || {
        arch::read8(at);
    });
    faults("load16", || {
        arch::read16(at);
    });
    faults("load64", || {
        arch::read64(plic::register(reg::PRIORITY + 8));
    });
    faults("store8", || arch::write8(at, 0));
    faults("store16", || arch::write16(at, 0));
    faults("store64", || arch::write64(plic::register(reg::PENDING), 0));
    arch::write32(at, before);
    Ok(())
}

fn unaligned() -> Outcome {
    for offset in 1..4 {
        faults("load_unaligned", || {
            arch::read32(plic::register(reg::PRIORITY + 4 + offset));
        });
        faults("store_unaligned", || {
            arch::write32(plic::register(reg::PENDING + offset), 0)
        });
    }
    Ok(())
}

/// The emulation must know how long the instruction is.
fn short() -> Outcome {
    let at = plic::register(reg::PRIORITY + u64::from(SOURCE) * 4);
    let (read, after): (u64, u64);
    // SAFETY: a write and a read of a priority that nobody has a use for.
    unsafe {
        asm!(".option push", ".option arch, +c", "li a4, 0", "c.sw a2, 0(a3)", "addi a4, a4, 1", "c.lw a5, 0(a3)",
             "addi a4, a4, 1", ".option pop", in("a2") 3u64, in("a3") at, out("a5") read, out("a4") after)
    };
    arch::write32(at, 0);
    expect!((read, after), (3, 2));
    Ok(())
}

fn signs() -> Outcome {
    let at = plic::enable_word(0, SOURCE);
    let before = arch::read32(at);
    arch::write32(at, before | BIT);
    let signed: i64;
    // SAFETY: a device read.
    unsafe { asm!("lw {}, 0({})", out(reg) signed, in(reg) at, options(nostack)) };
    let plain = arch::read32(at);
    arch::write32(at, before);
    expect!(plain, before | BIT);
    expect!(signed, i64::from(plain as i32));
    Ok(())
}

fn zero_register() -> Outcome {
    let at = plic::register(reg::PENDING);
    // SAFETY: a device read whose result is dropped.
    let fault = fault_of(|| unsafe { asm!("lw zero, 0({})", in(reg) at, options(nostack)) });
    ensure!(fault.is_none(), "{fault:x?}");
    Ok(())
}

fn atomics() -> Outcome {
    let at = plic::register(reg::PRIORITY + u64::from(SOURCE) * 4);
    // LR.W a1, (a0); AMOOR.W a1, a1, (a0): the result depends on what the memory system can do.
    for (name, code) in [("lr", 0x1005_25af), ("amoor", 0x40b5_25af)] {
        let fault = fault_of_code(&[code], at);
        value(
            format_args!("devices.{name}.faults"),
            i64::from(fault.is_some()),
        );
    }
    arch::write32(at, 0);
    Ok(())
}

fn reserved() -> Outcome {
    for offset in [0xff0, 0x1200, 0x1ffc, 0x1f_fffc, 0x5f_fffc] {
        let mut number = 0;
        let fault = fault_of(|| number = arch::read32(plic::register(offset)));
        let shown = if fault.is_some() {
            -1
        } else {
            i64::from(number)
        };
        value(format_args!("devices.plic_{offset:x}"), shown);
        faults("reserved_store", || {
            arch::write32(plic::register(offset), 0)
        });
    }
    expect!(arch::read32(plic::register(reg::PRIORITY)), 0, "source 0");
    Ok(())
}

/// Contexts up to the last that the layout has: all read as nothing, or fault.
fn contexts() -> Outcome {
    let mut faulted = 0;
    for context in (1..1024).map(|number| plic::context_of(0) + number) {
        let at = plic::register(reg::CONTEXT + context * reg::CONTEXT_STRIDE + reg::THRESHOLD);
        let fault = fault_of(|| {
            arch::read32(at);
        });
        faulted += i64::from(fault.is_some());
    }
    value("devices.contexts_that_fault", faulted);
    Ok(())
}

fn completing() -> Outcome {
    for source in [0, 1, SOURCE, 127, 128, 1023, 1024, u32::MAX] {
        plic::complete(source);
    }
    expect!(plic::claim(), 0);
    Ok(())
}

/// Its registers are bytes. Accesses of other sizes fault or are such of a byte; behind it there is nothing.
fn uart() -> Outcome {
    const SCRATCH: u64 = 7;
    let tree = arch::device_tree();
    let region = |node: fdt::node::FdtNode| node.reg()?.next();
    let Some(region) = tree.find_compatible(&["ns16550a"]).and_then(region) else {
        value("devices.uart", 0);
        return Ok(());
    };
    let at = region.starting_address as u64 + SCRATCH;
    for byte in [0x5a, 0xa5, 0] {
        arch::write8(at, byte);
        expect!(arch::read8(at), byte, "scratch register");
    }
    faults("uart_load16", || {
        arch::read16(at);
    });
    faults("uart_load32", || {
        arch::read32(at);
    });
    faults("uart_load64", || {
        arch::read64(at);
    });
    faults("uart_store16", || arch::write16(at, 0x1111));
    faults("uart_store32", || arch::write32(at, 0x1111_1111));
    faults("uart_store64", || arch::write64(at, 0x1111_1111_1111_1111));
    ensure!([0, 0x11].contains(&arch::read8(at)), "another byte");
    let end = region.starting_address as u64 + region.size.unwrap_or(0) as u64;
    if !arch::sbi::is_bare() {
        ensure!(arch::is_nothing_at(end), "something is behind it");
    }
    Ok(())
}
