//! One file or folder per verb of the command line.

pub(crate) mod bench;
pub(crate) mod boards;
pub(crate) mod build;
pub(crate) mod clean;
pub(crate) mod image;
pub(crate) mod lint;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod smoke;
pub(crate) mod test;
