//! A grant that is in use cannot be taken back, and one that is not in use can: every interleaving, by loom.
//!
//! Mappers change the pins under the entry's lock, as the hypervisor does; the granter knows no lock and follows the rules
//! of `grant_table.h`: it looks at the flags and replaces them if nobody uses the grant.

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU32,
            Ordering::{AcqRel, Acquire, SeqCst},
            fence,
        },
    },
    thread,
};
use xenolith_abi::{
    DomId,
    grant_table::{EntryFlags, GrantStatus, entry_type},
};
use xenolith_core::grant::entry::{
    Access, Pins, Purpose, SharedWord, SplitWord, add, claim, claim_split, drop_pin,
};

const MAPPER: DomId = DomId(2);

struct Word(AtomicU32);

impl SharedWord for Word {
    fn load(&self) -> u32 {
        self.0.load(Acquire)
    }
    fn replace(&self, old: u32, new: u32) -> u32 {
        match self.0.compare_exchange(old, new, AcqRel, Acquire) {
            Ok(found) | Err(found) => found,
        }
    }
    fn clear(&self, flags: EntryFlags) {
        self.0.fetch_and(!u32::from(flags.0), AcqRel);
    }
}

struct Grant {
    word: Word,
    pins: Mutex<Pins>,
    /// How many use the frame now; what the granter must never find above zero after it ended the access.
    users: AtomicU32,
}

impl Grant {
    fn new() -> Arc<Self> {
        let word = u32::from(MAPPER.0) << 16 | u32::from(entry_type::PERMIT_ACCESS);
        Arc::new(Self {
            word: Word(AtomicU32::new(word)),
            pins: Mutex::new(Pins::default()),
            users: AtomicU32::new(0),
        })
    }

    fn map(&self, access: Access) -> Result<(), GrantStatus> {
        let mut pins = self.pins.lock().unwrap();
        claim(&self.word, *pins, MAPPER, access, Purpose::Map)?;
        add(&mut pins, access);
        drop(pins);
        self.users.fetch_add(1, AcqRel);
        Ok(())
    }

    fn unmap(&self, access: Access) {
        self.users.fetch_sub(1, AcqRel);
        let mut pins = self.pins.lock().unwrap();
        drop_pin(&self.word, &mut pins, access);
    }

    fn flags(&self) -> EntryFlags {
        EntryFlags(self.word.load() as u16)
    }

    /// The granter ends the access; false when the grant is in use.
    fn end_access(&self) -> bool {
        let seen = self.word.load();
        let used = EntryFlags::READING | EntryFlags::WRITING;
        !EntryFlags(seen as u16).intersects(used) && self.word.replace(seen, 0) == seen
    }
}

#[test]
fn the_marks_stand_as_long_as_one_of_two_mappers_has_the_page() {
    loom::model(|| {
        let grant = Grant::new();
        let other = {
            let grant = grant.clone();
            thread::spawn(move || {
                grant.map(Access::Write).unwrap();
                let both = EntryFlags::READING | EntryFlags::WRITING;
                assert!(grant.flags().contains(both));
                grant.unmap(Access::Write);
            })
        };
        grant.map(Access::Read).unwrap();
        assert!(grant.flags().contains(EntryFlags::READING));
        grant.unmap(Access::Read);
        other.join().unwrap();
        assert_eq!(grant.flags().0, entry_type::PERMIT_ACCESS);
        assert!(grant.pins.lock().unwrap().is_none());
    });
}

#[test]
fn a_granter_that_ended_the_access_finds_nobody_using_it() {
    loom::model(|| {
        let grant = Grant::new();
        let mapper = {
            let grant = grant.clone();
            thread::spawn(move || {
                if grant.map(Access::Write).is_ok() {
                    assert_ne!(grant.word.load(), 0, "taken back while mapped");
                    grant.unmap(Access::Write);
                }
            })
        };
        let ended = grant.end_access();
        if ended {
            assert_eq!(grant.users.fetch_add(0, AcqRel), 0);
            assert_eq!(grant.map(Access::Read), Err(GrantStatus::GeneralError));
        }
        mapper.join().unwrap();
        assert!(ended || grant.end_access());
    });
}

#[test]
fn three_uses_and_a_granter_agree_in_the_end() {
    // Every interleaving of this many threads takes minutes; few forced switches show nearly all that can go wrong.
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let grant = Grant::new();
        let readers = [(), ()].map(|()| {
            let grant = grant.clone();
            thread::spawn(move || {
                if grant.map(Access::Read).is_ok() {
                    assert!(grant.flags().contains(EntryFlags::READING));
                    grant.unmap(Access::Read);
                }
            })
        });
        let ended = grant.end_access();
        for reader in readers {
            reader.join().unwrap();
        }
        let left = if ended { 0 } else { entry_type::PERMIT_ACCESS };
        assert_eq!(grant.flags().0, left);
        assert!(grant.pins.lock().unwrap().is_none());
    });
}

/// An entry of version 2: the granter's half, and the hypervisor's marks.
struct Split {
    entry: AtomicU32,
    marks: AtomicU32,
}

fn ordered<T>(access: impl FnOnce() -> T) -> T {
    fence(SeqCst);
    let value = access();
    fence(SeqCst);
    value
}

impl SharedWord for Split {
    fn load(&self) -> u32 {
        ordered(|| self.entry.load(Acquire))
    }
    fn replace(&self, old: u32, _: u32) -> u32 {
        !old
    }
    fn clear(&self, flags: EntryFlags) {
        ordered(|| self.marks.fetch_and(!u32::from(flags.0), AcqRel));
    }
}

impl SplitWord for Split {
    fn mark(&self, flags: EntryFlags) {
        ordered(|| self.marks.fetch_or(u32::from(flags.0), AcqRel));
    }
}

#[test]
fn a_granter_that_ended_the_access_in_version_two_finds_nobody_using_it() {
    loom::model(|| {
        let word = u32::from(MAPPER.0) << 16 | u32::from(entry_type::PERMIT_ACCESS);
        let grant = Arc::new(Split {
            entry: AtomicU32::new(word),
            marks: AtomicU32::new(0),
        });
        let users = Arc::new(AtomicU32::new(0));
        let mapper = {
            let (grant, users) = (grant.clone(), users.clone());
            thread::spawn(move || {
                let mut pins = Pins::default();
                if claim_split(&*grant, pins, MAPPER, Access::Write, Purpose::Map).is_ok() {
                    add(&mut pins, Access::Write);
                    users.fetch_add(1, AcqRel);
                    users.fetch_sub(1, AcqRel);
                    drop_pin(&*grant, &mut pins, Access::Write);
                }
            })
        };
        // The granter takes its half away, then looks whether somebody was first.
        ordered(|| grant.entry.swap(0, AcqRel));
        if ordered(|| grant.marks.load(Acquire)) == 0 {
            assert_eq!(users.fetch_add(0, AcqRel), 0);
        }
        mapper.join().unwrap();
        assert_eq!(grant.marks.load(Acquire), 0);
    });
}
