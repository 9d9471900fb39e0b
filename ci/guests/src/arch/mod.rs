//! The machine under a guest. One module per architecture; each offers the same names, so that a
//! test case that speaks only to `arch::` runs on all of them:
//!
//! - `hypercall(number, args) -> i64`, `image() -> Range<u64>` (addresses of code, data, stacks)
//! - `Cpu` numbers, `cpu_index`, `cpu_count`, `cpu_start`, `cpu_stop`, `relax`
//! - `command_line`
//! - `irq_on`, `irq_off`, `wait`, `wait_and_take`, `entry_stamp`, `on_ipi`, `ipi_send`, `on_event`
//! - `now` and `ticks_per_second`, `turns`, `timer_*`, `block_for`
//! - `attempt` and `escape`: a case that panics is left, and the next one runs
//! - `fault_of(|| …)`: runs a closure and says whether it faulted
//! - `is_nothing_at`: whether a mapped address has nothing behind it
//! - `map_page`, `UNMAPPED`, `NON_CANONICAL`: addresses that a bad pointer may have
//! - `frame_of`, `shared_info`, `map_grant_frame`, `console_ring`: how memory is named and found

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub mod riscv64;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;
#[cfg(all(target_arch = "x86_64", not(pv)))]
pub mod x86_64;
#[cfg(all(target_arch = "x86_64", pv))]
#[path = "x86_64/pv/mod.rs"]
pub mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
