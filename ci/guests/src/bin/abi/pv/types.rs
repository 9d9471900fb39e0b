//! What a frame may be used as: pins, roots, descriptor tables, and the calls on frames. A frame is at no time writable and a
//! table, or a table of two levels.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, Ext, bit, empty_table, entry_for, ext, mmuext, mmuext_of,
};
use xenolith_guests::arch::{
    self, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, fault_of, hypercall, memory, regs, user,
};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::errno::{EBUSY, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH};
use xenolith_guests::xen::{SELF, nr};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("types.a_pin_of_each_level", pins),
    ("types.pins_that_are_refused", bad_pins),
    ("types.garbage_is_no_table", garbage),
    ("types.a_failed_pin_leaves_nothing", failed_pin),
    ("types.roots", roots),
    ("types.flushes", flushes),
    ("types.clear_and_copy", clear_and_copy),
    ("types.unknown_and_bad_calls", bad_calls),
];

const NOBODY: u64 = 1234;
pub(super) const BEYOND: u64 = 0xf_ffff_ffff;
pub(super) const VGA: u64 = 0xb8;

fn own() -> u64 {
    u64::from(SELF)
}

/// A read-only page with these entries.
pub(super) fn table(entries: &[(u64, u64)]) -> Page {
    let page = Page::take();
    page.fill(0);
    for &(index, entry) in entries {
        page.write(index * 8, entry);
    }
    tables::make_read_only(page);
    page
}

/// A root and its three lower tables, which map one page.
fn tree() -> [Page; 4] {
    let mut lower = table(&[(3, entry_for(Page::take().frame(), bit::READ_WRITE))]);
    let mut all = [lower; 4];
    for place in all.iter_mut().rev().skip(1) {
        lower = table(&[(5, entry_for(lower.frame(), bit::TABLE))]);
        *place = lower;
    }
    all
}

fn pins() -> Outcome {
    let mut answers = Answers::default();
    let tree = tree();
    for (level, page) in (1u32..).zip(tree.iter().rev()) {
        let command = ext::PIN_L1 + level - 1;
        answers.take(
            format_args!("pin of level {level}"),
            mmuext(command, page.frame(), 0),
            0,
        );
        answers.take(
            format_args!("pin of level {level} again"),
            mmuext(command, page.frame(), 0),
            EINVAL,
        );
        answers.take(
            format_args!("level {level} made writable"),
            tables::make_writable(*page),
            EBUSY,
        );
        for other in 0..4 {
            if other != command {
                answers.take(
                    format_args!("level {level} pinned by command {other}"),
                    mmuext(other, page.frame(), 0),
                    EINVAL,
                );
            }
        }
    }
    for (level, page) in (1u32..=4).rev().zip(tree.iter()) {
        answers.take(
            format_args!("unpin of level {level}"),
            mmuext(ext::UNPIN, page.frame(), 0),
            0,
        );
        answers.take(
            format_args!("unpin of level {level} again"),
            mmuext(ext::UNPIN, page.frame(), 0),
            EINVAL,
        );
        answers.take(
            format_args!("level {level} made writable"),
            tables::make_writable(*page),
            0,
        );
    }
    answers.end()
}

fn bad_pins() -> Outcome {
    let mut answers = Answers::default();
    let writable = Page::take();
    for command in [ext::PIN_L1, ext::PIN_L2, ext::PIN_L3, ext::PIN_L4] {
        answers.take(
            format_args!("{command} of a writable page"),
            mmuext(command, writable.frame(), 0),
            EINVAL,
        );
        answers.take(
            format_args!("{command} of no frame"),
            mmuext(command, BEYOND, 0),
            EINVAL,
        );
        answers.take(
            format_args!("{command} of a device"),
            mmuext(command, VGA, 0),
            EINVAL,
        );
    }
    answers.take(
        "unpin of a page",
        mmuext(ext::UNPIN, writable.frame(), 0),
        EINVAL,
    );
    answers.take("unpin of no frame", mmuext(ext::UNPIN, BEYOND, 0), EINVAL);
    let empty = empty_table();
    answers.take(
        "pin for DOMID_IO",
        mmuext_of(&[Ext::new(ext::PIN_L1, empty.frame(), 0)], 0x7ff1).0,
        EINVAL,
    );
    answers.take(
        "pin for DOMID_XEN",
        mmuext_of(&[Ext::new(ext::PIN_L1, empty.frame(), 0)], 0x7ff2).0,
        EINVAL,
    );
    answers.take(
        "pin for nobody",
        mmuext_of(&[Ext::new(ext::PIN_L1, empty.frame(), 0)], NOBODY).0,
        ESRCH,
    );
    answers.take("writable again", tables::make_writable(empty), 0);
    answers.end()
}

