//! Two vCPUs at the same frames while one of them, or both, exchange these for others (`XENMEM_exchange`). Whoever wins, each page is there once
//! afterwards: its frame is the domain's, the machine-to-physical table says what it is called, and it can be anything.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, Update, bit, entry_for, ext, flush, kind, mmu_update_of, mmuext, update_va_mapping,
};
use xenolith_guests::arch::{self, memory};
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::memory::{exchange_of, op, reservation};
use xenolith_guests::xen::{SELF, call, nr};

use super::Case;
use super::races::{ANSWER, ROUNDS, STOP, begin, end, meet};

pub(crate) const CASES: &[Case] = &[
    ("exchanges.of_one_frame_by_both", same_frame),
    ("exchanges.of_the_same_frames_in_lists", crossing_lists),
    ("exchanges.of_a_frame_that_the_other_maps", against_mapping),
    ("exchanges.of_a_frame_that_the_other_pins", against_pin),
    (
        "exchanges.of_a_frame_whose_name_the_other_changes",
        against_names,
    ),
];

/// Physical frames behind everything that is mapped.
const SPARE: u64 = 0x4900;
const LIST: usize = 8;
const SLOT: usize = 4;

/// What the other CPU was told, and what it got.
static TOLD: [AtomicU64; LIST] = [const { AtomicU64::new(0) }; LIST];
static DONE: AtomicI64 = AtomicI64::new(0);

fn current() -> i64 {
    call(nr::MEMORY_OP, op::CURRENT_RESERVATION, &mut { SELF })
}

fn note(pfn: u64, frame: u64) {
    arch::write64(memory::p2m_entry(pfn), frame);
}

/// Lets the other CPU be earlier in every second round.
fn maybe_later(round: u64) {
    for _ in 0..round % 2 * 300 {
        arch::relax();
    }
}

fn exchange_one(pfn: u64) -> (i64, u64) {
    let mut wanted = [pfn];
    let (errno, _) = exchange_of(&mut [memory::machine_frame(pfn)], 0, &mut wanted, 0, 0);
    (errno, wanted[0])
}

/// What is wrong with a page: not the domain's, not called by its name, or it cannot be mapped, written, and a table.
fn wrong(pfn: u64) -> u64 {
    let frame = memory::machine_frame(pfn);
    let called = memory::physical_frame(frame) == pfn;
    let mapped = tables::try_entry(SLOT, entry_for(frame, bit::READ_WRITE)) == 0;
    if !mapped {
        return 1;
    }
    let address = arch::WINDOW + SLOT as u64 * 4096;
    for word in 0..512 {
        arch::write64(address + word * 8, 0);
    }
    update_va_mapping(address, 0, flush::INVLPG | flush::ALL);
    let table = mmuext(ext::PIN_L1, frame, 0) == 0 && mmuext(ext::UNPIN, frame, 0) == 0;
    u64::from(!called || !table)
}

fn same_frame() -> Outcome {
    let before = current();
    begin(|_| {
        for round in 0..ROUNDS {
            meet();
            maybe_later(round);
            let (errno, frame) = exchange_one(SPARE);
            ANSWER.store(errno, SeqCst);
            TOLD[0].store(frame, SeqCst);
            meet();
            meet();
        }
    });
    let (mut own, mut once, mut bad) = (0, 0u64, 0);
    for _ in 0..ROUNDS {
        meet();
        let (errno, frame) = exchange_one(SPARE);
        meet();
        let other = ANSWER.load(SeqCst);
        once += u64::from((errno == 0) != (other == 0));
        own += i64::from(errno == 0);
        note(
            SPARE,
            if errno == 0 {
                frame
            } else {
                TOLD[0].load(SeqCst)
            },
        );
        bad += wrong(SPARE);
        meet();
    }
    end()?;
    value("exchanges.first_won", own);
    let mut answers = Answers::default();
    answers.take("exchanged once", once, ROUNDS);
    answers.take("pages that are wrong", bad, 0);
    answers.take("reservation", current(), before);
    answers.end()
}

