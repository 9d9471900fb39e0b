//! Device drivers shared by the architectures: serial consoles so far.
#![no_std]
#![allow(
    unsafe_code,
    reason = "drivers reach device registers; each block says why it is sound"
)]

#[cfg(feature = "cadence")]
mod cadence;
#[cfg(feature = "ns16550")]
mod ns16550;
#[cfg(feature = "pl011")]
mod pl011;
pub mod uart;

pub use uart::{Transmitter, Uart, UartKind};
