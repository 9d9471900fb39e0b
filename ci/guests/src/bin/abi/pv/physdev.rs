//! `physdev_op`, of the kernel that drives the machine.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{NON_CANONICAL, UNMAPPED};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EBUSY, EEXIST, EFAULT, EINVAL, ENODEV, ENOSYS, ESRCH};
use xenolith_guests::xen::{SELF, call, call_at, nr};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("physdev.bad_pointers", bad_pointers),
    ("physdev.privilege_of_ports", privilege),
    ("physdev.io_apics", io_apics),
    ("physdev.vectors", vectors),
    ("physdev.lines", lines),
    ("physdev.messages", messages),
    ("physdev.free_numbers", free_numbers),
    ("physdev.ends", ends),
    ("physdev.devices", devices),
    ("physdev.config_space", config_space),
    ("physdev.debug_port", debug_port),
];

const EIO: i64 = -5;
const EDOM: i64 = -33;

mod op {
    pub const UNMASK_NOTIFY: u64 = 4;
    pub const STATUS: u64 = 5;
    pub const SET_IOPL: u64 = 6;
    pub const SET_BITMAP: u64 = 7;
    pub const APIC_READ: u64 = 8;
    pub const APIC_WRITE: u64 = 9;
    pub const ALLOC_VECTOR: u64 = 10;
    pub const FREE_VECTOR: u64 = 11;
    pub const EOI: u64 = 12;
    pub const MAP: u64 = 13;
    pub const UNMAP: u64 = 14;
    pub const ADD: u64 = 15;
    pub const REMOVE: u64 = 16;
    pub const EOI_MAP_V1: u64 = 17;
    pub const RESTORE: u64 = 19;
    pub const ADD_EXT: u64 = 20;
    pub const SETUP_GSI: u64 = 21;
    pub const FREE_NUMBER: u64 = 23;
    pub const MMCFG: u64 = 24;
    pub const DEVICE_ADD: u64 = 25;
    pub const DEVICE_REMOVE: u64 = 26;
    pub const RESTORE_EXT: u64 = 27;
    pub const EOI_MAP_V2: u64 = 28;
    pub const DEBUG_PORT: u64 = 29;
}

fn ask<T>(sub: u64, argument: &mut T) -> i64 {
    call(nr::PHYSDEV_OP, sub, argument)
}

fn bad_pointers() -> Outcome {
    let mut answers = Answers::default();
    let with_argument = (5..=10).chain(12..=17).chain(19..=21).chain(23..=29);
    for sub in with_argument {
        for at in [UNMAPPED, NON_CANONICAL] {
            answers.take(
                format_args!("sub-op {sub} at {at:#x}"),
                call_at(nr::PHYSDEV_OP, sub, at),
                EFAULT,
            );
        }
    }
    for sub in [0, 1, 2, 3, 11, 18, 22, 32, 33, 1000] {
        answers.take(
            format_args!("sub-op {sub}"),
            call_at(nr::PHYSDEV_OP, sub, UNMAPPED),
            ENOSYS,
        );
    }
    answers.take(
        "an unmask",
        call_at(nr::PHYSDEV_OP, op::UNMASK_NOTIFY, 0),
        0,
    );
    answers.take(
        "a vector is freed",
        ask(op::FREE_VECTOR, &mut [0_u32; 2]),
        ENOSYS,
    );
    answers.end()
}

fn privilege() -> Outcome {
    let mut answers = Answers::default();
    for (level, wanted) in [(1_u32, 0), (3, 0), (4, EINVAL), (u32::MAX, EINVAL), (0, 0)] {
        answers.take(
            format_args!("level {level}"),
            ask(op::SET_IOPL, &mut { level }),
            wanted,
        );
    }
    for (what, at, count, wanted) in [
        ("none", 0, 0, 0),
        ("one port more than there are", 0, 65537, EINVAL),
        ("nowhere", NON_CANONICAL, 64, EINVAL),
        ("not there", UNMAPPED, 64, 0),
        ("none again", 0, 0, 0),
    ] {
        answers.take(
            format_args!("map {what}"),
            ask(op::SET_BITMAP, &mut [at, count]),
            wanted,
        );
    }
    answers.end()
}