/// Exchanges the frames of all pages of the list, in order; how many were, and the frames.
fn exchange_list(pfns: [u64; LIST]) -> (u64, [u64; LIST]) {
    let mut wanted = pfns;
    let mut given = pfns.map(memory::machine_frame);
    let (_, done) = exchange_of(&mut given, 0, &mut wanted, 0, 0);
    (done, wanted)
}

fn forwards() -> [u64; LIST] {
    core::array::from_fn(|index| SPARE + index as u64)
}

fn backwards() -> [u64; LIST] {
    core::array::from_fn(|index| SPARE + (LIST - 1 - index) as u64)
}

/// The frames that are the domain's when each of two lists was exchanged so far; one that went may have come again, for either list.
/// `None`: there are not as many as there were.
fn left(before: [u64; LIST], lists: [(u64, [u64; LIST], [u64; LIST]); 2]) -> Option<[u64; LIST]> {
    let mut all = [0; 3 * LIST];
    all[..LIST].copy_from_slice(&before);
    let mut count = LIST;
    let done = |(done, given, got): &(u64, [u64; LIST], [u64; LIST])| {
        let (given, got) = (*given, *got);
        (0..*done as usize).map(move |index| (given[index], got[index]))
    };
    for (_, got) in lists.iter().flat_map(done) {
        all[count] = got;
        count += 1;
    }
    for (given, _) in lists.iter().flat_map(done) {
        let at = all[..count].iter().position(|frame| *frame == given)?;
        count -= 1;
        all[at] = all[count];
    }
    let left: [u64; LIST] = all[..count].try_into().ok()?;
    let twice = (1..LIST).any(|index| left[..index].contains(&left[index]));
    (!twice).then_some(left)
}

/// One begins with the first page, the other with the last; each ends where the other has been.
fn crossing_lists() -> Outcome {
    let before = current();
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            let (done, frames) = exchange_list(backwards());
            DONE.store(done as i64, SeqCst);
            for (told, frame) in TOLD.iter().zip(frames) {
                told.store(frame, SeqCst);
            }
            meet();
            meet();
        }
    });
    let (mut both, mut lost, mut bad) = (0, 0u64, 0);
    for _ in 0..ROUNDS {
        meet();
        let old = forwards().map(memory::machine_frame);
        let (done, frames) = exchange_list(forwards());
        meet();
        let other = DONE.load(SeqCst) as u64;
        both += i64::from(done != 0 && other != 0);
        let given = backwards().map(memory::machine_frame);
        let told = TOLD.each_ref().map(|told| told.load(SeqCst));
        match left(old, [(done, old, frames), (other, given, told)]) {
            Some(left) => {
                for (pfn, frame) in forwards().into_iter().zip(left) {
                    bad += u64::from(!forwards().contains(&memory::physical_frame(frame)));
                    let at = frame << 12 | kind::MACHPHYS;
                    mmu_update_of(&[Update { at, value: pfn }], u64::from(SELF));
                    note(pfn, frame);
                    bad += wrong(pfn);
                }
            }
            None => lost += 1,
        }
        meet();
    }
    end()?;
    value("exchanges.lists_that_met", both);
    let mut answers = Answers::default();
    answers.take("rounds with a page lost", lost, 0);
    answers.take("pages that are wrong", bad, 0);
    answers.take("reservation", current(), before);
    answers.end()
}

/// One CPU exchanges a frame while the other does something that cannot be done with a frame that goes. How often the one, the
/// other, and both were served, and what was wrong with the page afterwards.
fn against(work: fn(usize), undo: fn(u64)) -> Result<[u64; 4], xenolith_guests::report::Why> {
    begin(work);
    let [mut gone, mut kept, mut both, mut bad] = [0; 4];
    for round in 0..ROUNDS {
        meet();
        // Now the one, now the other is a little earlier.
        for _ in 0..round % 16 {
            arch::relax();
        }
        let old = memory::machine_frame(SPARE);
        let (errno, frame) = exchange_one(SPARE);
        meet();
        let other = ANSWER.load(SeqCst) == 0;
        both += u64::from(errno == 0 && other);
        gone += u64::from(errno == 0);
        kept += u64::from(other);
        if other {
            undo(old);
        }
        if errno == 0 {
            note(SPARE, frame);
        }
        bad += wrong(SPARE);
        meet();
    }
    end()?;
    Ok([gone, kept, both, bad])
}

