//! PV guests: kernels that know that they run in ring 3, on page tables which the hypervisor has checked.

pub mod domain;
pub mod emulate;
pub mod frame;
pub mod isolation;
pub mod memory;
pub mod store;
pub mod vcpu;

#[cfg(target_os = "none")]
pub mod access;
#[cfg(target_os = "none")]
pub mod bounce;
#[cfg(target_os = "none")]
pub mod callbacks;
#[cfg(target_os = "none")]
pub mod descriptors;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
pub mod flush;
#[cfg(target_os = "none")]
pub mod gate;
#[cfg(target_os = "none")]
pub mod guard;
#[cfg(target_os = "none")]
pub mod hypercall;
#[cfg(target_os = "none")]
pub mod io;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
mod patch;
#[cfg(target_os = "none")]
pub mod physdev;
#[cfg(target_os = "none")]
pub mod registers;
#[cfg(target_os = "none")]
pub mod release;
#[cfg(target_os = "none")]
pub mod run;
#[cfg(target_os = "none")]
mod short;
#[cfg(target_os = "none")]
pub mod smap;
#[cfg(target_os = "none")]
pub mod start;
#[cfg(target_os = "none")]
pub mod switch;
#[cfg(target_os = "none")]
pub mod table_write;
#[cfg(target_os = "none")]
pub mod tables;
#[cfg(target_os = "none")]
pub mod trap;
