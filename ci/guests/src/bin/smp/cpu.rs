//! CPUs come up, go down, and come up again.

use xenolith_guests::report::Outcome;
use xenolith_guests::{arch, cpus, ensure, expect};

type Case = (&'static str, fn() -> Outcome);

pub(crate) const CASES: &[Case] = &[
    ("cpu.others_are_off_at_first", others_are_off),
    ("cpu.every_cpu_starts", every_cpu_starts),
];
pub(crate) const LAST: &[Case] = &[("cpu.stops_and_starts_again", stops_and_starts)];

fn others_are_off() -> Outcome {
    for index in cpus::others() {
        ensure!(arch::cpu_is_off(index), "cpu {index} is not off");
    }
    Ok(())
}

fn every_cpu_starts() -> Outcome {
    for index in cpus::others() {
        let (errno, online) = cpus::start(index);
        expect!(errno, 0, "start of cpu {index}");
        ensure!(online, "cpu {index} did not come up");
        ensure!(
            !arch::cpu_is_off(index),
            "cpu {index} runs but is said to be off"
        );
    }
    Ok(())
}

fn stops_and_starts() -> Outcome {
    for _ in 0..3 {
        for index in cpus::others() {
            ensure!(cpus::stop(index), "cpu {index} did not stop");
        }
        for index in cpus::others() {
            let (errno, online) = cpus::start(index);
            expect!(errno, 0, "start of cpu {index}");
            ensure!(online, "cpu {index} did not come up again");
        }
    }
    Ok(())
}
