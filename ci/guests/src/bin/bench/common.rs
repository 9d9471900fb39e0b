//! Hypercalls, the same on every architecture.

use xenolith_guests::arch::{self, hypercall};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::multicall::Entry;
use xenolith_guests::xen::{SELF, call, event, grant, memory, nr, own_domain, sched, shared};

use xenolith_guests::report::value;

use super::measure as time;

const UNKNOWN: u64 = 62;
const REFERENCE: u32 = 40;
const OTHER: u32 = 41;

pub(super) fn measure() {
    time("xen_version", || {
        hypercall(nr::XEN_VERSION, [0, 0, 0, 0, 0]);
    });
    time("unknown_hypercall", || {
        hypercall(UNKNOWN, [0; 5]);
    });
    time("xen_version_copy", || {
        call(nr::XEN_VERSION, 1, &mut [0u8; 16]);
    });
    time("yield_alone", || {
        sched::yield_now();
    });
    time("runstate_probe", || {
        hypercall(nr::VCPU_OP, [3, 0, 0, 0, 0]);
    });
    multicall();
    events();
    grants();
}

fn multicall() {
    let mut entries = [Entry::new(nr::XEN_VERSION, 0, 0); 8];
    let address = entries.as_mut_ptr() as u64;
    time("multicall_of_8", || {
        hypercall(nr::MULTICALL, [address, 8, 0, 0, 0]);
    });
}

fn events() {
    shared::page();
    let Ok(port) = event::alloc_unbound(SELF, SELF) else {
        return;
    };
    let Ok(local) = event::bind_interdomain(SELF, port) else {
        return;
    };
    shared::mask(port);
    shared::mask(local);
    time("event_send", || {
        event::send(local);
        shared::clear_pending(port);
    });
    event::send(local);
    time("event_send_already_pending", || {
        event::send(local);
    });
    time("poll_ready", || {
        sched::poll(&[port], 0);
    });
    shared::clear_pending(port);
    event::close(local);
    event::close(port);
    time("event_alloc_close", || {
        if let Ok(port) = event::alloc_unbound(SELF, SELF) {
            event::close(port);
        }
    });
}

fn grants() {
    grant::table();
    let (page, target) = (Page::take(), Page::take());
    let own_domain = own_domain();
    grant::grant(REFERENCE, own_domain, page.frame(), 0);
    grant::grant(OTHER, own_domain, target.frame(), 0);
    let mut copy = grant::Copy {
        source: grant::Side {
            place: u64::from(REFERENCE),
            domain: SELF,
            offset: 0,
        },
        target: grant::Side {
            place: target.frame(),
            domain: SELF,
            offset: 0,
        },
        length: 64,
        flags: 1,
        status: 0,
    };
    time("grant_copy_64", || {
        grant::one(grant::op::COPY, &mut copy);
    });
    value("grant_copy_status", i64::from(copy.status));
    copy.length = 4096;
    time("grant_copy_4096", || {
        grant::one(grant::op::COPY, &mut copy);
    });
    let window = arch::grant_window() + 16 * 4096;
    let mut map = grant::Map {
        host_address: window,
        flags: grant::map_flag::HOST_MAP,
        reference: REFERENCE,
        domain: own_domain,
        ..grant::Map::default()
    };
    // Where the page moves, it is gone after the unmap: each turn takes another.
    let mut spare = arch::image().end / 4096 + 2048;
    let mut failed = 0;
    time("grant_map_unmap", || {
        if arch::OWN_GRANT_MOVES {
            spare += 1;
            grant::grant(REFERENCE, own_domain, spare, 0);
        }
        grant::one(grant::op::MAP, &mut map);
        failed += i64::from(map.status != 0);
        let mut unmap = grant::Unmap {
            host_address: window,
            handle: map.handle,
            ..grant::Unmap::default()
        };
        grant::one(grant::op::UNMAP, &mut unmap);
    });
    value("grant_map_status", failed);
    let mut frames = [Page::take().frame()];
    time("decrease_populate", || {
        memory::reservation(memory::op::DECREASE_RESERVATION, &mut frames, 0);
        memory::reservation(memory::op::POPULATE_PHYSMAP, &mut frames, 0);
    });
    time("query_grant_size", || {
        #[repr(C)]
        struct Query(u16, u32, u32, i16);
        grant::one(grant::op::QUERY_SIZE, &mut Query(SELF, 0, 0, 0));
    });
}
