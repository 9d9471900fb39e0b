//! What xtask needs of a Debian machine: its packages, its package sources, and packages of other architectures.

pub(crate) mod install;
pub(crate) mod private_root;
pub(crate) mod progress;
pub(crate) mod sources;
