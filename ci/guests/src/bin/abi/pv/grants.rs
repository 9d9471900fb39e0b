//! Grants mapped into page tables: at an address, at the place of an entry, and replaced on unmap.

use core::sync::atomic::{AtomicU32, Ordering};

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{self, bit, entry_for, flush, update_va_mapping};
use xenolith_guests::arch::{
    self, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, exception, fault_of,
};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::grant::{self, entry, gnt, map_flag, op};
use xenolith_guests::xen::own_domain;

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("grant_pv.at_an_address", at_an_address),
    ("grant_pv.at_an_entry", at_an_entry),
    ("grant_pv.read_only_faults_on_a_write", read_only),
    ("grant_pv.places_that_are_refused", bad_places),
    ("grant_pv.over_what_is_mapped", over),
    ("grant_pv.mapping_changed_before_the_unmap", changed),
    ("grant_pv.unmap_and_replace", replace),
    ("grant_pv.a_granted_page_is_no_table", no_table),
    ("grant_pv.a_table_cannot_be_written_through_a_grant", table),
];

/// Each case has a grant of its own, so that one that is stuck does not spoil the next.
static REFERENCE: AtomicU32 = AtomicU32::new(60);

fn reference() -> u32 {
    REFERENCE.load(Ordering::Relaxed)
}

fn granted(flags: u16) -> Page {
    grant::table();
    REFERENCE.fetch_add(1, Ordering::Relaxed);
    let page = Page::take();
    grant::grant(reference(), own_domain(), page.frame(), flags);
    page
}

fn map(at: u64, flags: u32) -> grant::Map {
    let mut map = grant::Map {
        host_address: at,
        flags,
        reference: reference(),
        domain: own_domain(),
        status: 77,
        ..grant::Map::default()
    };
    grant::one(op::MAP, &mut map);
    map
}

fn unmap(at: u64, handle: u32) -> i16 {
    let mut unmap = grant::Unmap {
        host_address: at,
        handle,
        status: 77,
        ..grant::Unmap::default()
    };
    grant::one(op::UNMAP, &mut unmap);
    unmap.status
}

/// Machine address of the entry of page `slot`.
fn place(slot: usize) -> u64 {
    tables::machine_address(tables::window_entry(slot))
}

const HOST: u32 = map_flag::HOST_MAP;
const BY_ENTRY: u32 = map_flag::HOST_MAP | map_flag::CONTAINS_PTE;

fn at_an_address() -> Outcome {
    let mut answers = Answers::default();
    let page = granted(0);
    page.write::<u64>(0, 5);
    let mapped = map(WINDOW, HOST);
    answers.take("map", mapped.status, gnt::OKAY);
    answers.take(
        "the frame",
        tables::frame_in(tables::entry(0)),
        page.frame(),
    );
    answers.take("bus address", mapped.bus_address, page.frame() << 12);
    answers.take("read", arch::read64(WINDOW), 5);
    arch::write64(WINDOW, 6);
    answers.take("written", page.read::<u64>(0), 6);
    answers.take("unmap", unmap(WINDOW, mapped.handle), gnt::OKAY);
    answers.take("the entry", tables::entry(0), 0);
    answers.take("gone", arch::is_nothing_at(WINDOW), true);
    let mapped = map(WINDOW + 0x10, HOST);
    answers.take("inside a page", mapped.status, gnt::OKAY);
    answers.take(
        "unmap at its start",
        unmap(WINDOW, mapped.handle),
        gnt::OKAY,
    );
    let mapped = map(WINDOW, HOST | map_flag::DEVICE_MAP);
    answers.take("for a device too", mapped.status, gnt::OKAY);
    answers.take(
        "unmap of the host's",
        unmap(WINDOW, mapped.handle),
        gnt::OKAY,
    );
    answers.take(
        "in use by the device",
        grant::flags_of(reference()) & entry::READING,
        entry::READING,
    );
    let mut rest = grant::Unmap {
        bus_address: mapped.bus_address,
        handle: mapped.handle,
        status: 77,
        ..grant::Unmap::default()
    };
    grant::one(op::UNMAP, &mut rest);
    answers.take("unmap of the device's", rest.status, gnt::OKAY);
    answers.take(
        "not in use",
        grant::flags_of(reference()) & (entry::READING | entry::WRITING),
        0,
    );
    grant::revoke(reference());
    answers.end()
}

