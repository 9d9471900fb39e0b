//! One physical CPU: its registers, vectors, per-CPU data and main loop.

pub mod fault;
pub mod percpu;
pub mod regs;
pub mod run;
pub mod vectors;
