//! How Xen 4.17 answers on x86-64 as PVH dom0: number, first sub-op of a run, errno. A number that is not here is
//! unknown.

/// Numbers that a survey had better not call.
pub(crate) const LEFT_OUT: &[u64] = &[];

#[rustfmt::skip]
pub(crate) const ROWS: &[(u64, u64, i64)] = &[
    // platform_op: the pointer comes first here, and address 0 is RAM
    (7, 0, -13),
    // memory_op: the first ones and populate count extents, so a bad pointer is "none done"
    (12, 0, 0), (12, 3, -14), (12, 6, 0), (12, 7, -14), (12, 8, -38), (12, 9, -14), (12, 10, -38), (12, 11, -14), (12, 12, -38), (12, 13, -14), (12, 18, 0), (12, 20, -38), (12, 21, -14), (12, 22, -38), (12, 23, -14), (12, 25, -95), (12, 26, -14), (12, 29, -38),
    // set_timer_op takes a time
    (15, 0, 0),
    // xen_version
    (17, 0, 262161), (17, 1, -14), (17, 7, -22), (17, 8, -14), (17, 11, -38),
    // grant_table_op: an HVM guest lacks some
    (20, 0, -14), (20, 3, -38), (20, 5, -14), (20, 7, -38), (20, 8, -14), (20, 9, -38), (20, 10, -14), (20, 12, -38),
    // vm_assist
    (21, 0, -22),
    // vcpu_op: the second argument is a vCPU that is not
    (24, 0, -2),
    // mmuext_op
    (26, 0, -3),
    // sched_op: yield, block and shutdown are not called here
    (29, 0, 0), (29, 3, -14), (29, 8, -38),
    // event_channel_op: 14 is the continuation of reset
    (32, 0, -14), (32, 15, -38),
    // physdev_op: only what the hardware domain needs
    (33, 0, -38), (33, 24, -14), (33, 27, -38), (33, 29, -14), (33, 30, -38),
    // hvm_op
    (34, 0, -14), (34, 2, -38), (34, 5, -22), (34, 6, -38), (34, 9, -14), (34, 12, -38), (34, 15, -14), (34, 16, -38), (34, 23, -14), (34, 24, -22), (34, 25, -95), (34, 26, -38),
    // sysctl: as platform_op
    (35, 0, -13),
    // domctl: as platform_op
    (36, 0, -13),
    // xenpmu_op
    (40, 0, -95),
    // dm_op
    (41, 0, -7),
    // paging_domctl_cont
    (49, 0, -95),
];
