//! One case for each class of hole that hypervisors with PV guests had in their page tables and entry paths: each tries what
//! the class is about and finds it closed.

use core::sync::atomic::Ordering;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, Update, bit, entry_address, entry_for, ext, machine_address, mmu_update, mmuext,
    update_va_mapping,
};
use xenolith_guests::arch::user::{self, Iret};
use xenolith_guests::arch::{
    self, NON_CANONICAL, UPPER_HALF, WINDOW, exception, fault_of, hypercall, memory, segment,
};
use xenolith_guests::buffer::Page;
use xenolith_guests::expect;
use xenolith_guests::xen::errno::{EBUSY, EFAULT, EINVAL};
use xenolith_guests::xen::memory::{Reservation, op};
use xenolith_guests::xen::multicall::{self, Entry, UNTOUCHED};
use xenolith_guests::xen::{SELF, call, call_at, nr, shared};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("class.a_large_page_over_tables", large_page),
    (
        "class.a_linear_entry_made_writable_in_place",
        linear_in_place,
    ),
    ("class.tables_in_a_ring", ring),
    ("class.a_table_of_its_own_level", own_level),
    ("class.a_validation_that_fails_half_way", half_way),
    ("class.results_written_to_the_hypervisor", results),
    (
        "class.an_argument_list_that_the_call_itself_changes",
        own_list,
    ),
    ("class.a_return_to_no_address", return_to_nothing),
    ("class.bases_of_no_address", bases),
    ("class.a_stack_of_the_hypervisor", stack),
    ("class.descriptors_in_a_page_that_changes", descriptors),
    ("class.a_shared_page_as_a_table", shared_page),
    ("class.a_table_given_back", given_back),
    ("class.a_breakpoint_in_the_hypervisor", breakpoint),
    ("class.flags_that_survive_an_entry", flags),
];

fn place(slot: usize) -> u64 {
    machine_address(tables::window_entry(slot))
}

fn table(entries: &[(u64, u64)]) -> Page {
    let page = Page::take();
    page.fill(0);
    for &(index, entry) in entries {
        page.write(index * 8, entry);
    }
    tables::make_read_only(page);
    page
}

/// A 2 MiB page would show tables inside it to be written.
fn large_page() -> Outcome {
    let mut answers = Answers::default();
    let first = memory::frame_of(tables::root()) & !0x1ff;
    let at = machine_address(entry_address(WINDOW, 2).unwrap_or(0)) + 40 * 8;
    for bits in [
        bit::TABLE | bit::LARGE,
        bit::READ | bit::LARGE,
        bit::PRESENT | bit::LARGE,
    ] {
        answers.take(
            format_args!("{bits:#x}"),
            mmu_update(at, entry_for(first, bits)),
            EINVAL,
        );
        answers.take(
            format_args!("{bits:#x} kept"),
            mmu_update(at | tables::kind::PRESERVE_AD, entry_for(first, bits)),
            EINVAL,
        );
    }
    // Not even by a change of an entry that is there: the frame stays, the bit comes.
    let lower = table(&[]);
    answers.take(
        "a table",
        mmu_update(at, entry_for(lower.frame(), bit::TABLE)),
        0,
    );
    answers.take(
        "made large in place",
        mmu_update(at, entry_for(lower.frame(), bit::TABLE | bit::LARGE)),
        EINVAL,
    );
    answers.take("clear", mmu_update(at, 0), 0);
    answers.take("writable again", tables::make_writable(lower), 0);
    answers.end()
}

/// A read-only entry of a root in itself must not become writable by the short way for changed flags.
fn linear_in_place() -> Outcome {
    let mut answers = Answers::default();
    let root = memory::frame_of(tables::root());
    let at = (root << 12) + 301 * 8;
    for kind in [
        tables::kind::NORMAL,
        tables::kind::PRESERVE_AD,
        tables::kind::NO_TRANSLATE,
    ] {
        answers.take("read-only", mmu_update(at, entry_for(root, bit::READ)), 0);
        answers.take(
            format_args!("made writable by kind {kind}"),
            mmu_update(at | kind, entry_for(root, bit::TABLE)),
            EINVAL,
        );
        answers.take(
            "still read-only",
            arch::read64(tables::root() + 301 * 8) & bit::WRITABLE,
            0,
        );
    }
    answers.take("clear", mmu_update(at, 0), 0);
    answers.end()
}

