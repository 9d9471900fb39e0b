//! Instructions that a PV guest's kernel uses as if it ran in ring 0, and the hypervisor does for it.

pub mod decode;