#[repr(C)]
struct Register {
    base: u64,
    number: u32,
    value: u32,
}

const IO_APIC: u64 = 0xfec0_0000;

fn read(base: u64, number: u32) -> (i64, u32) {
    let mut register = Register {
        base,
        number,
        value: 0x1234_5678,
    };
    let errno = ask(op::APIC_READ, &mut register);
    (errno, register.value)
}

fn io_apics() -> Outcome {
    const VERSION: u32 = 1;
    let mut answers = Answers::default();
    let (errno, version) = read(IO_APIC, VERSION);
    answers.take("the version", errno, 0);
    answers.take("the last line", version >> 16 & 0xff, 23);
    answers.take("the number", read(IO_APIC, 0).0, 0);
    for base in [0, IO_APIC + 0x1000, u64::MAX] {
        answers.take(
            format_args!("read at {base:#x}"),
            read(base, VERSION).0,
            EINVAL,
        );
        let mut register = Register {
            base,
            number: 0x10,
            value: 0x1_0000,
        };
        answers.take(
            format_args!("write at {base:#x}"),
            ask(op::APIC_WRITE, &mut register),
            EINVAL,
        );
    }
    for number in [0_u32, 2] {
        answers.take(
            format_args!("register {number:#x}"),
            read(IO_APIC, number).0,
            0,
        );
    }
    for number in [0_u32, 1, 2, 0x11] {
        let mut register = Register {
            base: IO_APIC,
            number,
            value: 0,
        };
        answers.take(
            format_args!("write of register {number:#x}"),
            ask(op::APIC_WRITE, &mut register),
            0,
        );
    }
    answers.end()
}

