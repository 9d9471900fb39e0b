//! `platform_op`, of the kernel that drives the machine: clock, firmware, CPUs, sleep, registers.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, NON_CANONICAL, UNMAPPED};
use xenolith_guests::buffer::Page;
use xenolith_guests::expect;
use xenolith_guests::xen::errno::{
    EACCES, EFAULT, EINVAL, ENODEV, ENOSYS, EOPNOTSUPP, EPERM, ESRCH,
};
use xenolith_guests::xen::nr;

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("platform.versions_and_numbers", versions),
    ("platform.the_clock_is_set", clock),
    ("platform.memory_types", memory_types),
    ("platform.firmware", firmware),
    ("platform.cpus", cpus),
    ("platform.parking_and_quirks", parking),
    ("platform.sleep", sleep),
    ("platform.idle_time_and_frequency", frequency),
    ("platform.registers", registers),
    ("platform.symbols", symbols),
    ("platform.efi", efi),
];

const INTERFACE: u32 = 0x0300_0001;

const SETTIME32: u32 = 17;
const ADD_MEMTYPE: u32 = 31;
const DEL_MEMTYPE: u32 = 32;
const READ_MEMTYPE: u32 = 33;
const QUIRK: u32 = 39;
const CPU_VERSION: u32 = 48;
const EFI_RUNTIME: u32 = 49;
const FIRMWARE_INFO: u32 = 50;
const ACPI_SLEEP: u32 = 51;
const CHANGE_FREQUENCY: u32 = 52;
const IDLE_TIME: u32 = 53;
const CPU_INFO: u32 = 55;
const CPU_ONLINE: u32 = 56;
const CPU_OFFLINE: u32 = 57;
const CPU_ADD: u32 = 58;
const MEMORY_ADD: u32 = 59;
const PARKING: u32 = 60;
const RESOURCES: u32 = 61;
const SETTIME64: u32 = 62;
const SYMBOL: u32 = 63;

const ERANGE: i64 = -34;

/// The argument, with the body as words.
#[repr(C)]
pub(super) struct Operation {
    pub command: u32,
    pub version: u32,
    pub body: [u64; 16],
}

/// Two halves of a word of the body.
pub(super) const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// Asks, and gives the answer and the body after it.
pub(super) fn ask(command: u32, words: &[u64]) -> (i64, [u64; 16]) {
    let mut operation = Operation {
        command,
        version: INTERFACE,
        body: [0; 16],
    };
    operation.body[..words.len()].copy_from_slice(words);
    let answer = arch::hypercall(nr::PLATFORM_OP, [(&raw mut operation) as u64, 0, 0, 0, 0]);
    (answer, operation.body)
}

fn answer(command: u32, words: &[u64]) -> i64 {
    ask(command, words).0
}

fn versions() -> Outcome {
    let mut answers = Answers::default();
    for version in [0, 1, INTERFACE - 1, INTERFACE + 1, u32::MAX] {
        let mut operation = Operation {
            command: CPU_INFO,
            version,
            body: [0; 16],
        };
        let at = (&raw mut operation) as u64;
        answers.take(
            format_args!("version {version:#x}"),
            arch::hypercall(nr::PLATFORM_OP, [at, 0, 0, 0, 0]),
            EACCES,
        );
    }
    for command in [0, 1, 16, 18, 30, 34, 36, 38, 40, 47, 64, 1000, u32::MAX] {
        answers.take(
            format_args!("command {command}"),
            answer(command, &[]),
            ENOSYS,
        );
    }
    answers.end()
}

/// What shared info says the time was at the start: seconds and nanoseconds.
fn wallclock() -> (u64, u32) {
    const SECONDS: u64 = 0xc04;
    const NANOSECONDS: u64 = 0xc08;
    const SECONDS_HIGH: u64 = 0xc0c;
    let info = arch::shared_info();
    let seconds = pair(info.read(SECONDS), info.read(SECONDS_HIGH));
    (seconds, info.read(NANOSECONDS))
}

