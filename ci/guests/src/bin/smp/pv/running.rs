//! Starts and stops by `vcpu_op`, and its timers.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, MAX_CPUS, hypercall, vcpu_op};
use xenolith_guests::report::Outcome;
use xenolith_guests::xen::errno::{EEXIST, EFAULT, EINVAL, ENOENT};
use xenolith_guests::xen::nr;
use xenolith_guests::{cpus, ensure, expect};

use super::Case;

pub(crate) const TIMERS: &[Case] = &[
    ("timer.set_timer_op_fires", set_timer),
    ("timer.periodic_fires_again_and_again", periodic),
    ("timer.calls_that_are_refused", refused),
];
pub(crate) const CASES: &[Case] = &[
    ("cpu.a_running_cpu_cannot_be_initialised", initialised),
    ("cpu.contexts_that_are_refused", bad_contexts),
    ("cpu.down_and_up_goes_on_behind_the_call", down_and_up),
];

static FIRED: AtomicU64 = AtomicU64::new(0);
static WENT_ON: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn fired() -> u64 {
    FIRED.load(Ordering::SeqCst)
}

fn count(_line: u32) {
    FIRED.fetch_add(1, Ordering::SeqCst);
}

/// Has the timer's signal counted, whoever asked for it.
fn listen() {
    arch::on_timer(count);
    arch::this_cpu().deadline.store(1, Ordering::SeqCst);
    arch::irq_on();
}

fn set_timer() -> Outcome {
    listen();
    for _ in 0..5 {
        let before = fired();
        let at = arch::system_time_at(arch::now() + arch::ticks_per_second() / 1000);
        expect!(hypercall(nr::SET_TIMER_OP, [at, 0, 0, 0, 0]), 0);
        ensure!(cpus::wait_for(|| fired() == before + 1), "it did not fire");
        ensure!(arch::system_time_at(arch::now()) >= at, "too early");
    }
    let before = fired();
    expect!(
        hypercall(nr::SET_TIMER_OP, [1, 0, 0, 0, 0]),
        0,
        "in the past"
    );
    ensure!(cpus::wait_for(|| fired() == before + 1), "it did not fire");
    // Far enough that a slow machine does not come there before it is taken back.
    let until = arch::now() + arch::ticks_per_second();
    let at = arch::system_time_at(until);
    expect!(hypercall(nr::SET_TIMER_OP, [at, 0, 0, 0, 0]), 0);
    expect!(
        hypercall(nr::SET_TIMER_OP, [0, 0, 0, 0, 0]),
        0,
        "taken back"
    );
    cpus::wait_for(|| arch::now() > until + arch::ticks_per_second() / 100);
    expect!(fired(), before + 1, "after it was taken back");
    Ok(())
}

fn periodic() -> Outcome {
    listen();
    let before = fired();
    let mut period = 10_000_000u64;
    let at = (&raw mut period) as u64;
    expect!(arch::vcpu_call(vcpu_op::SET_PERIODIC, 0, at), 0);
    let came = cpus::wait_for(|| fired() >= before + 5);
    expect!(arch::vcpu_call(vcpu_op::STOP_PERIODIC, 0, 0), 0);
    ensure!(came, "{} times", fired() - before);
    Ok(())
}

fn refused() -> Outcome {
    let mut answers = Answers::default();
    let mut word = [1u64, 0];
    let mut with = |operation: u64, vcpu: usize, first: u64, second: u64| {
        word = [first, second];
        arch::vcpu_call(operation, vcpu, word.as_mut_ptr() as u64)
    };
    answers.take(
        "a period of 1 ns",
        with(vcpu_op::SET_PERIODIC, 0, 1, 0),
        EINVAL,
    );
    answers.take(
        "a period of 1 ms less 1 ns",
        with(vcpu_op::SET_PERIODIC, 0, 999_999, 0),
        EINVAL,
    );
    answers.take(
        "a very long one",
        with(vcpu_op::SET_PERIODIC, 0, u64::MAX, 0),
        EINVAL,
    );
    answers.take(
        "of nobody",
        with(vcpu_op::SET_PERIODIC, 4000, 10_000_000, 0),
        ENOENT,
    );
    answers.take(
        "in the past, though only in the future",
        with(vcpu_op::SET_SINGLESHOT, 0, 1, 1),
        0,
    );
    for operation in [vcpu_op::SET_PERIODIC, vcpu_op::SET_SINGLESHOT] {
        let errno = arch::vcpu_call(operation, 0, arch::UNMAPPED);
        answers.take(format_args!("{operation} at a bad pointer"), errno, EFAULT);
    }
    if arch::cpu_count() > 1 {
        answers.take(
            "another's timer",
            with(vcpu_op::SET_SINGLESHOT, 1, u64::MAX, 0),
            EINVAL,
        );
    }
    arch::timer_off();
    answers.end()
}

fn initialised() -> Outcome {
    for index in cpus::others() {
        expect!(arch::vcpu_initialise(index), EEXIST, "vcpu {index}");
    }
    expect!(arch::vcpu_initialise(0), EEXIST, "vcpu 0");
    Ok(())
}

fn bad_contexts() -> Outcome {
    let mut answers = Answers::default();
    let at = |index: usize, address: u64| arch::vcpu_call(vcpu_op::INITIALISE, index, address);
    answers.take("of nobody", at(4000, arch::UNMAPPED), ENOENT);
    answers.take("at a bad pointer", at(1, arch::UNMAPPED), EFAULT);
    answers.end()
}

fn down_and_up() -> Outcome {
    for index in cpus::others() {
        cpus::begin(index, |own| {
            arch::vcpu_call(vcpu_op::DOWN, own, 0);
            WENT_ON[own].fetch_add(1, Ordering::SeqCst);
        });
        ensure!(
            cpus::wait_for(|| arch::cpu_is_off(index)),
            "vcpu {index} is not off"
        );
        expect!(
            WENT_ON[index].load(Ordering::SeqCst),
            0,
            "vcpu {index} ran on"
        );
        expect!(arch::vcpu_call(vcpu_op::UP, index, 0), 0, "up");
        ensure!(
            cpus::wait_for(|| cpus::is_idle(index)),
            "vcpu {index} does not go on"
        );
        expect!(WENT_ON[index].load(Ordering::SeqCst), 1);
    }
    Ok(())
}
