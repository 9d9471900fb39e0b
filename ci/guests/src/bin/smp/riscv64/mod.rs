//! What only RISC-V has: the states of harts, interrupts and fences by masks, and the PLIC's rules.

mod fences;
mod hart_rules;
mod masks;
mod plic_rules;
mod routes;
mod running;

use xenolith_guests::report::Outcome;

pub(crate) use hart_rules::CASES as FIRMWARE;
pub(crate) use plic_rules::CASES as CONTROLLER;

type Case = (&'static str, fn() -> Outcome);

/// Cases for which all CPUs run.
pub(crate) const RUNNING: &[Case] = &[
    running::REFUSED,
    masks::ONE_BY_BASE,
    masks::ALL_OTHERS,
    masks::ALL_BY_NO_BASE,
    masks::NOBODY,
    fences::MAPPINGS,
    fences::INSTRUCTIONS,
    routes::TO_ANOTHER,
];
