//! RISC-V cases.
use xenolith_guests::report::Outcome;
type Case = (&'static str, fn() -> Outcome);
pub(crate) const TABLES: &[&[Case]] = &[];
