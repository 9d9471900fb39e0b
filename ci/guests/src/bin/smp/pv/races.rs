//! Two vCPUs at the same tables: validating, tearing down, writing, giving memory back. At no time is a page writable and
//! a table, and afterwards every page can be anything again: no reference is lost or left.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, Update, bit, entry_for, ext, flush, machine_address, mmu_update_of, mmuext,
    update_va_mapping,
};
use xenolith_guests::arch::{self, fault_of, memory};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::SELF;
use xenolith_guests::xen::memory::{op, reservation};
use xenolith_guests::{cpus, ensure};

use super::Case;

pub(crate) const CASES: &[Case] = &[
    ("races.pins_of_one_tree", same_tree),
    ("races.writable_against_table", writable_or_table),
    ("races.one_entry_written_by_both", same_entry),
    (
        "races.an_entry_changes_while_its_table_is_pinned",
        entry_while_pinned,
    ),
    ("races.a_page_goes_while_it_is_mapped", goes_while_mapped),
    ("races.two_levels_for_one_page", two_levels),
    (
        "races.a_stale_translation_writes_no_table",
        stale_translation,
    ),
    ("races.flushes_reach_the_other_cpu", flush_reaches),
    ("races.both_write_all_caches_back", all_caches),
];

pub(super) const ROUNDS: u64 = 200;
const PRESENT_TABLES: usize = 4;

/// Where both meet.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// What the case is about: pages by their addresses.
static PAGES: [AtomicU64; PRESENT_TABLES] = [const { AtomicU64::new(0) }; PRESENT_TABLES];
/// What the other CPU's call answered.
pub(super) static ANSWER: AtomicI64 = AtomicI64::new(0);
pub(super) static STOP: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Waits until the other CPU comes here, too.
pub(super) fn meet() {
    let mine = ARRIVED.fetch_add(1, Ordering::SeqCst);
    let both = (mine / 2 + 1) * 2;
    while ARRIVED.load(Ordering::SeqCst) < both {
        arch::relax();
    }
}

pub(super) fn page(index: usize) -> Page {
    Page::at(PAGES[index].load(Ordering::SeqCst))
}

pub(super) fn keep(index: usize, page: Page) {
    PAGES[index].store(page.address(), Ordering::SeqCst);
}

/// A read-only page with one entry.
pub(super) fn table(index: u64, entry: u64) -> Page {
    let page = Page::take();
    page.fill(0);
    page.write(index * 8, entry);
    tables::make_read_only(page);
    page
}

pub(super) fn begin(work: fn(usize)) {
    ARRIVED.store(0, Ordering::SeqCst);
    STOP.store(0, Ordering::SeqCst);
    COUNT.store(0, Ordering::SeqCst);
    cpus::begin(1, work);
}

pub(super) fn end() -> Outcome {
    STOP.store(1, Ordering::SeqCst);
    ensure!(cpus::wait_for(|| cpus::is_idle(1)), "cpu 1 hangs");
    Ok(())
}

/// Both pin and unpin a root of four levels: one of two wins each time, and all references come back.
fn same_tree() -> Outcome {
    let data = Page::take();
    let mut lower = table(0, entry_for(data.frame(), bit::READ_WRITE));
    let mut all = [lower; 4];
    for place in &mut all[1..] {
        lower = table(0, entry_for(lower.frame(), bit::TABLE));
        *place = lower;
    }
    keep(0, lower);
    fn turn() -> i64 {
        let frame = page(0).frame();
        let pinned = mmuext(ext::PIN_L4, frame, 0);
        if pinned == 0 {
            mmuext(ext::UNPIN, frame, 0);
        }
        pinned
    }
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            turn();
        }
    });
    let mut pinned = 0;
    for _ in 0..ROUNDS {
        meet();
        pinned += i64::from(turn() == 0);
    }
    end()?;
    value("races.pins_that_won", pinned);
    let mut answers = Answers::default();
    for page in all {
        answers.take("writable again", tables::make_writable(page), 0);
    }
    answers.take("the data as a table", tables::make_read_only(data), 0);
    answers.take("pin", mmuext(ext::PIN_L1, data.frame(), 0), 0);
    answers.take("unpin", mmuext(ext::UNPIN, data.frame(), 0), 0);
    answers.take("writable", tables::make_writable(data), 0);
    answers.end()
}

/// One maps a page to write while the other makes it a table: not both.
fn writable_or_table() -> Outcome {
    let target = table(0, 0);
    keep(0, target);
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            ANSWER.store(mmuext(ext::PIN_L1, page(0).frame(), 0), Ordering::SeqCst);
            meet();
            meet();
        }
    });
    let (mut both, mut mapped, mut pinned) = (0, 0, 0);
    for round in 0..ROUNDS {
        meet();
        // Now the one, now the other is a little earlier.
        for _ in 0..round % 16 {
            arch::relax();
        }
        let map = tables::try_entry(0, entry_for(target.frame(), bit::READ_WRITE));
        meet();
        let pin = ANSWER.load(Ordering::SeqCst);
        both += u64::from(map == 0 && pin == 0);
        mapped += i64::from(map == 0);
        pinned += i64::from(pin == 0);
        if map == 0 {
            tables::try_entry(0, 0);
        }
        if pin == 0 {
            mmuext(ext::UNPIN, target.frame(), 0);
        }
        meet();
    }
    end()?;
    value("races.mapped_to_write", mapped);
    value("races.pinned", pinned);
    let mut answers = Answers::default();
    answers.take("both at once", both, 0);
    answers.take("one of them each time", (mapped + pinned) as u64, ROUNDS);
    answers.take("writable again", tables::make_writable(target), 0);
    answers.end()
}