fn vectors() -> Outcome {
    let mut answers = Answers::default();
    for irq in [16_u32, 23, 5000, u32::MAX] {
        let mut words = [irq, 0xdead];
        let errno = ask(op::ALLOC_VECTOR, &mut words);
        answers.take(format_args!("of {irq}"), (errno, words), (0, [irq, irq]));
    }
    answers.end()
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Map {
    domain: u16,
    kind: i32,
    index: i32,
    number: i32,
    bus: i32,
    function: i32,
    entry: i32,
    table: u64,
}

const LINE: Map = Map {
    domain: SELF,
    kind: 1,
    index: 0,
    number: -1,
    bus: 0,
    function: 0,
    entry: 0,
    table: 0,
};

fn map(request: Map) -> (i64, i32) {
    let mut request = request;
    let errno = ask(op::MAP, &mut request);
    (errno, request.number)
}

fn unmap(domain: u16, number: i32) -> i64 {
    ask(op::UNMAP, &mut (i32::from(domain), number))
}

fn line(index: i32, number: i32) -> Map {
    Map {
        index,
        number,
        ..LINE
    }
}

fn set_up(line: i32, level: u8, low: u8) -> i64 {
    #[repr(C)]
    struct Setup(i32, u8, u8);
    ask(op::SETUP_GSI, &mut Setup(line, level, low))
}

fn lines() -> Outcome {
    let mut answers = Answers::default();
    for (what, request, wanted) in [
        ("line 20", line(20, 20), (0, 20)),
        ("line 20 again", line(20, 20), (0, 20)),
        ("line 20 with any number", line(20, -1), (0, 20)),
        ("line 20 with another number", line(20, 21), (EEXIST, 21)),
        ("line 21 with the number of 20", line(21, 20), (0, 20)),
        ("line -1", line(-1, -1), (EINVAL, -1)),
        ("line 5000", line(5000, -1), (EINVAL, -1)),
        ("line 22 with number 5000", line(22, 5000), (EINVAL, 5000)),
        (
            "kind 2",
            Map {
                kind: 2,
                ..line(22, 22)
            },
            (EINVAL, 22),
        ),
        (
            "kind 5",
            Map {
                kind: 5,
                ..line(22, 22)
            },
            (EINVAL, 22),
        ),
        (
            "kind -1",
            Map {
                kind: -1,
                ..line(22, 22)
            },
            (EINVAL, 22),
        ),
        (
            "of nobody",
            Map {
                domain: 1234,
                ..line(22, 22)
            },
            (ESRCH, 22),
        ),
        (
            "of dom0 by number",
            Map {
                domain: 0,
                ..line(22, 22)
            },
            (0, 22),
        ),
    ] {
        answers.take(what, map(request), wanted);
    }
    for (what, domain, number, wanted) in [
        ("20", SELF, 20, 0),
        ("20 again", SELF, 20, EINVAL),
        ("22 of nobody", 1234, 22, ESRCH),
        ("22 by number", 0, 22, 0),
        ("-1", SELF, -1, EINVAL),
        ("5000", SELF, 5000, EINVAL),
    ] {
        answers.take(format_args!("unmap {what}"), unmap(domain, number), wanted);
    }
    for (what, number, wanted) in [
        ("18", 18, 0),
        ("18 again", 18, EEXIST),
        ("-1", -1, EINVAL),
        ("24, which is not there", 24, EINVAL),
        ("5000", 5000, EINVAL),
    ] {
        answers.take(format_args!("set up {what}"), set_up(number, 1, 1), wanted);
    }
    answers.end()
}

fn messages() -> Outcome {
    let mut answers = Answers::default();
    let message = Map {
        kind: 0,
        index: -1,
        ..LINE
    };
    for (what, request, wanted) in [
        (
            "of no device",
            Map {
                bus: 0x77,
                ..message
            },
            ENODEV,
        ),
        (
            "of no device, 256 buses on",
            Map {
                bus: 0x177,
                ..message
            },
            ENODEV,
        ),
        (
            "of a device without",
            Map {
                function: 0,
                ..message
            },
            ENODEV,
        ),
        (
            "of function 256",
            Map {
                function: 0x100,
                ..message
            },
            ENODEV,
        ),
        (
            "of another segment",
            Map {
                kind: 3,
                bus: 0x1_0000,
                ..message
            },
            ENODEV,
        ),
        (
            "many of no device",
            Map {
                kind: 4,
                bus: 0x77,
                entry: 1,
                ..message
            },
            ENODEV,
        ),
        (
            "none of no device",
            Map {
                kind: 4,
                bus: 0x77,
                entry: 0,
                ..message
            },
            EDOM,
        ),
        (
            "33 of no device",
            Map {
                kind: 4,
                bus: 0x77,
                entry: 33,
                ..message
            },
            EDOM,
        ),
    ] {
        answers.take(what, map(request).0, wanted);
    }
    answers.end()
}

fn free_numbers() -> Outcome {
    let mut answers = Answers::default();
    let mut last = u32::MAX;
    for kind in [0_i32, 1, 2, 3, 5, -1] {
        let mut request = [kind as u32, u32::MAX];
        let errno = ask(op::FREE_NUMBER, &mut request);
        let [_, number] = request;
        answers.take(format_args!("kind {kind}"), errno, 0);
        answers.take(
            format_args!("another number, of {kind}"),
            number != last,
            true,
        );
        answers.take(
            format_args!("which is not mapped, of {kind}"),
            unmap(SELF, number as i32),
            EINVAL,
        );
        last = number;
    }
    answers.end()
}

fn ends() -> Outcome {
    let mut answers = Answers::default();
    for (number, wanted) in [(20_u32, EINVAL), (5000, EINVAL), (u32::MAX, EINVAL)] {
        answers.take(
            format_args!("end of {number}"),
            ask(op::EOI, &mut { number }),
            wanted,
        );
    }
    for (number, wanted) in [(20_u32, 0), (5000, EINVAL), (u32::MAX, EINVAL)] {
        answers.take(
            format_args!("status of {number}"),
            ask(op::STATUS, &mut [number, 0]),
            wanted,
        );
    }
    let page = Page::take();
    for (what, sub, frame, wanted) in [
        (
            "first form, no frame",
            op::EOI_MAP_V1,
            u64::MAX >> 12,
            EINVAL,
        ),
        (
            "second form, no frame",
            op::EOI_MAP_V2,
            u64::MAX >> 12,
            EINVAL,
        ),
        (
            "a frame that is not the domain's",
            op::EOI_MAP_V2,
            0xfee00,
            EINVAL,
        ),
        ("second form", op::EOI_MAP_V2, page.frame(), 0),
        ("again", op::EOI_MAP_V2, page.frame(), EBUSY),
        ("first form then", op::EOI_MAP_V1, page.frame(), EBUSY),
    ] {
        answers.take(what, ask(sub, &mut { frame }), wanted);
    }
    answers.end()
}

fn devices() -> Outcome {
    let mut answers = Answers::default();
    // The host bridge is there; bus 0x77 is not.
    for (what, sub, bytes, wanted) in [
        ("old: the bridge", op::ADD, [0_u8, 0, 0, 0], 0),
        ("old: the bridge again", op::ADD, [0, 0, 0, 0], 0),
        (
            "old: removes what is not",
            op::REMOVE,
            [0x77, 0, 0, 0],
            ENODEV,
        ),
        (
            "old: restores what is not",
            op::RESTORE,
            [0x77, 0, 0, 0],
            ENODEV,
        ),
        ("old: restores the bridge", op::RESTORE, [0, 0, 0, 0], 0),
        (
            "removes what is not",
            op::DEVICE_REMOVE,
            [0, 0, 0x77, 0],
            ENODEV,
        ),
        (
            "removes of another segment",
            op::DEVICE_REMOVE,
            [1, 0, 0, 0],
            ENODEV,
        ),
        (
            "restores what is not",
            op::RESTORE_EXT,
            [0, 0, 0x77, 0],
            ENODEV,
        ),
        (
            "restores of another segment",
            op::RESTORE_EXT,
            [1, 0, 0, 0],
            ENODEV,
        ),
        ("restores the bridge", op::RESTORE_EXT, [0, 0, 0, 0], 0),
    ] {
        answers.take(what, ask(sub, &mut { bytes }), wanted);
    }
    // Bus, function, whether an extended or a virtual one, and of whom.
    answers.take(
        "old: the bridge with more",
        ask(op::ADD_EXT, &mut [0_u32; 4]),
        0,
    );
    // Segment, bus, function, flags, the physical one, proximity domain.
    answers.take("the bridge", ask(op::DEVICE_ADD, &mut [0_u32; 4]), 0);
    answers.end()
}

fn config_space() -> Outcome {
    #[repr(C)]
    struct Space {
        address: u64,
        segment: u16,
        first: u8,
        last: u8,
        flags: u32,
    }
    let mut q35 = Space {
        address: 0xb000_0000,
        segment: 0,
        first: 0,
        last: 255,
        flags: 1,
    };
    let there = ask(op::MMCFG, &mut q35);
    value("physdev.config_space_of_a_q35", there);
    if there == ENODEV {
        // Another machine.
        return Ok(());
    }
    let mut answers = Answers::default();
    for (what, address, segment, first, last, flags, wanted) in [
        ("q35's", 0xb000_0000, 0, 0, 255, 1, 0),
        ("q35's, not reserved", 0xb000_0000, 0, 0, 255, 0, 0),
        ("another place", 0xc000_0000, 0, 0, 255, 1, EIO),
        ("another segment", 0xb000_0000, 1, 0, 255, 1, ENODEV),
        ("other buses", 0xb000_0000, 0, 0, 15, 1, ENODEV),
        ("backwards", 0xb000_0000, 0, 9, 2, 1, ENODEV),
        ("of unknown flags", 0xb000_0000, 0, 0, 255, 6, EINVAL),
    ] {
        let mut space = Space {
            address,
            segment,
            first,
            last,
            flags,
        };
        answers.take(what, ask(op::MMCFG, &mut space), wanted);
    }
    answers.end()
}

fn debug_port() -> Outcome {
    let mut answers = Answers::default();
    // What to do, on which bus, which device.
    for (what, bytes, wanted) in [
        ("begins", [1_u8, 0, 0, 0, 0, 0], 0),
        ("ends", [2, 0, 0, 0, 0, 0], 0),
        ("on PCI", [1, 1, 0, 0, 0, 0], 0),
        ("on another bus", [1, 9, 0, 0, 0, 0], 0),
        ("does what is not known", [9, 0, 0, 0, 0, 0], 0),
    ] {
        answers.take(
            format_args!("a reset {what}"),
            ask(op::DEBUG_PORT, &mut { bytes }),
            wanted,
        );
    }
    answers.end()
}
