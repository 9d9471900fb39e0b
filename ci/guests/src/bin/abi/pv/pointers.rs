//! Pointers that no guest may use, handed to every call that takes one: none is followed, and each call says of all of them what it
//! says of a pointer to nothing.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{self, Ext, ext, flush, mmuext_of};
use xenolith_guests::arch::{self, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, hypercall};
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::xen::errno::{EFAULT, EINVAL};
use xenolith_guests::xen::grant::{self, gnt};
use xenolith_guests::xen::memory::{Reservation, op};
use xenolith_guests::xen::{SELF, call, event, nr, sched};

use super::survey;
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("class.bad_pointers_to_every_call", every_call),
    ("class.bad_lists_to_every_call", every_list),
    ("class.bad_pointers_inside_arguments", inside),
    (
        "class.results_to_a_page_that_is_read_only",
        read_only_results,
    ),
];

/// Addresses without a page, of no kind, of the hypervisor: its table of frames, which guests may read themselves, its text, its
/// map of all memory, and the ends of what is its own.
pub(super) const BAD: [u64; 12] = [
    UNMAPPED + 1,
    0x0000_7fff_ffff_fffc,
    0x0000_8000_0000_0000,
    NON_CANONICAL,
    0xffff_7fff_ffff_fff9,
    UPPER_HALF,
    0xffff_8040_0000_0000,
    0xffff_82d0_4020_0000,
    0xffff_8300_0000_1000,
    0xffff_87ff_ffff_fff8,
    0xffff_ffff_ffff_fff8,
    u64::MAX,
];

const NUMBERS: u64 = 64;
const SUB_OPS: u64 = 48;
const HYPFS_OP: u64 = 42;
const DOWN: u64 = 2;

/// Calls without a pointer where others have it, or that do not come back.
fn has_no_pointer(number: u64, sub: u64) -> bool {
    survey::LEFT_OUT.contains(&number)
        || matches!(
            number,
            nr::FPU_TASKSWITCH
                | nr::UPDATE_DESCRIPTOR
                | nr::MULTICALL
                | nr::MMU_UPDATE
                | nr::UPDATE_VA_MAPPING
                | nr::UPDATE_VA_MAPPING_OTHERDOMAIN
                | nr::SET_TIMER_OP
                | nr::CONSOLE_IO
                | nr::VM_ASSIST
                | nr::VCPU_OP
                | nr::MMUEXT_OP
                | nr::DM_OP
                | HYPFS_OP
        )
        || number == nr::SCHED_OP && matches!(sub, sched::op::BLOCK | sched::op::SHUTDOWN)
        || number == nr::XEN_VERSION && sub == 0
}

/// A pointer whose first byte is there and whose second is not.
fn last_byte() -> u64 {
    let page = Page::take();
    page.fill(0);
    let end = arch::map_page(20, page.address(), arch::Access::ReadWrite) + PAGE;
    arch::unmap_page(21);
    end - 1
}

fn every_call() -> Outcome {
    let mut answers = Answers::default();
    let split = last_byte();
    for number in 0..NUMBERS {
        for sub in (0..SUB_OPS).filter(|sub| !has_no_pointer(number, *sub)) {
            let probe = |at: u64| hypercall(number, [sub, at, 1, at, 0]);
            let wanted = probe(UNMAPPED);
            for at in BAD.into_iter().chain([split]) {
                answers.take(format_args!("{number}.{sub} at {at:#x}"), probe(at), wanted);
            }
        }
    }
    for sub in (0..16).filter(|sub| *sub != DOWN) {
        let probe = |at: u64| hypercall(nr::VCPU_OP, [sub, 0, at, 0, 0]);
        // What needs no argument does not look at one.
        let wanted = probe(UNMAPPED);
        for at in BAD.into_iter().chain([split]) {
            answers.take(format_args!("vcpu_op {sub} at {at:#x}"), probe(at), wanted);
        }
    }
    for at in BAD.into_iter().chain([split]) {
        answers.take(
            format_args!("console at {at:#x}"),
            hypercall(nr::CONSOLE_IO, [0, 8, at, 0, 0]),
            EFAULT,
        );
    }
    arch::unmap_page(20);
    answers.end()
}

