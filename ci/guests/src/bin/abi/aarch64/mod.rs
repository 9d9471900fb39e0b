//! What is so on AArch64 only.

mod block;
pub(crate) mod survey;

use crate::Case;

pub(crate) const TABLES: &[&[Case]] = &[block::CASES];