fn mapping(_: usize) {
    for round in 0..ROUNDS {
        meet();
        maybe_later(round);
        let frame = memory::machine_frame(SPARE);
        let done = tables::try_entry(1, entry_for(frame, bit::READ_WRITE));
        if done == 0 {
            arch::write64(arch::WINDOW + 4096, 5);
        }
        ANSWER.store(done, SeqCst);
        meet();
        meet();
    }
}

fn against_mapping() -> Outcome {
    let before = current();
    let [gone, kept, both, bad] = against(mapping, |_| {
        update_va_mapping(arch::WINDOW + 4096, 0, flush::INVLPG | flush::ALL);
    })?;
    value("exchanges.mapped_first", kept as i64);
    let mut answers = Answers::default();
    answers.take("exchanged and mapped", both, 0);
    answers.take("one of them each time", gone + kept, ROUNDS);
    answers.take("pages that are wrong", bad, 0);
    answers.take("reservation", current(), before);
    answers.end()
}

fn pinning(_: usize) {
    for round in 0..ROUNDS {
        meet();
        maybe_later(round);
        let frame = memory::machine_frame(SPARE);
        ANSWER.store(mmuext(ext::PIN_L1, frame, 0), SeqCst);
        meet();
        meet();
    }
}

fn against_pin() -> Outcome {
    let before = current();
    let [gone, kept, both, bad] = against(pinning, |frame| {
        mmuext(ext::UNPIN, frame, 0);
    })?;
    value("exchanges.pinned_first", kept as i64);
    let mut answers = Answers::default();
    answers.take("exchanged and pinned", both, 0);
    answers.take("one of them each time", gone + kept, ROUNDS);
    answers.take("pages that are wrong", bad, 0);
    answers.take("reservation", current(), before);
    answers.end()
}

/// The other holds the frame for a moment, again and again: the exchange is refused then, and asked for again.
fn against_names() -> Outcome {
    let before = current();
    begin(|_| {
        while STOP.load(SeqCst) == 0 {
            let at = memory::machine_frame(SPARE) << 12 | kind::MACHPHYS;
            let name = Update { at, value: SPARE };
            let clear = Update {
                at: at & !kind::MACHPHYS,
                value: 0,
            };
            mmu_update_of(&[name, clear, name], u64::from(SELF));
        }
    });
    let (mut gone, mut bad) = (0u64, 0u64);
    for _ in 0..ROUNDS {
        let mut tries = 0;
        let frame = loop {
            let (errno, frame) = exchange_one(SPARE);
            tries += 1;
            if errno == 0 || tries == 10_000 {
                gone += u64::from(errno == 0);
                break frame;
            }
        };
        let called = memory::physical_frame(frame) == SPARE;
        bad += u64::from(!called);
        note(SPARE, frame);
    }
    end()?;
    let mut answers = Answers::default();
    answers.take("exchanged", gone, ROUNDS);
    answers.take("names that are wrong", bad, 0);
    answers.take("the page is as others", wrong(SPARE), 0);
    answers.take("reservation", current(), before);
    answers.take(
        "it goes and comes",
        reservation(
            op::DECREASE_RESERVATION,
            &mut [memory::machine_frame(SPARE)],
            0,
        ),
        1,
    );
    let mut frames = [SPARE];
    answers.take("back", reservation(op::POPULATE_PHYSMAP, &mut frames, 0), 1);
    note(SPARE, frames[0]);
    answers.end()
}
