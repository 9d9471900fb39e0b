//! `vcpu_op`: the per-vCPU areas, and what other sub-ops say.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Why, value};
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENOENT, ENXIO};
use xenolith_guests::xen::{event, nr, shared};
use xenolith_guests::{arch, ensure, expect};

use super::event::must;
use super::sched::block_for_a_millisecond;
use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("vcpu.runstate_area_is_kept", runstate),
    ("vcpu.runstate_area_may_be_taken_away", runstate_gone),
    ("vcpu.runstate_refuses", runstate_refuses),
    ("vcpu.info_moves_once", info_moves),
    ("vcpu.other_sub_ops", other),
];

const DOWN: u64 = 2;
const REGISTER_RUNSTATE: u64 = 5;
const NO_VCPU: u64 = 4000;
const STATE: u64 = 0;
const ENTRY_TIME: u64 = 8;
const TIME: u64 = 16;
static AREA: AtomicU64 = AtomicU64::new(0);

fn register(vcpu: u64, area: u64) -> i64 {
    let mut argument = area;
    arch::hypercall(
        nr::VCPU_OP,
        [REGISTER_RUNSTATE, vcpu, (&raw mut argument) as u64, 0, 0],
    )
}

/// System time (ns) at which this vCPU was last switched in.
pub(crate) fn system_time_at_last_switch() -> Result<u64, Why> {
    let page = area()?;
    Ok(page.read(ENTRY_TIME))
}

fn area() -> Result<Page, Why> {
    let address = AREA.load(Ordering::Relaxed);
    if address != 0 {
        return Ok(Page::at(address));
    }
    let page = Page::take();
    match register(0, page.address()) {
        0 => AREA.store(page.address(), Ordering::Relaxed),
        errno => return Err(Why::new(format_args!("register: {errno}"))),
    }
    Ok(page)
}

fn runstate() -> Outcome {
    let page = area()?;
    expect!(page.read::<u32>(STATE), 0, "running");
    let (entry, blocked): (u64, u64) = (page.read(ENTRY_TIME), page.read(TIME + 2 * 8));
    // An emulator that is kept from running may use most of a wait up before it begins.
    let slept = || page.read::<u64>(TIME + 2 * 8) - blocked;
    for _ in 0..20 {
        block_for_a_millisecond()?;
        if slept() >= 100_000 {
            break;
        }
    }
    expect!(page.read::<u32>(STATE), 0, "running");
    ensure!(
        page.read::<u64>(ENTRY_TIME) > entry,
        "entry time did not move"
    );
    ensure!(slept() >= 100_000, "blocked for {} ns only", slept());
    Ok(())
}

fn runstate_gone() -> Outcome {
    AREA.store(0, Ordering::Relaxed);
    let old = Page::take();
    expect!(register(0, old.address()), 0);
    let page = area()?;
    old.fill(0x55);
    block_for_a_millisecond()?;
    expect!(old.read::<u32>(STATE), 0x5555_5555, "the old area");
    expect!(page.read::<u32>(STATE), 0, "the new area");
    Ok(())
}

fn runstate_refuses() -> Outcome {
    let page = Page::take();
    expect!(register(NO_VCPU, page.address()), ENOENT, "no such vcpu");
    for address in [arch::UNMAPPED, arch::NON_CANONICAL] {
        let errno = register(0, address);
        value(format_args!("vcpu.runstate_at_{address:x}"), errno);
    }
    let errno = arch::hypercall(nr::VCPU_OP, [REGISTER_RUNSTATE, 0, arch::UNMAPPED, 0, 0]);
    expect!(errno, EFAULT, "argument");
    AREA.store(0, Ordering::Relaxed);
    area().map(|_| ())
}

fn info_moves() -> Outcome {
    shared::page();
    let page = Page::take();
    expect!(
        shared::register_vcpu_info(0, page, 4096 - 8),
        ENXIO,
        "past the page"
    );
    expect!(
        shared::register_vcpu_info(0, page, 4100),
        ENXIO,
        "behind the page"
    );
    expect!(shared::register_vcpu_info(0, page, 3), ENXIO, "not aligned");
    expect!(
        shared::register_vcpu_info(NO_VCPU as usize, page, 0),
        ENOENT,
        "no such vcpu"
    );
    let errno = shared::register_vcpu_info(0, page, 128);
    value("vcpu.info_registered", errno);
    expect!(shared::register_vcpu_info(0, page, 128), EINVAL, "twice");
    let port = must("bind_ipi", event::bind_ipi(0))?;
    shared::take_upcall(0);
    shared::clear_pending(port);
    shared::clear_mask(port);
    arch::irq_off();
    expect!(event::send(port), 0);
    ensure!(shared::upcall_pending(0), "no upcall flag in the new place");
    let selector = shared::take_upcall(0);
    expect!(selector, 1 << (port / 64));
    shared::mask(port);
    shared::clear_pending(port);
    expect!(event::close(port), 0);
    Ok(())
}

fn other() -> Outcome {
    let page = Page::take();
    for sub in [0, 1, DOWN, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 99] {
        page.fill(0);
        if sub != DOWN || !arch::HAS_VCPU_DOWN {
            let errno = arch::hypercall(nr::VCPU_OP, [sub, 0, page.address(), 0, 0]);
            value(format_args!("vcpu.sub_op_{sub}"), errno);
        }
        let errno = arch::hypercall(nr::VCPU_OP, [sub, NO_VCPU, page.address(), 0, 0]);
        expect!(errno, ENOENT, "sub-op {sub} of no vcpu");
    }
    Ok(())
}
