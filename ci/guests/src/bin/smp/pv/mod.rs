//! What only PV guests have: vCPUs made by `VCPUOP_initialise`, timers by hypercall.

mod races;
mod running;
mod segments;

use xenolith_guests::report::Outcome;

type Case = (&'static str, fn() -> Outcome);

pub(crate) const FIRMWARE: &[Case] = &[];
pub(crate) const CONTROLLER: &[Case] = running::TIMERS;
pub(crate) use running::CASES as RUNNING;

pub(crate) const TOGETHER: &[&[Case]] = &[races::CASES, segments::CASES];
