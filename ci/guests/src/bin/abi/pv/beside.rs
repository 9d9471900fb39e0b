//! Frames of another PV domain, mapped by a PV dom0 as its tools do, while that domain runs and changes what they are
//! (`guest-neighbour-pv` with `frames=1`).

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::beside::{PATTERN, REFERENCE, word};
use xenolith_guests::arch::tables::{self, Update, bit, entry_for, flush, mmu_update_of};
use xenolith_guests::arch::{self, WINDOW, fault_of, hypercall};
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::cpus::wait_for;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EBUSY, ESRCH};
use xenolith_guests::xen::grant::{self, gnt, map_flag};
use xenolith_guests::xen::{SELF, nr, sched};
use xenolith_guests::{bootargs, ensure};

use super::update::{BEYOND, NOBODY, VGA};
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("beside.it_shows_its_frames", meet),
    ("beside.frames_are_mapped_as_what_they_are", mapped),
    ("beside.frames_that_are_not_its_own", refused),
    (
        "beside.a_frame_is_not_written_while_it_is_a_table",
        changing,
    ),
    ("beside.a_stale_translation_writes_no_table", stale),
    ("beside.it_ends_as_it_began", end),
];

/// Slots of the window: the granted page, and what is tried.
const TOLD: u64 = 8;
const TRIED: u64 = 9;
const ROUNDS: u64 = 100;

fn domain() -> u64 {
    bootargs::number("beside", 0)
}

fn told() -> Page {
    Page::at(WINDOW + TOLD * PAGE)
}

fn tried() -> u64 {
    WINDOW + TRIED * PAGE
}

fn frame(at: u64) -> u64 {
    told().read(at)
}

fn map_grant() -> grant::Map {
    let mut map = grant::Map {
        host_address: told().address(),
        flags: map_flag::HOST_MAP,
        reference: REFERENCE,
        domain: domain() as u16,
        status: 77,
        ..grant::Map::default()
    };
    grant::one(grant::op::MAP, &mut map);
    map
}

fn meet() -> Outcome {
    let up = wait_for(|| {
        sched::yield_now();
        map_grant().status == gnt::OKAY
    });
    ensure!(up, "no page is granted");
    let ready = wait_for(|| {
        sched::yield_now();
        frame(word::READY) != 0
    });
    ensure!(ready, "no frames are shown");
    Ok(())
}

fn by_address(frame: u64, bits: u64, owner: u64) -> i64 {
    let entry = if bits == 0 { 0 } else { entry_for(frame, bits) };
    hypercall(
        nr::UPDATE_VA_MAPPING_OTHERDOMAIN,
        [tried(), entry, flush::INVLPG, owner, 0],
    )
}

fn by_entry(frame: u64, bits: u64, owner: u64) -> i64 {
    let at = tables::machine_address(tables::window_entry(TRIED as usize));
    let value = if bits == 0 { 0 } else { entry_for(frame, bits) };
    let errno = mmu_update_of(&[Update { at, value }], owner).0;
    tables::mmuext(tables::ext::INVLPG_LOCAL, tried(), 0);
    errno
}

type Way = fn(u64, u64, u64) -> i64;
const WAYS: [(&str, Way); 2] = [("by address", by_address), ("by entry", by_entry)];

fn mapped() -> Outcome {
    let mut answers = Answers::default();
    for (way, map) in WAYS {
        for (what, at, to_write) in [
            ("memory", word::MEMORY, 0),
            ("a table", word::TABLE, EBUSY),
            ("the root", word::ROOT, EBUSY),
            ("shared info", word::SHARED_INFO, 0),
            ("the grant table", word::GRANT_TABLE, 0),
        ] {
            for (how, bits, wanted) in [
                ("to write", bit::READ_WRITE, to_write),
                ("to read", bit::READ, 0),
            ] {
                let answer = map(frame(at), bits, domain());
                answers.take(format_args!("{what} {way} {how}"), answer, wanted);
                if answer == 0 {
                    arch::read64(tried());
                    answers.take("unmapped", map(0, 0, u64::from(SELF)), 0);
                }
            }
        }
        answers.take(
            "to be seen",
            map(frame(word::MEMORY), bit::READ_WRITE, domain()),
            0,
        );
        let seen = arch::read64(tried());
        answers.take("what is there", seen & !1, PATTERN & !1);
        // Its owner looks at the end.
        arch::write64(tried(), PATTERN + 1);
        answers.take("its table", map(frame(word::TABLE), bit::READ, domain()), 0);
        answers.take(
            "what it maps",
            tables::frame_in(arch::read64(tried())),
            frame(word::MEMORY),
        );
        answers.take(
            "a table cannot be written",
            fault_of(|| arch::write64(tried(), 0)).is_some(),
            true,
        );
        answers.take("gone", map(0, 0, u64::from(SELF)), 0);
    }
    answers.end()
}

