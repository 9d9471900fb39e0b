//! One physical CPU: its descriptor tables, interrupt entries, per-CPU data and main loop.

pub mod cpuid;
pub mod descriptors;
pub mod fault;
pub mod percpu;
pub mod run;
pub mod shootdown;
pub mod vectors;
