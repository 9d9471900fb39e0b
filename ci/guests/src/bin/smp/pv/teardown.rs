//! Two vCPUs, one taking apart what the other puts to use: trees, descriptors, grants, roots. Of two uses that exclude each other
//! one wins; and afterwards every page can be anything again.

use core::arch::asm;
use core::sync::atomic::Ordering;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, Update, bit, entry_address, entry_for, ext, flush, machine_address, mmu_update,
    mmu_update_of, mmuext, update_va_mapping,
};
use xenolith_guests::arch::{self, WINDOW, fault_of, hypercall, user};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::grant::{self, gnt, map_flag, op};
use xenolith_guests::xen::{SELF, nr, own_domain};

use super::Case;
use super::races::{ANSWER, ROUNDS, STOP, begin, end, keep, meet, page, table};

pub(crate) const CASES: &[Case] = &[
    (
        "class.a_tree_is_unpinned_while_it_is_written",
        tree_while_written,
    ),
    ("class.descriptors_or_writable", gdt_or_writable),
    ("class.descriptors_or_a_table", gdt_or_table),
    ("class.local_descriptors_or_writable", ldt_or_writable),
    ("class.a_grant_or_a_table", grant_or_table),
    (
        "class.a_grant_is_unmapped_while_its_entry_changes",
        grant_while_changed,
    ),
    (
        "class.a_root_is_loaded_while_it_is_unpinned",
        root_while_unpinned,
    ),
    (
        "class.an_address_is_mapped_while_its_table_goes",
        va_while_table_goes,
    ),
    (
        "class.a_page_is_copied_over_while_it_is_pinned",
        copy_while_pinned,
    ),
];

/// A page that every use can have.
fn is_free(answers: &mut Answers, what: &str, page: Page) {
    answers.take(
        format_args!("{what}: read-only"),
        tables::make_read_only(page),
        0,
    );
    for offset in 0..512 {
        mmu_update((page.frame() << 12) + offset * 8, 0);
    }
    answers.take(
        format_args!("{what}: pin"),
        mmuext(ext::PIN_L2, page.frame(), 0),
        0,
    );
    answers.take(
        format_args!("{what}: unpin"),
        mmuext(ext::UNPIN, page.frame(), 0),
        0,
    );
    answers.take(
        format_args!("{what}: writable"),
        tables::make_writable(page),
        0,
    );
}

/// One pins and unpins a tree of four levels, the other writes and clears entries at each level of it.
fn tree_while_written() -> Outcome {
    let data = Page::take();
    let level1 = table(0, entry_for(data.frame(), bit::READ_WRITE));
    let level2 = table(0, entry_for(level1.frame(), bit::TABLE));
    let level3 = table(0, entry_for(level2.frame(), bit::TABLE));
    let level4 = table(0, entry_for(level3.frame(), bit::TABLE));
    for (index, page) in [level1, level2, level3, level4].into_iter().enumerate() {
        keep(index, page);
    }
    begin(|_| {
        let data = tables::leaf(page(0).address()).map_or(0, tables::frame_in);
        let mut turn = 0u64;
        meet();
        while STOP.load(Ordering::SeqCst) == 0 {
            for (upper, lower) in [(1, 0), (2, 1), (3, 2)] {
                let at = (page(upper).frame() << 12) + turn % 3 * 8;
                for value in [entry_for(page(lower).frame(), bit::TABLE), 0] {
                    mmu_update_of(&[Update { at, value }], u64::from(SELF));
                }
            }
            // Its own table, which must not be writable; and read-only, which may be.
            let at = (page(0).frame() << 12) + 8 * 8;
            for bits in [bit::READ_WRITE, bit::READ, 0] {
                let value = if bits == 0 { 0 } else { entry_for(data, bits) };
                mmu_update_of(&[Update { at, value }], u64::from(SELF));
            }
            turn += 1;
            arch::relax();
        }
    });
    let mut pinned = 0;
    meet();
    for _ in 0..2 * ROUNDS {
        arch::relax();
        if mmuext(ext::PIN_L4, level4.frame(), 0) == 0 {
            pinned += 1;
            mmuext(ext::UNPIN, level4.frame(), 0);
        }
    }
    end()?;
    value("races.trees_pinned", pinned);
    let mut answers = Answers::default();
    // From the top, so that what a table still names is let go.
    for (what, page) in [
        ("level 4", level4),
        ("level 3", level3),
        ("level 2", level2),
        ("level 1", level1),
        ("data", data),
    ] {
        is_free(&mut answers, what, page);
    }
    answers.end()
}

