//! What is so on x86-64 only.

mod gates;
pub(crate) mod survey;
mod upcall;
mod vcpu;

use crate::Case;

pub(crate) const TABLES: &[&[Case]] = &[gates::CASES, upcall::CASES, vcpu::CASES];
