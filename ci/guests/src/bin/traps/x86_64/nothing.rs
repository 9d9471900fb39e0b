//! Physical addresses and ports where nothing is: reads give all ones, writes vanish, every form of access works.

use core::arch::asm;

use xenolith_guests::arch::{self, fault_of, regs};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("nothing.reads_are_all_ones", reads),
    ("nothing.writes_vanish", writes),
    ("nothing.read_modify_write", modify),
    ("nothing.string_moves", strings),
    ("nothing.sign_and_zero_extension", extension),
    ("nothing.thousand_times", thousand),
    ("nothing.beyond_the_physical_range", beyond),
    ("nothing.instruction_fetch", fetch),
    ("ports.of_nothing_read_ones", ports),
    ("ports.string_io", port_strings),
    ("ports.debug_port_takes_bytes", debug_port),
];

/// Guest-physical, mapped, and never given anything.
fn nothing() -> u64 {
    arch::grant_window() + (200 << 12)
}

fn reads() -> Outcome {
    let at = nothing();
    expect!(arch::read8(at), u8::MAX);
    expect!(arch::read16(at), u16::MAX);
    expect!(arch::read32(at), u32::MAX);
    expect!(arch::read64(at), u64::MAX);
    expect!(arch::read32(at + 1), u32::MAX, "unaligned");
    expect!(
        arch::read64(at + 4092),
        u64::MAX,
        "across the end of the page"
    );
    Ok(())
}

fn writes() -> Outcome {
    let at = nothing();
    arch::write8(at, 1);
    arch::write16(at, 2);
    arch::write32(at, 3);
    arch::write64(at, 4);
    // SAFETY: stores of nothing.
    unsafe {
        asm!("mov dword ptr [{0}], 77", "mov qword ptr [{0}], -1", "mov byte ptr [{0}], 5", in(reg) at)
    };
    expect!(arch::read64(at), u64::MAX);
    Ok(())
}

/// Instructions that read and write at once. Which of them the hypervisor emulates is its own choice.
fn modify() -> Outcome {
    let at = nothing();
    macro_rules! one {
        ($name:literal, $code:literal) => {
            // SAFETY: an access to nothing.
            let fault = fault_of(|| unsafe {
                asm!($code, "/* {a} {d} */", a = in(reg) at, d = inout(reg) 1u64 => _, out("rax") _)
            });
            value(concat!("nothing.", $name, ".fault"), fault.map_or(-1, |fault| fault.vector as i64));
        };
    }
    one!("or", "or dword ptr [{a}], 1");
    one!("and", "and [{a}], {d:e}");
    one!("add", "add qword ptr [{a}], {d}");
    one!("xchg", "xchg [{a}], {d}");
    one!("lock_xadd", "lock xadd [{a}], {d}");
    one!("bts", "bts dword ptr [{a}], 3");
    one!("lock_bts", "lock bts qword ptr [{a}], 3");
    one!("cmpxchg", "lock cmpxchg [{a}], {d}");
    one!("inc", "inc dword ptr [{a}]");
    one!("not", "not byte ptr [{a}]");
    one!("test", "test dword ptr [{a}], 1");
    one!("cmp", "cmp [{a}], {d}");
    one!("push", "push qword ptr [{a}]\npop {d}");
    expect!(arch::read64(at), u64::MAX);
    Ok(())
}

fn strings() -> Outcome {
    let page = Page::take();
    let at = nothing();
    // SAFETY: 16 bytes from nothing into a page of this case's.
    unsafe {
        asm!("cld", "rep movsb", inout("rsi") at => _, inout("rdi") page.address() => _, inout("rcx") 16u64 => _)
    };
    expect!(page.read::<[u64; 3]>(0), [u64::MAX, u64::MAX, 0]);
    // SAFETY: the other way, and backwards.
    unsafe {
        asm!("std", "rep movsd", "cld", inout("rsi") page.address() + 12 => _, inout("rdi") at + 12 => _, inout("rcx") 4u64 => _)
    };
    // SAFETY: fills nothing.
    unsafe { asm!("rep stosq", inout("rdi") at => _, inout("rcx") 8u64 => _, in("rax") 0u64) };
    let found: u64;
    // SAFETY: looks for a zero byte in nothing, four times.
    unsafe { asm!("repne scasb", inout("rdi") at => _, inout("rcx") 4u64 => found, in("al") 0u8) };
    expect!(found, 0, "scas");
    expect!(arch::read64(at), u64::MAX);
    Ok(())
}