/// Two uses of a page that exclude each other, by one CPU each, let go by whoever got it: both never, and one at least.
struct Either {
    ours: fn(Page) -> i64,
    undo_ours: fn(Page),
    theirs: fn(usize),
}

/// The page is `page(0)`; the other CPU's function does `meet`, its use with the answer to `ANSWER`, `meet`, its undo, `meet`.
fn either(target: Page, uses: &Either) -> Outcome {
    keep(0, target);
    begin(uses.theirs);
    let (mut both, mut none, mut ours) = (0u64, 0u64, 0i64);
    for round in 0..ROUNDS {
        meet();
        for _ in 0..round % 16 {
            arch::relax();
        }
        let own = (uses.ours)(target);
        meet();
        let other = ANSWER.load(Ordering::SeqCst);
        both += u64::from(own == 0 && other == 0);
        none += u64::from(own != 0 && other != 0);
        ours += i64::from(own == 0);
        if own == 0 {
            (uses.undo_ours)(target);
        }
        meet();
    }
    end()?;
    value("races.won_by_the_first_cpu", ours);
    let mut answers = Answers::default();
    answers.take("both at once", both, 0);
    answers.take("neither", none, 0);
    is_free(&mut answers, "the page", target);
    answers.end()
}

fn map_writable(page: Page) -> i64 {
    tables::try_entry(4, entry_for(page.frame(), bit::READ_WRITE))
}

fn unmap_writable(_: Page) {
    tables::try_entry(4, 0);
}

fn use_descriptors(_: usize) {
    for _ in 0..ROUNDS {
        meet();
        let frame = page(0).frame();
        let errno = hypercall(nr::SET_GDT, [(&raw const frame) as u64, 512, 0, 0, 0]);
        ANSWER.store(errno, Ordering::SeqCst);
        meet();
        hypercall(nr::SET_GDT, [0; 5]);
        meet();
    }
}

fn gdt_or_writable() -> Outcome {
    let uses = Either {
        ours: map_writable,
        undo_ours: unmap_writable,
        theirs: use_descriptors,
    };
    either(table(1, 0x00cf_f300_0000_ffff), &uses)
}

fn gdt_or_table() -> Outcome {
    let uses = Either {
        ours: |page| mmuext(ext::PIN_L1, page.frame(), 0),
        undo_ours: |page| {
            mmuext(ext::UNPIN, page.frame(), 0);
        },
        theirs: use_descriptors,
    };
    either(table(0, 0), &uses)
}

/// Local descriptors are looked at when they are used.
fn ldt_or_writable() -> Outcome {
    let uses = Either {
        ours: map_writable,
        undo_ours: unmap_writable,
        theirs: |_| {
            for _ in 0..ROUNDS {
                meet();
                mmuext(ext::SET_LDT, page(0).address(), 512);
                // SAFETY: es is used by nothing; a bad selector faults.
                let fault =
                    fault_of(|| unsafe { asm!("mov es, {:x}", in(reg) 0xfu16, options(nostack)) });
                ANSWER.store(if fault.is_none() { 0 } else { -1 }, Ordering::SeqCst);
                meet();
                // SAFETY: as above.
                unsafe { asm!("mov es, {:x}", in(reg) 0u16, options(nostack)) };
                mmuext(ext::SET_LDT, 0, 0);
                meet();
            }
        },
    };
    either(table(1, 0x00cf_f300_0000_ffff), &uses)
}

const REFERENCE: u32 = 40;
const PLACE: usize = 5;

fn map_grant() -> (i64, u32) {
    let mut map = grant::Map {
        host_address: WINDOW + PLACE as u64 * 4096,
        flags: map_flag::HOST_MAP,
        reference: REFERENCE,
        domain: own_domain(),
        status: 77,
        ..grant::Map::default()
    };
    grant::one(op::MAP, &mut map);
    (i64::from(map.status), map.handle)
}

