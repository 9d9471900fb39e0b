//! How Xen 4.17 answers on x86-64 as PVH dom0: number, first sub-op of a run, errno. A number that is not here is
//! unknown.

#[rustfmt::skip]
pub(crate) const ROWS: &[(u64, u64, i64)] = &[
];