fn clock() -> Outcome {
    const LATE: u64 = 5_000_000_000;
    let (seconds, nanoseconds) = wallclock();
    let body = [LATE + 10, pair(7, 0), 10_000_000_000];
    expect!(answer(SETTIME64, &body), 0);
    expect!(wallclock(), (LATE, 7), "more than 32 bits of seconds");
    expect!(answer(SETTIME64, &[1, pair(0, 1), 0]), EINVAL, "padding");
    expect!(wallclock(), (LATE, 7), "nothing changes");
    let body = [pair(1_700_000_001, 500_000_000), 600_000_000];
    expect!(answer(SETTIME32, &body), 0);
    expect!(wallclock(), (1_700_000_000, 900_000_000));
    expect!(answer(SETTIME64, &[seconds, pair(nanoseconds, 0), 0]), 0);
    expect!(wallclock(), (seconds, nanoseconds), "as it was");
    Ok(())
}

fn memory_types() -> Outcome {
    let mut answers = Answers::default();
    answers.take("read register 0", answer(READ_MEMTYPE, &[0]), 0);
    for register in [8, 100, u32::MAX] {
        answers.take(
            format_args!("read register {register}"),
            answer(READ_MEMTYPE, &[pair(register, 0)]),
            EINVAL,
        );
    }
    for (what, body, wanted) in [
        ("handle 1", pair(1, 0), EINVAL),
        ("register -1", pair(0, u32::MAX), EINVAL),
        ("register 1000", pair(0, 1000), EINVAL),
    ] {
        answers.take(
            format_args!("delete {what}"),
            answer(DEL_MEMTYPE, &[body]),
            wanted,
        );
    }
    for (what, first, frames, kind, wanted) in [
        ("no frames", 0x10_0000, 0, 6, EINVAL),
        ("an unknown type", 0x10_0000, 0x1000, 77, EINVAL),
        ("frames beyond all", u64::MAX / 2, 0x1000, 6, EINVAL),
    ] {
        answers.take(
            format_args!("add {what}"),
            answer(ADD_MEMTYPE, &[first, frames, pair(kind, 0)]),
            wanted,
        );
    }
    answers.end()
}

fn firmware() -> Outcome {
    let mut answers = Answers::default();
    for (kind, index, wanted) in [
        (0, 0, EINVAL),
        (1, 100, ESRCH),
        (1, u32::MAX, ESRCH),
        (2, 100, ESRCH),
        (2, u32::MAX, ESRCH),
        (3, 1, ESRCH),
        (4, 0, ENOSYS),
        (4, 100, ENOSYS),
        (5, 0, 0),
        (5, 1, ESRCH),
        (6, 0, EINVAL),
        (u32::MAX, 0, EINVAL),
    ] {
        answers.take(
            format_args!("kind {kind}, index {index}"),
            answer(FIRMWARE_INFO, &[pair(kind, index)]),
            wanted,
        );
    }
    answers.end()
}