/// Two roots that name each other, read-only, are allowed once and can be taken apart.
fn ring() -> Outcome {
    let mut answers = Answers::default();
    let [first, second] = [(); 2].map(|_| table(&[]));
    answers.take("pin", mmuext(ext::PIN_L4, first.frame(), 0), 0);
    answers.take("pin", mmuext(ext::PIN_L4, second.frame(), 0), 0);
    let set = |table: Page, lower: u64| mmu_update((table.frame() << 12) + 8, lower);
    answers.take(
        "first names second",
        set(first, entry_for(second.frame(), bit::READ)),
        0,
    );
    answers.take(
        "second names first",
        set(second, entry_for(first.frame(), bit::READ)),
        EINVAL,
    );
    answers.take(
        "second names itself",
        set(second, entry_for(second.frame(), bit::READ)),
        0,
    );
    answers.take("unpin", mmuext(ext::UNPIN, first.frame(), 0), 0);
    answers.take("unpin", mmuext(ext::UNPIN, second.frame(), 0), 0);
    for page in [first, second] {
        answers.take("writable again", tables::make_writable(page), 0);
    }
    answers.end()
}

/// Tables of level 2 and 3 that name one of their own level.
fn own_level() -> Outcome {
    let mut answers = Answers::default();
    for (command, level) in [(ext::PIN_L2, 2), (ext::PIN_L3, 3)] {
        let other = table(&[]);
        answers.take(
            format_args!("pin of level {level}"),
            mmuext(command, other.frame(), 0),
            0,
        );
        for (what, bits, wanted) in [
            ("writable", bit::TABLE, EINVAL),
            ("read-only", bit::READ, 0),
        ] {
            let page = table(&[(3, entry_for(other.frame(), bits))]);
            answers.take(
                format_args!("level {level}, {what}"),
                mmuext(command, page.frame(), 0),
                wanted,
            );
            mmuext(ext::UNPIN, page.frame(), 0);
            answers.take("writable again", tables::make_writable(page), 0);
        }
        let own = table(&[]);
        own_entry(own);
        answers.take(
            format_args!("level {level} in itself"),
            mmuext(command, own.frame(), 0),
            0,
        );
        mmuext(ext::UNPIN, own.frame(), 0);
        answers.take("writable again", tables::make_writable(own), 0);
        answers.take("unpin", mmuext(ext::UNPIN, other.frame(), 0), 0);
        answers.take("writable again", tables::make_writable(other), 0);
    }
    answers.end()
}

fn own_entry(page: Page) {
    mmu_update(
        (page.frame() << 12) + 5 * 8,
        entry_for(page.frame(), bit::READ),
    );
}

/// The last of 512 entries is bad: the 511 before it are let go, and the page is no table of any kind.
fn half_way() -> Outcome {
    let mut answers = Answers::default();
    let lower = table(&[]);
    let page = Page::take();
    for index in 0..511 {
        page.write(index * 8, entry_for(lower.frame(), bit::TABLE));
    }
    page.write(
        511 * 8,
        entry_for(memory::frame_of(tables::root()), bit::TABLE),
    );
    tables::make_read_only(page);
    for _ in 0..3 {
        answers.take("pin", mmuext(ext::PIN_L2, page.frame(), 0), EINVAL);
        answers.take(
            "as another level",
            mmuext(ext::PIN_L3, page.frame(), 0),
            EINVAL,
        );
    }
    answers.take(
        "the last taken away",
        mmu_update((page.frame() << 12) + 511 * 8, 0),
        0,
    );
    answers.take("pin", mmuext(ext::PIN_L2, page.frame(), 0), 0);
    answers.take(
        "a bad one put in",
        mmu_update(
            (page.frame() << 12) + 511 * 8,
            entry_for(memory::frame_of(tables::root()), bit::TABLE),
        ),
        EINVAL,
    );
    answers.take("unpin", mmuext(ext::UNPIN, page.frame(), 0), 0);
    answers.take("writable again", tables::make_writable(page), 0);
    answers.take("writable again", tables::make_writable(lower), 0);
    answers.end()
}

