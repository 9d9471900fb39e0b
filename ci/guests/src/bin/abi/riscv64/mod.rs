//! What is so on RISC-V only.

pub(crate) mod survey;

use crate::Case;

pub(crate) const TABLES: &[&[Case]] = &[];
