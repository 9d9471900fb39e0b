//! What is so on RISC-V only. There is no Xen with domains for it: calls answer as on AArch64, and a block lets events through
//! as there.

#[path = "../aarch64/block.rs"]
mod block;
mod gate;
#[path = "../aarch64/survey.rs"]
pub(crate) mod survey;

use crate::Case;

pub(crate) const TABLES: &[&[Case]] = &[block::CASES, gate::CASES];