fn unmap_grant(handle: u32) -> i64 {
    let mut unmap = grant::Unmap {
        host_address: WINDOW + PLACE as u64 * 4096,
        handle,
        status: 77,
        ..grant::Unmap::default()
    };
    grant::one(op::UNMAP, &mut unmap);
    i64::from(unmap.status)
}

fn grant_or_table() -> Outcome {
    use core::sync::atomic::AtomicU64;
    static HANDLE: AtomicU64 = AtomicU64::new(0);
    let target = table(0, 0);
    grant::table();
    grant::grant(REFERENCE, own_domain(), target.frame(), 0);
    let uses = Either {
        ours: |_| {
            let (status, handle) = map_grant();
            HANDLE.store(handle.into(), Ordering::SeqCst);
            status
        },
        undo_ours: |_| {
            unmap_grant(HANDLE.load(Ordering::SeqCst) as u32);
        },
        theirs: |_| {
            for _ in 0..ROUNDS {
                meet();
                let frame = page(0).frame();
                ANSWER.store(mmuext(ext::PIN_L1, frame, 0), Ordering::SeqCst);
                meet();
                if ANSWER.load(Ordering::SeqCst) == 0 {
                    mmuext(ext::UNPIN, frame, 0);
                }
                meet();
            }
        },
    };
    let outcome = either(target, &uses);
    grant::revoke(REFERENCE);
    outcome
}

/// The entry of a granted page is emptied by one while the other unmaps the grant: it is unmapped once.
fn grant_while_changed() -> Outcome {
    let target = Page::take();
    grant::table();
    grant::grant(REFERENCE, own_domain(), target.frame(), 0);
    begin(|_| {
        for _ in 0..ROUNDS {
            meet();
            update_va_mapping(WINDOW + PLACE as u64 * 4096, 0, flush::INVLPG);
            meet();
        }
    });
    let (mut unmapped, mut wrong) = (0, 0u64);
    for round in 0..ROUNDS {
        let (status, handle) = map_grant();
        wrong += u64::from(status != 0);
        meet();
        for _ in 0..round % 16 {
            arch::relax();
        }
        let status = unmap_grant(handle);
        meet();
        if status == i64::from(gnt::OKAY) {
            unmapped += 1;
        } else {
            // Emptied before: put back, it can be.
            tables::try_entry(PLACE, entry_for(target.frame(), bit::READ_WRITE));
            wrong += u64::from(unmap_grant(handle) != 0);
            tables::try_entry(PLACE, 0);
        }
    }
    end()?;
    value("races.unmapped_before_it_was_emptied", unmapped);
    let mut answers = Answers::default();
    answers.take("grants that went wrong", wrong, 0);
    answers.take(
        "not in use",
        grant::flags_of(REFERENCE) & (grant::entry::READING | grant::entry::WRITING),
        0,
    );
    grant::revoke(REFERENCE);
    is_free(&mut answers, "the page", target);
    answers.end()
}

/// One loads a root, for its kernel and for programs, that the other pins, changes and unpins.
fn root_while_unpinned() -> Outcome {
    let root = Page::at(tables::root());
    let copy = Page::take();
    for slot in (0..512u64).filter(|slot| !(256..272).contains(slot)) {
        copy.write::<u64>(slot * 8, root.read(slot * 8));
    }
    tables::make_read_only(copy);
    keep(0, copy);
    keep(1, root);
    user::use_root();
    begin(|_| {
        let mut loaded = 0;
        meet();
        while STOP.load(Ordering::SeqCst) == 0 {
            if mmuext(ext::NEW_BASEPTR, page(0).frame(), 0) == 0 {
                loaded += 1;
            }
            mmuext(ext::NEW_USER_BASEPTR, page(0).frame(), 0);
            mmuext(ext::NEW_BASEPTR, page(1).frame(), 0);
            mmuext(ext::NEW_USER_BASEPTR, 0, 0);
            arch::relax();
        }
        ANSWER.store(loaded, Ordering::SeqCst);
    });
    let at = (copy.frame() << 12) + 300 * 8;
    meet();
    for round in 0..4 * ROUNDS {
        arch::relax();
        if mmuext(ext::PIN_L4, copy.frame(), 0) == 0 {
            let value = if round % 2 == 0 {
                0
            } else {
                entry_for(copy.frame(), bit::READ)
            };
            mmu_update(at, value);
            mmuext(ext::UNPIN, copy.frame(), 0);
        }
    }
    end()?;
    value("races.roots_loaded", ANSWER.load(Ordering::SeqCst));
    mmu_update(at, 0);
    let mut answers = Answers::default();
    is_free_root(&mut answers, copy);
    answers.end()
}

