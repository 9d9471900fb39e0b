//! `sched_op`.

use super::{call, call_at, nr};
use crate::{arch, bootargs};

#[allow(missing_docs)]
pub mod op {
    pub const YIELD: u64 = 0;
    pub const BLOCK: u64 = 1;
    pub const SHUTDOWN: u64 = 2;
    pub const POLL: u64 = 3;
    pub const REMOTE_SHUTDOWN: u64 = 4;
    pub const SHUTDOWN_CODE: u64 = 5;
    pub const WATCHDOG: u64 = 6;
    pub const PIN_OVERRIDE: u64 = 7;
}

/// `sched_poll`.
#[repr(C)]
pub struct Poll {
    /// Address of the port array.
    pub ports: u64,
    /// How many ports.
    pub count: u32,
    /// Absolute system time in nanoseconds, 0: none.
    pub timeout: u64,
}

/// Gives the CPU to another vCPU, if one wants it.
pub fn yield_now() -> i64 {
    call_at(nr::SCHED_OP, op::YIELD, 0)
}

/// Sleeps until an event is pending.
pub fn block() -> i64 {
    call_at(nr::SCHED_OP, op::BLOCK, 0)
}

/// Sleeps until one of `ports` is pending or the system time reaches `timeout`.
pub fn poll(ports: &[u32], timeout: u64) -> i64 {
    let mut argument = Poll {
        ports: ports.as_ptr() as u64,
        count: ports.len() as u32,
        timeout,
    };
    call(nr::SCHED_OP, op::POLL, &mut argument)
}

/// Ends the domain as powered off; with the word `end=reboot` on the command line as to be restarted. (Xen on x86
/// halts the machine when dom0 powers off, and an emulator goes on; it ends at a restart if told so.)
pub fn power_off() -> ! {
    const REBOOT: u32 = 1;
    let reboots = bootargs::word("end") == Some("reboot");
    let mut reason: u32 = if reboots { REBOOT } else { 0 };
    arch::irq_off();
    loop {
        call(nr::SCHED_OP, op::SHUTDOWN, &mut reason);
        #[cfg(target_arch = "riscv64")]
        arch::sbi::end_bare_machine(reboots);
        arch::wait_and_take();
    }
}
