//! Grant table: its size, version, frames, and what whole calls refuse.

use xenolith_guests::arch;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENOSYS};
use xenolith_guests::xen::{SELF, grant, memory};
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};
use grant::{gnt, op};

pub(crate) const CASES: &[Case] = &[
    ("grant.query_size", query_size),
    ("grant.setup_table", setup_table),
    ("grant.table_is_mapped_and_grows", grows),
    ("grant.version", version),
    ("grant.status_frames_are_for_version_2", status_frames),
    ("grant.swap", swap),
    ("grant.transfer_is_refused", transfer),
    ("grant.whole_calls_refused", whole_calls),
];

const NOBODY: u16 = 1234;

/// `gnttab_query_size`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Query {
    domain: u16,
    frames: u32,
    most: u32,
    status: i16,
}

fn query(domain: u16) -> (i64, Query) {
    let mut query = Query {
        domain,
        frames: 0,
        most: 0,
        status: 77,
    };
    (grant::one(op::QUERY_SIZE, &mut query), query)
}

fn setup(domain: u16, frames: u32, list: u64) -> (i64, i16) {
    let mut setup = grant::Setup {
        domain,
        frames,
        status: 77,
        list,
    };
    (grant::one(op::SETUP_TABLE, &mut setup), setup.status)
}

fn query_size() -> Outcome {
    let (errno, size) = query(SELF);
    expect!((errno, size.status), (0, gnt::OKAY));
    ensure!(size.frames <= size.most && size.most >= 4);
    value("grant.frames_at_first", i64::from(size.frames));
    value("grant.most_frames", i64::from(size.most));
    let (errno, size) = query(NOBODY);
    expect!((errno, size.status), (0, gnt::BAD_DOMAIN), "nobody's");
    Ok(())
}

fn setup_table() -> Outcome {
    let mut frames = [u64::MAX; 4];
    expect!(setup(SELF, 1, frames.as_mut_ptr() as u64), (0, gnt::OKAY));
    ensure!(frames[1] == u64::MAX, "more frames than asked were told");
    let most = query(SELF).1.most;
    let (errno, status) = setup(SELF, most + 1, frames.as_mut_ptr() as u64);
    value("grant.setup_beyond_the_limit", errno);
    value("grant.setup_beyond_the_limit_status", i64::from(status));
    expect!(
        setup(NOBODY, 1, frames.as_mut_ptr() as u64),
        (0, gnt::BAD_DOMAIN),
        "nobody's"
    );
    value("grant.setup_of_0_frames", setup(SELF, 0, 0).0);
    Ok(())
}

fn grows() -> Outcome {
    let table = grant::table();
    expect!(table.read::<u16>(0), 0, "flags of entry 0");
    let next = table.after(1);
    expect!(arch::map_grant_frame(1), 0, "second frame");
    next.write::<u64>(0, 0);
    let frames = query(SELF).1.frames;
    ensure!(frames >= 2, "{frames} frames after the growth");
    if arch::IS_TRANSLATED {
        let most = query(SELF).1.most;
        let errno =
            memory::add_to_physmap(memory::space::GRANT_TABLE, u64::from(most), next.frame());
        expect!(errno, EINVAL, "beyond the limit");
    }
    Ok(())
}

fn version() -> Outcome {
    #[repr(C)]
    struct GetVersion(u16, u16, u32);
    let mut get = GetVersion(SELF, 0, 99);
    value(
        "grant.get_version_result",
        grant::one(op::GET_VERSION, &mut get),
    );
    expect!(get.2, 1, "version at first");
    let mut get = GetVersion(NOBODY, 0, 99);
    value(
        "grant.get_version_of_nobody",
        grant::one(op::GET_VERSION, &mut get),
    );
    let mut version = 1u32;
    expect!(grant::one(op::SET_VERSION, &mut version), 0, "set 1");
    expect!(version, 1, "told back");
    for bad in [0u32, 3, 99] {
        expect!(
            grant::one(op::SET_VERSION, &mut { bad }),
            EINVAL,
            "set {bad}"
        );
    }
    let mut two = 2u32;
    value("grant.set_version_2", grant::one(op::SET_VERSION, &mut two));
    expect!(
        grant::one(op::SET_VERSION, &mut { version }),
        0,
        "back to 1"
    );
    Ok(())
}

fn status_frames() -> Outcome {
    #[repr(C)]
    struct StatusFrames(u32, u16, i16, u64);
    let mut frames = [0u64; 4];
    let mut get = StatusFrames(1, SELF, 77, frames.as_mut_ptr() as u64);
    let errno = grant::one(op::GET_STATUS_FRAMES, &mut get);
    // Xen on x86 does not know the call from translated guests.
    ensure!(matches!(errno, 0 | ENOSYS), "{errno}");
    value("grant.status_frames_in_version_1", i64::from(get.2));
    Ok(())
}

fn swap() -> Outcome {
    #[repr(C)]
    struct Swap(u32, u32, i16);
    grant::table();
    grant::grant(20, 5, 0x111, 0);
    grant::grant(21, 6, 0x222, grant::entry::READ_ONLY);
    let mut swap = Swap(20, 21, 77);
    expect!(grant::one(op::SWAP, &mut swap), 0);
    expect!(swap.2, gnt::OKAY);
    let table = grant::table();
    expect!(
        (table.read::<u16>(20 * 8 + 2), table.read::<u32>(20 * 8 + 4)),
        (6, 0x222)
    );
    expect!(
        (table.read::<u16>(21 * 8 + 2), table.read::<u32>(21 * 8 + 4)),
        (5, 0x111)
    );
    let mut swap = Swap(20, 0x7fff_ffff, 77);
    expect!(grant::one(op::SWAP, &mut swap), 0);
    expect!(swap.2, gnt::BAD_GNTREF);
    grant::revoke(20);
    grant::revoke(21);
    Ok(())
}

fn transfer() -> Outcome {
    let mut argument = [0u64; 4];
    value("grant.transfer", grant::one(op::TRANSFER, &mut argument));
    value(
        "grant.unmap_and_replace",
        grant::one(op::UNMAP_AND_REPLACE, &mut argument),
    );
    Ok(())
}

fn whole_calls() -> Outcome {
    let call = |operation: u64, address: u64, count: u64| {
        arch::hypercall(
            xenolith_guests::xen::nr::GRANT_TABLE_OP,
            [operation, address, count, 0, 0],
        )
    };
    for operation in [
        op::MAP,
        op::UNMAP,
        op::COPY,
        op::QUERY_SIZE,
        op::SETUP_TABLE,
        op::SET_VERSION,
    ] {
        expect!(
            call(operation, arch::UNMAPPED, 1),
            EFAULT,
            "op {operation} at a bad pointer"
        );
        expect!(
            call(operation, arch::NON_CANONICAL, 1),
            EFAULT,
            "op {operation} non-canonical"
        );
    }
    for operation in [op::MAP, op::UNMAP, op::COPY] {
        expect!(
            call(operation, arch::UNMAPPED, 0),
            0,
            "op {operation} on nothing"
        );
        expect!(
            call(operation, arch::UNMAPPED, 0xffff_ffff),
            EINVAL,
            "op {operation} on 2^32 - 1"
        );
    }
    for operation in [3, 13, 14, 99] {
        value(
            format_args!("grant.op_{operation}"),
            call(operation, arch::UNMAPPED, 1),
        );
    }
    let mut two = [Query {
        domain: SELF,
        frames: 0,
        most: 0,
        status: 77,
    }; 2];
    expect!(
        grant::many(op::QUERY_SIZE, &mut two),
        EINVAL,
        "two sizes at once"
    );
    Ok(())
}