/// Calls that write results: at the hypervisor's addresses nothing is written, and each says so.
fn results() -> Outcome {
    let mut answers = Answers::default();
    let hypervisor = [
        0xffff_82d0_4020_0000,
        0xffff_8300_0000_0000,
        UPPER_HALF,
        0xffff_87ff_ffff_f000,
    ];
    for address in hypervisor {
        #[repr(C)]
        struct Exchange(Reservation, Reservation, u64);
        let given = [memory::machine_frame(0x4100)];
        let side = |extents: u64| Reservation {
            extents,
            count: 1,
            order: 0,
            flags: 0,
            domain: SELF,
        };
        let mut exchange = Exchange(side(given.as_ptr() as u64), side(address), 0);
        answers.take(
            format_args!("exchange to {address:#x}"),
            call(nr::MEMORY_OP, op::EXCHANGE, &mut exchange),
            EFAULT,
        );
        answers.take(
            format_args!("version to {address:#x}"),
            call_at(nr::XEN_VERSION, 1, address),
            EFAULT,
        );
        answers.take(
            format_args!("count to {address:#x}"),
            {
                let request = [Update {
                    at: place(0),
                    value: 0,
                }];
                hypercall(
                    nr::MMU_UPDATE,
                    [request.as_ptr() as u64, 1, address, u64::from(SELF), 0],
                )
            },
            0,
        );
        let mut list = (4u32, address, 0u32);
        let _ = &mut list;
        #[repr(C)]
        struct List(u32, u64, u32);
        answers.take(
            format_args!("table list to {address:#x}"),
            call(nr::MEMORY_OP, op::MACHPHYS_LIST, &mut List(4, address, 0)),
            EFAULT,
        );
        answers.take(
            format_args!("multicall at {address:#x}"),
            hypercall(nr::MULTICALL, [address, 1, 0, 0, 0]),
            EFAULT,
        );
    }
    answers.end()
}

/// A multicall whose first entry unmaps the page of the list.
fn own_list() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    let at = arch::map_page(5, page.address(), arch::Access::ReadWrite);
    let mut unmap = Entry::new(nr::UPDATE_VA_MAPPING, at, 0);
    unmap.args[2] = tables::flush::INVLPG;
    page.write(0, [unmap, Entry::new(nr::XEN_VERSION, 0, 0)]);
    answers.take("the list goes", multicall::at(at, 2), EFAULT);
    let list: [Entry; 2] = page.read(0);
    answers.take(
        "no result is written",
        list.map(|entry| entry.result),
        [UNTOUCHED; 2],
    );
    answers.take("it was done", arch::is_nothing_at(at), true);
    // A list on a table: results cannot be written there.
    // The number of its call, `console_io`, is an entry that is not present.
    let list = table(&[(0, nr::CONSOLE_IO)]);
    answers.take("pin", mmuext(ext::PIN_L1, list.frame(), 0), 0);
    answers.take(
        "a list in a table",
        hypercall(nr::MULTICALL, [list.address(), 1, 0, 0, 0]),
        EFAULT,
    );
    answers.take("it stays a table of nothing", list.read::<u64>(8), 0);
    answers.take("unpin", mmuext(ext::UNPIN, list.frame(), 0), 0);
    answers.take("writable again", tables::make_writable(list), 0);
    answers.end()
}

