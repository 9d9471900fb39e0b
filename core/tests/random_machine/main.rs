//! A whole simulated machine under a random schedule: four CPUs, a control domain and seven others with one to four vCPUs
//! each, some of them paravirtual, made and destroyed all the time. Every step one CPU does what it would do on hardware, or tools act on it:
//! interrupts come late, long calls are interrupted, allocations fail. What must always hold is checked after each step,
//! all of it (`check`); at the end no event may be left over and every frame must be back.
//!
//! A machine lives on one thread and depends on its seed alone; each of the host's CPUs runs one at a time. A failure prints its seed and step; with
//! `XENOLITH_SEED` (and `XENOLITH_STEPS`) in the environment only that seed runs.

mod calls;
mod check;
mod cpu;
mod fifo;
mod guest;
mod machine;
mod manage;
mod pv;
mod random;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Mutex,
    thread,
};

use machine::Machine;

/// Seeds that run when none is given, and steps of all of them together.
const SEEDS: [u64; 10] = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
const STEPS: u64 = 100_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = text.parse();
    Some(parsed.unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn run(seed: u64, steps: u64) {
    let mut machine = Machine::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            machine.step();
        }
        machine.wind_up();
    }));
    if let Err(panic) = outcome {
        println!("the last acts before the failure:");
        for act in machine.acts() {
            println!("    {act}");
        }
        let step = machine.steps();
        println!(
            "seed {seed} failed at step {step}; again with: XENOLITH_SEED={seed} XENOLITH_STEPS={steps} \
             cargo test -p xenolith-core --test random_machine"
        );
        // What is half done must not be looked at while unwinding goes on.
        std::mem::forget(machine);
        resume_unwind(panic);
    }
    println!("seed {seed}: {steps} steps, {}", machine.summary());
}

#[test]
fn no_schedule_breaks_an_invariant_and_every_frame_comes_back() {
    match number("XENOLITH_SEED") {
        Some(seed) => run(seed, number("XENOLITH_STEPS").unwrap_or(STEPS)),
        None => {
            let steps = number("XENOLITH_STEPS").unwrap_or(STEPS);
            let seeds = Mutex::new(SEEDS.into_iter());
            let next = || seeds.lock().expect("nothing fails while it is held").next();
            thread::scope(|scope| {
                for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                    scope.spawn(|| {
                        while let Some(seed) = next() {
                            run(seed, steps / SEEDS.len() as u64);
                        }
                    });
                }
            });
        }
    }
}
