//! How Xen 4.17 answers a PV dom0: number, first sub-op of a run, errno. A number that is not here is unknown.

use xenolith_guests::xen::nr;

/// Numbers that a survey had better not call: they take traps, stacks, callbacks or the per-CPU record away.
pub(crate) const LEFT_OUT: &[u64] = &[
    nr::SET_TRAP_TABLE,
    nr::SET_GDT,
    nr::STACK_SWITCH,
    nr::SET_CALLBACKS,
    nr::SET_DEBUGREG,
    nr::IRET,
    nr::SET_SEGMENT_BASE,
];

#[rustfmt::skip]
pub(crate) const ROWS: &[(u64, u64, i64)] = &[
];