fn garbage() -> Outcome {
    let mut answers = Answers::default();
    let good = Page::take();
    let itself = table(&[]);
    for (what, command, entry, wanted) in [
        (
            "level 1 with no frame",
            ext::PIN_L1,
            entry_for(BEYOND, bit::READ),
            EPERM,
        ),
        (
            "level 1 with a device",
            ext::PIN_L1,
            entry_for(VGA, bit::READ_WRITE),
            0,
        ),
        (
            "level 1 with a table, writable",
            ext::PIN_L1,
            entry_for(memory::frame_of(tables::root()), bit::READ_WRITE),
            EBUSY,
        ),
        (
            "level 1 with a table, read-only",
            ext::PIN_L1,
            entry_for(memory::frame_of(tables::root()), bit::READ),
            0,
        ),
        (
            "level 2 with a page",
            ext::PIN_L2,
            entry_for(good.frame(), bit::TABLE),
            EINVAL,
        ),
        (
            "level 2 with a large page",
            ext::PIN_L2,
            bit::TABLE | bit::LARGE,
            EINVAL,
        ),
        (
            "level 3 with a page",
            ext::PIN_L3,
            entry_for(good.frame(), bit::TABLE),
            EINVAL,
        ),
        (
            "level 3 with a large page",
            ext::PIN_L3,
            bit::TABLE | bit::LARGE,
            EINVAL,
        ),
        (
            "level 4 with a page",
            ext::PIN_L4,
            entry_for(good.frame(), bit::TABLE),
            EINVAL,
        ),
        (
            "level 4 with no frame",
            ext::PIN_L4,
            entry_for(BEYOND, bit::TABLE),
            EINVAL,
        ),
        (
            "level 4 with the current root",
            ext::PIN_L4,
            entry_for(memory::frame_of(tables::root()), bit::TABLE),
            EINVAL,
        ),
        (
            "level 4 with the current root, read-only",
            ext::PIN_L4,
            entry_for(memory::frame_of(tables::root()), bit::READ),
            0,
        ),
        ("all ones, not present", ext::PIN_L1, u64::MAX - 1, 0),
        ("all ones", ext::PIN_L1, u64::MAX, EINVAL),
    ] {
        let page = table(&[(7, entry)]);
        let errno = mmuext(command, page.frame(), 0);
        answers.take(what, errno, wanted);
        if errno == 0 {
            answers.take(
                format_args!("{what}, unpin"),
                mmuext(ext::UNPIN, page.frame(), 0),
                0,
            );
        }
        answers.take(
            format_args!("{what}, writable again"),
            tables::make_writable(page),
            0,
        );
    }
    answers.take("writable again", tables::make_writable(itself), 0);
    answers.end()
}

/// References that a validation took before it failed are given back: all pages can be anything afterwards.
fn failed_pin() -> Outcome {
    let mut answers = Answers::default();
    let data = Page::take();
    let level1 = table(&[(0, entry_for(data.frame(), bit::READ_WRITE))]);
    let good2 = table(&[(0, entry_for(level1.frame(), bit::TABLE))]);
    let bad2 = table(&[
        (0, entry_for(level1.frame(), bit::TABLE)),
        (511, entry_for(data.frame(), bit::TABLE)),
    ]);
    let level3 = table(&[
        (0, entry_for(good2.frame(), bit::TABLE)),
        (1, entry_for(bad2.frame(), bit::TABLE)),
    ]);
    let level4 = table(&[(0, entry_for(level3.frame(), bit::TABLE))]);
    for _ in 0..3 {
        answers.take("pin", mmuext(ext::PIN_L4, level4.frame(), 0), EINVAL);
        answers.take("unpin", mmuext(ext::UNPIN, level4.frame(), 0), EINVAL);
    }
    answers.take("the data as level 1", tables::make_read_only(data), 0);
    answers.take("pin of the data", mmuext(ext::PIN_L1, data.frame(), 0), 0);
    answers.take("unpin of the data", mmuext(ext::UNPIN, data.frame(), 0), 0);
    for page in [data, level1, good2, bad2, level3, level4] {
        answers.take("writable again", tables::make_writable(page), 0);
    }
    answers.end()
}

