//! x86-64 cases.
#![allow(unsafe_code)] // Every case is an instruction that no safe function offers.

use xenolith_guests::report::Outcome;

type Case = (&'static str, fn() -> Outcome);

pub(crate) const TABLES: &[&[Case]] = &[];