/// SYSRET faults in ring 0 for an address that is none, on CPUs of one vendor.
fn return_to_nothing() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    user::load(&[0xcc]);
    for address in [
        NON_CANONICAL,
        0x0000_8000_0000_0000,
        0xffff_7fff_ffff_ffff,
        1 << 63,
    ] {
        for flags in [0, 0x100] {
            let fault = user::iret(
                &Iret {
                    rip: address,
                    flags,
                    ..Iret::USER
                },
                0,
            );
            answers.take(
                format_args!("{address:#x} with {flags:#x}"),
                fault.map(|fault| (fault.vector, fault.rip)),
                Some((exception::PROTECTION, address)),
            );
        }
    }
    // The instruction behind a system call at the end of the lower half is at none.
    answers.end()
}

fn bases() -> Outcome {
    let mut answers = Answers::default();
    for which in [segment::FS, segment::GS_USER, segment::GS_KERNEL] {
        for base in [NON_CANONICAL, 0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff] {
            answers.take(
                format_args!("{which} at {base:#x}"),
                arch::set_segment_base(which, base),
                EINVAL,
            );
        }
    }
    answers.take("the record is where it was", arch::cpu_index(), 0);
    answers.end()
}

/// User code traps onto a kernel stack that is the hypervisor's or nowhere: that ends the domain, so only what is refused before
/// is asked here; a stack of user code may be anything.
fn stack() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    user::load(&[0xcc]);
    for rsp in [
        UPPER_HALF,
        0xffff_8300_0000_0000,
        NON_CANONICAL,
        0,
        7,
        u64::MAX,
    ] {
        let fault = user::iret(&Iret { rsp, ..Iret::USER }, 0);
        answers.take(
            format_args!("{rsp:#x}"),
            fault.map(|fault| fault.vector),
            Some(exception::BREAKPOINT),
        );
        answers.take(
            format_args!("{rsp:#x} told"),
            arch::this_cpu().faulted_at.load().rsp,
            rsp,
        );
    }
    answers.end()
}

/// A page with descriptors stays read-only in every mapping, and a bad descriptor never gets in.
fn descriptors() -> Outcome {
    let mut answers = Answers::default();
    let page = table(&[(1, 0x00cf_f300_0000_ffff)]);
    let frame = page.frame();
    answers.take(
        "set",
        hypercall(nr::SET_GDT, [(&raw const frame) as u64, 512, 0, 0, 0]),
        0,
    );
    answers.take(
        "mapped to write",
        tables::try_entry(0, entry_for(frame, bit::READ_WRITE)),
        EBUSY,
    );
    answers.take(
        "a system descriptor",
        hypercall(
            nr::UPDATE_DESCRIPTOR,
            [(frame << 12) + 16, 0x0000_8900_0000_0067, 0, 0, 0],
        ),
        EINVAL,
    );
    answers.take(
        "a word of it",
        mmu_update((frame << 12) + 16, 0x0000_8900_0000_0067),
        EINVAL,
    );
    answers.take(
        "cleared as a page",
        mmuext(ext::CLEAR_PAGE, frame, 0),
        EINVAL,
    );
    answers.take("none", hypercall(nr::SET_GDT, [0; 5]), 0);
    answers.take("writable again", tables::make_writable(page), 0);
    answers.end()
}

/// Pages that the hypervisor writes can be no tables.
fn shared_page() -> Outcome {
    let mut answers = Answers::default();
    let shared_info = arch::start_info::start_info().shared_info >> 12;
    for command in [ext::PIN_L1, ext::PIN_L2, ext::PIN_L3, ext::PIN_L4] {
        answers.take(
            format_args!("shared info by {command}"),
            mmuext(command, shared_info, 0),
            EINVAL,
        );
        let grants = memory::frame_of(arch::grant_window());
        answers.take(
            format_args!("grant table by {command}"),
            mmuext(command, grants, 0),
            EINVAL,
        );
    }
    // A table cannot be where a vcpu_info is registered; nor a vcpu_info's page be one.
    let page = table(&[]);
    answers.take("pin", mmuext(ext::PIN_L1, page.frame(), 0), 0);
    let copy = [page.frame(), 0];
    answers.take(
        "vcpu_info on a table",
        arch::vcpu_call(shared::REGISTER_VCPU_INFO, 0, copy.as_ptr() as u64),
        EINVAL,
    );
    answers.take("unpin", mmuext(ext::UNPIN, page.frame(), 0), 0);
    answers.take("writable again", tables::make_writable(page), 0);
    answers.end()
}

