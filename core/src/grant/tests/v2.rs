//! Tables of version 2: whole pages, parts of pages, grants passed on, status words, and the change of the format.

use xenolith_abi::grant_table::{EntryV2, MAPIDX_STATUS, NR_RESERVED_ENTRIES};

use super::*;

/// Where a guest sees its status words.
const STATUS: u64 = 0x180;
const READING: u16 = EntryFlags::READING.bits();
const WRITING: u16 = EntryFlags::WRITING.bits();

impl Rig {
    fn set_version(&self, domain: usize, version: u32) -> Result<u32, Errno> {
        let done = self.call(domain, Op::SetVersion, SetVersion { version })?;
        Ok(done.version)
    }

    /// A domain's table has version 2, and the domain sees its status words.
    fn go_split(&self, domain: usize) {
        assert_eq!(self.set_version(domain, 2), Ok(2));
        let owner = &self.domains[domain];
        let gfn = Gfn(STATUS);
        let mfn = self
            .hv
            .grant_frame_for_physmap(owner, MAPIDX_STATUS, gfn)
            .unwrap();
        let tables = self.hv.tables(owner);
        owner
            .p2m
            .map(gfn, mfn, 1, P2mType::XenShared, &tables)
            .unwrap();
    }

    fn put(&self, granter: usize, gref: u32, kind: u16, to: u16, part: u32, frame: u64) {
        let entry = EntryV2 {
            flags: EntryFlags(kind),
            domid: DomId(to),
            part,
            frame,
        };
        self.poke(granter, TABLE * PAGE + u64::from(gref) * 16, &entry);
    }

    fn status_word(&self, granter: usize, gref: u32) -> u16 {
        self.peek(granter, STATUS * PAGE + u64::from(gref) * 2)
            .unwrap()
    }

    fn header(&self, granter: usize, gref: u32) -> EntryFlags {
        let entry: EntryV2 = self
            .peek(granter, TABLE * PAGE + u64::from(gref) * 16)
            .unwrap();
        entry.flags
    }
}

const ACCESS: u16 = entry_type::PERMIT_ACCESS;
const PART: u16 = entry_type::PERMIT_ACCESS | EntryFlags::SUB_PAGE.bits();

fn copy_of(source: CopyPtr, len: u16) -> GrantCopy {
    GrantCopy {
        source,
        dest: CopyPtr {
            gref_or_gfn: 9,
            domid: DomId::SELF,
            ..Default::default()
        },
        len,
        flags: CopyFlags::SOURCE_GREF,
        ..Default::default()
    }
}

#[test]
fn the_marks_of_a_version_two_grant_stand_in_the_status_words() {
    let rig = Rig::new();
    rig.go_split(1);
    rig.put(1, 20, ACCESS, 2, 0, 5);
    let reader = rig.map_at(2, 1, 20, WINDOW, RO).unwrap();
    assert_eq!(rig.status_word(1, 20), READING);
    let writer = rig.map_at(2, 1, 20, WINDOW + 1, RW).unwrap();
    assert_eq!(rig.status_word(1, 20), READING | WRITING);
    assert_eq!(rig.header(1, 20), EntryFlags(ACCESS));
    rig.unmap_at(2, writer, WINDOW + 1).unwrap();
    assert_eq!(rig.status_word(1, 20), READING);
    rig.unmap(reader).unwrap();
    assert_eq!(rig.status_word(1, 20), 0);
    // Entries go on where a table of version 1 has its end.
    rig.put(1, 255, ACCESS | EntryFlags::READONLY.bits(), 2, 0, 6);
    assert_eq!(
        rig.map_at(2, 1, 255, WINDOW, RW),
        Err(GrantStatus::GeneralError)
    );
    assert_eq!(
        rig.map_at(2, 1, 256, WINDOW, RO),
        Err(GrantStatus::BadGntref)
    );
    assert_eq!(
        rig.map_at(2, 1, 511, WINDOW, RO),
        Err(GrantStatus::BadGntref)
    );
    rig.map_at(2, 1, 255, WINDOW, RO).unwrap();
}