fn extension() -> Outcome {
    let (zero, sign, wide): (u64, i64, i64);
    // SAFETY: reads of nothing.
    unsafe {
        asm!("movzx {z:e}, byte ptr [{a}]", "movsx {s}, word ptr [{a}]", "movsxd {w}, dword ptr [{a}]",
             a = in(reg) nothing(), z = out(reg) zero, s = out(reg) sign, w = out(reg) wide)
    };
    expect!((zero, sign, wide), (0xff, -1, -1));
    Ok(())
}

fn thousand() -> Outcome {
    for index in 0..1000 {
        expect!(arch::read32(nothing() + index * 4), u32::MAX);
    }
    Ok(())
}

/// The highest physical address that CPUID allows, and one above it.
fn beyond() -> Outcome {
    let bits = regs::cpuid(0x8000_0008, 0).eax & 0xff;
    let top = (1u64 << bits) - 4096;
    let at = arch::paging::set_entry(0, top | 3);
    let fault = fault_of(|| {
        arch::read32(at);
    });
    value(
        "nothing.top_fault",
        fault.map_or(-1, |fault| fault.vector as i64),
    );
    let at = arch::paging::set_entry(0, 1 << bits | 3);
    let fault = fault_of(|| {
        arch::read32(at);
    });
    value(
        "nothing.beyond_fault",
        fault.map_or(-1, |fault| fault.vector as i64),
    );
    value(
        "nothing.beyond_error",
        fault.map_or(-1, |fault| fault.error as i64),
    );
    arch::unmap_page(0);
    Ok(())
}

/// Whether a jump to nothing faults; some hypervisors end the domain, so this is asked for by `fetch=1`.
fn fetch() -> Outcome {
    if xenolith_guests::bootargs::number("fetch", 0) == 0 {
        return Ok(());
    }
    let at = nothing();
    // SAFETY: a call to nothing; a fault leaves the closure.
    let fault = fault_of(|| unsafe { asm!("call {}", in(reg) at) });
    ensure!(fault.is_some());
    value(
        "nothing.fetch_fault",
        fault.map_or(-1, |fault| fault.vector as i64),
    );
    Ok(())
}

/// A port that no machine has a device at.
const NO_PORT: u16 = 0x5f0;

fn ports() -> Outcome {
    expect!(regs::in8(NO_PORT), u8::MAX);
    expect!(regs::in16(NO_PORT), u16::MAX);
    expect!(regs::in32(NO_PORT), u32::MAX);
    regs::out8(NO_PORT, 1);
    regs::out16(NO_PORT, 2);
    regs::out32(NO_PORT, 3);
    let high: u64;
    // SAFETY: a 32-bit read clears the upper half, an 8-bit read leaves the rest.
    unsafe { asm!("in al, dx", in("dx") NO_PORT, inout("rax") 0x1122_3344_5566_7700u64 => high) };
    expect!(high, 0x1122_3344_5566_77ff);
    // SAFETY: as above.
    let high: u64 = unsafe {
        let high;
        asm!("in eax, dx", in("dx") NO_PORT, inout("rax") u64::MAX => high);
        high
    };
    expect!(high, 0xffff_ffff);
    // The interrupt controllers and timers of a PC, which a PVH domain need not have: prints what reads.
    for port in [
        0x20, 0x21, 0x40, 0x42, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa1, 0x3f8, 0x3fd, 0xcf8,
        0xcfc,
    ] {
        value(format_args!("ports.{port:x}"), i64::from(regs::in8(port)));
    }
    Ok(())
}

fn port_strings() -> Outcome {
    let page = Page::take();
    page.fill(0);
    // SAFETY: 8 bytes from a port of nothing into a page of this case's.
    unsafe {
        asm!("cld", "rep insb", in("dx") NO_PORT, inout("rdi") page.address() => _, inout("rcx") 8u64 => _)
    };
    expect!(page.read::<[u64; 2]>(0), [u64::MAX, 0]);
    // SAFETY: and out again.
    unsafe {
        asm!("rep outsd", in("dx") NO_PORT, inout("rsi") page.address() => _, inout("rcx") 4u64 => _)
    };
    // SAFETY: no turns do nothing.
    unsafe {
        asm!("rep insb", in("dx") NO_PORT, inout("rdi") arch::UNMAPPED => _, inout("rcx") 0u64 => _)
    };
    // SAFETY: into an address that is not mapped.
    let fault =
        fault_of(|| unsafe { asm!("insb", in("dx") NO_PORT, inout("rdi") arch::UNMAPPED => _) });
    super::faulted("insb to nowhere", fault, arch::exception::PAGE, 2)
}

/// Port 0xe9 goes to the hypervisor's console.
fn debug_port() -> Outcome {
    value("ports.e9", i64::from(regs::in8(0xe9)));
    for byte in b"[guest] by port e9\n" {
        regs::out8(0xe9, *byte);
    }
    Ok(())
}
