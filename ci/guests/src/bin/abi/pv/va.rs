//! `update_va_mapping`: changing the table entry of an address, with a flush.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{bit, entry_for, flush, leaf, update_va_mapping};
use xenolith_guests::arch::{self, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, hypercall};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, EPERM, ESRCH};
use xenolith_guests::xen::nr;

use super::update::{BEYOND, IO, KEPT, NOBODY, VGA, XEN, own};
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("va.update", va_update),
    ("va.bad", va_bad),
    ("va.of_another_domain", va_other),
];

fn va_update() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    page.write::<u64>(0, 0x77);
    let entry = entry_for(page.frame(), bit::READ_WRITE);
    for flags in [
        flush::INVLPG,
        flush::TLB,
        flush::INVLPG | flush::ALL,
        flush::TLB | flush::ALL,
    ] {
        answers.take(
            format_args!("flags {flags}"),
            update_va_mapping(WINDOW, entry, flags),
            0,
        );
        answers.take(
            format_args!("seen with flags {flags}"),
            Page::at(WINDOW).read::<u64>(0),
            0x77,
        );
        answers.take(
            format_args!("clear with flags {flags}"),
            update_va_mapping(WINDOW, 0, flags),
            0,
        );
        answers.take(
            format_args!("gone with flags {flags}"),
            arch::is_nothing_at(WINDOW),
            true,
        );
    }
    answers.take(
        "an address inside the page",
        update_va_mapping(WINDOW + 0x123, entry, flush::INVLPG),
        0,
    );
    answers.take(
        "seen",
        leaf(WINDOW).map(|entry| entry & KEPT),
        Some(entry & KEPT),
    );
    answers.take("unknown kind of flush", update_va_mapping(WINDOW, 0, 3), 0);
    let mask = [1u64];
    let by_mask = mask.as_ptr() as u64;
    answers.take(
        "flush of some",
        update_va_mapping(WINDOW, 0, flush::INVLPG | by_mask),
        0,
    );
    answers.take(
        "flush of some at a bad pointer",
        update_va_mapping(WINDOW, 0, flush::TLB | UNMAPPED),
        EFAULT,
    );
    answers.end()
}

fn va_bad() -> Outcome {
    let mut answers = Answers::default();
    for address in [
        UNMAPPED,
        NON_CANONICAL,
        UPPER_HALF,
        u64::MAX,
        WINDOW + (1 << 30),
    ] {
        answers.take(
            format_args!("address {address:#x}"),
            update_va_mapping(address, 0, 0),
            EINVAL,
        );
    }
    answers.take(
        "no such frame",
        update_va_mapping(WINDOW, entry_for(BEYOND, bit::READ), 0),
        EPERM,
    );
    answers.end()
}

fn va_other() -> Outcome {
    let mut answers = Answers::default();
    let call =
        |domain: u64| hypercall(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, [WINDOW, 0, 0, domain, 0]);
    let device = |domain: u64| {
        hypercall(
            nr::UPDATE_VA_MAPPING_OTHERDOMAIN,
            [
                WINDOW,
                entry_for(VGA, bit::READ | bit::NO_CACHE),
                flush::INVLPG,
                domain,
                0,
            ],
        )
    };
    for (domain, wanted) in [
        (own(), 0),
        (IO, 0),
        (XEN, 0),
        (NOBODY, ESRCH),
        (0, ESRCH),
        (0x7fff, ESRCH),
    ] {
        answers.take(format_args!("domain {domain:#x}"), call(domain), wanted);
    }
    answers.take("a device of DOMID_IO", device(IO), 0);
    answers.take("a device of DOMID_XEN", device(XEN), 0);
    answers.take("clear", update_va_mapping(WINDOW, 0, flush::INVLPG), 0);
    answers.end()
}
