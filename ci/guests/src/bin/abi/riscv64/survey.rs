//! How each number answers on RISC-V: number, first sub-op of a run, errno. A number that is not here is unknown. There is
//! no Xen with domains for this architecture yet: the answers are those of AArch64.

/// Numbers that a survey had better not call.
pub(crate) const LEFT_OUT: &[u64] = &[];

#[rustfmt::skip]
pub(crate) const ROWS: &[(u64, u64, i64)] = &[
    // platform_op
    (7, 0, -14),
    // memory_op: the first ones and populate count extents, so a bad pointer is "none done"
    (12, 0, 0), (12, 2, 524288), (12, 3, -14), (12, 5, -38), (12, 6, 0), (12, 7, -14), (12, 8, -38), (12, 11, -14), (12, 12, -38), (12, 14, -14), (12, 16, -38), (12, 18, 0), (12, 20, -38), (12, 23, -14), (12, 25, -38), (12, 26, -14), (12, 29, -38),
    // xen_version
    (17, 0, 262161), (17, 1, -14), (17, 7, -22), (17, 8, -14), (17, 11, -38),
    // grant_table_op
    (20, 0, -14), (20, 3, -38), (20, 4, -95), (20, 5, -14), (20, 13, -38),
    // vm_assist
    (21, 0, -22),
    // vcpu_op: the second argument is a vCPU that is not
    (24, 0, -2),
    // sched_op: yield, block and shutdown are not called here
    (29, 0, 0), (29, 3, -14), (29, 8, -38),
    // event_channel_op: 14 is the continuation of reset
    (32, 0, -14), (32, 15, -38),
    // hvm_op
    (34, 0, -14), (34, 2, -38), (34, 24, -22), (34, 25, -38),
    // sysctl
    (35, 0, -14),
    // domctl
    (36, 0, -14),
];