fn roots() -> Outcome {
    let mut answers = Answers::default();
    let root = memory::frame_of(tables::root());
    answers.take("the root as it is", mmuext(ext::NEW_BASEPTR, root, 0), 0);
    answers.take("CR3 names it", tables::frame_in(regs::cr3()), root);
    // A copy of the root, the hypervisor's slots left out; the hypervisor puts its own in.
    let copy = Page::take();
    for index in 0..512 {
        let in_hypervisor = (256..272).contains(&index);
        let entry = if in_hypervisor {
            0
        } else {
            arch::read64(tables::root() + index * 8)
        };
        copy.write(index * 8, entry);
    }
    answers.take(
        "a writable root",
        mmuext(ext::NEW_BASEPTR, copy.frame(), 0),
        EINVAL,
    );
    answers.take("read-only", tables::make_read_only(copy), 0);
    answers.take(
        "a root that is not pinned",
        mmuext(ext::NEW_BASEPTR, copy.frame(), 0),
        0,
    );
    answers.take(
        "CR3 names the copy",
        tables::frame_in(regs::cr3()),
        copy.frame(),
    );
    answers.take(
        "the root in use made writable",
        tables::make_writable(copy),
        EBUSY,
    );
    answers.take("back", mmuext(ext::NEW_BASEPTR, root, 0), 0);
    answers.take("the copy is writable again", tables::make_writable(copy), 0);
    let lower = empty_table();
    answers.take("pin", mmuext(ext::PIN_L1, lower.frame(), 0), 0);
    for (what, frame, wanted) in [
        ("level 1", lower.frame(), EINVAL),
        ("no frame", BEYOND, EINVAL),
        ("a device", VGA, EINVAL),
        ("frame 0", 0, EINVAL),
    ] {
        answers.take(
            format_args!("{what} as root"),
            mmuext(ext::NEW_BASEPTR, frame, 0),
            wanted,
        );
        let wanted = if frame == 0 { 0 } else { wanted };
        answers.take(
            format_args!("{what} as user's root"),
            mmuext(ext::NEW_USER_BASEPTR, frame, 0),
            wanted,
        );
    }
    answers.take(
        "the kernel's as user's root",
        mmuext(ext::NEW_USER_BASEPTR, root, 0),
        0,
    );
    answers.take("the user's", user::use_root(), 0);
    answers.take("the user's again", user::use_root(), 0);
    let base = regs::cr3();
    answers.take("CR3 set", fault_of(|| regs::set_cr3(base)), None);
    answers.take(
        "CR3 set to no root",
        fault_of(|| regs::set_cr3(lower.frame() << 12)).is_some(),
        true,
    );
    answers.take("CR3 is as it was", regs::cr3(), base);
    answers.take("unpin", mmuext(ext::UNPIN, lower.frame(), 0), 0);
    answers.take("writable again", tables::make_writable(lower), 0);
    answers.end()
}

fn flushes() -> Outcome {
    let mut answers = Answers::default();
    let mask = 1u64;
    let mask = (&raw const mask) as u64;
    for (what, command, first, second, wanted) in [
        ("local", ext::TLB_FLUSH_LOCAL, 0, 0, 0),
        ("local, one page", ext::INVLPG_LOCAL, WINDOW, 0, 0),
        (
            "local, the hypervisor's page",
            ext::INVLPG_LOCAL,
            UPPER_HALF,
            0,
            0,
        ),
        ("local, no page", ext::INVLPG_LOCAL, NON_CANONICAL, 0, 0),
        ("some", ext::TLB_FLUSH_MULTI, 0, mask, 0),
        ("some, bad mask", ext::TLB_FLUSH_MULTI, 0, UNMAPPED, EINVAL),
        ("one page on some", ext::INVLPG_MULTI, WINDOW, mask, 0),
        (
            "one page on some, bad mask",
            ext::INVLPG_MULTI,
            WINDOW,
            UNMAPPED,
            EINVAL,
        ),
        (
            "the hypervisor's page on some",
            ext::INVLPG_MULTI,
            UPPER_HALF,
            mask,
            0,
        ),
        (
            "the hypervisor's page on some, bad mask",
            ext::INVLPG_MULTI,
            UPPER_HALF,
            UNMAPPED,
            EINVAL,
        ),
        (
            "no page on some, bad mask",
            ext::INVLPG_MULTI,
            NON_CANONICAL,
            UNMAPPED,
            EINVAL,
        ),
        (
            "no page on some, the hypervisor's mask",
            ext::INVLPG_MULTI,
            NON_CANONICAL,
            UPPER_HALF,
            EINVAL,
        ),
        (
            "some, the hypervisor's mask",
            ext::TLB_FLUSH_MULTI,
            UPPER_HALF,
            UPPER_HALF,
            EINVAL,
        ),
        ("all", ext::TLB_FLUSH_ALL, 0, 0, 0),
        ("one page on all", ext::INVLPG_ALL, WINDOW, 0, 0),
        (
            "the hypervisor's page on all",
            ext::INVLPG_ALL,
            UPPER_HALF,
            0,
            0,
        ),
        ("caches", ext::FLUSH_CACHE, 0, 0, 0),
        ("caches of all", ext::FLUSH_CACHE_GLOBAL, 0, 0, 0),
    ] {
        answers.take(what, mmuext(command, first, second), wanted);
    }
    for domain in [0x7ff1, 0x7ff2] {
        answers.take(
            format_args!("for {domain:#x}"),
            mmuext_of(&[Ext::new(ext::TLB_FLUSH_LOCAL, 0, 0)], domain).0,
            EPERM,
        );
    }
    answers.end()
}

