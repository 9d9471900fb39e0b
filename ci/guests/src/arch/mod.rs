//! The machine under a guest. One module per architecture; each offers the same names, so that a
//! test case that speaks only to `arch::` runs on all of them:
//!
//! - `hypercall(number, args) -> i64`, `image() -> Range<u64>` (addresses of code, data, stacks)
//! - `Cpu` numbers, `cpu_index`, `cpu_count`, `cpu_start`, `cpu_stop`, `relax`
//! - `irq_on`, `irq_off`, `wait`, `entry_stamp`, `on_irq`, `ipi_*`, `event_irq_on`
//! - `now` and `ticks_per_second`, `timer_*`
//! - `attempt` and `escape`: a case that panics is left, and the next one runs
//! - `fault_of(|| …)`: runs a closure and says whether it faulted
//! - `map_page`, `UNMAPPED`, `NON_CANONICAL`: addresses that a bad pointer may have

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
