//! What only RISC-V has.
use xenolith_guests::report::Outcome;
pub(crate) const FIRMWARE: &[(&str, fn() -> Outcome)] = &[];
pub(crate) const CONTROLLER: &[(&str, fn() -> Outcome)] = &[];
pub(crate) const RUNNING: &[(&str, fn() -> Outcome)] = &[];
