//! `XENPF_set_processor_pminfo`: what a kernel read of ACPI about CPUs' states of power.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{NON_CANONICAL, UNMAPPED};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENODEV, ENOSYS};

use super::platform::{ask, pair};
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("power.kinds", kinds),
    ("power.idle_states", idle_states),
    ("power.performance_states", performance_states),
    ("power.what_the_kernel_may_do", capabilities),
];

const SET: u32 = 54;
const IDLE: u32 = 0;
const PERFORMANCE: u32 = 1;
const THROTTLING: u32 = 2;
const CAPABILITIES: u32 = 3;
/// No CPU has it.
const NOBODY: u32 = 200;

fn kinds() -> Outcome {
    let mut answers = Answers::default();
    for (kind, wanted) in [
        (THROTTLING, ENOSYS),
        (4, EINVAL),
        (100, EINVAL),
        (u32::MAX, EINVAL),
    ] {
        answers.take(
            format_args!("kind {kind}"),
            ask(SET, &[pair(0, kind)]).0,
            wanted,
        );
    }
    answers.end()
}

/// One idle state as `xen_processor_cx`: by an instruction, of this kind.
fn state(page: Page, index: u64, space: u32, kind: u8, latency: u32) {
    let at = index * 48;
    page.write(at, space);
    page.write(at + 4, [0_u32; 3]);
    page.write(at + 16, 0_u64);
    page.write(at + 24, kind);
    page.write(at + 28, latency);
    page.write(at + 32, [0_u32; 2]);
    page.write(at + 40, 0_u64);
}

const FIXED_HARDWARE: u32 = 0x7f;
const PORT: u32 = 1;

fn idle_states() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    let set = |id: u32, count: u32, flags: u32, at: u64| {
        ask(SET, &[pair(id, IDLE), pair(count, flags), at]).0
    };
    state(page, 0, FIXED_HARDWARE, 1, 1);
    state(page, 1, PORT, 2, 50);
    state(page, 2, PORT, 3, 500);
    answers.take("one state", set(0, 1, 0xf, page.address()), 0);
    answers.take("three states", set(0, 3, 0xf, page.address()), 0);
    answers.take("no state", set(0, 0, 0, page.address()), 0);
    answers.take("no state, nowhere", set(0, 0, 0, 0), 0);
    answers.take("no CPU", set(NOBODY, 1, 0, page.address()), EINVAL);
    answers.take("all CPUs", set(u32::MAX, 1, 0, page.address()), EINVAL);
    answers.take("too many states", set(0, 1000, 0, UNMAPPED), EFAULT);
    answers.take("states at nothing", set(0, 1, 0, UNMAPPED), EFAULT);
    answers.take("states at no address", set(0, 1, 0, NON_CANONICAL), EFAULT);
    answers.take(
        "no CPU's states at nothing",
        set(NOBODY, 1, 0, UNMAPPED),
        EINVAL,
    );
    answers.take(
        "no CPU's at no address",
        set(NOBODY, 1, 0, NON_CANONICAL),
        EFAULT,
    );
    for (what, space, kind) in [
        ("of kind 0", FIXED_HARDWARE, 0),
        ("of kind 9", FIXED_HARDWARE, 9),
        ("in memory", 0, 2),
        ("of an unknown space", 77, 2),
    ] {
        state(page, 0, space, kind, 1);
        answers.take(
            format_args!("a state {what}"),
            set(0, 1, 0xf, page.address()),
            0,
        );
    }
    answers.end()
}

const CONTROL: u32 = 1;
const STATES: u32 = 2;
const LIMIT: u32 = 4;
const COORDINATION: u32 = 8;
const ALL: u32 = 15;

/// `xen_processor_performance` behind number and kind: flags and limit, two registers, states, dependencies.
#[derive(Clone, Copy)]
struct Performance {
    id: u32,
    flags: u32,
    spaces: (u8, u8),
    count: u32,
    states: u64,
    shared: u32,
}

