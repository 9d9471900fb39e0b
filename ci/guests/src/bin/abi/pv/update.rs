//! Changing table entries: `mmu_update` in its kinds, `update_va_mapping`, and what an entry may be.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, Update, bit, entry_address, entry_for, kind, machine_address, mmu_update, mmu_update_of,
    update_va_mapping,
};
use xenolith_guests::arch::{
    self, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, exception, fault_of, hypercall, memory,
};
use xenolith_guests::buffer::Page;
use xenolith_guests::expect;
use xenolith_guests::report::Why;
use xenolith_guests::xen::errno::{EBUSY, EFAULT, EINVAL, ENOSYS, EPERM, ESRCH};
use xenolith_guests::xen::{SELF, nr, own_domain};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("mmu.an_entry_changes", changes),
    ("mmu.several_and_how_many_were_done", several),
    ("mmu.entries_that_may_not_be", bad_entries),
    ("mmu.places_that_are_no_entries", bad_places),
    ("mmu.bad_pointers_and_domains", bad_pointers),
    ("mmu.accessed_and_dirty_stay", preserves),
    ("mmu.machine_to_physical", machphys),
    ("mmu.tables_are_never_writable", never_writable),
    ("mmu.upper_levels", upper_levels),
    ("mmu.slots_of_the_hypervisor", hypervisor_slots),
    ("mmu.a_root_in_itself", linear),
    ("mmu.frames_of_others", others_frames),
    ("mmu.a_write_to_a_table_traps", trapped_write),
];

/// What `DOMID_IO`, `DOMID_XEN` and so on are.
pub(super) const IO: u64 = 0x7ff1;
pub(super) const XEN: u64 = 0x7ff2;
pub(super) const NOBODY: u64 = 1234;
/// A machine frame beyond all memory, one of a device, and Xen's own.
pub(super) const BEYOND: u64 = 0xf_ffff_ffff;
pub(super) const VGA: u64 = 0xb8;

pub(super) fn own() -> u64 {
    u64::from(SELF)
}

/// Machine address of the entry of page `slot` of the test window.
fn place(slot: usize) -> u64 {
    machine_address(tables::window_entry(slot))
}

fn at_level(address: u64, level: u32) -> Result<u64, Why> {
    match entry_address(address, level) {
        Some(at) => Ok(machine_address(at)),
        None => Err(Why::new(format_args!("no table of level {level}"))),
    }
}

/// What an address reads as, the hypervisor's own additions aside.
pub(super) const KEPT: u64 = !(bit::ACCESSED | bit::DIRTY | bit::GLOBAL | bit::USER);

fn changes() -> Outcome {
    let (first, second) = (Page::take(), Page::take());
    first.write::<u64>(0, 1);
    second.write::<u64>(0, 2);
    for (page, value) in [(first, 1), (second, 2), (first, 1)] {
        expect!(
            mmu_update(place(0), entry_for(page.frame(), bit::READ_WRITE)),
            0
        );
        tables::mmuext(tables::ext::INVLPG_LOCAL, WINDOW, 0);
        expect!(Page::at(WINDOW).read::<u64>(0), value);
        expect!(
            tables::entry(0) & KEPT,
            entry_for(page.frame(), bit::READ_WRITE) & KEPT
        );
    }
    expect!(mmu_update(place(0), 0), 0, "clear");
    tables::mmuext(tables::ext::INVLPG_LOCAL, WINDOW, 0);
    expect!(arch::is_nothing_at(WINDOW), true);
    // What is not present may be anything.
    for word in [0xdead_beef_0000, !1, entry_for(BEYOND, 0)] {
        expect!(mmu_update(place(0), word), 0, "not present: {word:#x}");
        expect!(tables::entry(0), word);
    }
    expect!(mmu_update(place(0), 0), 0, "clear");
    // An entry has the user bit, asked for or not, and a user's page is global.
    let page = entry_for(first.frame(), bit::PRESENT | bit::WRITABLE);
    expect!(mmu_update(place(0), page), 0, "without the user bit");
    xenolith_guests::report::value(
        "mmu.bits_added_to_a_kernel_page",
        (tables::entry(0) ^ page) as i64,
    );
    expect!(
        mmu_update(place(0), page | bit::USER),
        0,
        "with the user bit"
    );
    xenolith_guests::report::value(
        "mmu.bits_added_to_a_user_page",
        (tables::entry(0) ^ page) as i64,
    );
    expect!(mmu_update(place(0), 0), 0, "clear");
    Ok(())
}

