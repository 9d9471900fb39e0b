//! Where the table meets the calls that other parts of the core serve.

use xenolith_abi::virq::Virq;
use xenolith_hal::{GuestVirt, Hal};

use super::{Outcome, Rows};
use crate::{DomainRef, Hypervisor, guest::Caller};

/// `memory_op`.
#[inline(never)]
pub fn memory_op<H: Hal>(caller: Caller<'_, H>, cmd: u64, arg: GuestVirt) -> Outcome {
    crate::memory::op::memory_op(caller, cmd, arg)
}

/// `grant_table_op`.
#[inline(never)]
pub fn grant_table_op<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    cmd: u64,
    arg: GuestVirt,
    count: u64,
) -> Outcome {
    crate::grant::grant_table_op::<H, A>(caller, cmd, arg, count)
}

/// `vcpu_op`.
#[inline(never)]
pub fn vcpu_op<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    cmd: u32,
    vcpu: u32,
    arg: GuestVirt,
) -> Outcome {
    crate::vcpu_op::vcpu_op::<H, A>(caller, cmd, vcpu, arg)
}

/// `sched_op`.
#[inline(never)]
pub fn sched_op<H: Hal>(caller: Caller<'_, H>, cmd: u32, arg: GuestVirt) -> Outcome {
    crate::sched::sched_op(caller, cmd, arg)
}

/// `event_channel_op`.
#[inline(never)]
pub fn event_channel_op<H: Hal>(caller: Caller<'_, H>, cmd: u64, arg: GuestVirt) -> Outcome {
    crate::event::event_channel_op(caller, cmd, arg)
}

impl<H: Hal> Hypervisor<H> {
    /// Tells a domain that something was typed for it.
    pub(crate) fn console_input_waits(&self, domain: &DomainRef<H>) {
        self.send_guest_global_virq(domain, Virq::Console);
    }
}
