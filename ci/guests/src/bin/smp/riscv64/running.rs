//! Starting a CPU that runs.

use xenolith_guests::report::Outcome;
use xenolith_guests::{arch, cpus, expect};

use super::Case;

pub(crate) const REFUSED: Case = ("cpu.a_running_cpu_cannot_be_started", running_cpu_refused);

fn running_cpu_refused() -> Outcome {
    let entry: fn(usize) = |_| ();
    for index in cpus::others() {
        // The worker of a CPU that runs is not disturbed: it never looks at its entry again.
        let online = arch::cpu_is_online(index);
        expect!(
            arch::cpu_start(index, entry),
            arch::CPU_ALREADY_ON,
            "start of cpu {index}"
        );
        arch::set_cpu_online(index, online);
    }
    Ok(())
}
