//! A 32-bit PVH kernel that asks for the Xen ABI from inside: first without paging, then with PAE, then with a `vcpu_info`
//! of its own. The cases hold on Xen 4.17, too. Lines and words are those of `ci/guests/README.md`.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // A guest drives raw hardware: entry, paging, hypercalls.

mod events;
mod machine;
mod report;
mod xen;

use core::sync::atomic::Ordering::SeqCst;

use machine::{CROSSED, Page, named, physical};
use xen::{Multicall, Reservation, Runstate, SELF, SetupTable, nr, operate};

/// A case: what went wrong, and the value that says so.
type Case = fn() -> Result<(), (&'static str, i64)>;
type Outcome = Result<(), (&'static str, i64)>;

/// Fails the case unless the two are equal.
#[macro_export]
macro_rules! equal {
    ($got:expr, $want:expr) => {{
        let (got, want) = ($got, $want);
        if got != want {
            return Err((stringify!($got), got as i64));
        }
    }};
}

/// Fails the case unless the condition holds of the value.
#[macro_export]
macro_rules! ensure {
    ($got:expr, $holds:expr) => {{
        let got = $got;
        if !$holds(got) {
            return Err((stringify!($got), got as i64));
        }
    }};
}

/// What the hypervisor must leave alone.
const GUARD: u32 = 0xdead_beef;
/// A page to give back and to get again.
static SPARE: Page = Page::new();
/// Two pages that paging puts side by side in the other order.
static HALVES: [Page; 2] = [const { Page::new() }; 2];

const EVERYWHERE: &[(&str, Case)] = &[
    ("version", version),
    ("platform_parameters", platform_parameters),
    ("multicall", multicall),
    ("reservation", reservation),
    ("grant_table", grant_table),
    ("event_bits", events::bits),
    ("event_mask", events::mask),
    ("event_upcall", events::upcall),
    ("poll", events::poll),
    ("wall_clock", events::wall_clock),
    ("time", events::time),
    ("set_timer", events::set_timer),
    ("singleshot_timer", events::singleshot_timer),
    ("runstate", runstate),
];

const PAGED: &[(&str, Case)] = &[
    ("across_pages", across_pages),
    ("not_mapped", not_mapped),
    ("runstate_area", runstate_area),
];

/// With the `vcpu_info` in its own place.
const MOVED: &[(&str, Case)] = &[
    ("register", events::register),
    ("event_bits", events::bits),
    ("event_mask", events::mask),
    ("event_upcall", events::upcall),
    ("time", events::time),
];

#[unsafe(no_mangle)]
extern "C" fn narrow_main(start_info: u32) {
    machine::init();
    report::line(format_args!("begin guest-narrow x86_32"));
    let magic = physical(start_info);
    // Whoever calls an upcall vector is known by it: `HVM_PARAM_CALLBACK_IRQ`, a vector.
    let callback = xen::set_param(0, 2 << 56 | u64::from(machine::VECTOR));
    let shared = events::init();
    let words = machine::text(physical(start_info + 24));
    report::line(format_args!(
        "magic {magic:#x} callback {callback} shared page {shared} words {words:?}"
    ));
    report::cases("flat", EVERYWHERE);
    let has = |wanted| words.split(' ').any(|word| word == wanted);
    if !has("paging=off") {
        let [first, second] = &HALVES;
        machine::page(second, first);
        report::cases("pae", EVERYWHERE);
        report::cases("pae", PAGED);
    }
    report::cases("moved", MOVED);
    report::done();
    xen::shut_down(has("end=reboot").into());
}

fn version() -> Outcome {
    let number = machine::call(nr::VERSION, [0; 3]);
    ensure!(number, |n| n >> 16 == 4);
    let mut extra = [0u8; 16];
    equal!(operate(nr::VERSION, 1, &mut extra), 0);
    equal!(extra[0], b'.');
    Ok(())
}

/// One `unsigned long`, of four bytes.
fn platform_parameters() -> Outcome {
    let mut words = [GUARD; 2];
    equal!(operate(nr::VERSION, 5, &mut words), 0);
    ensure!(words[0], |start| start != GUARD);
    equal!(words[1], GUARD);
    Ok(())
}

fn multicall() -> Outcome {
    let mut extra = [0u8; 16];
    let arguments = [1, named(&raw mut extra), 0, 0, 0, 0];
    let asked = Multicall {
        number: nr::VERSION,
        result: -1,
        ..Multicall::default()
    };
    let told = Multicall {
        number: nr::VERSION,
        result: -1,
        arguments,
    };
    let mut list = [asked, told];
    let address = named(&raw mut list);
    equal!(machine::call(nr::MULTICALL, [address, 2, 0]), 0);
    equal!(list[0].result, machine::call(nr::VERSION, [0; 3]));
    equal!(list[1].result, 0);
    equal!(extra[0], b'.');
    Ok(())
}

/// A page goes and comes back.
fn reservation() -> Outcome {
    let held = operate(nr::MEMORY, 3, &mut { SELF });
    ensure!(held, |count| count > 0);
    let mut list = [SPARE.frame(), GUARD];
    let mut argument = Reservation {
        frames: named(&raw mut list),
        count: 1,
        order: 0,
        flags: 0,
        domain: SELF,
    };
    equal!(operate(nr::MEMORY, 1, &mut argument), 1);
    equal!(SPARE.at(0).load(SeqCst), u32::MAX);
    equal!(operate(nr::MEMORY, 6, &mut argument), 1);
    equal!(list[1], GUARD);
    SPARE.at(0).store(1, SeqCst);
    equal!(SPARE.at(0).load(SeqCst), 1);
    Ok(())
}

fn grant_table() -> Outcome {
    let mut list = [GUARD; 2];
    let mut argument = SetupTable {
        domain: SELF,
        count: 1,
        status: -1,
        frames: named(&raw mut list),
    };
    let address = named(&raw mut argument);
    equal!(machine::call(nr::GRANT_TABLE, [2, address, 1]), 0);
    equal!(argument.status, 0);
    ensure!(list[0], |frame| frame != GUARD);
    equal!(list[1], GUARD);
    Ok(())
}

fn is_running(info: &Runstate) -> Outcome {
    equal!(info.state, 0);
    ensure!(info.since[0] | info.since[1], |since| since != 0);
    equal!(info.behind, GUARD);
    Ok(())
}

/// `VCPUOP_get_runstate_info`.
fn runstate() -> Outcome {
    let mut info = Runstate {
        state: GUARD,
        behind: GUARD,
        ..Runstate::default()
    };
    equal!(xen::vcpu(4, &mut info), 0);
    is_running(&info)
}

/// `VCPUOP_register_runstate_memory_area`: written at once, and again when the vCPU slept.
fn runstate_area() -> Outcome {
    static AREA: Page = Page::new();
    AREA.at(44).store(GUARD, SeqCst);
    let mut argument = [named(&raw const AREA), 0];
    equal!(xen::vcpu(5, &mut argument), 0);
    let read = || {
        let word = |n: u32| AREA.at(n * 4).load(SeqCst);
        Runstate {
            state: word(0),
            since: [word(1), word(2)],
            times: core::array::from_fn(|n| [word(3 + 2 * n as u32), word(4 + 2 * n as u32)]),
            behind: word(11),
        }
    };
    is_running(&read())?;
    let blocked = |info: &Runstate| info.times[2][0] as i64 | (info.times[2][1] as i64) << 32;
    let before = blocked(&read());
    events::singleshot_timer()?;
    is_running(&read())?;
    ensure!(blocked(&read()) - before, |slept| slept > 0);
    Ok(())
}

/// A buffer in two pages whose frames do not follow each other.
fn across_pages() -> Outcome {
    let [last, first] = &HALVES;
    let buffer = CROSSED + 4096 - 8;
    equal!(machine::call(nr::VERSION, [1, buffer, 0]), 0);
    let mut wanted = [0u32; 4];
    equal!(operate(nr::VERSION, 1, &mut wanted), 0);
    let got = [
        first.at(4088).load(SeqCst),
        first.at(4092).load(SeqCst),
        last.at(0).load(SeqCst),
        last.at(4).load(SeqCst),
    ];
    for (got, wanted) in got.into_iter().zip(wanted) {
        equal!(got, wanted);
    }
    Ok(())
}

fn not_mapped() -> Outcome {
    const EFAULT: i32 = -14;
    equal!(machine::call(nr::VERSION, [1, CROSSED + 0x2000, 0]), EFAULT);
    Ok(())
}
