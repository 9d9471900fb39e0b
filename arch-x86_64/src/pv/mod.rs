//! Paravirtual guests: kernels that run in ring 3 on page tables that the hypervisor checked.

pub mod memory;
