//! What only AArch64 has: PSCI's and SMCCC's answers, and the GIC's rules.

mod gic_rules;
mod psci_rules;
mod running;

pub(crate) use gic_rules::CASES as CONTROLLER;
pub(crate) use psci_rules::CASES as FIRMWARE;
pub(crate) use running::CASES as RUNNING;