fn several() -> Outcome {
    let mut answers = Answers::default();
    let page = entry_for(Page::take().frame(), bit::READ_WRITE);
    let good = |slot: usize, value: u64| Update {
        at: place(slot),
        value,
    };
    answers.take("none", mmu_update_of(&[], own()), (0, 0));
    answers.take(
        "three",
        mmu_update_of(&[good(0, page), good(1, page), good(2, page)], own()),
        (0, 3),
    );
    let bad = Update {
        at: place(3),
        value: entry_for(BEYOND, bit::READ_WRITE),
    };
    answers.take(
        "the third is bad",
        mmu_update_of(&[good(0, 0), good(1, 0), bad, good(2, 0)], own()),
        (EPERM, 2),
    );
    answers.take(
        "what is behind it is not done",
        tables::entry(2) & KEPT,
        page & KEPT,
    );
    let no_count = hypercall(
        nr::MMU_UPDATE,
        [(&raw const *[good(2, 0)].as_ptr()) as u64, 1, 0, own(), 0],
    );
    answers.take("without a place for the count", no_count, 0);
    let many = [good(0, 0); 200];
    answers.take("two hundred", mmu_update_of(&many, own()), (0, 200));
    answers.end()
}

fn bad_entries() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take().frame();
    let set = |entry: u64| mmu_update(place(0), entry);
    for (what, entry, wanted) in [
        ("no such frame", entry_for(BEYOND, bit::READ_WRITE), EPERM),
        (
            "no such frame, read-only",
            entry_for(BEYOND, bit::READ),
            EPERM,
        ),
        ("global", entry_for(page, bit::READ_WRITE | bit::GLOBAL), 0),
        ("pat", entry_for(page, bit::READ_WRITE | bit::LARGE), 0),
        (
            "write-through",
            entry_for(page, bit::READ_WRITE | bit::WRITE_THROUGH),
            0,
        ),
        (
            "no cache",
            entry_for(page, bit::READ_WRITE | bit::NO_CACHE),
            0,
        ),
        (
            "no execute",
            entry_for(page, bit::READ_WRITE | bit::NO_EXECUTE),
            0,
        ),
        (
            "first free bit",
            entry_for(page, bit::READ_WRITE | 1 << 9),
            0,
        ),
        (
            "second free bit",
            entry_for(page, bit::READ_WRITE | 1 << 10),
            0,
        ),
        (
            "third free bit",
            entry_for(page, bit::READ_WRITE | 1 << 11),
            0,
        ),
        ("bit 52", entry_for(page, bit::READ_WRITE | 1 << 52), 0),
        ("bit 58", entry_for(page, bit::READ_WRITE | 1 << 58), 0),
        ("bit 59", entry_for(page, bit::READ_WRITE | 1 << 59), 0),
        ("bit 62", entry_for(page, bit::READ_WRITE | 1 << 62), 0),
    ] {
        answers.take(what, set(entry), wanted);
    }
    answers.take("clear", set(0), 0);
    answers.end()
}

fn bad_places() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    let empty = 0;
    let shared = arch::start_info::start_info().shared_info;
    for (what, at, wanted) in [
        ("not aligned", place(0) + 4, ENOSYS),
        ("no such frame", BEYOND << 12, EINVAL),
        ("a device", VGA << 12, EINVAL),
        // A page that is no table is written.
        ("the shared-info page", shared + 4088, 0),
    ] {
        answers.take(what, mmu_update(at, empty), wanted);
    }
    answers.take("a page stays as it is", page.read::<u64>(0), 0);
    // Memory that is no table can be written so.
    answers.take(
        "a word of a page",
        mmu_update(page.frame() << 12 | 8, 77),
        0,
    );
    answers.take("is written", page.read::<u64>(8), 77);
    answers.end()
}

fn bad_pointers() -> Outcome {
    let mut answers = Answers::default();
    let request = [Update {
        at: place(0),
        value: 0,
    }];
    for address in [UNMAPPED, NON_CANONICAL, UPPER_HALF] {
        let call =
            |count: u64, done: u64| hypercall(nr::MMU_UPDATE, [address, count, done, own(), 0]);
        answers.take(format_args!("one at {address:#x}"), call(1, 0), EFAULT);
        let wanted = if address == UNMAPPED { 0 } else { EFAULT };
        answers.take(format_args!("none at {address:#x}"), call(0, 0), wanted);
        answers.take(
            format_args!("count at {address:#x}"),
            hypercall(
                nr::MMU_UPDATE,
                [request.as_ptr() as u64, 1, address, own(), 0],
            ),
            0,
        );
    }
    for (domain, wanted) in [
        (NOBODY, ESRCH),
        (IO, 0),
        (XEN, 0),
        (0x7ff3, ESRCH),
        (0x7fff, ESRCH),
        (own() | (own() + 1) << 16, ESRCH),
        (own() | (u64::from(own_domain()) + 1) << 16, 0),
        (own() | (NOBODY + 1) << 16, ESRCH),
    ] {
        answers.take(
            format_args!("domain {domain:#x}"),
            mmu_update_of(&request, domain).0,
            wanted,
        );
    }
    answers.take(
        "without a translation",
        mmu_update(place(0) | kind::NO_TRANSLATE, 0),
        0,
    );
    answers.end()
}

