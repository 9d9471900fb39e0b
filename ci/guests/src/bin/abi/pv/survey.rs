//! How Xen 4.17 answers a PV dom0: number, first sub-op of a run, errno. A number that is not here is unknown.

use xenolith_guests::xen::nr;

/// Its second sub-op blocks, and its third ends the domain.
const SCHED_OP_COMPAT: u64 = 6;

/// `xenoprof_op`, `kexec_op` and `mca`, which a build has or has not.
const OPTIONAL: [u64; 3] = [31, 37, 48];

/// Numbers that a survey had better not call: they take traps, stacks, callbacks or the per-CPU record away, or answer with
/// the machine's state.
pub(crate) const LEFT_OUT: &[u64] = &[
    nr::SET_TRAP_TABLE,
    nr::SET_GDT,
    nr::STACK_SWITCH,
    nr::SET_CALLBACKS,
    SCHED_OP_COMPAT,
    nr::SET_DEBUGREG,
    nr::GET_DEBUGREG,
    OPTIONAL[0],
    OPTIONAL[1],
    OPTIONAL[2],
    nr::IRET,
    nr::SET_SEGMENT_BASE,
];

#[rustfmt::skip]
pub(crate) const ROWS: &[(u64, u64, i64)] = &[
    // mmu_update
    (1, 0, -3),
    // fpu_taskswitch
    (5, 0, 0),
    // platform_op
    (7, 0, -14),
    // update_descriptor
    (10, 0, -22),
    // memory_op: the first ones and populate count extents
    (12, 0, 0), (12, 3, -14), (12, 6, 0), (12, 7, -14), (12, 8, -38), (12, 9, -14), (12, 18, 0), (12, 20, -38), (12, 21, -14), (12, 22, -38), (12, 23, -14), (12, 25, -95), (12, 26, -14), (12, 29, -38),
    // update_va_mapping
    (14, 0, -22),
    // set_timer_op takes a time
    (15, 0, 0),
    // event_channel_op as it was
    (16, 0, -14),
    // xen_version
    (17, 0, 262161), (17, 1, -14), (17, 7, -22), (17, 8, -14), (17, 11, -38),
    // physdev_op as it was
    (19, 0, -14),
    // grant_table_op
    (20, 0, -14), (20, 3, -38), (20, 4, -14), (20, 13, -38),
    // vm_assist
    (21, 0, -22),
    // update_va_mapping_otherdomain
    (22, 0, -3),
    // vcpu_op
    (24, 0, -2),
    // mmuext_op
    (26, 0, -3),
    // nmi_op
    (28, 0, -14), (28, 1, 0), (28, 2, -38),
    // sched_op
    (29, 0, 0), (29, 3, -14), (29, 8, -38),
    // callback_op
    (30, 0, -14), (30, 2, -38),
    // event_channel_op
    (32, 0, -14), (32, 15, -38),
    // physdev_op
    (33, 0, -38), (33, 4, 0), (33, 5, -14), (33, 11, -38), (33, 12, -14), (33, 18, -38), (33, 19, -14), (33, 22, -38), (33, 23, -14), (33, 32, -38),
    // hvm_op
    (34, 0, -14), (34, 2, -38), (34, 5, -22), (34, 6, -38), (34, 9, -14), (34, 12, -38), (34, 15, -14), (34, 16, -38), (34, 23, -22), (34, 25, -95), (34, 26, -38),
    // sysctl
    (35, 0, -14),
    // domctl
    (36, 0, -14),
    // xenpmu_op
    (40, 0, -95),
    // dm_op
    (41, 0, -7),
    // paging_domctl_cont
    (49, 0, -14),
];
