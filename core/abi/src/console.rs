//! The emergency console and the paravirtual console ring.
//!
//! Headers: `xen.h` (`CONSOLEIO_*`), `io/console.h`. The ring page is shared with an untrusted other
//! side: indices run freely, are taken modulo the ring's size, and may hold anything.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A command of `console_io`; a count of bytes and a buffer follow.
    pub enum ConsoleIo: u32, unknown is ENOSYS {
        /// Writes the buffer; returns 0.
        Write = 0,
        /// Reads what is there; returns the count.
        Read = 1,
    }
}

/// The paravirtual console page (`xencons_interface`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenconsInterface {
    /// To the guest.
    pub input: [u8; 1024],
    /// From the guest.
    pub output: [u8; 2048],
    /// Guest's read index of `input`.
    pub in_cons: u32,
    /// Back end's write index of `input`.
    pub in_prod: u32,
    /// Back end's read index of `output`.
    pub out_cons: u32,
    /// Guest's write index of `output`.
    pub out_prod: u32,
}
