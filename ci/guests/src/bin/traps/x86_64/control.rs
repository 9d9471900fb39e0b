//! Control and debug registers: what is refused, what reads back. Not tried are values that the CPU itself refuses
//! and QEMU lets through until VMRUN fails with them: CR0.NW without CD, upper halves of CR0 and DR7, high bits of CR3.

use core::arch::asm;

use xenolith_guests::arch::{self, apic, exception, regs};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, faulted, protection};

pub(crate) const CASES: &[Case] = &[
    ("control.cr0", cr0),
    ("control.cr3", cr3),
    ("control.cr4", cr4),
    ("control.cr8", cr8),
    ("control.lmsw_and_clts", lmsw),
    ("control.write_protection", write_protection),
    ("control.debug_registers", debug),
    ("control.breakpoint_on_an_address", breakpoint),
    ("control.xcr0", xcr0),
];

fn cr0() -> Outcome {
    let cr0 = regs::cr0();
    expect!(cr0 & 0x8001_0011, 0x8001_0011, "PG, WP, ET, PE");
    let set = |value: u64| arch::fault_of(|| regs::set_cr0(value));
    protection("PG without PE", set(cr0 & !1))?;
    for (name, bit) in [("TS", 3), ("AM", 18), ("CD", 30), ("MP", 1), ("NE", 5)] {
        let fault = set(cr0 ^ 1 << bit);
        ensure!(fault.is_none(), "{name}: {fault:x?}");
        let back = regs::cr0();
        regs::set_cr0(cr0);
        expect!(back, cr0 ^ 1 << bit, "{name}");
    }
    Ok(())
}

fn cr3() -> Outcome {
    let cr3 = regs::cr3();
    for low in [0x8, 0x10, 0x18] {
        regs::set_cr3(cr3 | low);
        let back = regs::cr3();
        regs::set_cr3(cr3);
        expect!(back, cr3 | low);
    }
    Ok(())
}

fn cr4() -> Outcome {
    let cr4 = regs::cr4();
    let set = |value: u64| arch::fault_of(|| regs::set_cr4(value));
    protection("PAE off in long mode", set(cr4 & !0x20))?;
    protection("VMXE", set(cr4 | 1 << 13))?;
    protection("reserved bit 15", set(cr4 | 1 << 15))?;
    protection("upper half", set(cr4 | 1 << 32))?;
    for (name, bit) in [
        ("PGE", 7),
        ("TSD", 2),
        ("DE", 3),
        ("OSFXSR", 9),
        ("OSXMMEXCPT", 10),
    ] {
        let fault = set(cr4 ^ 1 << bit);
        ensure!(fault.is_none(), "{name}: {fault:x?}");
        let back = regs::cr4();
        regs::set_cr4(cr4);
        expect!(back, cr4 ^ 1 << bit, "{name}");
    }
    for bit in 11..32 {
        let fault = set(cr4 | 1 << bit);
        regs::set_cr4(cr4);
        value(
            format_args!("control.cr4_bit_{bit}_faults"),
            i64::from(fault.is_some()),
        );
    }
    Ok(())
}

/// The task priority, as the register and as the APIC have it. What more than four bits do, `apic.cr8_reserved_bits_fault` asks.
fn cr8() -> Outcome {
    for class in [5, 0xf, 0] {
        regs::set_cr8(class);
        let (back, apic) = (regs::cr8(), apic::read(apic::reg::TPR));
        regs::set_cr8(0);
        expect!((back, apic), (class, (class as u32) << 4));
    }
    Ok(())
}

fn lmsw() -> Outcome {
    let cr0 = regs::cr0();
    // SAFETY: sets TS and clears it again; PE cannot be cleared so.
    unsafe { asm!("smsw {t:r}", "or {t:e}, 8", "and {t:e}, -2", "lmsw {t:x}", t = out(reg) _) };
    let with = regs::cr0();
    // SAFETY: clears TS.
    unsafe { asm!("clts") };
    let without = regs::cr0();
    regs::set_cr0(cr0);
    expect!((with, without), (cr0 | 8, cr0 & !8));
    Ok(())
}

