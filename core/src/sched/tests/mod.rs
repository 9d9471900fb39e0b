//! The scheduler on the simulated machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use super::*;

mod basics;
mod fairness;
mod machine;
mod ops;
mod random;
mod threads;