impl Performance {
    fn ask(&self) -> i64 {
        let register = |space: u8| [u64::from(space) << 32 | 12 << 16, 0x199];
        let [control, status] = [register(self.spaces.0), register(self.spaces.1)];
        let body = [
            pair(self.id, PERFORMANCE),
            pair(self.flags, 0),
            control[0],
            control[1],
            status[0],
            status[1],
            pair(self.count, 0),
            self.states,
            5,
            0,
            0,
            0xfe,
            1,
            pair(self.shared, 0),
        ];
        ask(SET, &body).0
    }
}

fn performance_states() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    for state in 0..3 {
        let megahertz = 2000 - state * 400;
        for (word, value) in (0..).zip([megahertz, 10_000, 10, 10, state, state]) {
            page.write(state * 48 + word * 8, value);
        }
    }
    let good = Performance {
        id: 0,
        flags: ALL,
        spaces: (0x7f, 0x7f),
        count: 3,
        states: page.address(),
        shared: 2,
    };
    let with = |flags| Performance { flags, ..good };
    for (what, request, wanted) in [
        ("nothing", with(0), 0),
        ("registers", with(CONTROL), 0),
        (
            "registers of two spaces",
            Performance {
                spaces: (0x7f, 1),
                ..with(CONTROL)
            },
            EINVAL,
        ),
        ("states", with(STATES), 0),
        (
            "one state",
            Performance {
                count: 1,
                ..with(STATES)
            },
            EINVAL,
        ),
        (
            "no state",
            Performance {
                count: 0,
                ..with(STATES)
            },
            EINVAL,
        ),
        (
            "states at nothing",
            Performance {
                states: UNMAPPED,
                ..with(STATES)
            },
            EFAULT,
        ),
        (
            "states at no address",
            Performance {
                states: NON_CANONICAL,
                ..with(STATES)
            },
            EFAULT,
        ),
        ("coordination", with(COORDINATION), 0),
        (
            "coordination 0",
            Performance {
                shared: 0,
                ..with(COORDINATION)
            },
            EINVAL,
        ),
        (
            "coordination 4",
            Performance {
                shared: 4,
                ..with(COORDINATION)
            },
            EINVAL,
        ),
        ("a limit", with(LIMIT), 0),
        ("unknown flags", with(0xff0), 0),
        ("of no CPU", Performance { id: NOBODY, ..good }, EINVAL),
        (
            "of all CPUs",
            Performance {
                id: u32::MAX,
                ..good
            },
            EINVAL,
        ),
        ("all of it", good, 0),
        // A limit is then for who drives the frequencies, and nobody does.
        ("all of it again", good, ENODEV),
        ("a limit then", with(LIMIT), ENODEV),
        ("registers then", with(CONTROL), 0),
    ] {
        answers.take(what, request.ask(), wanted);
    }
    answers.end()
}

/// Halting, idle states of several CPUs, and idling by MWAIT: the hypervisor's.
const IDLING: u32 = 0x31a;
/// The kernel's own.
const THROTTLE: u32 = 0x84;

fn capabilities() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    let set = |id: u32, at: u64| ask(SET, &[pair(id, CAPABILITIES), at]).0;
    let mut tell = |what: &str, id: u32, words: [u32; 3], wanted: (i64, u32)| {
        page.write(0, words);
        let errno = set(id, page.address());
        answers.take(what, (errno, page.read::<u32>(8)), wanted);
    };
    tell("none", 0, [1, 1, 0], (0, IDLING));
    tell("all", 0, [1, 1, u32::MAX], (0, IDLING | THROTTLE));
    tell("of all CPUs", u32::MAX, [1, 1, 0], (0, IDLING));
    tell("of no CPU", NOBODY, [1, 1, 5], (EINVAL, 5));
    tell("of revision 0", 0, [0, 1, 5], (EINVAL, 5));
    tell("of revision 2", 0, [2, 1, 5], (EINVAL, 5));
    tell("of no words", 0, [1, 0, 5], (EINVAL, 5));
    tell("of many words", 0, [1, 99, 0], (0, IDLING));
    for at in [UNMAPPED, NON_CANONICAL] {
        answers.take(format_args!("at {at:#x}"), set(0, at), EFAULT);
    }
    answers.end()
}
