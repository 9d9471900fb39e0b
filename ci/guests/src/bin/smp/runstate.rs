//! What the hypervisor says of how long each vCPU ran and how long it waited for a CPU.
//!
//! With the word `shared=1` the guest trusts that all its vCPUs have one CPU between them.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, MAX_CPUS};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::nr;
use xenolith_guests::{bootargs, cpus, ensure};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] =
    &[("runstate.of_busy_vcpus_adds_up", of_busy_vcpus)];

/// `VCPUOP_register_runstate_memory_area`.
const REGISTER: u64 = 5;
/// `struct vcpu_runstate_info`: what the vCPU does since when, and the times that it ran, could run, was blocked and was off.
const STATE: u64 = 0;
const WORDS: u64 = 8;
const RAN: usize = 1;
const WAITED: usize = 2;
const BLOCKED: usize = 3;
const OFF: usize = 4;

type Words = [AtomicU64; 5];

const NONE: Words = [const { AtomicU64::new(0) }; 5];
static AREAS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static BEFORE: [Words; MAX_CPUS] = [NONE; MAX_CPUS];
static AFTER: [Words; MAX_CPUS] = [NONE; MAX_CPUS];
static STATES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; MAX_CPUS];

/// The vCPU's own times. It may lose its CPU while it reads: then it reads again.
fn keep(page: Page, into: &Words) {
    loop {
        for (index, word) in (0u64..).zip(into) {
            word.store(page.read(WORDS + 8 * index), SeqCst);
        }
        if page.read::<u64>(WORDS) == into[0].load(SeqCst) {
            return;
        }
    }
}

fn busy(index: usize) {
    let page = Page::at(AREAS[index].load(SeqCst));
    // Long enough for each of them to have a turn where they share a CPU.
    let end = arch::now() + arch::ticks_per_second() / 4;
    keep(page, &BEFORE[index]);
    while arch::now() < end {
        arch::relax();
    }
    keep(page, &AFTER[index]);
    STATES[index].store(page.read::<u32>(STATE).into(), SeqCst);
}

fn of_busy_vcpus() -> Outcome {
    let mut answers = Answers::default();
    let all = 0..arch::cpu_count();
    for index in all.clone() {
        let page = Page::take();
        page.fill(0);
        AREAS[index].store(page.address(), SeqCst);
        let mut argument = page.address();
        let arguments = [REGISTER, index as u64, (&raw mut argument) as u64, 0, 0];
        answers.take("register", arch::hypercall(nr::VCPU_OP, arguments), 0);
    }
    for index in cpus::others() {
        cpus::begin(index, busy);
    }
    busy(0);
    for index in cpus::others() {
        ensure!(cpus::wait_for(|| cpus::is_idle(index)), "CPU {index}");
    }
    let grown = |index: usize, word: usize| {
        AFTER[index][word].load(SeqCst) - BEFORE[index][word].load(SeqCst)
    };
    for index in all.clone() {
        let parts: u64 = (RAN..=OFF).map(|word| grown(index, word)).sum();
        answers.take("the parts are the whole", parts, grown(index, 0));
        answers.take("blocked", grown(index, BLOCKED), 0);
        answers.take("off", grown(index, OFF), 0);
        answers.take("running", STATES[index].load(SeqCst), 0);
    }
    let sum = |word| all.clone().map(|index| grown(index, word)).sum::<u64>();
    value("runstate.waited_ns", sum(WAITED) as i64);
    if bootargs::word("shared").is_some() {
        let times = |from: &'static [Words; MAX_CPUS]| {
            all.clone().map(move |index| from[index][0].load(SeqCst))
        };
        let first = times(&BEFORE).min().unwrap_or_default();
        let last = times(&AFTER).max().unwrap_or_default();
        answers.take("one ran at a time", sum(RAN) <= last - first, true);
        answers.take("others waited", sum(WAITED) > 0, true);
    }
    answers.end()
}
