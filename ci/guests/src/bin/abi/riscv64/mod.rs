//! What is so on RISC-V only.

mod block;
mod gate;
pub(crate) mod survey;

use crate::Case;

pub(crate) const TABLES: &[&[Case]] = &[block::CASES, gate::CASES];
