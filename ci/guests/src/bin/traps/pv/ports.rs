//! Ports: what the kernel may use depends on the privilege level that it asked for and on what its domain may use.

use core::arch::asm;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, exception, regs, user};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::EINVAL;
use xenolith_guests::xen::{call, nr};

use super::{Case, FINE, Outcome, PROTECTION, told};

pub(crate) const CASES: &[Case] = &[
    ("ports.without_the_privilege", without),
    ("ports.with_the_privilege", with),
    ("ports.strings", strings),
    ("ports.of_the_hypervisor", hidden),
    ("ports.from_user_code", from_user),
];

/// `PHYSDEVOP_set_iopl` and `PHYSDEVOP_set_iobitmap`.
const SET_IOPL: u64 = 6;
const SET_BITMAP: u64 = 7;
/// A port that no machine has a device at.
const NO_PORT: u16 = 0x5f0;
/// The scratch register of the first serial port, and the diagnostic port.
const DIAGNOSTIC: u16 = 0x80;

fn set_iopl(level: u32) -> i64 {
    call(nr::PHYSDEV_OP, SET_IOPL, &mut { level })
}

fn without() -> Outcome {
    let mut answers = Answers::default();
    answers.take("level 0", set_iopl(0), 0);
    answers.take(
        "in",
        told(|| {
            regs::in8(NO_PORT);
        }),
        PROTECTION,
    );
    answers.take("out", told(|| regs::out8(NO_PORT, 0)), PROTECTION);
    answers.take("level 4", set_iopl(4), EINVAL);
    answers.end()
}

fn with() -> Outcome {
    let mut answers = Answers::default();
    answers.take("level 1", set_iopl(1), 0);
    answers.take("a byte", regs::in8(NO_PORT), 0xff);
    answers.take("a word", regs::in16(NO_PORT), 0xffff);
    answers.take("a long", regs::in32(NO_PORT), u32::MAX);
    answers.take("out", told(|| regs::out8(DIAGNOSTIC, 1)), FINE);
    answers.take("out of a word", told(|| regs::out16(NO_PORT, 1)), FINE);
    answers.take("out of a long", told(|| regs::out32(NO_PORT, 1)), FINE);
    let mut byte: u8 = 0;
    // SAFETY: an immediate port, the diagnostic one.
    answers.take(
        "immediate port",
        told(|| unsafe { asm!("in al, 0x80", out("al") byte, options(nostack)) }),
        FINE,
    );
    let _ = byte;
    // The upper half of eax stays at a byte, and goes at a long.
    let wide: u64;
    // SAFETY: a port read.
    unsafe {
        asm!("in al, dx", in("dx") NO_PORT, inout("rax") u64::MAX << 8 => wide, options(nostack))
    };
    answers.take("what a byte leaves", wide, u64::MAX);
    let wide: u64;
    // SAFETY: a port read.
    unsafe {
        asm!("in eax, dx", in("dx") NO_PORT, inout("rax") u64::MAX << 8 => wide, options(nostack))
    };
    answers.take("what a long leaves", wide, 0xffff_ffff);
    set_iopl(0);
    answers.end()
}

fn strings() -> Outcome {
    let mut answers = Answers::default();
    set_iopl(1);
    let page = Page::take();
    page.fill(0);
    let mut left = (0u64, 0u64);
    // SAFETY: eight bytes into the page.
    let fault = told(|| unsafe {
        asm!("rep insb", in("dx") NO_PORT, inout("rdi") page.address() => left.0, inout("rcx") 8u64 => left.1, options(nostack))
    });
    answers.take("rep insb", fault, FINE);
    answers.take("where it ended", left, (page.address() + 8, 0));
    answers.take("what it read", page.read::<u64>(0), u64::MAX);
    answers.take("and no more", page.read::<u64>(8), 0);
    // SAFETY: four longs from the page.
    let fault = told(|| unsafe {
        asm!("rep outsd", in("dx") NO_PORT, inout("rsi") page.address() => left.0, inout("rcx") 4u64 => left.1, options(nostack))
    });
    answers.take("rep outsd", fault, FINE);
    answers.take("where it ended", left, (page.address() + 16, 0));
    // SAFETY: nothing is there; the fault is that of the store.
    let fault = arch::fault_of(|| unsafe {
        asm!("insb", in("dx") NO_PORT, inout("rdi") arch::UNMAPPED => _, options(nostack))
    });
    answers.take(
        "insb to nothing",
        fault.map(|fault| (fault.vector, fault.error, fault.address)),
        Some((exception::PAGE, 2, arch::UNMAPPED)),
    );
    // SAFETY: none, backwards.
    let fault = told(|| unsafe {
        asm!("std", "rep insw", "cld", in("dx") NO_PORT, inout("rdi") page.address() + 64 => left.0, inout("rcx") 2u64 => left.1, options(nostack))
    });
    answers.take("backwards", fault, FINE);
    answers.take("where it ended", left, (page.address() + 60, 0));
    set_iopl(0);
    answers.end()
}

