//! The record of a vCPU that moves while something waits for it, and contexts that no vCPU can be given.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables;
use xenolith_guests::arch::{self, MAX_CPUS, NON_CANONICAL, context, vcpu_op};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::Outcome;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENXIO};
use xenolith_guests::xen::{event, sched, shared};
use xenolith_guests::{cpus, ensure, expect};

use super::Case;

/// Before any other vCPU has a context.
pub(crate) const BEFORE: &[Case] = &[("class.contexts_that_no_vcpu_may_have", contexts)];
pub(crate) const CASES: &[Case] = &[
    ("ways.a_send_to_a_cpu_that_polls_or_sleeps", polls_or_sleeps),
    ("info.moves_with_an_event_waiting", moves),
    (
        "info.of_a_cpu_that_is_down_is_moved_by_another",
        moved_by_another,
    ),
    ("info.of_a_cpu_that_runs_is_not_moved_by_another", runs),
];

fn contexts() -> Outcome {
    let mut answers = Answers::default();
    let index = arch::cpu_count() - 1;
    if index == 0 {
        return Ok(());
    }
    let initialise = |change: &dyn Fn(&mut arch::Context)| {
        let context = context(index);
        change(context);
        arch::vcpu_call(vcpu_op::INITIALISE, index, (&raw const *context) as u64)
    };
    let written = Page::take();
    written.fill(0);
    let beyond = 0xf_ffff_ffff_u64;
    let level1 = tables::window_entry(0) & !0xfff;
    for (what, frame) in [
        ("no frame", beyond),
        ("a device", 0xb8),
        ("a page that is written", written.frame()),
        ("a table of level 1", arch::frame_of(level1)),
        ("the grant table", 0),
    ] {
        answers.take(
            format_args!("a root that is {what}"),
            initialise(&|context| context.cr[3] = frame << 12),
            EINVAL,
        );
        answers.take(
            format_args!("descriptors that are {what}"),
            initialise(&|context| {
                context.gdt_frames[0] = frame;
                context.gdt_entries = 512;
            }),
            EINVAL,
        );
    }
    answers.take(
        "too many descriptors",
        initialise(&|context| context.gdt_entries = 15 * 512),
        EINVAL,
    );
    for (what, change) in [
        (
            "rip",
            (|context| context.rip = NON_CANONICAL) as fn(&mut arch::Context),
        ),
        ("rsp", |context| context.rsp = NON_CANONICAL),
        ("the kernel's stack", |context| {
            context.kernel_sp = NON_CANONICAL
        }),
        ("the fs base", |context| context.fs_base = NON_CANONICAL),
        ("the kernel's gs base", |context| {
            context.gs_base_kernel = NON_CANONICAL
        }),
        ("the user's gs base", |context| {
            context.gs_base_user = NON_CANONICAL
        }),
        ("the event callback", |context| {
            context.event_callback = NON_CANONICAL
        }),
        ("the failsafe callback", |context| {
            context.failsafe_callback = NON_CANONICAL
        }),
        ("the system call callback", |context| {
            context.syscall_callback = NON_CANONICAL
        }),
        ("a trap", |context| {
            context.traps[200].address = NON_CANONICAL
        }),
        ("local descriptors", |context| {
            context.ldt_base = NON_CANONICAL;
            context.ldt_entries = 512;
        }),
    ] {
        answers.take(
            format_args!("no address: {what}"),
            initialise(&change),
            EINVAL,
        );
    }
    for at in [
        NON_CANONICAL,
        arch::UPPER_HALF,
        0xffff_8300_0000_0000,
        u64::MAX,
    ] {
        answers.take(
            format_args!("a context at {at:#x}"),
            arch::vcpu_call(vcpu_op::INITIALISE, index, at),
            EFAULT,
        );
    }
    answers.take("writable still", tables::make_writable(written), 0);
    answers.end()
}

static PORT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static TAKEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static AREA: AtomicU64 = AtomicU64::new(0);
static ANSWERS: [AtomicI64; 6] = [const { AtomicI64::new(77) }; 6];

fn port(index: usize) -> u32 {
    PORT[index].load(Ordering::SeqCst) as u32
}

fn upcall(_: u32) {
    let own = arch::cpu_index();
    shared::take_upcall(own);
    if shared::clear_pending(port(own)) {
        TAKEN[own].fetch_add(1, Ordering::SeqCst);
    }
}

fn taken(index: usize) -> u64 {
    TAKEN[index].load(Ordering::SeqCst)
}

fn ready(index: usize) -> Outcome {
    arch::on_event(upcall);
    let port = event::bind_ipi(index as u32).unwrap_or(0);
    ensure!(port != 0, "no port");
    PORT[index].store(port.into(), Ordering::SeqCst);
    TAKEN[index].store(0, Ordering::SeqCst);
    shared::clear_pending(port);
    shared::clear_mask(port);
    Ok(())
}

