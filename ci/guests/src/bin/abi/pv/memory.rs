//! `memory_op` where frames are the machine's: pages come and go under other numbers, are exchanged, and are found by the
//! machine-to-physical table.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{self, bit, entry_for, flush, update_va_mapping};
use xenolith_guests::arch::{self, NON_CANONICAL, UNMAPPED, memory};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{
    EACCES, EBUSY, EFAULT, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM, ESRCH,
};
use xenolith_guests::xen::memory::{Exchange, Reservation, exchange_of, op, reservation};
use xenolith_guests::xen::multicall::{self, Entry};
use xenolith_guests::xen::{SELF, call, call_at, nr};
use xenolith_guests::{ensure, expect};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("memory_pv.a_page_goes_and_another_comes", round_trip),
    ("memory_pv.a_mapped_page_stays_until_it_is_unmapped", mapped),
    ("memory_pv.what_may_not_go", refused),
    ("memory_pv.populate_tells_where_it_is", populate),
    ("memory_pv.exchange", exchange),
    ("memory_pv.exchange_refuses", bad_exchange),
    ("memory_pv.machine_to_physical_tables", tables_of_frames),
    ("memory_pv.no_table_for_32_bit_kernels", narrow_table),
    ("memory_pv.memory_op_in_a_multicall", in_multicall),
    ("memory_pv.physmap_is_for_others", physmap),
];

const BEYOND: u64 = 0xf_ffff_ffff;
const VGA: u64 = 0xb8;
const DOMID_XEN: u64 = 0x7ff2;
/// Pseudo-physical frames behind everything that is mapped.
const SPARE: u64 = 0x4000;

fn spare(index: u64) -> u64 {
    memory::machine_frame(SPARE + index)
}

fn current() -> i64 {
    call(nr::MEMORY_OP, op::CURRENT_RESERVATION, &mut { SELF })
}

/// Puts `frame` in the p2m list at `pfn`; the list is the guest's own.
fn note(pfn: u64, frame: u64) {
    arch::write64(memory::p2m_entry(pfn), frame);
}

fn round_trip() -> Outcome {
    let before = current();
    for turn in 0..3 {
        let old = spare(0);
        expect!(
            reservation(op::DECREASE_RESERVATION, &mut [old], 0),
            1,
            "decrease"
        );
        expect!(current(), before - 1);
        expect!(
            reservation(op::DECREASE_RESERVATION, &mut [old], 0),
            0,
            "again"
        );
        expect!(
            tables::try_entry(0, entry_for(old, bit::READ_WRITE)) < 0,
            true,
            "it can be mapped"
        );
        let mut frames = [SPARE];
        expect!(
            reservation(op::POPULATE_PHYSMAP, &mut frames, 0),
            1,
            "populate"
        );
        expect!(
            memory::physical_frame(frames[0]),
            SPARE,
            "machine to physical, turn {turn}"
        );
        note(SPARE, frames[0]);
        let address = tables::set_entry(0, entry_for(frames[0], bit::READ_WRITE));
        // A page that a living domain gave back is not cleared.
        arch::write64(address, 9);
        arch::unmap_page(0);
    }
    expect!(current(), before);
    Ok(())
}

/// The hypervisor takes back what it gave; the mapping's reference keeps the frame.
fn mapped() -> Outcome {
    let page = Page::take();
    let (frame, pfn) = (page.frame(), memory::physical_frame(page.frame()));
    page.write::<u64>(0, 3);
    let before = current();
    expect!(reservation(op::DECREASE_RESERVATION, &mut [frame], 0), 1);
    expect!(page.read::<u64>(0), 3, "it can still be read");
    value(
        "memory_pv.reservation_with_a_mapped_page_gone",
        current() - before,
    );
    expect!(update_va_mapping(page.address(), 0, flush::INVLPG), 0);
    expect!(current(), before - 1, "once it is unmapped");
    let mut frames = [pfn];
    expect!(reservation(op::POPULATE_PHYSMAP, &mut frames, 0), 1);
    note(pfn, frames[0]);
    expect!(
        update_va_mapping(
            page.address(),
            entry_for(frames[0], bit::READ_WRITE),
            flush::INVLPG
        ),
        0
    );
    page.write::<u64>(0, 4);
    expect!(current(), before);
    Ok(())
}