#[test]
fn a_part_of_a_page_is_copied_and_not_mapped() {
    let rig = Rig::new();
    rig.go_split(1);
    rig.poke(1, 5 * PAGE + 96, b"no|part of a page|no");
    rig.put(1, 20, PART, 2, 99 | 14 << 16, 5);
    assert_eq!(rig.map(20, RO), Err(GrantStatus::GeneralError));
    let copy = |offset, len| rig.copy(2, copy_of(granted(1, 20, offset), len));
    assert_eq!(copy(99, 14), Ok(()));
    assert_eq!(rig.peek(2, 9 * PAGE), Ok(*b"part of a page"));
    for (offset, len) in [(98, 2), (99, 15), (113, 1), (0, 4096)] {
        assert_eq!(copy(offset, len), Err(GrantStatus::GeneralError));
    }
    assert_eq!(copy(112, 1), Ok(()));
    assert_eq!(copy(99, 4000), Err(GrantStatus::BadCopyArg));
    assert_eq!(rig.status_word(1, 20), 0);
    // A range that ends beyond the page grants no more than the page.
    rig.put(1, 20, PART, 2, 4000 | 0xffff << 16, 5);
    assert_eq!(copy(4000, 96), Ok(()));
    assert_eq!(copy(4000, 97), Err(GrantStatus::BadCopyArg));
}

#[test]
fn a_grant_is_passed_on_once_and_for_copies_only() {
    let rig = Rig::new();
    (0..2).for_each(|domain| rig.go_split(domain));
    rig.poke(0, 5 * PAGE, b"passed on");
    rig.put(0, 30, ACCESS | EntryFlags::READONLY.bits(), 1, 0, 5);
    // Domain 1 lets domain 2 use what domain 0 granted it.
    rig.put(1, 20, entry_type::TRANSITIVE, 2, 0, 30);
    assert_eq!(rig.copy(2, copy_of(granted(1, 20, 0), 9)), Ok(()));
    assert_eq!(rig.peek(2, 9 * PAGE), Ok(*b"passed on"));
    assert_eq!(rig.map(20, RO), Err(GrantStatus::GeneralError));
    assert_eq!((rig.status_word(0, 30), rig.status_word(1, 20)), (0, 0));
    let refused = |op| assert_eq!(rig.copy(2, op), Err(GrantStatus::GeneralError));
    // Read only it is for whoever it is passed on to.
    refused(GrantCopy {
        source: CopyPtr {
            gref_or_gfn: 9,
            domid: DomId::SELF,
            ..Default::default()
        },
        dest: granted(1, 20, 0),
        len: 1,
        flags: CopyFlags::DEST_GREF,
        ..Default::default()
    });
    let read = || copy_of(granted(1, 20, 0), 1);
    // To itself, to nobody, and what is itself passed on.
    for target in [1, 77] {
        rig.put(1, 20, entry_type::TRANSITIVE, 2, target, 30);
        refused(read());
    }
    rig.put(1, 20, entry_type::TRANSITIVE, 2, 0, 30);
    rig.put(0, 30, entry_type::TRANSITIVE, 1, 2, 7);
    refused(read());
    rig.put(0, 30, ACCESS, 2, 0, 5);
    refused(read());
    assert_eq!((rig.status_word(0, 30), rig.status_word(1, 20)), (0, 0));
}

#[test]
fn the_first_entries_survive_a_change_of_the_format_with_their_mappings() {
    let rig = Rig::new();
    rig.grant(1, 1, 2, 5, EntryFlags::empty());
    rig.grant(1, 2, 2, 6, EntryFlags::SUB_PAGE);
    rig.grant(1, 9, 2, 7, EntryFlags::empty());
    let handle = rig.map(1, RW).unwrap();
    rig.go_split(1);
    assert_eq!(rig.status_word(1, 1), READING | WRITING);
    let flags = [1, 2, 9].map(|gref| rig.header(1, gref).0);
    assert_eq!(flags, [ACCESS, 0, 0]);
    const { assert!(NR_RESERVED_ENTRIES <= 9) };
    assert_eq!(rig.set_version(1, 1), Ok(1));
    assert_eq!(rig.marks(1, 1), EntryFlags::READING | EntryFlags::WRITING);
    rig.go_split(1);
    rig.unmap(handle).unwrap();
    assert_eq!(rig.status_word(1, 1), 0);
    let handle = rig.map(1, RO).unwrap();
    rig.unmap(handle).unwrap();
    // Any other entry that is in use keeps the format.
    rig.put(1, 8, ACCESS, 2, 0, 5);
    let handle = rig.map(8, RO).unwrap();
    assert_eq!(rig.set_version(1, 1), Err(Errno::EBUSY));
    assert_eq!(rig.header(1, 8), EntryFlags(ACCESS));
    rig.unmap(handle).unwrap();
    assert_eq!(rig.set_version(1, 1), Ok(1));
}

