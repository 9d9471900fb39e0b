//! `memory_op`: reservations.

use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EFAULT, ENOSYS, ESRCH};
use xenolith_guests::xen::memory::{Reservation, op, reservation};
use xenolith_guests::xen::{SELF, call, call_at, nr};
use xenolith_guests::{arch, ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("memory.sizes", sizes),
    ("memory.sizes_of_nobody", sizes_of_nobody),
    ("memory.orders_and_counts", orders),
    ("memory.bad_pointers", bad_pointers),
    ("memory.map_of_firmware_memory", memory_map),
];

/// For guests whose frame numbers are translated: a frame keeps its number when its memory goes and comes.
pub(crate) const TRANSLATED: &[Case] = &[
    ("memory.a_page_goes_and_comes_back", round_trip),
    ("memory.several_pages_in_one_call", several),
    ("memory.decrease_of_what_is_not_there", decrease_nothing),
    ("memory.populate_what_is_there", populate_present),
    ("memory.extents_already_done", already_done),
    ("memory.increase_reservation", increase),
];

fn current() -> i64 {
    call(nr::MEMORY_OP, op::CURRENT_RESERVATION, &mut { SELF })
}

fn sizes() -> Outcome {
    value(
        "memory.maximum_ram_page",
        call_at(nr::MEMORY_OP, op::MAXIMUM_RAM_PAGE, 0),
    );
    let (now, most) = (
        current(),
        call(nr::MEMORY_OP, op::MAXIMUM_RESERVATION, &mut { SELF }),
    );
    value("memory.current_reservation", now);
    value("memory.maximum_reservation", most);
    ensure!(now > 0 && most > 0);
    let top = call(nr::MEMORY_OP, op::MAXIMUM_GPFN, &mut { SELF });
    value("memory.maximum_gpfn", top);
    // A PV guest's frames are the machine's, and its pages are numbered from 0.
    ensure!(!arch::IS_TRANSLATED || top as u64 >= Page::take().frame());
    Ok(())
}

fn sizes_of_nobody() -> Outcome {
    for operation in [
        op::CURRENT_RESERVATION,
        op::MAXIMUM_RESERVATION,
        op::MAXIMUM_GPFN,
    ] {
        expect!(
            call(nr::MEMORY_OP, operation, &mut 1234u16),
            ESRCH,
            "sub-op {operation}"
        );
        expect!(
            call_at(nr::MEMORY_OP, operation, arch::UNMAPPED),
            EFAULT,
            "sub-op {operation}"
        );
    }
    Ok(())
}

fn round_trip() -> Outcome {
    let page = Page::take();
    let before = current();
    page.write::<u64>(0, 1);
    for _ in 0..3 {
        expect!(
            reservation(op::DECREASE_RESERVATION, &mut [page.frame()], 0),
            1,
            "decrease"
        );
        ensure!(
            arch::is_nothing_at(page.address()),
            "the page is still there"
        );
        expect!(
            reservation(op::POPULATE_PHYSMAP, &mut [page.frame()], 0),
            1,
            "populate"
        );
        page.write::<u64>(0, 2);
        expect!(page.read::<u64>(0), 2);
    }
    value("memory.reservation_after_a_round_trip", current() - before);
    Ok(())
}

fn several() -> Outcome {
    const COUNT: usize = 8;
    let first = Page::take_many(COUNT);
    let mut frames = [0; COUNT];
    for (index, frame) in (0u64..).zip(frames.iter_mut()) {
        *frame = first.frame() + index;
    }
    expect!(
        reservation(op::DECREASE_RESERVATION, &mut frames, 0),
        COUNT as i64
    );
    expect!(
        reservation(op::POPULATE_PHYSMAP, &mut frames, 0),
        COUNT as i64
    );
    for index in 0..COUNT as u64 {
        first.after(index).write::<u64>(0, index);
        expect!(first.after(index).read::<u64>(0), index);
    }
    Ok(())
}

fn decrease_nothing() -> Outcome {
    let page = Page::take();
    expect!(
        reservation(op::DECREASE_RESERVATION, &mut [0xfff_ffff], 0),
        0,
        "no such frame"
    );
    let done = reservation(
        op::DECREASE_RESERVATION,
        &mut [page.frame(), 0xfff_ffff, page.frame()],
        0,
    );
    expect!(done, 1, "stops at the bad one");
    expect!(
        reservation(op::DECREASE_RESERVATION, &mut [page.frame()], 0),
        0,
        "already gone"
    );
    expect!(reservation(op::POPULATE_PHYSMAP, &mut [page.frame()], 0), 1);
    Ok(())
}