/// A table whose page is given back stays one until it is let go, and goes then.
fn given_back() -> Outcome {
    use xenolith_guests::xen::memory::reservation;
    let mut answers = Answers::default();
    const SPARE: u64 = 0x4200;
    let frame = memory::machine_frame(SPARE);
    answers.take("clear", mmuext(ext::CLEAR_PAGE, frame, 0), 0);
    answers.take("pin", mmuext(ext::PIN_L1, frame, 0), 0);
    answers.take(
        "given back",
        reservation(op::DECREASE_RESERVATION, &mut [frame], 0),
        1,
    );
    answers.take(
        "mapped to write",
        tables::try_entry(0, entry_for(frame, bit::READ_WRITE)) != 0,
        true,
    );
    answers.take("unpin", mmuext(ext::UNPIN, frame, 0), 0);
    answers.take("unpin again", mmuext(ext::UNPIN, frame, 0), EINVAL);
    let mut frames = [SPARE];
    answers.take(
        "another",
        reservation(op::POPULATE_PHYSMAP, &mut frames, 0),
        1,
    );
    arch::write64(memory::p2m_entry(SPARE), frames[0]);
    answers.end()
}

/// Breakpoints in the hypervisor, and watch points on the stack that it uses.
fn breakpoint() -> Outcome {
    let mut answers = Answers::default();
    let set = |index: u64, value: u64| hypercall(nr::SET_DEBUGREG, [index, value, 0, 0, 0]);
    for address in [
        UPPER_HALF,
        0xffff_82d0_4020_0000,
        0xffff_87ff_ffff_ffff,
        NON_CANONICAL,
    ] {
        answers.take(format_args!("{address:#x}"), set(0, address) < 0, true);
    }
    // A watch point that begins below the hypervisor, of the longest kind.
    answers.take("the end of the lower half", set(0, 0x7fff_ffff_fff8), 0);
    answers.take("watch it", set(7, 0xb_0001), 0);
    answers.take(
        "the hypervisor answers",
        hypercall(nr::XEN_VERSION, [0; 5]) >> 16,
        4,
    );
    answers.take("off", set(7, 0), 0);
    answers.take("clear", set(0, 0), 0);
    answers.end()
}

/// Flags of user code that would disturb a kernel are not there when its entry runs: alignment checks, nested tasks,
/// single steps, backward strings.
fn flags() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    // mov eax, 5; syscall
    user::load(&[0xb8, 5, 0, 0, 0, 0x0f, 0x05, 0xcc]);
    for (what, flag) in [
        ("alignment", 1 << 18),
        ("nested", 1 << 14),
        ("direction", 1 << 10),
        ("resume", 1 << 16),
    ] {
        let fault = user::iret(
            &Iret {
                rflags: 0x202 | flag,
                ..Iret::USER
            },
            0,
        );
        answers.take(
            format_args!("{what} came back"),
            fault.map(|fault| fault.vector),
            Some(xenolith_guests::arch::trap::SYSCALL),
        );
    }
    let nmis = arch::this_cpu().nmis.load(Ordering::SeqCst);
    answers.take(
        "no NMI came of it",
        nmis,
        arch::this_cpu().nmis.load(Ordering::SeqCst),
    );
    let fault = fault_of(|| {
        arch::read64(arch::UNMAPPED);
    });
    expect!(
        fault.map(|fault| fault.vector),
        Some(exception::PAGE),
        "a fault after that"
    );
    let _ = update_va_mapping(WINDOW, 0, 0);
    answers.end()
}