#[test]
fn status_frames_exist_for_version_two_only() {
    let rig = Rig::new();
    let list = |nr_frames| {
        let args = GetStatusFrames {
            nr_frames,
            dom: DomId::SELF,
            frame_list: GuestHandle::new(0x2000),
            ..Default::default()
        };
        checked(rig.call(1, Op::GetStatusFrames, args).unwrap().status)
    };
    let show = |index| {
        let domain = &rig.domains[1];
        rig.hv
            .grant_frame_for_physmap(domain, MAPIDX_STATUS | index, Gfn(STATUS))
    };
    assert_eq!(list(1), Err(GrantStatus::GeneralError));
    assert_eq!(show(0), Err(Errno::EINVAL));
    rig.go_split(1);
    assert_eq!(list(1), Ok(()));
    assert_eq!(rig.peek(1, 0x2000), Ok(STATUS));
    assert_eq!(list(2), Err(GrantStatus::GeneralError));
    assert_eq!(show(8), Err(Errno::EINVAL));
    show(1).unwrap();
    assert_eq!(list(2), Ok(()));
    let version = GetVersion {
        dom: DomId::SELF,
        ..Default::default()
    };
    assert_eq!(rig.call(1, Op::GetVersion, version).unwrap().version, 2);
}

#[test]
fn entries_of_version_two_are_swapped() {
    let rig = Rig::new();
    rig.go_split(1);
    rig.put(1, 20, ACCESS, 2, 0, 5);
    rig.put(1, 21, PART, 0, 7 | 8 << 16, 6);
    let swap = SwapGrantRef {
        ref_a: GrantRef(20),
        ref_b: GrantRef(21),
        ..Default::default()
    };
    assert_eq!(rig.call(1, Op::SwapGrantRef, swap).unwrap().status, 0);
    let entry = |gref: u64| rig.peek::<[u64; 2]>(1, TABLE * PAGE + gref * 16).unwrap();
    assert_eq!(entry(20), [u64::from(PART) | 7 << 32 | 8 << 48, 6]);
    assert_eq!(entry(21), [u64::from(ACCESS) | 2 << 16, 5]);
}

#[test]
fn a_table_of_version_two_ends_with_its_domain() {
    let rig = Rig::new();
    let free = rig.hv.memory.free_frames();
    let domain = testing::domain(&rig.hv, 5, 16);
    let vcpu = testing::vcpu(&domain);
    let caller = Caller {
        hv: &rig.hv,
        vcpu: &vcpu,
    };
    caller.write(ARGS, &SetVersion { version: 2 }).unwrap();
    let op = Op::SetVersion.number().into();
    assert_eq!(
        grant_table_op::<_, NoRows>(caller, op, ARGS, 1),
        Outcome::Done(0)
    );
    testing::destroy(&rig.hv, &domain);
    assert_eq!(rig.hv.memory.free_frames(), free);
}

#[test]
fn threads_that_copy_while_the_format_changes_leave_no_pin_behind() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..600 {
                // The only other call of this domain; its arguments are its own.
                let wanted = SetVersion {
                    version: 1 + round % 2,
                };
                let _ = rig.call(1, Op::SetVersion, wanted);
                match rig.domains[1].grants.format() {
                    super::super::Format::V2 => rig.put(1, 3, ACCESS, 2, 0, 5),
                    _ => rig.grant(1, 3, 2, 5, EntryFlags::empty()),
                }
            }
        });
        scope.spawn(|| {
            for _ in 0..3000 {
                let _ = rig.copy(2, copy_of(granted(1, 3, 0), 16));
            }
        });
    });
    let mut left = 0;
    rig.hv
        .dump_grants(&rig.domains[1], |_: &GrantFacts| left += 1);
    assert_eq!(left, 0);
    assert_eq!(rig.references(1, 5), 1);
}