/// CR0.WP decides whether the kernel may write to its read-only pages.
fn write_protection() -> Outcome {
    let page = xenolith_guests::buffer::Page::take();
    let address = arch::map_page(0, page.address(), arch::Access::ReadOnly);
    let fault = arch::fault_of(|| arch::write64(address, 1));
    faulted("with WP", fault, exception::PAGE, 3)?;
    expect!(fault.map(|fault| fault.address), Some(address), "CR2");
    let cr0 = regs::cr0();
    regs::set_cr0(cr0 & !(1 << 16));
    let fault = arch::fault_of(|| arch::write64(address, 2));
    regs::set_cr0(cr0);
    ensure!(fault.is_none(), "without WP: {fault:x?}");
    expect!(page.read::<u64>(0), 2);
    arch::unmap_page(0);
    Ok(())
}

fn debug() -> Outcome {
    let (zero, three, six, seven): (u64, u64, u64, u64);
    // SAFETY: addresses of breakpoints that are off.
    unsafe {
        asm!("mov dr0, {a}", "mov dr3, {b}", a = in(reg) 0x1234_5000u64, b = in(reg) 0xffff_8000_0000_1000u64);
    }
    for _ in 0..3 {
        xenolith_guests::xen::sched::yield_now();
    }
    // SAFETY: reads.
    unsafe {
        asm!("mov {a}, dr0", "mov {b}, dr3", "mov {c}, dr6", "mov {d}, dr7",
             a = out(reg) zero, b = out(reg) three, c = out(reg) six, d = out(reg) seven);
    }
    expect!((zero, three), (0x1234_5000, 0xffff_8000_0000_1000));
    expect!(six & 0xffff_0ff0, 0xffff_0ff0, "DR6");
    expect!(seven, 0x400, "DR7");
    let cr4 = regs::cr4();
    regs::set_cr4(cr4 | 8);
    // SAFETY: an alias that CR4.DE takes away.
    let fault = arch::fault_of(|| unsafe { asm!("mov {}, dr4", out(reg) _) });
    regs::set_cr4(cr4);
    value(
        "control.dr4_with_de_faults",
        fault.map_or(-1, |fault| fault.vector as i64),
    );
    Ok(())
}

fn breakpoint() -> Outcome {
    let page = xenolith_guests::buffer::Page::take();
    let address = page.address() + 64;
    // SAFETY: a breakpoint on writes of eight bytes to a page of this case's.
    let fault = unsafe {
        asm!("mov dr0, {}", in(reg) address);
        asm!("mov dr7, {}", in(reg) 0x9_0401u64);
        let fault = arch::fault_of(|| arch::write64(address, 7));
        asm!("mov dr7, {}", in(reg) 0x400u64);
        fault
    };
    let six: u64;
    // SAFETY: reads and clears what was hit.
    unsafe { asm!("mov {s}, dr6", "mov dr6, {n}", s = out(reg) six, n = in(reg) 0xffff_0ff0u64) };
    faulted("a write to the address", fault, exception::DEBUG, 0)?;
    expect!(six & 0xf, 1, "DR6");
    expect!(page.read::<u64>(64), 7, "it is a trap: the write is done");
    Ok(())
}

fn xcr0() -> Outcome {
    let set = || {
        // SAFETY: sets what is set already.
        arch::fault_of(|| unsafe { asm!("xsetbv", in("ecx") 0, in("eax") 1, in("edx") 0) })
    };
    let fault = set();
    super::undefined("xsetbv without OSXSAVE", fault)?;
    if regs::cpuid(1, 0).ecx >> 26 & 1 == 0 {
        return Ok(());
    }
    let cr4 = regs::cr4();
    regs::set_cr4(cr4 | 1 << 18);
    let good = set();
    // SAFETY: (both) values that are refused.
    let without_x87 =
        arch::fault_of(|| unsafe { asm!("xsetbv", in("ecx") 0, in("eax") 2, in("edx") 0) });
    // SAFETY: as above.
    let register_1 =
        arch::fault_of(|| unsafe { asm!("xsetbv", in("ecx") 1, in("eax") 1, in("edx") 0) });
    regs::set_cr4(cr4);
    ensure!(good.is_none(), "{good:x?}");
    protection("without x87", without_x87)?;
    protection("register 1", register_1)
}