fn cpus() -> Outcome {
    const ONLINE: u32 = 1;
    const INVALID: u32 = 2;
    let mut answers = Answers::default();
    let (errno, body) = ask(CPU_INFO, &[0]);
    answers.take("CPU 0", errno, 0);
    answers.take("its flags and APIC number", body[1], pair(ONLINE, 0));
    let last = (body[0] >> 32) as u32;
    for number in [last + 1, 1000, u32::MAX] {
        let (errno, body) = ask(CPU_INFO, &[pair(number, 0)]);
        answers.take(format_args!("CPU {number}"), errno, 0);
        answers.take(
            format_args!("flags of CPU {number}"),
            (body[0], body[1] as u32),
            (pair(number, last), INVALID),
        );
        let (errno, body) = ask(CPU_VERSION, &[pair(number, 0)]);
        answers.take(format_args!("kind of CPU {number}"), errno, 0);
        answers.take(
            format_args!("what CPU {number} is"),
            (body[0], body[1], body[2], body[3]),
            (pair(number, last), 0, 0, 0),
        );
        for (what, command) in [("online", CPU_ONLINE), ("offline", CPU_OFFLINE)] {
            answers.take(
                format_args!("CPU {number} {what}"),
                answer(command, &[pair(number, 0)]),
                EINVAL,
            );
        }
    }
    let (errno, body) = ask(CPU_VERSION, &[0]);
    answers.take("kind of CPU 0", errno, 0);
    let vendor = arch::regs::cpuid(0, 0);
    answers.take(
        "its vendor",
        (body[1], body[2] as u32),
        (pair(vendor.ebx, vendor.edx), vendor.ecx),
    );
    answers.take("CPU 0 online", answer(CPU_ONLINE, &[0]), 0);
    answers.take("CPU 0 offline", answer(CPU_OFFLINE, &[0]), EOPNOTSUPP);
    // APIC number, ACPI number, proximity domain.
    answers.take(
        "a CPU beyond all is added",
        answer(CPU_ADD, &[pair(u32::MAX, u32::MAX), 0]),
        EINVAL,
    );
    for (what, first, end) in [("none", 16, 16), ("backwards", 32, 16), ("odd", 1, 2)] {
        answers.take(
            format_args!("memory is added: {what}"),
            answer(MEMORY_ADD, &[first, end, 0]),
            EINVAL,
        );
    }
    answers.end()
}

fn parking() -> Outcome {
    let mut answers = Answers::default();
    let (errno, body) = ask(PARKING, &[pair(2, 9)]);
    answers.take("how many", (errno, body[0]), (0, pair(2, 0)));
    answers.take("set none", answer(PARKING, &[pair(1, 0)]), 0);
    for kind in [0, 3, u32::MAX] {
        answers.take(
            format_args!("parking {kind}"),
            answer(PARKING, &[pair(kind, 0)]),
            EINVAL,
        );
    }
    for (quirk, wanted) in [(0, EINVAL), (1, 0), (2, 0), (3, 0), (4, EINVAL)] {
        answers.take(
            format_args!("quirk {quirk}"),
            answer(QUIRK, &[quirk]),
            wanted,
        );
    }
    answers.end()
}

fn sleep() -> Outcome {
    let mut answers = Answers::default();
    for (what, values, state, flags, wanted) in [
        ("S0", 0, 0, 0, EINVAL),
        ("S6", 0, 6, 0, EINVAL),
        ("S7", 0, 7, 0, EINVAL),
        ("state -1", 0, u32::MAX, 0, EINVAL),
        ("S5 with an unknown flag", 0, 5, 2, EINVAL),
        ("S5 by extended registers", 0, 5, 1, EPERM),
    ] {
        answers.take(
            what,
            answer(ACPI_SLEEP, &[pair(values, state), pair(flags, 0)]),
            wanted,
        );
    }
    answers.end()
}