fn refused() -> Outcome {
    let mut answers = Answers::default();
    let decrease = |frame: u64| reservation(op::DECREASE_RESERVATION, &mut [frame], 0);
    answers.take("no frame", decrease(BEYOND), 0);
    answers.take("a device", decrease(VGA), 0);
    let first = spare(1);
    answers.take(
        "stops at the bad one",
        reservation(op::DECREASE_RESERVATION, &mut [first, BEYOND, spare(2)], 0),
        1,
    );
    let mut frames = [SPARE + 1];
    answers.take("back", reservation(op::POPULATE_PHYSMAP, &mut frames, 0), 1);
    note(SPARE + 1, frames[0]);
    let before = current();
    answers.take(
        "a table in use",
        decrease(memory::frame_of(tables::window_entry(0))),
        1,
    );
    answers.take("it is still a table", tables::try_entry(0, 0), 0);
    value("memory_pv.reservation_without_a_table", current() - before);
    answers.end()
}

fn populate() -> Outcome {
    let mut answers = Answers::default();
    let before = current();
    let most = call(nr::MEMORY_OP, op::MAXIMUM_RESERVATION, &mut { SELF });
    value("memory_pv.may_grow_by", most - before);
    let mut frames = [0u64; 1];
    let increased = reservation(op::INCREASE_RESERVATION, &mut frames, 0);
    value("memory_pv.increase_of_one", increased);
    if increased == 1 {
        answers.take(
            "give it back",
            reservation(op::DECREASE_RESERVATION, &mut frames, 0),
            1,
        );
    }
    let mut out = [spare(4)];
    answers.take(
        "decrease",
        reservation(op::DECREASE_RESERVATION, &mut out, 0),
        1,
    );
    let mut more = [SPARE + 4];
    answers.take(
        "populate a pfn that the list names",
        reservation(op::POPULATE_PHYSMAP, &mut more, 0),
        1,
    );
    ensure!(more[0] != SPARE + 4, "the frame is not told");
    note(SPARE + 4, more[0]);
    answers.take("as much as before", current() >= before - 1, true);
    answers.end()
}

fn exchange() -> Outcome {
    let mut answers = Answers::default();
    let before = current();
    let old = spare(8);
    let mut wanted = [SPARE + 8];
    answers.take(
        "one for one",
        exchange_of(&mut [old], 0, &mut wanted, 0, 0),
        (0, 1),
    );
    answers.take(
        "machine to physical",
        memory::physical_frame(wanted[0]),
        SPARE + 8,
    );
    note(SPARE + 8, wanted[0]);
    // Four single pages for four in a row, and back.
    let mut given = [16, 17, 18, 19].map(spare);
    let mut wanted = [SPARE + 16];
    answers.take(
        "four for an extent",
        exchange_of(&mut given, 0, &mut wanted, 2, 0),
        (0, 4),
    );
    for index in 0..4 {
        answers.take(
            format_args!("page {index}"),
            memory::physical_frame(wanted[0] + index),
            SPARE + 16 + index,
        );
        note(SPARE + 16 + index, wanted[0] + index);
    }
    let mut pages = [16, 17, 18, 19].map(|index| SPARE + index);
    answers.take(
        "an extent for four",
        exchange_of(&mut [wanted[0]], 2, &mut pages, 0, 0),
        (0, 1),
    );
    for (index, frame) in (0u64..).zip(pages) {
        note(SPARE + 16 + index, frame);
    }
    answers.take(
        "below 4 GiB",
        exchange_of(&mut [spare(8)], 0, &mut wanted, 0, 32),
        (0, 1),
    );
    answers.take("it is", wanted[0] < 1 << 20, true);
    note(SPARE + 8, wanted[0]);
    answers.take("reservation", current(), before);
    answers.end()
}