/// Both write the same entry, each its own page; the counts of both pages are right at the end.
fn same_entry() -> Outcome {
    keep(0, Page::take());
    keep(1, Page::take());
    fn turn(own: usize) {
        let at = machine_address(tables::window_entry(0));
        let value = entry_for(page(own).frame(), bit::READ_WRITE);
        let clear = Update { at, value: 0 };
        mmu_update_of(
            &[Update { at, value }, clear, Update { at, value }],
            u64::from(SELF),
        );
    }
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            turn(1);
        }
    });
    for _ in 0..ROUNDS {
        meet();
        turn(0);
    }
    end()?;
    let mut answers = Answers::default();
    let frame = tables::frame_in(tables::entry(0));
    answers.take(
        "one of the two",
        frame == page(0).frame() || frame == page(1).frame(),
        true,
    );
    answers.take("clear", tables::try_entry(0, 0), 0);
    for index in 0..2 {
        answers.take("read-only", tables::make_read_only(page(index)), 0);
        answers.take("as a table", mmuext(ext::PIN_L1, page(index).frame(), 0), 0);
        answers.take("unpin", mmuext(ext::UNPIN, page(index).frame(), 0), 0);
        answers.take("writable again", tables::make_writable(page(index)), 0);
    }
    answers.end()
}

/// One writes words of a page that the other validates as a table and lets go.
fn entry_while_pinned() -> Outcome {
    let target = table(0, 0);
    keep(0, target);
    keep(1, Page::take());
    begin(|_| {
        let (at, good) = (
            page(0).frame() << 12,
            entry_for(page(1).frame(), bit::READ_WRITE),
        );
        while STOP.load(Ordering::SeqCst) == 0 {
            for slot in [0, 100, 511] {
                let place = at + slot * 8;
                let value = if COUNT.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                    good
                } else {
                    0
                };
                mmu_update_of(&[Update { at: place, value }], u64::from(SELF));
            }
        }
        for slot in [0, 100, 511] {
            mmu_update_of(
                &[Update {
                    at: at + slot * 8,
                    value: 0,
                }],
                u64::from(SELF),
            );
        }
    });
    let mut pinned = 0;
    for _ in 0..4 * ROUNDS {
        if mmuext(ext::PIN_L1, target.frame(), 0) == 0 {
            pinned += 1;
            mmuext(ext::UNPIN, target.frame(), 0);
        }
    }
    end()?;
    value("races.pins_while_written", pinned);
    let mut answers = Answers::default();
    answers.take("writable again", tables::make_writable(target), 0);
    answers.take("the page, too, is free", tables::make_read_only(page(1)), 0);
    answers.take("as a table", mmuext(ext::PIN_L1, page(1).frame(), 0), 0);
    answers.take("unpin", mmuext(ext::UNPIN, page(1).frame(), 0), 0);
    answers.take("writable again", tables::make_writable(page(1)), 0);
    answers.end()
}

/// One gives a page back while the other maps it: whoever maps it holds it until the unmap.
fn goes_while_mapped() -> Outcome {
    const SPARE: u64 = 0x4800;
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            let frame = memory::machine_frame(SPARE);
            ANSWER.store(
                tables::try_entry(1, entry_for(frame, bit::READ_WRITE)),
                Ordering::SeqCst,
            );
            meet();
            tables::try_entry(1, 0);
            meet();
        }
    });
    let (mut gone, mut mapped, mut back) = (0u64, 0, 0u64);
    for _ in 0..ROUNDS {
        meet();
        let old = memory::machine_frame(SPARE);
        let out = reservation(op::DECREASE_RESERVATION, &mut [old], 0);
        gone += u64::from(out == 1);
        meet();
        mapped += i64::from(ANSWER.load(Ordering::SeqCst) == 0);
        meet();
        let mut frames = [SPARE];
        back += u64::from(reservation(op::POPULATE_PHYSMAP, &mut frames, 0) == 1);
        arch::write64(memory::p2m_entry(SPARE), frames[0]);
    }
    end()?;
    value("races.mapped_before_it_went", mapped);
    let mut answers = Answers::default();
    answers.take("gone", gone, ROUNDS);
    answers.take("back", back, ROUNDS);
    answers.end()
}