fn populate_present() -> Outcome {
    let page = Page::take();
    page.write::<u64>(0, 99);
    let done = reservation(op::POPULATE_PHYSMAP, &mut [page.frame()], 0);
    value("memory.populate_what_is_there", done);
    value(
        "memory.populate_kept_the_page",
        i64::from(page.read::<u64>(0) == 99),
    );
    Ok(())
}

fn orders() -> Outcome {
    let page = Page::take();
    for order in [30, 31, 63, 64, u32::MAX] {
        for operation in [op::DECREASE_RESERVATION, op::POPULATE_PHYSMAP] {
            let done = reservation(operation, &mut [page.frame()], order);
            ensure!(done <= 0, "sub-op {operation} of order {order}: {done}");
            value(format_args!("memory.op_{operation}_order_{order}"), done);
        }
    }
    // Frames that are none: frame 0 is RAM on some machines, and would go.
    page.fill(0x7f);
    let mut huge = Reservation {
        extents: page.address(),
        count: 1 << 60,
        order: 0,
        flags: 0,
        domain: SELF,
    };
    for operation in [
        op::DECREASE_RESERVATION,
        op::POPULATE_PHYSMAP,
        op::INCREASE_RESERVATION,
    ] {
        let done = call(nr::MEMORY_OP, operation, &mut huge);
        value(format_args!("memory.op_{operation}_count_2_60"), done);
    }
    expect!(
        reservation(op::DECREASE_RESERVATION, &mut [], 0),
        0,
        "nothing"
    );
    Ok(())
}

/// Bits 6 and up of the command say how many extents were done before.
fn already_done() -> Outcome {
    let page = Page::take_many(2);
    let mut frames = [page.frame(), page.frame() + 1];
    let mut argument = Reservation {
        extents: frames.as_mut_ptr() as u64,
        count: 2,
        order: 0,
        flags: 0,
        domain: SELF,
    };
    let command = |operation: u64, done: u64| operation | done << 6;
    let done = call(
        nr::MEMORY_OP,
        command(op::DECREASE_RESERVATION, 1),
        &mut argument,
    );
    expect!(done, 2, "from the second on");
    page.write::<u64>(0, 3);
    expect!(page.read::<u64>(0), 3, "the first page stays");
    ensure!(
        arch::is_nothing_at(page.after(1).address()),
        "the second stays too"
    );
    expect!(
        call(
            nr::MEMORY_OP,
            command(op::POPULATE_PHYSMAP, 1),
            &mut argument
        ),
        2
    );
    page.after(1).write::<u64>(0, 4);
    for beyond in [2, 3, 1000] {
        let done = call(
            nr::MEMORY_OP,
            command(op::DECREASE_RESERVATION, beyond),
            &mut argument,
        );
        value(format_args!("memory.decrease_from_{beyond}_of_2"), done);
    }
    Ok(())
}

fn bad_pointers() -> Outcome {
    for operation in [
        op::DECREASE_RESERVATION,
        op::POPULATE_PHYSMAP,
        op::INCREASE_RESERVATION,
    ] {
        for address in [arch::UNMAPPED, arch::NON_CANONICAL, arch::UPPER_HALF] {
            // The answer counts extents that were done.
            expect!(
                call_at(nr::MEMORY_OP, operation, address),
                0,
                "sub-op {operation}"
            );
            expect!(
                call_at(nr::MEMORY_OP, operation | 5 << 6, address),
                5,
                "after five"
            );
            let mut argument = Reservation {
                extents: address,
                count: 2,
                order: 0,
                flags: 0,
                domain: SELF,
            };
            let done = call(nr::MEMORY_OP, operation, &mut argument);
            value(
                format_args!("memory.op_{operation}_frames_at_{address:x}"),
                done,
            );
        }
        let mut argument = Reservation {
            extents: 0,
            count: 0,
            order: 0,
            flags: 0,
            domain: 1234,
        };
        let done = call(nr::MEMORY_OP, operation, &mut argument);
        value(format_args!("memory.op_{operation}_of_nobody"), done);
    }
    Ok(())
}

fn increase() -> Outcome {
    let page = Page::take();
    let done = reservation(op::INCREASE_RESERVATION, &mut [page.frame()], 0);
    value("memory.increase_of_one", done);
    Ok(())
}

fn memory_map() -> Outcome {
    expect!(
        call(nr::MEMORY_OP, op::MEMORY_MAP, &mut [0u64; 2]),
        arch::MEMORY_MAP_ANSWER
    );
    for operation in [5, 8, 10, 12, 16, 18, 19, 20, 22, 24, 25, 26, 27, 29, 40, 63] {
        let answer = call(nr::MEMORY_OP, operation, &mut [0u64; 8]);
        value(format_args!("memory.op_{operation}"), answer);
    }
    expect!(call(nr::MEMORY_OP, 50, &mut [0u64; 8]), ENOSYS, "unknown");
    Ok(())
}
