//! What only PV guests have: vCPUs made by `VCPUOP_initialise`, timers by hypercall.

mod exchanges;
mod races;
mod records;
mod running;
mod segments;
mod teardown;

use xenolith_guests::report::Outcome;

type Case = (&'static str, fn() -> Outcome);

pub(crate) const FIRMWARE: &[Case] = records::BEFORE;
pub(crate) const CONTROLLER: &[Case] = running::TIMERS;
pub(crate) use running::CASES as RUNNING;

pub(crate) const TOGETHER: &[&[Case]] = &[
    races::CASES,
    exchanges::CASES,
    teardown::CASES,
    segments::CASES,
    records::CASES,
];