fn preserves() -> Outcome {
    let page = Page::take().frame();
    let bare = entry_for(page, bit::PRESENT | bit::WRITABLE | bit::USER);
    let marks = bit::ACCESSED | bit::DIRTY;
    expect!(mmu_update(place(0), bare), 0);
    expect!(tables::entry(0) & marks, 0, "not used yet");
    tables::mmuext(tables::ext::INVLPG_LOCAL, WINDOW, 0);
    arch::write64(WINDOW, 1);
    expect!(tables::entry(0) & marks, marks, "written");
    expect!(
        mmu_update(place(0) | kind::PRESERVE_AD, bare | bit::NO_EXECUTE),
        0
    );
    expect!(tables::entry(0) & marks, marks, "kept");
    expect!(tables::entry(0) >> 63, 1, "changed");
    expect!(mmu_update(place(0), bare), 0);
    expect!(tables::entry(0) & marks, 0, "not kept");
    expect!(mmu_update(place(0), 0), 0);
    Ok(())
}

fn machphys() -> Outcome {
    let mut answers = Answers::default();
    let frame = Page::take().frame();
    let before = memory::physical_frame(frame);
    let set = |frame: u64, value: u64| mmu_update(frame << 12 | kind::MACHPHYS, value);
    answers.take("set", set(frame, 0x5555), 0);
    answers.take("seen", memory::physical_frame(frame), 0x5555);
    answers.take("back", set(frame, before), 0);
    answers.take("seen", memory::physical_frame(frame), before);
    answers.take("no such frame", set(BEYOND, 1), EINVAL);
    answers.take("a device's", set(VGA, 1), EINVAL);
    answers.take(
        "through DOMID_IO",
        mmu_update_of(
            &[Update {
                at: frame << 12 | kind::MACHPHYS,
                value: before,
            }],
            IO,
        )
        .0,
        EINVAL,
    );
    let entry = memory::MACHINE_TO_PHYS + frame * 8;
    let fault = fault_of(|| arch::write64(entry, 1))
        .map(|fault| (fault.vector, fault.error, fault.address == entry));
    answers.take(
        "it cannot be written",
        fault,
        Some((exception::PAGE, 3, true)),
    );
    answers.end()
}

fn never_writable() -> Outcome {
    let mut answers = Answers::default();
    let table = memory::frame_of(tables::window_entry(0));
    let root = memory::frame_of(tables::root());
    for (what, frame) in [("level 1", table), ("the root", root)] {
        for level_bits in [bit::READ_WRITE, bit::PRESENT | bit::WRITABLE] {
            answers.take(
                format_args!("{what}, by mmu_update"),
                mmu_update(place(0), entry_for(frame, level_bits)),
                EBUSY,
            );
            answers.take(
                format_args!("{what}, by address"),
                update_va_mapping(WINDOW, entry_for(frame, level_bits), 0),
                EBUSY,
            );
        }
        answers.take(
            format_args!("{what}, to read"),
            mmu_update(place(0), entry_for(frame, bit::READ)),
            0,
        );
        answers.take(
            format_args!("{what}, read-only made writable"),
            mmu_update(place(0), entry_for(frame, bit::READ_WRITE)),
            EBUSY,
        );
        answers.take(format_args!("{what}, clear"), mmu_update(place(0), 0), 0);
    }
    // A page that is mapped to be written cannot become a table.
    let page = Page::take();
    answers.take(
        "a writable page as level 1",
        mmu_update(
            at_level(WINDOW + (4 << 21), 2)?,
            entry_for(page.frame(), bit::TABLE),
        ),
        EINVAL,
    );
    answers.take("read-only", tables::make_read_only(page), 0);
    answers.take(
        "still mapped elsewhere",
        mmu_update(place(0), entry_for(page.frame(), bit::READ_WRITE)),
        0,
    );
    answers.take(
        "as level 1",
        mmu_update(
            at_level(WINDOW + (4 << 21), 2)?,
            entry_for(page.frame(), bit::TABLE),
        ),
        EINVAL,
    );
    answers.take("not any more", mmu_update(place(0), 0), 0);
    answers.take(
        "now it can",
        mmu_update(
            at_level(WINDOW + (4 << 21), 2)?,
            entry_for(page.frame(), bit::TABLE),
        ),
        0,
    );
    answers.take(
        "then it is not writable",
        tables::make_writable(page),
        EBUSY,
    );
    answers.take(
        "nor a table of another level",
        mmu_update(
            at_level(WINDOW + (16 << 30), 3).unwrap_or(0),
            entry_for(page.frame(), bit::TABLE),
        ),
        EINVAL,
    );
    answers.take(
        "but twice of the same",
        mmu_update(
            at_level(WINDOW + (6 << 21), 2)?,
            entry_for(page.frame(), bit::TABLE),
        ),
        0,
    );
    answers.take("clear", mmu_update(at_level(WINDOW + (6 << 21), 2)?, 0), 0);
    answers.take("clear", mmu_update(at_level(WINDOW + (4 << 21), 2)?, 0), 0);
    answers.take("writable again", tables::make_writable(page), 0);
    answers.end()
}