fn refused() -> Outcome {
    let mut answers = Answers::default();
    let own = Page::take().frame();
    let theirs = frame(word::MEMORY);
    for (way, map) in WAYS {
        for (what, frame, owner, wanted) in [
            ("an own page under its name", own, domain(), EBUSY),
            (
                "its page under the own name",
                theirs,
                u64::from(SELF),
                EBUSY,
            ),
            ("its page under nobody's", theirs, NOBODY, ESRCH),
        ] {
            for bits in [bit::READ, bit::READ_WRITE] {
                let answer = map(frame, bits, owner);
                answers.take(format_args!("{what} {way}, {bits:#x}"), answer, wanted);
            }
        }
        for (what, frame) in [("a device", VGA), ("no frame", BEYOND)] {
            for bits in [bit::READ, bit::READ_WRITE] {
                let answer = map(frame, bits, domain());
                answers.take(format_args!("{what} {way}, {bits:#x}"), answer < 0, true);
            }
        }
    }
    answers.take("nothing is mapped", tables::entry(TRIED as usize), 0);
    answers.end()
}

/// While it may be written here, it is no table there.
fn changing() -> Outcome {
    let (mut mapped, mut refused, mut both) = (0, 0, 0u64);
    for round in 0..20 * ROUNDS {
        let map = WAYS[(round % 2) as usize].1;
        match map(frame(word::CHANGING), bit::READ_WRITE, domain()) {
            0 => {
                mapped += 1;
                both += u64::from(frame(word::TURN) != 0);
                map(0, 0, u64::from(SELF));
            }
            _ => refused += 1,
        }
        for _ in 0..round % 32 {
            arch::relax();
        }
        // Its domain goes on.
        told().write(word::SEEN, frame(word::TURN));
    }
    value("beside.mapped", mapped);
    value("beside.refused", refused);
    let mut answers = Answers::default();
    answers.take("both at once", both, 0);
    answers.end()
}

/// The entry goes without a flush, and then the frame becomes a table: the flush comes from the hypervisor.
fn stale() -> Outcome {
    let (mut written, mut turns) = (0u64, 0);
    let at = tables::machine_address(tables::window_entry(TRIED as usize));
    for _ in 0..ROUNDS {
        let mapped = wait_for(|| {
            told().write(word::SEEN, frame(word::TURN));
            by_entry(frame(word::CHANGING), bit::READ_WRITE, domain()) == 0
        });
        ensure!(mapped, "it is a table for ever");
        arch::write64(tried() + 64, 0);
        let cleared = mmu_update_of(&[Update { at, value: 0 }], u64::from(SELF)).0;
        ensure!(cleared == 0, "clear: {cleared}");
        let table = wait_for(|| frame(word::TURN) != 0);
        ensure!(table, "it is memory for ever");
        turns += 1;
        // Not present, so that it would be a good entry of any table.
        written += u64::from(fault_of(|| arch::write64(tried() + 64, 0x7770)).is_none());
        told().write(word::SEEN, frame(word::TURN));
    }
    value("beside.turns", turns);
    let mut answers = Answers::default();
    answers.take("tables that were written", written, 0);
    answers.end()
}

fn end() -> Outcome {
    told().write(word::STOP, 1u64);
    let ended = wait_for(|| {
        sched::yield_now();
        frame(word::VERDICT) != 0
    });
    ensure!(ended, "the other domain does not end");
    let mut answers = Answers::default();
    answers.take("what went wrong there", frame(word::VERDICT) - 1, 0);
    answers.end()
}