/// Both pin one page, as tables of different levels: not both.
fn two_levels() -> Outcome {
    let target = table(0, 0);
    keep(0, target);
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            ANSWER.store(mmuext(ext::PIN_L1, page(0).frame(), 0), Ordering::SeqCst);
            meet();
            meet();
        }
    });
    let (mut both, mut first) = (0u64, 0);
    for _ in 0..ROUNDS {
        meet();
        let own = mmuext(ext::PIN_L3, target.frame(), 0);
        meet();
        let other = ANSWER.load(Ordering::SeqCst);
        both += u64::from(own == 0 && other == 0);
        first += i64::from(own == 0);
        mmuext(ext::UNPIN, target.frame(), 0);
        meet();
    }
    end()?;
    value("races.level_3_won", first);
    let mut answers = Answers::default();
    answers.take("both at once", both, 0);
    answers.take("writable again", tables::make_writable(target), 0);
    answers.end()
}

/// A CPU keeps a writable translation of a page whose entry is gone. Once the page is a table, nothing is written through
/// that: the hypervisor flushes what may be stale.
fn stale_translation() -> Outcome {
    let target = Page::take();
    keep(0, target);
    let mut spoilt = 0u64;
    for _ in 0..20 {
        tables::make_writable(target);
        target.fill(0);
        tables::try_entry(2, entry_for(target.frame(), bit::READ_WRITE));
        tables::make_read_only(target);
        begin(|_| {
            // Not present, so that it is a good entry of any table.
            let place = arch::WINDOW + 2 * 4096 + 8 * 8;
            while STOP.load(Ordering::SeqCst) == 0 {
                if fault_of(|| arch::write64(place, 0x7770)).is_some() {
                    break;
                }
                COUNT.fetch_add(1, Ordering::SeqCst);
            }
        });
        ensure!(
            cpus::wait_for(|| COUNT.load(Ordering::SeqCst) > 10),
            "cpu 1 does not write"
        );
        // The entry goes without a flush.
        let gone = update_va_mapping(arch::WINDOW + 2 * 4096, 0, flush::NONE);
        let pinned = mmuext(ext::PIN_L1, target.frame(), 0);
        ensure!((gone, pinned) == (0, 0), "clear {gone}, pin {pinned}");
        let at = machine_address(target.address()) + 8 * 8;
        mmu_update_of(&[Update { at, value: 0 }], u64::from(SELF));
        let soon = arch::now() + arch::ticks_per_second() / 500;
        cpus::wait_for(|| arch::now() > soon);
        spoilt += u64::from(target.read::<u64>(64) != 0);
        end()?;
        mmuext(ext::UNPIN, target.frame(), 0);
    }
    let mut answers = Answers::default();
    answers.take("tables that were written", spoilt, 0);
    answers.take("writable again", tables::make_writable(target), 0);
    answers.end()
}

/// A mapping changes with a flush of all CPUs: the other sees the new page.
fn flush_reaches() -> Outcome {
    keep(0, Page::take());
    keep(1, Page::take());
    page(0).write::<u64>(0, 1);
    page(1).write::<u64>(0, 2);
    tables::try_entry(3, entry_for(page(0).frame(), bit::READ_WRITE));
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            ANSWER.store(
                arch::read64(arch::WINDOW + 3 * 4096) as i64,
                Ordering::SeqCst,
            );
            meet();
        }
    });
    let mut wrong = 0u64;
    for round in 0..ROUNDS {
        let now = (round % 2) as usize;
        let entry = entry_for(page(now).frame(), bit::READ_WRITE);
        let address = arch::WINDOW + 3 * 4096;
        match round % 4 {
            0 | 3 => {
                update_va_mapping(address, entry, flush::INVLPG | flush::ALL);
            }
            1 => {
                update_va_mapping(address, entry, flush::TLB | flush::ALL);
            }
            _ => {
                update_va_mapping(address, entry, flush::NONE);
                mmuext(ext::INVLPG_ALL, address, 0);
            }
        }
        meet();
        meet();
        wrong += u64::from(ANSWER.load(Ordering::SeqCst) != now as i64 + 1);
    }
    end()?;
    let mut answers = Answers::default();
    answers.take("old pages seen", wrong, 0);
    answers.take("clear", tables::try_entry(3, 0), 0);
    answers.end()
}

/// Each asks the other, at the same time, while tables change. Only who has devices may.
fn all_caches() -> Outcome {
    fn ask() {
        let answer = mmuext(ext::FLUSH_CACHE_GLOBAL, 0, 0);
        ANSWER.fetch_add(answer, Ordering::SeqCst);
    }
    ANSWER.store(0, Ordering::SeqCst);
    keep(0, Page::take());
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            ask();
        }
    });
    for _ in 0..ROUNDS {
        meet();
        let entry = entry_for(page(0).frame(), bit::READ_WRITE);
        let address = arch::WINDOW + 3 * 4096;
        update_va_mapping(address, entry, flush::TLB | flush::ALL);
        ask();
    }
    end()?;
    let mut answers = Answers::default();
    answers.take("errors", ANSWER.load(Ordering::SeqCst), 0);
    answers.take("clear", tables::try_entry(3, 0), 0);
    answers.end()
}
