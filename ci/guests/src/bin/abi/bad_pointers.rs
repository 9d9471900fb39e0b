//! Pointers that lead nowhere, to read-only pages, across a page's end, or are odd.

use xenolith_guests::arch::{self, Access};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::errno::EFAULT;
use xenolith_guests::xen::{SELF, call_at, event, memory, nr, own_domain};
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("pointers.nowhere", nowhere),
    ("pointers.device_memory", device_memory),
    ("pointers.results_to_a_read_only_page", read_only),
    ("pointers.across_the_end_of_a_page", across),
    ("pointers.two_pages_apart_in_memory", split),
    ("pointers.odd_addresses", odd),
];

/// Calls that read an argument struct first.
const READERS: &[(u64, u64)] = &[
    (nr::EVENT_CHANNEL_OP, event::op::ALLOC_UNBOUND),
    (nr::EVENT_CHANNEL_OP, event::op::CLOSE),
    (nr::EVENT_CHANNEL_OP, event::op::SEND),
    (nr::EVENT_CHANNEL_OP, event::op::STATUS),
    (nr::MEMORY_OP, memory::op::CURRENT_RESERVATION),
    (nr::MEMORY_OP, memory::op::ADD_TO_PHYSMAP),
    (nr::HVM_OP, 0),
    (nr::HVM_OP, 1),
    (nr::SCHED_OP, 3),
    (nr::XEN_VERSION, 6),
];

fn nowhere() -> Outcome {
    let addresses = [
        arch::UNMAPPED,
        arch::UNMAPPED + 1,
        arch::NON_CANONICAL,
        arch::UPPER_HALF,
        u64::MAX,
        u64::MAX - 7,
    ];
    for &(number, sub) in READERS {
        for address in addresses {
            expect!(
                call_at(number, sub, address),
                EFAULT,
                "{number}.{sub} at {address:#x}"
            );
        }
    }
    Ok(())
}

fn device_memory() -> Outcome {
    for &(number, sub) in READERS {
        let errno = call_at(number, sub, arch::device_address());
        expect!(errno, EFAULT, "{number}.{sub}");
    }
    Ok(())
}

fn read_only() -> Outcome {
    let page = Page::take();
    page.write::<[u16; 2]>(0, [SELF, SELF]);
    let address = arch::map_page(0, page.address(), Access::ReadOnly);
    expect!(
        call_at(nr::EVENT_CHANNEL_OP, event::op::ALLOC_UNBOUND, address),
        EFAULT
    );
    expect!(
        page.read::<u32>(4),
        0,
        "written through a read-only mapping"
    );
    Ok(())
}

fn across() -> Outcome {
    let page = Page::take();
    let end = arch::map_page(0, page.address(), Access::ReadWrite) + 4096;
    arch::unmap_page(1);
    for &(number, sub) in READERS {
        expect!(call_at(number, sub, end - 1), EFAULT, "{number}.{sub}");
    }
    Ok(())
}

/// An argument on two pages that are neighbours by address only.
fn split() -> Outcome {
    let first = Page::take_many(3);
    let second = first.after(2);
    let start = arch::map_page(0, first.address(), Access::ReadWrite);
    arch::map_page(1, second.address(), Access::ReadWrite);
    first.write::<[u16; 2]>(4092, [SELF, SELF]);
    second.write::<u32>(0, 0);
    expect!(
        call_at(nr::EVENT_CHANNEL_OP, event::op::ALLOC_UNBOUND, start + 4092),
        0
    );
    let port: u32 = second.read(0);
    ensure!(port > 0, "no port on the second page");
    expect!(
        event::status_of(port).map(|status| status.a as u16),
        Ok(own_domain())
    );
    expect!(event::close(port), 0);
    Ok(())
}

fn odd() -> Outcome {
    let page = Page::take();
    for offset in [1, 2, 3, 5, 7] {
        for (index, byte) in
            (0u64..).zip([SELF as u8, (SELF >> 8) as u8, SELF as u8, (SELF >> 8) as u8])
        {
            page.write::<u8>(offset + index, byte);
        }
        let errno = call_at(
            nr::EVENT_CHANNEL_OP,
            event::op::ALLOC_UNBOUND,
            page.address() + offset,
        );
        expect!(errno, 0, "offset {offset}");
        let port = [4, 5, 6, 7].map(|index| page.read::<u8>(offset + index));
        expect!(event::close(u32::from_le_bytes(port)), 0);
    }
    Ok(())
}