fn at_an_entry() -> Outcome {
    let mut answers = Answers::default();
    let page = granted(0);
    let mapped = map(place(3), BY_ENTRY);
    answers.take("map", mapped.status, gnt::OKAY);
    answers.take(
        "the frame",
        tables::frame_in(tables::entry(3)),
        page.frame(),
    );
    arch::write64(WINDOW + 3 * 4096, 8);
    answers.take("written", page.read::<u64>(0), 8);
    answers.take("unmap", unmap(place(3), mapped.handle), gnt::OKAY);
    answers.take("the entry", tables::entry(3), 0);
    let mapped = map(place(3), BY_ENTRY);
    answers.take(
        "unmap at another entry",
        unmap(place(4), mapped.handle),
        gnt::GENERAL_ERROR,
    );
    answers.take(
        "unmap by address",
        unmap(WINDOW + 3 * 4096, mapped.handle),
        gnt::GENERAL_ERROR,
    );
    answers.take("unmap", unmap(place(3), mapped.handle), gnt::OKAY);
    grant::revoke(reference());
    answers.end()
}

fn read_only() -> Outcome {
    let mut answers = Answers::default();
    granted(entry::READ_ONLY);
    answers.take("writable", map(WINDOW, HOST).status, gnt::GENERAL_ERROR);
    for flags in [HOST, BY_ENTRY] {
        let at = if flags == HOST { WINDOW } else { place(0) };
        let mapped = map(at, flags | map_flag::READ_ONLY);
        answers.take("map", mapped.status, gnt::OKAY);
        let fault = fault_of(|| arch::write64(WINDOW, 1)).map(|fault| (fault.vector, fault.error));
        answers.take("write", fault, Some((exception::PAGE, 3)));
        answers.take("unmap", unmap(at, mapped.handle), gnt::OKAY);
    }
    grant::revoke(reference());
    answers.end()
}

fn bad_places() -> Outcome {
    let mut answers = Answers::default();
    let page = granted(0);
    for address in [UNMAPPED, NON_CANONICAL, UPPER_HALF, !4095, 1 << 40] {
        answers.take(
            format_args!("{address:#x}"),
            map(address, HOST).status,
            gnt::GENERAL_ERROR,
        );
    }
    for (what, at) in [
        ("a page that is no table", page.frame() << 12),
        ("no frame", 0xf_ffff_ffff << 12),
        ("a device", 0xb8 << 12),
        ("inside an entry", place(0) + 4),
        (
            "an entry of level 2",
            tables::machine_address(tables::entry_address(WINDOW, 2).unwrap_or(0)),
        ),
    ] {
        answers.take(what, map(at, BY_ENTRY).status, gnt::GENERAL_ERROR);
    }
    answers.take(
        "not in use",
        grant::flags_of(reference()) & (entry::READING | entry::WRITING),
        0,
    );
    grant::revoke(reference());
    answers.end()
}

/// What is mapped at the place is let go.
fn over() -> Outcome {
    let mut answers = Answers::default();
    let page = granted(0);
    let other = Page::take();
    other.write::<u64>(0, 1);
    arch::map_page(0, other.address(), arch::Access::ReadWrite);
    let mapped = map(WINDOW, HOST);
    answers.take("map", mapped.status, gnt::OKAY);
    arch::write64(WINDOW, 2);
    answers.take("the granted page", page.read::<u64>(0), 2);
    answers.take("the other", other.read::<u64>(0), 1);
    answers.take("unmap", unmap(WINDOW, mapped.handle), gnt::OKAY);
    answers.take("the entry", tables::entry(0), 0);
    grant::revoke(reference());
    answers.end()
}

