//! `memory_op`: what may be mapped into the guest's physical space, and removed.

use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EBUSY, EFAULT, EINVAL, ESRCH};
use xenolith_guests::xen::memory::{
    AddToPhysmap, add_to_physmap, op, remove_from_physmap, reservation, space,
};
use xenolith_guests::xen::{SELF, call, call_at, nr, shared};
use xenolith_guests::{arch, ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("physmap.shared_info", shared_info),
    ("physmap.bad_indices_and_spaces", bad_spaces),
    ("physmap.bad_domains_and_pointers", bad_domains),
    ("physmap.remove", remove),
    ("physmap.batch", batch),
    ("physmap.a_frame_moves_once_it_is_removed", moves),
];

fn shared_info() -> Outcome {
    let page = shared::page();
    let other = Page::take();
    // Xen moves it on x86 and refuses on ARM.
    for (what, place) in [("own", page), ("second", other), ("first", page)] {
        let errno = add_to_physmap(space::SHARED_INFO, 0, place.frame());
        ensure!(matches!(errno, 0 | EBUSY), "{what} place: {errno}");
        value(
            format_args!("physmap.shared_info_at_its_{what}_place"),
            errno,
        );
    }
    Ok(())
}

fn bad_spaces() -> Outcome {
    let target = Page::take();
    expect!(
        add_to_physmap(space::SHARED_INFO, 1, target.frame()),
        EINVAL,
        "shared_info 1"
    );
    expect!(
        add_to_physmap(space::GRANT_TABLE, 0xffff_ffff, target.frame()),
        EINVAL,
        "grant frame"
    );
    // No such frame: one that is there moves, where the space of guest frames is served.
    for space in [2, 4, 6, 99] {
        value(
            format_args!("physmap.space_{space}"),
            add_to_physmap(space, 0xfff_ffff, target.frame()),
        );
    }
    target.write::<u64>(0, 1);
    expect!(target.read::<u64>(0), 1, "the page is as it was");
    Ok(())
}

fn bad_domains() -> Outcome {
    let mut argument = AddToPhysmap {
        domain: 1234,
        size: 0,
        space: space::SHARED_INFO,
        index: 0,
        frame: 0,
    };
    expect!(
        call(nr::MEMORY_OP, op::ADD_TO_PHYSMAP, &mut argument),
        ESRCH
    );
    expect!(
        call(nr::MEMORY_OP, op::REMOVE_FROM_PHYSMAP, &mut [1234u64, 0]),
        ESRCH
    );
    for address in [arch::UNMAPPED, arch::NON_CANONICAL] {
        for operation in [
            op::ADD_TO_PHYSMAP,
            op::REMOVE_FROM_PHYSMAP,
            op::ADD_TO_PHYSMAP_BATCH,
        ] {
            expect!(
                call_at(nr::MEMORY_OP, operation, address),
                EFAULT,
                "sub-op {operation}"
            );
        }
    }
    Ok(())
}

fn remove() -> Outcome {
    let page = Page::take();
    page.write::<u64>(0, 1);
    expect!(remove_from_physmap(page.frame()), 0);
    ensure!(
        arch::is_nothing_at(page.address()),
        "the page is still there"
    );
    value("physmap.remove_again", remove_from_physmap(page.frame()));
    value(
        "physmap.remove_no_such_frame",
        remove_from_physmap(0xfff_ffff),
    );
    value(
        "physmap.populate_after_remove",
        reservation(op::POPULATE_PHYSMAP, &mut [page.frame()], 0),
    );
    Ok(())
}

/// A grant-table frame has one place; it can go to another after it left the first.
fn moves() -> Outcome {
    let window = Page::at(arch::grant_window());
    let (first, second) = (window.after(12), window.after(13));
    expect!(add_to_physmap(space::GRANT_TABLE, 4, first.frame()), 0);
    first.write::<u64>(0, 0x77 << 32);
    // Xen moves it on x86 and refuses on ARM.
    let second_place = add_to_physmap(space::GRANT_TABLE, 4, second.frame());
    value("physmap.a_second_place", second_place);
    ensure!(matches!(second_place, 0 | EBUSY), "{second_place}");
    if second_place == 0 {
        expect!(remove_from_physmap(second.frame()), 0);
    } else {
        expect!(remove_from_physmap(first.frame()), 0);
    }
    expect!(
        add_to_physmap(space::GRANT_TABLE, 4, second.frame()),
        0,
        "after the removal"
    );
    expect!(second.read::<u64>(0), 0x77 << 32, "contents");
    second.write::<u64>(0, 0);
    Ok(())
}

/// `xen_add_to_physmap_batch`.
#[repr(C)]
struct Batch {
    domain: u16,
    space: u16,
    size: u16,
    foreign: u16,
    indices: u64,
    frames: u64,
    errors: u64,
}

fn batch() -> Outcome {
    let window = Page::at(arch::grant_window());
    let indices = [2u64, 3, 0xffff_ffff, 0];
    let frames = [0, 1, 2, 3].map(|index| window.after(8 + index).frame());
    let mut errors = [77i32; 4];
    let mut batch = Batch {
        domain: SELF,
        space: space::GRANT_TABLE as u16,
        size: 3,
        foreign: 0,
        indices: indices.as_ptr() as u64,
        frames: frames.as_ptr() as u64,
        errors: errors.as_mut_ptr() as u64,
    };
    let answer = call(nr::MEMORY_OP, op::ADD_TO_PHYSMAP_BATCH, &mut batch);
    expect!(answer, 0);
    let errors = Page::at(batch.errors).read::<[i32; 4]>(batch.errors & 0xfff);
    expect!(errors, [0, 0, EINVAL as i32, 77]);
    batch.size = 0;
    expect!(
        call(nr::MEMORY_OP, op::ADD_TO_PHYSMAP_BATCH, &mut batch),
        0,
        "nothing"
    );
    batch.size = 1;
    batch.domain = 1234;
    expect!(
        call(nr::MEMORY_OP, op::ADD_TO_PHYSMAP_BATCH, &mut batch),
        ESRCH,
        "nobody's"
    );
    batch.domain = SELF;
    batch.errors = arch::UNMAPPED;
    expect!(
        call(nr::MEMORY_OP, op::ADD_TO_PHYSMAP_BATCH, &mut batch),
        EFAULT,
        "errors"
    );
    Ok(())
}