/// A vCPU moves its own record while it takes no event and one is pending: it finds it in the new place, and has the upcall once it
/// takes events.
fn moves() -> Outcome {
    ready(1)?;
    AREA.store(Page::take().address(), Ordering::SeqCst);
    fn work(own: usize) {
        let page = Page::at(AREA.load(Ordering::SeqCst));
        let old = shared::vcpu_info(own);
        arch::irq_off();
        let results = [
            shared::register_vcpu_info(own, page, 4096 - 8),
            shared::register_vcpu_info(own, page, 1),
            event::send(port(own)),
            shared::register_vcpu_info(own, page, 256),
            i64::from(shared::upcall_pending(own)),
            shared::register_vcpu_info(own, page, 512),
        ];
        for (answer, result) in ANSWERS.iter().zip(results) {
            answer.store(result, Ordering::SeqCst);
        }
        // What stands in the old place counts no more: neither that nothing is pending, nor that all is masked.
        arch::write8(old, 0);
        arch::write8(old + 1, 1);
        arch::irq_on();
    }
    ensure!(cpus::run(1, work), "cpu 1 hangs");
    let answers = [0, 1, 2, 3, 4, 5].map(|index: usize| ANSWERS[index].load(Ordering::SeqCst));
    expect!(answers, [ENXIO, ENXIO, 0, 0, 1, EINVAL]);
    ensure!(cpus::wait_for(|| taken(1) == 1), "what waited did not come");
    for round in 2..10 {
        expect!(event::send(port(1)), 0);
        ensure!(
            cpus::wait_for(|| taken(1) == round),
            "round {round}: no upcall"
        );
    }
    shared::mask(port(1));
    expect!(event::close(port(1)), 0);
    Ok(())
}

fn moved_by_another() -> Outcome {
    if arch::cpu_count() < 3 {
        return Ok(());
    }
    ready(2)?;
    ensure!(cpus::stop(2), "cpu 2 did not stop");
    let page = Page::take();
    expect!(shared::register_vcpu_info(2, page, 64), 0);
    expect!(event::send(port(2)), 0, "while it is down");
    ensure!(shared::upcall_pending(2), "nothing waits in the new place");
    expect!(taken(2), 0, "while it is down");
    let (errno, online) = cpus::start(2);
    expect!(errno, 0, "start");
    ensure!(online, "cpu 2 did not come up again");
    ensure!(cpus::wait_for(|| taken(2) == 1), "what waited did not come");
    for round in 2..10 {
        expect!(event::send(port(2)), 0);
        ensure!(
            cpus::wait_for(|| taken(2) == round),
            "round {round}: no upcall"
        );
    }
    shared::mask(port(2));
    expect!(event::close(port(2)), 0);
    Ok(())
}

fn runs() -> Outcome {
    if arch::cpu_count() < 4 {
        return Ok(());
    }
    expect!(shared::register_vcpu_info(3, Page::take(), 64), EINVAL);
    Ok(())
}

/// What another CPU waits for in each way that there is, sent while it does: by polling a port that is masked, by sleeping with
/// events on.
fn polls_or_sleeps() -> Outcome {
    ready(1)?;
    static STEP: AtomicU64 = AtomicU64::new(0);
    static RESULT: AtomicI64 = AtomicI64::new(0);
    fn polls(own: usize) {
        STEP.store(1, Ordering::SeqCst);
        RESULT.store(sched::poll(&[port(own)], 0), Ordering::SeqCst);
        STEP.store(2, Ordering::SeqCst);
    }
    fn sleeps(own: usize) {
        arch::irq_off();
        STEP.store(1, Ordering::SeqCst);
        while taken(own) == 0 {
            sched::block();
        }
        STEP.store(2, Ordering::SeqCst);
    }
    for round in 0..20u64 {
        let port = port(1);
        for (masked, work) in [(true, polls as fn(usize)), (false, sleeps)] {
            shared::mask(port);
            shared::clear_pending(port);
            TAKEN[1].store(0, Ordering::SeqCst);
            STEP.store(0, Ordering::SeqCst);
            if !masked {
                shared::clear_mask(port);
            }
            cpus::begin(1, work);
            ensure!(
                cpus::wait_for(|| STEP.load(Ordering::SeqCst) != 0),
                "cpu 1 does not begin"
            );
            // Now it waits already, now it is about to.
            let soon = arch::now() + arch::ticks_per_second() / 1000 * (round % 3);
            cpus::wait_for(|| arch::now() > soon);
            expect!(event::send(port), 0);
            ensure!(
                cpus::wait_for(|| cpus::is_idle(1)),
                "round {round}, masked {masked}: cpu 1 was not woken"
            );
            if masked {
                expect!(RESULT.load(Ordering::SeqCst), 0, "the poll");
                ensure!(shared::clear_pending(port), "the port is not pending");
            }
            ensure!(cpus::run(1, |_| arch::irq_on()), "cpu 1 does not go on");
        }
    }
    shared::mask(port(1));
    expect!(event::close(port(1)), 0);
    Ok(())
}