/// As `is_free`, of a root: its slots of the hypervisor are not the guest's to clear.
fn is_free_root(answers: &mut Answers, page: Page) {
    answers.take("the root: pin", mmuext(ext::PIN_L4, page.frame(), 0), 0);
    answers.take("the root: unpin", mmuext(ext::UNPIN, page.frame(), 0), 0);
    answers.take("the root: writable", tables::make_writable(page), 0);
    page.fill(0);
    is_free(answers, "the root", page);
}

/// One maps pages at addresses whose table of level 1 the other takes away and puts back.
fn va_while_table_goes() -> Outcome {
    const SLOT: u64 = 40;
    const AT: u64 = WINDOW + SLOT * (2 << 20);
    let (level1, data) = (table(0, 0), Page::take());
    keep(0, level1);
    keep(1, data);
    let upper = machine_address(entry_address(WINDOW, 2).unwrap_or(0)) + SLOT * 8;
    begin(|_| {
        let mut mapped = 0;
        meet();
        while STOP.load(Ordering::SeqCst) == 0 {
            for slot in 0..4 {
                let entry = entry_for(page(1).frame(), bit::READ_WRITE);
                mapped += i64::from(
                    update_va_mapping(AT + slot * 4096, entry, flush::INVLPG | flush::ALL) == 0,
                );
                arch::relax();
                update_va_mapping(AT + slot * 4096, 0, flush::TLB);
            }
            // The table itself, never to be written.
            let own = entry_for(page(0).frame(), bit::READ_WRITE);
            update_va_mapping(AT + 9 * 4096, own, flush::NONE);
            update_va_mapping(AT + 9 * 4096, 0, flush::NONE);
        }
        ANSWER.store(mapped, Ordering::SeqCst);
    });
    let mut wrong = 0u64;
    meet();
    for _ in 0..4 * ROUNDS {
        wrong += u64::from(mmu_update(upper, entry_for(level1.frame(), bit::TABLE)) != 0);
        arch::relax();
        wrong += u64::from(mmu_update(upper, 0) != 0);
    }
    // The other may need the table to be there to map anything.
    mmu_update(upper, entry_for(level1.frame(), bit::TABLE));
    end()?;
    mmu_update(upper, 0);
    value("races.mapped_in_time", ANSWER.load(Ordering::SeqCst));
    let mut answers = Answers::default();
    answers.take("updates of level 2 that failed", wrong, 0);
    is_free(&mut answers, "the table", level1);
    is_free(&mut answers, "the data", data);
    answers.end()
}

/// One copies a page with an entry that makes a table writable over a page that the other pins: what is pinned has none.
fn copy_while_pinned() -> Outcome {
    let target = table(0, 0);
    let source = Page::take();
    keep(0, target);
    keep(1, source);
    source.fill(0);
    for slot in [0, 255, 511u64] {
        source.write(slot * 8, entry_for(target.frame(), bit::READ_WRITE));
    }
    begin(|_| {
        meet();
        while STOP.load(Ordering::SeqCst) == 0 {
            mmuext(ext::COPY_PAGE, page(0).frame(), page(1).frame());
            arch::relax();
            mmuext(ext::CLEAR_PAGE, page(0).frame(), 0);
            // The other has its turn now between the two, now behind both.
            arch::relax();
        }
    });
    let (mut pinned, mut spoilt) = (0i64, 0u64);
    meet();
    for _ in 0..4 * ROUNDS {
        arch::relax();
        if mmuext(ext::PIN_L1, target.frame(), 0) == 0 {
            pinned += 1;
            spoilt += (0..512)
                .filter(|slot| target.read::<u64>(slot * 8) != 0)
                .count() as u64;
            mmuext(ext::UNPIN, target.frame(), 0);
        }
    }
    end()?;
    value("races.pinned_between_copies", pinned);
    let mut answers = Answers::default();
    answers.take("entries that were never checked", spoilt, 0);
    is_free(&mut answers, "the page", target);
    answers.end()
}