fn frequency() -> Outcome {
    let mut answers = Answers::default();
    answers.take(
        "a frequency",
        answer(CHANGE_FREQUENCY, &[0, 1_000_000_000]),
        ENOSYS,
    );
    let page = Page::take();
    page.fill(0xff);
    for map in [page.address(), UNMAPPED, NON_CANONICAL] {
        answers.take(
            format_args!("idle time by the map at {map:#x}"),
            answer(IDLE_TIME, &[map, pair(8, 0), page.address() + 64, 0]),
            ENOSYS,
        );
    }
    answers.end()
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const TSC: u64 = 0x10;

/// Entries of a batch: command, padding, register, value.
fn batch(entries: &[(u32, u32, u64, u64)]) -> Page {
    let page = Page::take();
    for (place, (command, padding, index, value)) in (0..).zip(entries) {
        page.write(place * 24, pair(*command, *padding));
        page.write(place * 24 + 8, *index);
        page.write(place * 24 + 16, *value);
    }
    page
}

fn registers() -> Outcome {
    let mut answers = Answers::default();
    let on = |page: Page, count, cpu| answer(RESOURCES, &[pair(count, cpu), page.address()]);
    let none = batch(&[]);
    answers.take("no entries", on(none, 0, 0), 0);
    answers.take("no entries, no CPU", on(none, 0, 1000), 0);
    answers.take("four entries", on(none, 4, 0), EINVAL);
    for at in [UNMAPPED, NON_CANONICAL] {
        answers.take(
            format_args!("entries at {at:#x}"),
            answer(RESOURCES, &[pair(1, 0), at]),
            EFAULT,
        );
    }
    for (what, entry, wanted, told) in [
        ("padding", (READ, 1, TSC, 0), 0, EINVAL),
        ("an unknown command", (2, 0, TSC, 0), 0, EOPNOTSUPP),
        (
            "a register of 33 bits",
            (READ, 0, 1 << 32 | TSC, 0),
            0,
            EINVAL,
        ),
        ("another register", (READ, 0, 0xc000_0080, 0), 0, EPERM),
        ("a write of another", (WRITE, 0, 0xc000_0080, 0), 0, EPERM),
        ("a write of the time", (WRITE, 0, TSC, 0), 0, EPERM),
    ] {
        let page = batch(&[entry]);
        answers.take(what, on(page, 1, 0), wanted);
        answers.take(
            format_args!("{what}, told"),
            i64::from(page.read::<i32>(0)),
            told,
        );
    }
    let good = batch(&[(READ, 0, TSC, 0), (READ, 0, TSC, 0)]);
    answers.take("the time twice", on(good, 2, 0), 2);
    let times: (u64, u64) = (good.read(16), good.read(40));
    answers.take("times go forward", times.0 != 0 && times.0 <= times.1, true);
    answers.take("on no CPU", on(good, 2, 1000), ENODEV);
    let half = batch(&[(READ, 0, TSC, 0), (9, 0, 0, 0), (READ, 0, TSC, 5)]);
    answers.take("the second is bad", on(half, 3, 0), 1);
    answers.take(
        "the second, told",
        i64::from(half.read::<i32>(24)),
        EOPNOTSUPP,
    );
    answers.take("the third", half.read::<u64>(64), 5);
    answers.end()
}

fn symbols() -> Outcome {
    let mut answers = Answers::default();
    let name = Page::take();
    let (errno, body) = ask(SYMBOL, &[pair(64, 0), name.address()]);
    answers.take("the first", errno, 0);
    // One after another, to the end: it says its own number.
    let (mut number, mut steps) = (0, 0);
    loop {
        let (errno, body) = ask(SYMBOL, &[pair(64, number), name.address()]);
        let next = (body[0] >> 32) as u32;
        steps += 1;
        if errno != 0 || next == number || steps == 20_000 {
            answers.take("the end", errno, 0);
            break;
        }
        number = next;
    }
    answers.take(
        "past the end",
        answer(SYMBOL, &[pair(64, number + 1), name.address()]),
        ERANGE,
    );
    answers.take(
        "far past",
        answer(SYMBOL, &[pair(64, u32::MAX), name.address()]),
        ERANGE,
    );
    answers.take("no room", answer(SYMBOL, &[pair(0, 0), UNMAPPED]), 0);
    for at in [UNMAPPED, NON_CANONICAL] {
        answers.take(
            format_args!("a name at {at:#x}"),
            answer(SYMBOL, &[pair(64, 0), at]),
            EFAULT,
        );
    }
    let _ = body;
    answers.end()
}

fn efi() -> Outcome {
    let mut answers = Answers::default();
    for function in [0, 1, 2, 3, 5, 6, 9, 10, 11, 12, u32::MAX] {
        answers.take(
            format_args!("function {function}"),
            answer(EFI_RUNTIME, &[pair(function, 0)]),
            ENOSYS,
        );
    }
    answers.end()
}
