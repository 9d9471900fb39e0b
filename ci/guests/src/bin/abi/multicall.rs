//! `multicall`: several calls in one, each with its own result.

use xenolith_guests::arch;
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENOSYS, ESRCH};
use xenolith_guests::xen::memory::{self, Reservation};
use xenolith_guests::xen::multicall::{self, Entry};
use xenolith_guests::xen::{SELF, event, nr};
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("multicall.eight_with_errors_between", eight),
    ("multicall.nothing", nothing),
    ("multicall.bad_list", bad_list),
    ("multicall.in_a_multicall", nested),
    ("multicall.a_list_that_ends_in_nothing", runs_off),
];
/// For guests whose frame numbers are translated.
pub(crate) const TRANSLATED: &[Case] = &[("multicall.memory_op_inside", memory_inside)];

fn eight() -> Outcome {
    let page = Page::take();
    page.write::<u16>(0, SELF);
    page.write::<u16>(2, SELF);
    page.write::<u16>(64, 1234);
    let mut calls = [
        Entry::new(nr::XEN_VERSION, 0, 0),
        Entry::new(60, 1, 2),
        Entry::new(
            nr::EVENT_CHANNEL_OP,
            event::op::ALLOC_UNBOUND,
            page.address(),
        ),
        Entry::new(
            nr::EVENT_CHANNEL_OP,
            event::op::ALLOC_UNBOUND,
            arch::UNMAPPED,
        ),
        Entry::new(
            nr::MEMORY_OP,
            memory::op::CURRENT_RESERVATION,
            page.address() + 64,
        ),
        Entry::new(nr::SCHED_OP, 77, 0),
        Entry::new(nr::XEN_VERSION, 7, page.address()),
        Entry::new(nr::SCHED_OP, 0, 0),
    ];
    expect!(multicall::list(&mut calls), 0);
    let results = calls.map(|call| call.result);
    ensure!(results[0] >> 16 == 4, "version {:#x}", results[0]);
    expect!(
        &results[1..],
        &[ENOSYS, 0, EFAULT, ESRCH, ENOSYS, EINVAL, 0][..]
    );
    let port: u32 = page.read(4);
    ensure!(port > 0, "no port");
    expect!(event::close(port), 0);
    Ok(())
}

fn nothing() -> Outcome {
    expect!(multicall::list(&mut []), 0);
    expect!(
        arch::hypercall(nr::MULTICALL, [arch::UNMAPPED, 0, 0, 0, 0]),
        0,
        "at a bad pointer"
    );
    Ok(())
}

fn bad_list() -> Outcome {
    for address in [arch::UNMAPPED, arch::NON_CANONICAL, arch::UPPER_HALF] {
        expect!(
            arch::hypercall(nr::MULTICALL, [address, 1, 0, 0, 0]),
            EFAULT,
            "{address:#x}"
        );
    }
    Ok(())
}

fn nested() -> Outcome {
    let mut inner = [Entry::new(nr::XEN_VERSION, 0, 0)];
    let mut outer = [Entry::new(nr::MULTICALL, inner.as_mut_ptr() as u64, 1)];
    expect!(multicall::list(&mut outer), 0);
    value("multicall.in_a_multicall", outer[0].result);
    Ok(())
}

fn memory_inside() -> Outcome {
    let page = Page::take();
    let mut frames = [page.frame()];
    let mut argument = Reservation {
        extents: frames.as_mut_ptr() as u64,
        count: 1,
        order: 0,
        flags: 0,
        domain: SELF,
    };
    let address = (&raw mut argument) as u64;
    let mut calls = [
        Entry::new(nr::MEMORY_OP, memory::op::DECREASE_RESERVATION, address),
        Entry::new(nr::MEMORY_OP, memory::op::POPULATE_PHYSMAP, address),
    ];
    expect!(multicall::list(&mut calls), 0);
    expect!(calls.map(|call| call.result), [1, 1]);
    page.write::<u64>(0, 9);
    expect!(page.read::<u64>(0), 9);
    Ok(())
}

/// The first entry is on a mapped page, the second is not: the first is done, then the call fails.
fn runs_off() -> Outcome {
    let page = Page::take();
    let end = arch::map_page(0, page.address(), arch::Access::ReadWrite) + 4096;
    arch::unmap_page(1);
    let size = size_of::<Entry>() as u64;
    page.write(4096 - size, Entry::new(nr::XEN_VERSION, 0, 0));
    expect!(
        arch::hypercall(nr::MULTICALL, [end - size, 2, 0, 0, 0]),
        EFAULT
    );
    let done: Entry = page.read(4096 - size);
    ensure!(
        done.result >> 16 == 4,
        "the first call was not done: {:#x}",
        done.result
    );
    Ok(())
}
