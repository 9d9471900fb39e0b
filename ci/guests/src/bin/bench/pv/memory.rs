//! Page tables by hypercall.

use xenolith_guests::arch::tables::{
    self, Ext, Update, bit, entry_for, ext, flush, mmu_update_of, mmuext_of,
};
use xenolith_guests::arch::{self, hypercall, regs};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::{SELF, nr};

use super::time;

const BATCH: usize = 32;
const ENTRIES: u64 = 512;
const WRITABLE_PAGE_TABLES: u64 = 2;

fn status(name: &str, errno: i64) {
    if errno != 0 {
        value(name, errno);
    }
}

pub(super) fn measure() {
    let own = u64::from(SELF);
    let pages = [Page::take(), Page::take()].map(|page| entry_for(page.frame(), bit::READ_WRITE));
    let at = tables::machine_address(tables::window_entry(0));
    let mut turn = 0usize;
    let mut next = move || {
        turn += 1;
        pages[turn % 2]
    };
    let mut errno = 0;
    time("mmu_update_1", || {
        let value = next();
        errno |= mmu_update_of(&[Update { at, value }], own).0;
    });
    let mut batch = [Update::default(); BATCH];
    for (slot, update) in (0u64..).zip(batch.iter_mut()) {
        update.at = at + slot * 8;
    }
    time("mmu_update_32", || {
        let value = next();
        for update in &mut batch {
            update.value = value;
        }
        errno |= mmu_update_of(&batch, own).0;
    });
    let same = pages[0];
    time("mmu_update_1_same", || {
        errno |= mmu_update_of(&[Update { at, value: same }], own).0;
    });
    time("update_va_mapping", || {
        errno |= tables::update_va_mapping(arch::WINDOW, next(), flush::NONE);
    });
    time("update_va_mapping_invlpg", || {
        errno |= tables::update_va_mapping(arch::WINDOW, next(), flush::INVLPG);
    });
    time("update_va_mapping_clear_set", || {
        errno |= tables::update_va_mapping(arch::WINDOW, 0, flush::NONE);
        errno |= tables::update_va_mapping(arch::WINDOW, same, flush::NONE);
    });
    errno |= hypercall(nr::VM_ASSIST, [0, WRITABLE_PAGE_TABLES, 0, 0, 0]);
    let entry = tables::window_entry(0);
    time("trapped_pte_write", || arch::write64(entry, next()));
    status("mmu_update_status", errno);
    flushes();
    errno = 0;
    let root = [Ext::new(
        ext::NEW_BASEPTR,
        arch::frame_of(tables::root()),
        0,
    )];
    time("new_baseptr", || errno |= mmuext_of(&root, own).0);
    status("new_baseptr_status", errno);
    pins();
}

fn flushes() {
    let own = u64::from(SELF);
    let mut errno = 0;
    for (name, command, first) in [
        ("tlb_flush", ext::TLB_FLUSH_LOCAL, 0),
        ("tlb_flush_all", ext::TLB_FLUSH_ALL, 0),
        ("invlpg", ext::INVLPG_LOCAL, arch::WINDOW),
        ("invlpg_all", ext::INVLPG_ALL, arch::WINDOW),
    ] {
        let operation = [Ext::new(command, first, 0)];
        time(name, || errno |= mmuext_of(&operation, own).0);
    }
    let cr3 = regs::cr3();
    time("cr3_write", || regs::set_cr3(cr3));
    status("flush_status", errno);
}

/// A table with `entries` filled, read-only and ready to be pinned.
fn table(entries: impl Iterator<Item = u64>) -> Page {
    let page = Page::take();
    page.fill(0);
    for (index, entry) in (0u64..).zip(entries) {
        page.write(index * 8, entry);
    }
    tables::make_read_only(page);
    page
}

fn pin_unpin(name: &str, command: u32, table: Page) {
    let own = u64::from(SELF);
    let frame = table.frame();
    let (pin, unpin) = (
        [Ext::new(command, frame, 0)],
        [Ext::new(ext::UNPIN, frame, 0)],
    );
    let mut errno = 0;
    time(name, || {
        errno |= mmuext_of(&pin, own).0;
        errno |= mmuext_of(&unpin, own).0;
    });
    status(name, errno);
}

fn pins() {
    let target = Page::take();
    let one = |bits: u64| (0..ENTRIES).map(move |_| entry_for(target.frame(), bits));
    let many = |bits: u64| {
        (0..ENTRIES).map(move |index| entry_for(arch::memory::machine_frame(2048 + index), bits))
    };
    let empty = table(core::iter::empty());
    pin_unpin("pin_unpin_l1_empty", ext::PIN_L1, empty);
    pin_unpin("pin_unpin_l1", ext::PIN_L1, table(many(bit::READ_WRITE)));
    pin_unpin(
        "pin_unpin_l1_read_only",
        ext::PIN_L1,
        table(many(bit::READ)),
    );
    pin_unpin(
        "pin_unpin_l1_one_frame",
        ext::PIN_L1,
        table(one(bit::READ_WRITE)),
    );
    pin_unpin(
        "pin_unpin_l1_one_frame_read_only",
        ext::PIN_L1,
        table(one(bit::READ)),
    );
    pin_unpin(
        "pin_unpin_tree_512",
        ext::PIN_L4,
        tree(many(bit::READ_WRITE)),
    );
}

/// A root that leads to one table of each lower level, which maps 512 pages.
fn tree(pages: impl Iterator<Item = u64>) -> Page {
    (2..=4).fold(table(pages), |lower, _| {
        table(core::iter::once(entry_for(lower.frame(), bit::TABLE)))
    })
}
