//! The Xen public ABI as plain data: numbers, wire structs and error codes of release 4.17.
//!
//! Invariants: nothing here acts; every wire struct is `repr(C)`, little endian, has no hidden
//! padding and accepts every bit pattern (`zerocopy::FromBytes`), so a hostile guest cannot make
//! a Rust value invalid. What a guest sends as a number stays a number in the struct and becomes
//! an enum only through `TryFrom`, whose error is the code that the caller is owed.
//!
//! Each module names the public header that it follows; `tests/layout.rs` compiles those headers
//! and compares size, alignment and offsets of every struct and the value of every constant.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod arm;
pub mod console;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod grant_table;
pub mod handle;
pub mod hvm;
pub mod hvm_vcpu;
pub mod hypercall;
pub mod ids;
pub mod memory;
pub mod multicall;
pub mod narrow;
pub mod physdev;
pub mod platform;
pub mod pv_start_info;
pub mod riscv;
pub mod runstate;
pub mod sched;
pub mod shared_info;
pub mod start_info;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod virq;
pub mod vm_assist;
pub mod x86_32;
pub mod x86_64;
pub mod xenstore;
pub mod xsm;

pub use errno::Errno;
pub use handle::GuestHandle;
pub use hypercall::Nr;
pub use ids::{DomId, GrantHandle, GrantRef, Port};
pub use narrow::Wire;

/// The newest interface version that the 4.17 headers describe (`xen-compat.h`).
pub const INTERFACE_VERSION: u32 = 0x0004_0e00;

/// Size of the page that every frame number on the wire counts in, in bytes.
pub const PAGE_SIZE: u64 = 4096;

// Unions on the wire are kept as plain words here, which is only right on a little-endian CPU.
const _: () = assert!(cfg!(target_endian = "little"));
