//! Mapping and unmapping grants: a domain maps its own, so that one guest is enough.

use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Why, value};
use xenolith_guests::xen::errno::EFAULT;
use xenolith_guests::xen::{call_at, grant, nr, own_domain};
use xenolith_guests::{arch, ensure, expect};

use super::{Case, Outcome};
use grant::{entry, gnt, map_flag, op};

pub(crate) const CASES: &[Case] = &[
    ("grant_map.shows_the_page", shows_the_page),
    ("grant_map.read_only", read_only),
    ("grant_map.twice", twice),
    ("grant_map.several_in_one_call", several),
    ("grant_map.bad_references", bad_references),
    ("grant_map.bad_domains", bad_domains),
    ("grant_map.bad_flags", bad_flags),
    ("grant_map.bad_handles", bad_handles),
    ("grant_map.unmap_at_another_address", wrong_address),
    ("grant_map.withdrawn_while_mapped", withdrawn),
];

const REFERENCE: u32 = 30;

/// A free guest-physical page of the grant window, behind the table's own frames.
fn window(index: u64) -> Page {
    Page::at(arch::grant_window()).after(32 + index)
}

fn map(reference: u32, at: Page, flags: u32) -> (i64, grant::Map) {
    let mut map = grant::Map {
        host_address: at.address(),
        flags,
        reference,
        domain: own_domain(),
        status: 77,
        ..grant::Map::default()
    };
    (grant::one(op::MAP, &mut map), map)
}

fn unmap(handle: u32, at: Page) -> (i64, i16) {
    let mut unmap = grant::Unmap {
        host_address: at.address(),
        handle,
        status: 77,
        ..grant::Unmap::default()
    };
    (grant::one(op::UNMAP, &mut unmap), unmap.status)
}

/// A page of this guest, granted to itself under `reference`.
fn granted(reference: u32, flags: u16) -> Page {
    grant::table();
    let page = Page::take();
    grant::grant(reference, own_domain(), page.frame(), flags);
    page
}

fn mapped(reference: u32, at: Page, flags: u32) -> Result<u32, Why> {
    let (errno, map) = map(reference, at, flags);
    if (errno, map.status) != (0, gnt::OKAY) {
        return Err(Why::new(format_args!(
            "map: {errno}, status {}",
            map.status
        )));
    }
    Ok(map.handle)
}

/// Expects a word of a page of this guest's that is mapped a second time.
fn owner_reads(page: Page, offset: u64, wanted: u64) -> Outcome {
    if !(arch::OWN_GRANT_MOVES && arch::is_nothing_at(page.address() + offset)) {
        expect!(page.read::<u64>(offset), wanted, "read by the owner");
    }
    Ok(())
}

fn shows_the_page() -> Outcome {
    let page = granted(REFERENCE, 0);
    let at = window(0);
    page.write::<u64>(0, 0x1234_5678);
    let handle = mapped(REFERENCE, at, map_flag::HOST_MAP)?;
    expect!(at.read::<u64>(0), 0x1234_5678);
    at.write::<u64>(8, 0x9abc);
    owner_reads(page, 8, 0x9abc)?;
    let flags = grant::flags_of(REFERENCE) & (entry::READING | entry::WRITING);
    expect!(flags, entry::READING | entry::WRITING, "flags while mapped");
    expect!(unmap(handle, at), (0, gnt::OKAY));
    let flags = grant::flags_of(REFERENCE) & (entry::READING | entry::WRITING);
    expect!(flags, 0, "flags after the unmap");
    ensure!(
        arch::is_nothing_at(at.address()),
        "the page is still there after the unmap"
    );
    grant::revoke(REFERENCE);
    Ok(())
}

fn read_only() -> Outcome {
    let page = granted(REFERENCE, 0);
    let at = window(0);
    page.write::<u64>(0, 42);
    let handle = mapped(REFERENCE, at, map_flag::HOST_MAP | map_flag::READ_ONLY)?;
    expect!(at.read::<u64>(0), 42);
    let flags = grant::flags_of(REFERENCE) & (entry::READING | entry::WRITING);
    expect!(flags, entry::READING, "flags while mapped");
    // A store would be retried for ever on Xen; a call that wants to write there is refused.
    expect!(
        call_at(nr::XEN_VERSION, 1, at.address()),
        EFAULT,
        "a call writes to it"
    );
    owner_reads(page, 0, 42)?;
    expect!(unmap(handle, at), (0, gnt::OKAY));
    grant::revoke(REFERENCE);

    granted(REFERENCE, entry::READ_ONLY);
    let (errno, refused) = map(REFERENCE, at, map_flag::HOST_MAP);
    expect!(
        (errno, refused.status),
        (0, gnt::GENERAL_ERROR),
        "a writable map of a read-only grant"
    );
    let handle = mapped(REFERENCE, at, map_flag::HOST_MAP | map_flag::READ_ONLY)?;
    expect!(unmap(handle, at), (0, gnt::OKAY));
    grant::revoke(REFERENCE);
    Ok(())
}

fn twice() -> Outcome {
    let page = granted(REFERENCE, 0);
    let (first, second) = (window(0), window(1));
    let one = mapped(REFERENCE, first, map_flag::HOST_MAP)?;
    let two = mapped(REFERENCE, second, map_flag::HOST_MAP | map_flag::READ_ONLY)?;
    ensure!(one != two, "one handle for two mappings");
    first.write::<u64>(16, 7);
    expect!(second.read::<u64>(16), 7);
    owner_reads(page, 16, 7)?;
    expect!(unmap(one, first), (0, gnt::OKAY));
    expect!(
        grant::flags_of(REFERENCE) & entry::READING,
        entry::READING,
        "one mapping is left"
    );
    expect!(
        grant::flags_of(REFERENCE) & entry::WRITING,
        0,
        "no writable mapping is left"
    );
    expect!(unmap(two, second), (0, gnt::OKAY));
    expect!(unmap(two, second), (0, gnt::BAD_HANDLE), "unmapped again");
    grant::revoke(REFERENCE);
    Ok(())
}