/// Ports that even dom0 has not: reads give ones, writes are dropped.
fn hidden() -> Outcome {
    let mut answers = Answers::default();
    set_iopl(1);
    for (what, port) in [
        ("interrupt controller", 0x20),
        ("timer", 0x40),
        ("the hypervisor's serial port", 0x3f8),
    ] {
        answers.take(format_args!("{what}: in"), regs::in8(port), 0xff);
        answers.take(
            format_args!("{what}: out"),
            told(|| regs::out8(port, 0)),
            FINE,
        );
    }
    for (what, port) in [
        ("real-time clock", 0x70),
        ("keyboard", 0x64),
        ("PCI", 0xcfc),
    ] {
        answers.take(
            format_args!("{what}: in"),
            told(|| {
                regs::in8(port);
            }),
            FINE,
        );
    }
    // Some hypervisors let it have the port by which address line 20 goes, for all CPUs and for themselves: bit 1 keeps it, bit 0
    // would reset the machine.
    let line = regs::in8(0x92);
    value("ports.address_line_20", line.into());
    let keep = told(|| regs::out8(0x92, line & !1 | 2));
    answers.take("address line 20 kept: out", keep, FINE);
    for port in [0x40, 0x42, 0x43, 0x61, 0xcf8] {
        let seen = told(|| {
            regs::in8(port);
        });
        answers.take(format_args!("in from {port:#x}"), seen, FINE);
    }
    set_iopl(0);
    answers.end()
}

/// User code needs level 3, or its bit in the map clear.
fn from_user() -> Outcome {
    let mut answers = Answers::default();
    // mov dx, 0x5f0; in al, dx; int3
    let code = [0x66, 0xba, 0xf0, 0x05, 0xec, 0xcc];
    let run = || user::run(&code, 0).map_or(0, |fault| fault.vector);
    answers.take("at level 0", run(), exception::PROTECTION);
    set_iopl(1);
    answers.take("at level 1", run(), exception::PROTECTION);
    set_iopl(3);
    answers.take("at level 3", run(), exception::BREAKPOINT);
    set_iopl(0);
    #[repr(C)]
    struct Map(u64, u32);
    let map = Page::take();
    map.fill(0xff);
    answers.take(
        "a map",
        call(nr::PHYSDEV_OP, SET_BITMAP, &mut Map(map.address(), 65536)),
        0,
    );
    answers.take("with its bit set", run(), exception::PROTECTION);
    // The map is of 8 KiB; this port's bit is on its first page.
    let at = u64::from(NO_PORT / 8);
    map.write::<u8>(at, map.read::<u8>(at) & !(1 << (NO_PORT % 8)));
    answers.take("with its bit clear", run(), exception::BREAKPOINT);
    answers.take(
        "a map of too many ports",
        call(nr::PHYSDEV_OP, SET_BITMAP, &mut Map(map.address(), 65537)),
        EINVAL,
    );
    answers.take(
        "no map",
        call(nr::PHYSDEV_OP, SET_BITMAP, &mut Map(0, 0)),
        0,
    );
    answers.take("without a map", run(), exception::PROTECTION);
    answers.end()
}
