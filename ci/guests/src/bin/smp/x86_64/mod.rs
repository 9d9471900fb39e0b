//! What only x86-64 has: the local APIC's rules, and starts by INIT and SIPI or by hypercall.

mod apic_rules;
mod running;

pub(crate) use apic_rules::{CONTROLLER, FIRMWARE};
pub(crate) use running::CASES as RUNNING;
