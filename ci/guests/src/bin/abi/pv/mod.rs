//! What is so for PV guests only.

pub(crate) mod survey;

use crate::Case;

pub(crate) const TABLES: &[&[Case]] = &[];