fn changed() -> Outcome {
    let mut answers = Answers::default();
    let page = granted(0);
    let mapped = map(WINDOW, HOST);
    answers.take("map", mapped.status, gnt::OKAY);
    answers.take(
        "cleared by the guest",
        update_va_mapping(WINDOW, 0, flush::INVLPG),
        0,
    );
    answers.take(
        "in use",
        grant::flags_of(reference()) & entry::WRITING,
        entry::WRITING,
    );
    answers.take("unmap", unmap(WINDOW, mapped.handle), gnt::GENERAL_ERROR);
    answers.take(
        "put back",
        update_va_mapping(
            WINDOW,
            entry_for(page.frame(), bit::READ_WRITE),
            flush::INVLPG,
        ),
        0,
    );
    answers.take("unmap of that", unmap(WINDOW, mapped.handle), gnt::OKAY);
    answers.take(
        "not in use",
        grant::flags_of(reference()) & (entry::READING | entry::WRITING),
        0,
    );
    answers.take("clear", update_va_mapping(WINDOW, 0, flush::INVLPG), 0);
    grant::revoke(reference());
    answers.end()
}

fn replace() -> Outcome {
    #[repr(C)]
    struct Replace {
        host_address: u64,
        new_address: u64,
        handle: u32,
        status: i16,
    }
    let mut answers = Answers::default();
    granted(0);
    let other = Page::take();
    other.write::<u64>(0, 0x31);
    let source = arch::map_page(1, other.address(), arch::Access::ReadWrite);
    let mapped = map(WINDOW, HOST);
    let mut argument = Replace {
        host_address: WINDOW,
        new_address: source,
        handle: mapped.handle,
        status: 77,
    };
    answers.take("call", grant::one(op::UNMAP_AND_REPLACE, &mut argument), 0);
    answers.take("status", argument.status, gnt::OKAY);
    answers.take("the other page is there", arch::read64(WINDOW), 0x31);
    answers.take("and not where it was", arch::is_nothing_at(source), true);
    arch::unmap_page(0);
    arch::unmap_page(1);
    let mapped = map(WINDOW, HOST);
    argument.handle = mapped.handle;
    argument.new_address = UNMAPPED;
    grant::one(op::UNMAP_AND_REPLACE, &mut argument);
    answers.take("by nothing", argument.status, gnt::GENERAL_ERROR);
    answers.take("unmap", unmap(WINDOW, mapped.handle), gnt::OKAY);
    grant::revoke(reference());
    answers.end()
}

fn no_table() -> Outcome {
    let mut answers = Answers::default();
    let page = granted(0);
    let mapped = map(WINDOW, HOST);
    answers.take("map", mapped.status, gnt::OKAY);
    tables::make_read_only(page);
    answers.take(
        "pin",
        tables::mmuext(tables::ext::PIN_L1, page.frame(), 0),
        -22,
    );
    answers.take("unmap", unmap(WINDOW, mapped.handle), gnt::OKAY);
    answers.take(
        "pin after that",
        tables::mmuext(tables::ext::PIN_L1, page.frame(), 0),
        0,
    );
    answers.take(
        "map of a table",
        map(WINDOW, HOST).status,
        gnt::GENERAL_ERROR,
    );
    let mapped = map(WINDOW, HOST | map_flag::READ_ONLY);
    answers.take("map of a table to read", mapped.status, gnt::OKAY);
    answers.take("unmap", unmap(WINDOW, mapped.handle), gnt::OKAY);
    answers.take(
        "unpin",
        tables::mmuext(tables::ext::UNPIN, page.frame(), 0),
        0,
    );
    tables::make_writable(page);
    grant::revoke(reference());
    answers.end()
}

fn table() -> Outcome {
    let mut answers = Answers::default();
    let source = granted(0);
    let table = arch::memory::frame_of(tables::window_entry(0));
    let copy = |target: u64| {
        let mut copy = grant::Copy {
            source: grant::Side {
                place: source.frame(),
                domain: 0x7ff0,
                offset: 0,
            },
            target: grant::Side {
                place: target,
                domain: 0x7ff0,
                offset: 0,
            },
            length: 8,
            ..grant::Copy::default()
        };
        grant::one(op::COPY, &mut copy);
        copy.status
    };
    answers.take("copy to a table", copy(table), gnt::GENERAL_ERROR);
    answers.take(
        "copy to the shared-info page",
        copy(arch::start_info::start_info().shared_info >> 12),
        gnt::OKAY,
    );
    answers.take("copy to no frame", copy(0xf_ffff_ffff), gnt::BAD_PAGE);
    answers.take("copy to a device", copy(0xb8), gnt::BAD_PAGE);
    grant::revoke(reference());
    answers.end()
}