fn several() -> Outcome {
    let mut maps = [grant::Map::default(); 4];
    for (index, map) in (0u32..).zip(maps.iter_mut()) {
        let page = granted(REFERENCE + index, 0);
        page.write::<u32>(0, 100 + index);
        map.host_address = window(u64::from(index)).address();
        map.flags = map_flag::HOST_MAP;
        map.reference = REFERENCE + index;
        map.domain = own_domain();
    }
    grant::revoke(REFERENCE + 2);
    expect!(grant::many(op::MAP, &mut maps), 0);
    let mut unmaps = [grant::Unmap::default(); 4];
    for (index, (map, unmap)) in (0u32..).zip(maps.iter().zip(unmaps.iter_mut())) {
        let wanted = if index == 2 {
            gnt::GENERAL_ERROR
        } else {
            gnt::OKAY
        };
        expect!(map.status, wanted, "map {index}");
        if index != 2 {
            expect!(window(u64::from(index)).read::<u32>(0), 100 + index);
        }
        unmap.host_address = map.host_address;
        unmap.handle = if index == 2 { u32::MAX } else { map.handle };
    }
    expect!(grant::many(op::UNMAP, &mut unmaps), 0);
    for (index, unmap) in unmaps.iter().enumerate() {
        let wanted = if index == 2 {
            gnt::BAD_HANDLE
        } else {
            gnt::OKAY
        };
        expect!(unmap.status, wanted, "unmap {index}");
        grant::revoke(REFERENCE + index as u32);
    }
    Ok(())
}

fn bad_references() -> Outcome {
    grant::table();
    grant::revoke(REFERENCE);
    for (reference, wanted) in [
        (REFERENCE, gnt::GENERAL_ERROR),
        (0x7fff_ffff, gnt::BAD_GNTREF),
        (u32::MAX, gnt::BAD_GNTREF),
    ] {
        let (errno, map) = map(reference, window(0), map_flag::HOST_MAP);
        expect!((errno, map.status), (0, wanted), "reference {reference:#x}");
    }
    // Granted to somebody else.
    grant::grant(REFERENCE, 77, Page::take().frame(), 0);
    let (errno, other) = map(REFERENCE, window(0), map_flag::HOST_MAP);
    expect!(
        (errno, other.status),
        (0, gnt::GENERAL_ERROR),
        "granted to another"
    );
    // Granted, but no memory is there.
    grant::grant(REFERENCE, own_domain(), 0xfff_ffff, 0);
    let (errno, nothing) = map(REFERENCE, window(0), map_flag::HOST_MAP);
    expect!(errno, 0);
    value("grant_map.of_no_memory", i64::from(nothing.status));
    expect!(
        grant::flags_of(REFERENCE) & (entry::READING | entry::WRITING),
        0,
        "flags after a failure"
    );
    grant::revoke(REFERENCE);
    Ok(())
}

fn bad_domains() -> Outcome {
    for domain in [1234, 0x7ff1, 0x7ff2, 0x7ff0] {
        let mut map = grant::Map {
            host_address: window(0).address(),
            flags: map_flag::HOST_MAP,
            reference: REFERENCE,
            domain,
            status: 77,
            ..grant::Map::default()
        };
        expect!(grant::one(op::MAP, &mut map), 0);
        expect!(map.status, gnt::BAD_DOMAIN, "domain {domain:#x}");
    }
    Ok(())
}

fn bad_flags() -> Outcome {
    granted(REFERENCE, 0);
    for flags in [
        0,
        map_flag::READ_ONLY,
        map_flag::CONTAINS_PTE,
        map_flag::HOST_MAP | map_flag::CONTAINS_PTE,
    ] {
        let (errno, map) = map(REFERENCE, window(0), flags);
        expect!(errno, 0, "flags {flags:#x}");
        value(
            format_args!("grant_map.flags_{flags:x}"),
            i64::from(map.status),
        );
        if map.status == gnt::OKAY {
            unmap(map.handle, window(0));
        }
    }
    grant::revoke(REFERENCE);
    Ok(())
}

fn bad_handles() -> Outcome {
    for handle in [u32::MAX, 0x7fff_ffff, 5000] {
        expect!(
            unmap(handle, window(0)),
            (0, gnt::BAD_HANDLE),
            "handle {handle:#x}"
        );
    }
    Ok(())
}

fn wrong_address() -> Outcome {
    granted(REFERENCE, 0);
    let at = window(0);
    let handle = mapped(REFERENCE, at, map_flag::HOST_MAP)?;
    let (errno, status) = unmap(handle, window(5));
    expect!(errno, 0);
    value("grant_map.unmap_at_another_address", i64::from(status));
    value("grant_map.unmap_after_that", i64::from(unmap(handle, at).1));
    grant::revoke(REFERENCE);
    Ok(())
}

/// The owner takes the entry back while it is in use: the mapping lives on until its unmap.
fn withdrawn() -> Outcome {
    let page = granted(REFERENCE, 0);
    let at = window(0);
    let handle = mapped(REFERENCE, at, map_flag::HOST_MAP)?;
    grant::revoke(REFERENCE);
    page.write::<u64>(0, 5);
    if !arch::OWN_GRANT_MOVES {
        expect!(at.read::<u64>(0), 5);
    }
    expect!(unmap(handle, at), (0, gnt::OKAY));
    grant::revoke(REFERENCE);
    Ok(())
}