fn bad_exchange() -> Outcome {
    let mut answers = Answers::default();
    let good = spare(8);
    let pfn = SPARE + 8;
    answers.take(
        "no frame",
        exchange_of(&mut [BEYOND], 0, &mut [pfn], 0, 0),
        (EINVAL, 0),
    );
    answers.take(
        "unequal sizes",
        exchange_of(&mut [good], 0, &mut [pfn, pfn], 0, 0),
        (EINVAL, 0),
    );
    answers.take(
        "unequal orders",
        exchange_of(&mut [good], 0, &mut [pfn], 1, 0),
        (EINVAL, 0),
    );
    answers.take(
        "a large order",
        exchange_of(&mut [good], 0, &mut [pfn], 40, 0),
        (EPERM, 0),
    );
    answers.take(
        "orders both",
        exchange_of(&mut [good], 20, &mut [pfn], 20, 0),
        (EPERM, 0),
    );
    let page = Page::take();
    answers.take(
        "a mapped page",
        exchange_of(&mut [page.frame()], 0, &mut [pfn], 0, 0),
        (EINVAL, 0),
    );
    answers.take(
        "a table",
        exchange_of(&mut [memory::frame_of(tables::root())], 0, &mut [pfn], 0, 0),
        (EINVAL, 0),
    );
    answers.take(
        "below 1 MiB",
        exchange_of(&mut [good], 0, &mut [pfn], 0, 1),
        (ENOMEM, 0),
    );
    let mut argument = Exchange {
        given: Reservation {
            extents: UNMAPPED,
            count: 1,
            order: 0,
            flags: 0,
            domain: SELF,
        },
        wanted: Reservation {
            extents: UNMAPPED,
            count: 1,
            order: 0,
            flags: 0,
            domain: SELF,
        },
        done: 0,
    };
    answers.take(
        "frames at a bad pointer",
        call(nr::MEMORY_OP, op::EXCHANGE, &mut argument),
        EFAULT,
    );
    argument.done = 1;
    answers.take(
        "all done before",
        call(nr::MEMORY_OP, op::EXCHANGE, &mut argument),
        0,
    );
    argument.done = 2;
    answers.take(
        "more done than there are",
        call(nr::MEMORY_OP, op::EXCHANGE, &mut argument),
        EINVAL,
    );
    argument.done = 0;
    argument.given.domain = 1234;
    answers.take(
        "unequal domains",
        call(nr::MEMORY_OP, op::EXCHANGE, &mut argument),
        EINVAL,
    );
    argument.wanted.domain = 1234;
    answers.take(
        "nobody's",
        call(nr::MEMORY_OP, op::EXCHANGE, &mut argument),
        ESRCH,
    );
    for address in [UNMAPPED, NON_CANONICAL] {
        answers.take(
            format_args!("at {address:#x}"),
            call_at(nr::MEMORY_OP, op::EXCHANGE, address),
            EFAULT,
        );
    }
    answers.end()
}

fn tables_of_frames() -> Outcome {
    let mut answers = Answers::default();
    let mut mapping = [0u64; 3];
    answers.take(
        "mapping",
        call(nr::MEMORY_OP, op::MACHPHYS_MAPPING, &mut mapping),
        0,
    );
    answers.take("start", mapping[0], memory::MACHINE_TO_PHYS);
    answers.take("end", mapping[1], 0xffff_8040_0000_0000);
    value("memory_pv.last_frame", mapping[2] as i64);
    #[repr(C)]
    struct List(u32, u64, u32);
    let mut frames = [0u64; 4];
    let mut list = List(4, frames.as_mut_ptr() as u64, 77);
    answers.take("list", call(nr::MEMORY_OP, op::MACHPHYS_LIST, &mut list), 0);
    answers.take(
        "one for each 2 MiB of it",
        u64::from(list.2),
        (mapping[2] * 8 >> 21) + 1,
    );
    let first = frames[0];
    answers.take(
        "as an own frame",
        tables::try_entry(0, entry_for(first, bit::READ)),
        EBUSY,
    );
    let map = |bits: u64| {
        let at = tables::machine_address(tables::window_entry(0));
        let value = entry_for(first, bits);
        tables::mmu_update_of(&[tables::Update { at, value }], DOMID_XEN).0
    };
    answers.take("mapped to write", map(bit::READ_WRITE), EBUSY);
    answers.take("mapped to read", map(bit::READ), 0);
    if tables::entry(0) != 0 {
        answers.take(
            "it is the table",
            arch::read64(arch::WINDOW + 8),
            memory::physical_frame(1),
        );
    }
    arch::unmap_page(0);
    let mut list = List(4, UNMAPPED, 0);
    answers.take(
        "list at a bad pointer",
        call(nr::MEMORY_OP, op::MACHPHYS_LIST, &mut list),
        EFAULT,
    );
    answers.end()
}