fn upper_levels() -> Outcome {
    let mut answers = Answers::default();
    let page = memory::machine_frame(0x200);
    let table = tables::empty_table();
    let level2 = at_level(WINDOW + (8 << 21), 2)?;
    let level3 = at_level(16 << 30, 3)?;
    let level4 = at_level(8 << 39, 4)?;
    for (what, at, entry, wanted) in [
        (
            "2 MiB page",
            level2,
            entry_for(page & !0x1ff, bit::TABLE | bit::LARGE),
            EINVAL,
        ),
        (
            "1 GiB page",
            level3,
            entry_for(0, bit::TABLE | bit::LARGE),
            EINVAL,
        ),
        (
            "level 4 with the large bit",
            level4,
            entry_for(table.frame(), bit::TABLE | bit::LARGE),
            EINVAL,
        ),
        (
            "level 2 to no frame",
            level2,
            entry_for(BEYOND, bit::TABLE),
            EINVAL,
        ),
        (
            "level 3 to a device",
            level3,
            entry_for(VGA, bit::TABLE),
            EINVAL,
        ),
        (
            "level 4 to an empty table",
            level4,
            entry_for(table.frame(), bit::TABLE),
            0,
        ),
        (
            "the same as level 3 of another slot",
            at_level(9 << 39, 4)?,
            entry_for(table.frame(), bit::TABLE),
            0,
        ),
        (
            "the same as level 2",
            level3,
            entry_for(table.frame(), bit::TABLE),
            EINVAL,
        ),
        (
            "level 4 with a free bit",
            level4,
            entry_for(table.frame(), bit::TABLE | 1 << 10),
            0,
        ),
        (
            "level 4 without the user bit",
            level4,
            entry_for(table.frame(), bit::PRESENT | bit::WRITABLE),
            0,
        ),
        (
            "level 4 read-only",
            level4,
            entry_for(table.frame(), bit::READ),
            0,
        ),
        (
            "level 4 with no execute",
            level4,
            entry_for(table.frame(), bit::TABLE | bit::NO_EXECUTE),
            0,
        ),
        (
            "level 4 global",
            level4,
            entry_for(table.frame(), bit::TABLE | bit::GLOBAL),
            EINVAL,
        ),
        ("clear one", level4, 0, 0),
        ("clear the other", at_level(9 << 39, 4)?, 0, 0),
        (
            "a page that is not a table any more, as level 2",
            level3,
            entry_for(table.frame(), bit::TABLE),
            0,
        ),
        (
            "level 3 with no cache",
            level3,
            entry_for(table.frame(), bit::TABLE | bit::NO_CACHE),
            EINVAL,
        ),
        ("clear it", level3, 0, 0),
    ] {
        answers.take(what, mmu_update(at, entry), wanted);
    }
    answers.take("writable again", tables::make_writable(table), 0);
    answers.end()
}

fn hypervisor_slots() -> Outcome {
    let mut answers = Answers::default();
    let table = tables::empty_table();
    let root = memory::frame_of(tables::root()) << 12;
    for slot in [255, 256, 257, 260, 263, 271, 272] {
        let wanted = if (256..272).contains(&slot) {
            EINVAL
        } else {
            0
        };
        answers.take(
            format_args!("slot {slot}"),
            mmu_update(root + slot * 8, entry_for(table.frame(), bit::TABLE)),
            wanted,
        );
        answers.take(
            format_args!("slot {slot} cleared"),
            mmu_update(root + slot * 8, 0),
            wanted,
        );
    }
    answers.take("writable again", tables::make_writable(table), 0);
    answers.end()
}

