//! `xen_version`: each sub-op answers, and fills no more than its buffer.

use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENOSYS};
use xenolith_guests::xen::{call_at, nr};
use xenolith_guests::{arch, ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("version.number", number),
    ("version.buffers_are_filled_to_their_size", buffers),
    ("version.capabilities_name_this_machine", capabilities),
    ("version.features", features),
    ("version.page_size", page_size),
    ("version.build_id", build_id),
    ("version.unknown", unknown),
    ("version.bad_buffers", bad_buffers),
];

const EXTRA: u64 = 1;
const COMPILE_INFO: u64 = 2;
const CAPABILITIES: u64 = 3;
const CHANGESET: u64 = 4;
const PLATFORM_PARAMETERS: u64 = 5;
const FEATURES: u64 = 6;
const PAGE_SIZE: u64 = 7;
const GUEST_HANDLE: u64 = 8;
const COMMAND_LINE: u64 = 9;
const BUILD_ID: u64 = 10;
const UNTOUCHED: u8 = 0xee;

/// Sub-op and bytes that it writes.
const BUFFERS: &[(u64, u64)] = &[
    (EXTRA, 16),
    (COMPILE_INFO, 144),
    (CAPABILITIES, 1024),
    (CHANGESET, 64),
    (PLATFORM_PARAMETERS, 8),
    (GUEST_HANDLE, 16),
    (COMMAND_LINE, 1024),
];

fn ask(sub: u64, address: u64) -> i64 {
    call_at(nr::XEN_VERSION, sub, address)
}

fn number() -> Outcome {
    let version = ask(0, 0);
    value("version.number", version);
    ensure!(version >> 16 == 4);
    expect!(version & 0xffff, 17);
    Ok(())
}

fn buffers() -> Outcome {
    let page = Page::take();
    for &(sub, size) in BUFFERS {
        page.fill(UNTOUCHED);
        expect!(ask(sub, page.address()), 0, "sub-op {sub}");
        expect!(
            page.read::<u8>(size),
            UNTOUCHED,
            "byte behind the buffer of sub-op {sub}"
        );
    }
    Ok(())
}

fn capabilities() -> Outcome {
    let page = Page::take();
    expect!(ask(CAPABILITIES, page.address()), 0);
    let text: [u8; 1024] = page.read(0);
    let wanted = arch::CAPABILITY.as_bytes();
    ensure!(
        text.windows(wanted.len()).any(|window| window == wanted),
        "no {}",
        arch::CAPABILITY
    );
    ensure!(text.contains(&0), "not terminated");
    Ok(())
}

fn features() -> Outcome {
    let page = Page::take();
    page.write::<[u32; 2]>(0, [0, 0]);
    expect!(ask(FEATURES, page.address()), 0);
    value("version.features", i64::from(page.read::<u32>(4)));
    page.write::<[u32; 2]>(0, [1, 0]);
    expect!(ask(FEATURES, page.address()), EINVAL, "submap 1");
    Ok(())
}

fn page_size() -> Outcome {
    expect!(ask(PAGE_SIZE, 0), 4096);
    let page = Page::take();
    expect!(ask(PAGE_SIZE, page.address()), EINVAL, "with an argument");
    Ok(())
}

fn build_id() -> Outcome {
    let page = Page::take();
    value("version.build_id_size", ask(BUILD_ID, 0));
    page.write::<u32>(0, 64);
    value("version.build_id", ask(BUILD_ID, page.address()));
    Ok(())
}

fn unknown() -> Outcome {
    for sub in [11, 12, 63, 0x7fff_ffff] {
        expect!(ask(sub, 0), ENOSYS, "sub-op {sub}");
    }
    Ok(())
}

fn bad_buffers() -> Outcome {
    let page = Page::take();
    let read_only = arch::map_page(0, page.address(), arch::Access::ReadOnly);
    for &(sub, _) in BUFFERS {
        for address in [
            arch::UNMAPPED,
            arch::NON_CANONICAL,
            arch::UPPER_HALF,
            read_only,
        ] {
            expect!(ask(sub, address), EFAULT, "sub-op {sub} at {address:#x}");
        }
    }
    let last = arch::map_page(0, page.address(), arch::Access::ReadWrite) + 4096;
    arch::unmap_page(1);
    for &(sub, size) in BUFFERS {
        expect!(
            ask(sub, last - size + 1),
            EFAULT,
            "sub-op {sub} across the end"
        );
        expect!(ask(sub, last - size), 0, "sub-op {sub} up to the end");
    }
    Ok(())
}