fn in_multicall() -> Outcome {
    let mut frames = [spare(5)];
    let mut argument = Reservation {
        extents: frames.as_mut_ptr() as u64,
        count: 1,
        order: 0,
        flags: 0,
        domain: SELF,
    };
    let at = (&raw mut argument) as u64;
    let mut unmap = Entry::new(nr::UPDATE_VA_MAPPING, arch::WINDOW, 0);
    unmap.args[2] = flush::INVLPG;
    let mut calls = [
        Entry::new(nr::MEMORY_OP, op::DECREASE_RESERVATION, at),
        unmap,
    ];
    expect!(multicall::list(&mut calls), 0);
    expect!(calls.map(|call| call.result), [1, 0]);
    frames[0] = SPARE + 5;
    let mut calls = [Entry::new(nr::MEMORY_OP, op::POPULATE_PHYSMAP, at), unmap];
    expect!(multicall::list(&mut calls), 0);
    expect!(calls.map(|call| call.result), [1, 0]);
    // SAFETY: the call wrote it.
    let frame = unsafe { frames.as_ptr().read_volatile() };
    expect!(memory::physical_frame(frame), SPARE + 5);
    note(SPARE + 5, frame);
    Ok(())
}

/// The table for 32-bit kernels, told of where such kernels can run: on neither of the two. And calls that nothing interrupts
/// are not begun in their middle.
fn narrow_table() -> Outcome {
    let mut answers = Answers::default();
    #[repr(C)]
    struct List(u32, u64, u32);
    let mut frames = [0u64; 4];
    for room in [0, 1, 4] {
        let mut list = List(room, frames.as_mut_ptr() as u64, 77);
        let told = call(nr::MEMORY_OP, op::MACHPHYS_COMPAT_LIST, &mut list);
        answers.take(format_args!("room for {room}"), told, EOPNOTSUPP);
        answers.take("not counted", list.2, 77);
    }
    answers.take("no frames", frames, [0; 4]);
    for address in [UNMAPPED, NON_CANONICAL] {
        answers.take(
            format_args!("at {address:#x}"),
            call_at(nr::MEMORY_OP, op::MACHPHYS_COMPAT_LIST, address),
            EOPNOTSUPP,
        );
    }
    const GET_SHARING_FREED_PAGES: u64 = 18;
    const GET_SHARING_SHARED_PAGES: u64 = 19;
    for operation in [
        op::MACHPHYS_LIST,
        op::MACHPHYS_MAPPING,
        op::MEMORY_MAP,
        op::MACHINE_MEMORY_MAP,
        op::SET_MEMORY_MAP,
        GET_SHARING_FREED_PAGES,
        GET_SHARING_SHARED_PAGES,
        op::MACHPHYS_COMPAT_LIST,
    ] {
        answers.take(
            format_args!("{operation} from the fifth on"),
            call_at(nr::MEMORY_OP, operation | 5 << 6, UNMAPPED),
            ENOSYS,
        );
    }
    answers.end()
}

/// Calls on a translated guest's physical map.
fn physmap() -> Outcome {
    use xenolith_guests::xen::memory::{add_to_physmap, remove_from_physmap, space};
    let mut answers = Answers::default();
    let frame = Page::take().frame();
    answers.take(
        "shared info",
        add_to_physmap(space::SHARED_INFO, 0, frame),
        EACCES,
    );
    answers.take(
        "grant table",
        add_to_physmap(space::GRANT_TABLE, 0, frame),
        EACCES,
    );
    answers.take("remove", remove_from_physmap(frame), EACCES);
    answers.end()
}
