//! One physical CPU: its descriptor tables, interrupt entries, per-CPU data and main loop.

pub mod cpuid;
pub mod descriptors;
pub mod errand;
pub mod fault;
pub mod guarded;
pub mod machine_check;
pub mod microcode;
pub mod nmi;
pub mod percpu;
pub mod recovery;
pub mod run;
pub mod shootdown;
pub mod vectors;

/// First of all on each CPU: descriptors, interrupt table, machine checks.
pub fn start(id: xenolith_hal::CpuId) {
    descriptors::install(id);
    machine_check::start();
    microcode::note(id);
}