/// Calls whose first argument is a list or a struct.
fn every_list() -> Outcome {
    let mut answers = Answers::default();
    let own = u64::from(SELF);
    let split = last_byte();
    for (what, number, count) in [
        ("trap table", nr::SET_TRAP_TABLE, 0),
        ("mmu_update", nr::MMU_UPDATE, 1),
        ("many of mmu_update", nr::MMU_UPDATE, 0x7fff_ffff),
        ("descriptor frames", nr::SET_GDT, 512),
        ("all descriptor frames", nr::SET_GDT, 14 * 512),
        ("multicall", nr::MULTICALL, 1),
        ("many of multicall", nr::MULTICALL, 0xffff_ffff),
        ("event_channel_op as it was", 16, 0),
        ("physdev_op as it was", 19, 0),
        ("mmuext_op", nr::MMUEXT_OP, 1),
        ("many of mmuext_op", nr::MMUEXT_OP, 0x7fff_ffff),
        ("platform_op", nr::PLATFORM_OP, 0),
        ("sysctl", nr::SYSCTL, 0),
        ("domctl", nr::DOMCTL, 0),
    ] {
        for at in BAD.into_iter().chain([UNMAPPED, split]) {
            answers.take(
                format_args!("{what} at {at:#x}"),
                hypercall(number, [at, count, 0, own, 0]),
                EFAULT,
            );
        }
    }
    for kind in [0, 4] {
        for at in BAD {
            answers.take(
                format_args!("grants of kind {kind}, many at {at:#x}"),
                hypercall(nr::GRANT_TABLE_OP, [kind, at, 0x7fff_ffff, 0, 0]),
                EFAULT,
            );
        }
    }
    arch::unmap_page(20);
    answers.end()
}

/// Pointers in structs that are good themselves.
fn inside() -> Outcome {
    let mut answers = Answers::default();
    let own = u64::from(SELF);
    for at in BAD {
        let mut frames = Reservation {
            extents: at,
            count: 1,
            order: 0,
            flags: 0,
            domain: SELF,
        };
        for sub in [
            op::INCREASE_RESERVATION,
            op::DECREASE_RESERVATION,
            op::POPULATE_PHYSMAP,
        ] {
            // So many were done.
            answers.take(
                format_args!("reservation {sub} of {at:#x}"),
                call(nr::MEMORY_OP, sub, &mut frames),
                0,
            );
        }
        #[repr(C)]
        struct Exchange(Reservation, Reservation, u64);
        let good = [0u64];
        let side = |extents: u64| Reservation { extents, ..frames };
        answers.take(
            format_args!("exchange of {at:#x}"),
            call(
                nr::MEMORY_OP,
                op::EXCHANGE,
                &mut Exchange(side(at), side(good.as_ptr() as u64), 0),
            ),
            EFAULT,
        );
        #[repr(C)]
        struct Poll(u64, u32, u64);
        answers.take(
            format_args!("poll of ports {at:#x}"),
            call(nr::SCHED_OP, sched::op::POLL, &mut Poll(at, 1, 1)),
            EFAULT,
        );
        let mut setup = grant::Setup {
            domain: SELF,
            frames: 1,
            status: 77,
            list: at,
        };
        let errno = grant::one(grant::op::SETUP_TABLE, &mut setup);
        // Told of the call where the address can be seen to be none of a guest's, or else of the operation.
        answers.take(
            format_args!("grant frames to {at:#x}: {errno} {}", setup.status),
            (errno, setup.status) == (0, gnt::BAD_VIRT_ADDR)
                || (errno, setup.status) == (EFAULT, 77),
            true,
        );
        for command in [ext::TLB_FLUSH_MULTI, ext::INVLPG_MULTI] {
            answers.take(
                format_args!("mask of {command} at {at:#x}"),
                mmuext_of(&[Ext::new(command, WINDOW, at)], own).0,
                EINVAL,
            );
        }
        // The mask's address is what the flags leave of it.
        let mask = at & !7;
        for kind in [flush::TLB, flush::INVLPG] {
            answers.take(
                format_args!("mask of kind {kind} in flags at {mask:#x}"),
                tables::update_va_mapping(WINDOW, 0, mask | kind),
                EFAULT,
            );
        }
    }
    answers.end()
}

/// A page that may be read alone, in the place of a result: the guest's own table, so that a write would be a hole.
fn read_only_results() -> Outcome {
    let mut answers = Answers::default();
    let page = tables::empty_table();
    let at = page.address();
    tables::mmuext(ext::PIN_L1, page.frame(), 0);
    let unwritten = || (0..PAGE / 8).all(|index| page.read::<u64>(index * 8) == 0);
    for sub in [1, 2, 3, 4, 5, 6, 8, 9] {
        answers.take(
            format_args!("version {sub}"),
            hypercall(nr::XEN_VERSION, [sub, at, 0, 0, 0]) < 0,
            true,
        );
    }
    for (what, number, sub) in [
        ("a port's status", nr::EVENT_CHANNEL_OP, event::op::STATUS),
        ("frames of the table", nr::MEMORY_OP, op::MACHPHYS_MAPPING),
    ] {
        answers.take(what, hypercall(number, [sub, at, 0, 0, 0]), EFAULT);
    }
    answers.take(
        "run state",
        hypercall(nr::VCPU_OP, [4, 0, at, 0, 0]),
        EFAULT,
    );
    answers.take(
        "size of the grant table",
        hypercall(nr::GRANT_TABLE_OP, [grant::op::QUERY_SIZE, at, 1, 0, 0]),
        EFAULT,
    );
    answers.take("nothing was written", unwritten(), true);
    answers.take("unpin", tables::mmuext(ext::UNPIN, page.frame(), 0), 0);
    answers.take("writable again", tables::make_writable(page), 0);
    answers.end()
}