fn linear() -> Outcome {
    let mut answers = Answers::default();
    let root = memory::frame_of(tables::root());
    let at = (root << 12) + 300 * 8;
    answers.take(
        "writable",
        mmu_update(at, entry_for(root, bit::TABLE)),
        EINVAL,
    );
    answers.take("read-only", mmu_update(at, entry_for(root, bit::READ)), 0);
    let window = 0xffff_0000_0000_0000 | 300 << 39 | 300 << 30 | 300 << 21 | 300 << 12;
    let entry = arch::read64(window + 300 * 8);
    answers.take(
        "the root read through itself",
        tables::frame_in(entry),
        root,
    );
    answers.take("clear", mmu_update(at, 0), 0);
    answers.end()
}

fn others_frames() -> Outcome {
    let mut answers = Answers::default();
    let set = |frame: u64, bits: u64, domain: u64| {
        mmu_update_of(
            &[Update {
                at: place(0),
                value: entry_for(frame, bits),
            }],
            domain,
        )
        .0
    };
    // Frames of devices belong to DOMID_IO; dom0 may map them as its own too.
    answers.take(
        "a device as its own",
        set(VGA, bit::READ_WRITE | bit::NO_CACHE, own()),
        0,
    );
    answers.take(
        "a device of DOMID_IO",
        set(VGA, bit::READ_WRITE | bit::NO_CACHE, IO),
        0,
    );
    answers.take(
        "an own page of DOMID_IO",
        set(Page::take().frame(), bit::READ_WRITE, IO),
        EBUSY,
    );
    answers.take(
        "an own page of DOMID_XEN",
        set(Page::take().frame(), bit::READ_WRITE, XEN),
        EBUSY,
    );
    answers.take(
        "the local APIC",
        set(0xfee00, bit::READ_WRITE | bit::NO_CACHE, own()),
        EPERM,
    );
    let shared = arch::start_info::start_info().shared_info >> 12;
    answers.take(
        "the shared-info page",
        set(shared, bit::READ_WRITE, own()),
        0,
    );
    answers.take("clear", mmu_update(place(0), 0), 0);
    answers.end()
}

/// A store to an entry of level 1 is done like a call, with the assist and without.
fn trapped_write() -> Outcome {
    const WRITABLE_PAGE_TABLES: u64 = 2;
    let assist = |command: u64| hypercall(nr::VM_ASSIST, [command, WRITABLE_PAGE_TABLES, 0, 0, 0]);
    let mut answers = Answers::default();
    let at = tables::window_entry(0);
    let page = entry_for(Page::take().frame(), bit::READ_WRITE);
    let store = |value: u64| {
        fault_of(|| arch::write64(at, value))
            .map(|fault| (fault.vector, fault.error, fault.address == at))
    };
    let refused = Some((exception::PAGE, 3, true));
    assist(1);
    answers.take("without the assist", store(page), None);
    answers.take("assist", assist(0), 0);
    answers.take("a good entry", store(page), None);
    answers.take("it is there", tables::entry(0) & KEPT, page & KEPT);
    answers.take(
        "a bad entry",
        store(entry_for(BEYOND, bit::READ_WRITE)),
        refused,
    );
    answers.take("it is still there", tables::entry(0) & KEPT, page & KEPT);
    answers.take(
        "four bytes",
        fault_of(|| arch::write32(at, page as u32)),
        None,
    );
    answers.take("one byte", fault_of(|| arch::write8(at, page as u8)), None);
    answers.take(
        "two bytes across words",
        fault_of(|| arch::write16(at + 7, 0)).map(|fault| fault.vector),
        Some(exception::PAGE),
    );
    answers.take("it is still the same", tables::entry(0) & KEPT, page & KEPT);
    answers.take("clear", store(0), None);
    answers.take(
        "a table of level 2",
        fault_of(|| arch::write64(entry_address(WINDOW, 2).unwrap_or(0) + 8, 0))
            .map(|fault| fault.error),
        Some(3),
    );
    // Xchg and compare-and-exchange are emulated too.
    let exchange = fault_of(|| {
        // SAFETY: an aligned entry of a table that the hypervisor guards.
        let word = unsafe { core::sync::atomic::AtomicU64::from_ptr(at as *mut u64) };
        let _ = word.compare_exchange(
            0,
            page,
            core::sync::atomic::Ordering::SeqCst,
            core::sync::atomic::Ordering::SeqCst,
        );
    });
    answers.take("compare and exchange", exchange, None);
    answers.take("it is there", tables::entry(0) & KEPT, page & KEPT);
    answers.take("clear", mmu_update(place(0), 0), 0);
    assist(1);
    answers.end()
}