fn clear_and_copy() -> Outcome {
    let mut answers = Answers::default();
    let (first, second) = (Page::take(), Page::take());
    first.fill(0x11);
    second.fill(0x22);
    answers.take("clear", mmuext(ext::CLEAR_PAGE, first.frame(), 0), 0);
    answers.take(
        "it is clear",
        (first.read::<u64>(0), first.read::<u64>(4088)),
        (0, 0),
    );
    answers.take(
        "copy",
        mmuext(ext::COPY_PAGE, first.frame(), second.frame()),
        0,
    );
    answers.take(
        "it is copied",
        first.read::<u64>(4088),
        0x2222_2222_2222_2222,
    );
    let table = empty_table();
    answers.take("pin", mmuext(ext::PIN_L1, table.frame(), 0), 0);
    answers.take(
        "clear a table",
        mmuext(ext::CLEAR_PAGE, table.frame(), 0),
        EINVAL,
    );
    answers.take(
        "copy to a table",
        mmuext(ext::COPY_PAGE, table.frame(), first.frame()),
        EINVAL,
    );
    answers.take(
        "copy from a table",
        mmuext(ext::COPY_PAGE, first.frame(), table.frame()),
        0,
    );
    answers.take("unpin", mmuext(ext::UNPIN, table.frame(), 0), 0);
    answers.take("writable again", tables::make_writable(table), 0);
    for frame in [BEYOND, VGA] {
        answers.take(
            format_args!("clear {frame:#x}"),
            mmuext(ext::CLEAR_PAGE, frame, 0),
            EINVAL,
        );
        answers.take(
            format_args!("copy to {frame:#x}"),
            mmuext(ext::COPY_PAGE, frame, first.frame()),
            EINVAL,
        );
        answers.take(
            format_args!("copy from {frame:#x}"),
            mmuext(ext::COPY_PAGE, first.frame(), frame),
            EINVAL,
        );
    }
    answers.end()
}

fn bad_calls() -> Outcome {
    let mut answers = Answers::default();
    for command in [14, 21, 99, u32::MAX] {
        answers.take(
            format_args!("command {command}"),
            mmuext(command, 0, 0),
            ENOSYS,
        );
    }
    for command in [ext::MARK_SUPER, ext::UNMARK_SUPER] {
        answers.take(
            format_args!("command {command}"),
            mmuext(command, 0, 0),
            EOPNOTSUPP,
        );
    }
    let operation = Ext::new(ext::TLB_FLUSH_LOCAL, 0, 0);
    answers.take("none", mmuext_of(&[], own()), (0, 0));
    answers.take("two", mmuext_of(&[operation, operation], own()), (0, 2));
    answers.take(
        "the second is bad",
        mmuext_of(&[operation, Ext::new(99, 0, 0), operation], own()),
        (ENOSYS, 1),
    );
    answers.take("for nobody", mmuext_of(&[operation], NOBODY).0, ESRCH);
    for address in [UNMAPPED, NON_CANONICAL, UPPER_HALF] {
        answers.take(
            format_args!("at {address:#x}"),
            hypercall(nr::MMUEXT_OP, [address, 1, 0, own(), 0]),
            EFAULT,
        );
    }
    answers.end()
}
