//! Frames of this domain for a PV dom0 to map: memory, page tables, what the hypervisor shares, and a page that is a table now and
//! memory then, all the time, until dom0 has seen enough.

use xenolith_guests::arch::beside::{PATTERN, word};
use xenolith_guests::arch::tables::{self, bit, entry_for, ext, mmuext};
use xenolith_guests::arch::{self, memory, start_info};
use xenolith_guests::buffer::Page;

/// How long a table waits for dom0 to look, in turns of waiting.
const PATIENCE: u64 = 20_000;

pub(crate) fn show(told: Page) {
    let (memory, table, changing) = (Page::take(), tables::empty_table(), Page::take());
    memory.write(0, PATTERN);
    tables::make_writable(table);
    table.write(0, entry_for(memory.frame(), bit::READ));
    tables::make_read_only(table);
    let mut wrong = u64::from(mmuext(ext::PIN_L1, table.frame(), 0) != 0);
    changing.fill(0);
    let shared = start_info::start_info().shared_info >> 12;
    let grants = tables::leaf(arch::grant_window()).map_or(0, tables::frame_in);
    for (at, frame) in [
        (word::MEMORY, memory.frame()),
        (word::TABLE, table.frame()),
        (word::ROOT, memory::frame_of(tables::root())),
        (word::SHARED_INFO, shared),
        (word::GRANT_TABLE, grants),
        (word::CHANGING, changing.frame()),
    ] {
        told.write(at, frame);
    }
    told.write(word::READY, 1u64);
    let mut turn = 0;
    while told.read::<u64>(word::STOP) == 0 {
        turn += 1;
        wrong += change(told, changing, turn);
        // Dom0 may have it mapped, too, so it is memory for a while.
        for _ in 0..turn % 64 {
            arch::relax();
        }
    }
    wrong += u64::from(mmuext(ext::UNPIN, table.frame(), 0) != 0);
    wrong += u64::from(tables::make_writable(table) != 0);
    // What dom0 wrote, it wrote here.
    wrong += u64::from(memory.read::<u64>(0) != PATTERN + 1);
    told.write(word::VERDICT, 1 + wrong);
}

/// The page becomes a table, unless dom0 may write it, and memory again; how much went wrong.
fn change(told: Page, page: Page, turn: u64) -> u64 {
    let mut wrong = 0;
    page.fill(0);
    if tables::make_read_only(page) != 0 {
        return 1;
    }
    if mmuext(ext::PIN_L1, page.frame(), 0) == 0 {
        told.write(word::TURN, turn);
        for _ in 0..PATIENCE {
            if told.read::<u64>(word::SEEN) == turn || told.read::<u64>(word::STOP) != 0 {
                break;
            }
            arch::relax();
        }
        let written = (0..512).any(|index| page.read::<u64>(index * 8) != 0);
        told.write(word::TURN, 0u64);
        wrong += u64::from(written);
        wrong += u64::from(mmuext(ext::UNPIN, page.frame(), 0) != 0);
    }
    wrong + u64::from(tables::make_writable(page) != 0)
}
