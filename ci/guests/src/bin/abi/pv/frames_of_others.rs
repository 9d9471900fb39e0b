//! Descriptor tables and the record of a vCPU in frames where they have no business: the hypervisor's, devices', page tables, pages
//! that are written elsewhere.

use core::arch::asm;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{self, bit, entry_address, entry_for, ext, mmuext};
use xenolith_guests::arch::{self, NON_CANONICAL, UPPER_HALF, WINDOW, fault_of, hypercall, memory};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::errno::EINVAL;
use xenolith_guests::xen::memory::op;
use xenolith_guests::xen::{call, nr};

use super::types::{BEYOND, VGA, table};
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("class.descriptors_in_frames_of_others", global),
    ("class.local_descriptors_in_memory_of_others", local),
    ("class.a_vcpu_record_in_frames_of_others", record),
];

const DATA: u64 = 0x00cf_f300_0000_ffff;
const REGISTER_VCPU_INFO: u64 = 10;

/// The first frame of the machine-to-physical table, if the hypervisor tells.
fn frame_of_the_table() -> u64 {
    #[repr(C)]
    struct List(u32, u64, u32);
    let mut frames = [0u64; 1];
    let mut list = List(1, frames.as_mut_ptr() as u64, 0);
    call(nr::MEMORY_OP, op::MACHPHYS_LIST, &mut list);
    frames[0]
}

/// Frames that are none of the guest's plain memory, with their names.
fn others() -> [(&'static str, u64); 13] {
    let level = |level: u32| entry_address(WINDOW, level).map_or(0, memory::frame_of);
    xenolith_guests::xen::grant::table();
    [
        ("the machine-to-physical table", frame_of_the_table()),
        (
            "shared info",
            arch::start_info::start_info().shared_info >> 12,
        ),
        (
            "the grant table",
            tables::leaf(arch::grant_window()).map_or(0, tables::frame_in),
        ),
        ("the root", level(4)),
        ("a table of level 3", level(3)),
        ("a table of level 2", level(2)),
        ("a table of level 1", level(1)),
        ("frame 0", 0),
        ("a device", VGA),
        ("registers of an interrupt controller", 0xfee00),
        ("no frame", BEYOND),
        ("no frame with a high bit", 1 << 40),
        ("no number of a frame", u64::MAX),
    ]
}

fn set_gdt(frames: &[u64]) -> i64 {
    let count = frames.len() as u64 * 512;
    hypercall(nr::SET_GDT, [frames.as_ptr() as u64, count, 0, 0, 0])
}

fn global() -> Outcome {
    let mut answers = Answers::default();
    let good = table(&[(1, DATA)]);
    for (what, frame) in others() {
        answers.take(what, set_gdt(&[frame]), EINVAL);
        answers.take(
            format_args!("{what} behind a good one"),
            set_gdt(&[good.frame(), frame]),
            EINVAL,
        );
        answers.take(
            format_args!("{what}: the good one is let go"),
            (tables::make_writable(good), tables::make_read_only(good)),
            (0, 0),
        );
        let update = hypercall(nr::UPDATE_DESCRIPTOR, [(frame << 12) + 4088, 0, 0, 0, 0]);
        // What the guest may write anyway it may write so, too.
        let is_memory = ["shared info", "the grant table"].contains(&what);
        let wanted = if is_memory { 0 } else { EINVAL };
        answers.take(format_args!("{what}: one descriptor"), update, wanted);
    }
    let written = Page::take();
    written.fill(0);
    answers.take(
        "a page that is written",
        set_gdt(&[written.frame()]),
        EINVAL,
    );
    // Read-only where the guest was built, and written elsewhere.
    tables::make_read_only(written);
    tables::set_entry(30, entry_for(written.frame(), bit::READ_WRITE));
    answers.take(
        "a page that is written elsewhere",
        set_gdt(&[written.frame()]),
        EINVAL,
    );
    tables::set_entry(30, 0);
    answers.take("no more", set_gdt(&[written.frame()]), 0);
    answers.take("none", set_gdt(&[]), 0);
    for page in [good, written] {
        answers.take("writable again", tables::make_writable(page), 0);
    }
    answers.end()
}

/// Loads a selector of the local table; whether that faults.
fn load(index: u64) -> bool {
    let selector = (index << 3) as u16 | 7;
    // SAFETY: es is used by nothing; a bad selector faults.
    let fault = fault_of(|| unsafe { asm!("mov es, {:x}", in(reg) selector, options(nostack)) });
    // SAFETY: as above.
    unsafe { asm!("mov es, {:x}", in(reg) 0u16, options(nostack)) };
    fault.is_some()
}

fn local() -> Outcome {
    let mut answers = Answers::default();
    let set = |at: u64, entries: u64| mmuext(ext::SET_LDT, at, entries);
    for at in [
        UPPER_HALF,
        0xffff_82d0_4020_0000,
        0xffff_8300_0000_0000,
        0xffff_87ff_ffff_f000,
        NON_CANONICAL,
        0x0000_8000_0000_0000,
        0xffff_7fff_ffff_f000,
    ] {
        answers.take(format_args!("at {at:#x}"), set(at, 512), EINVAL);
    }
    let shared = arch::shared_info();
    let written = Page::take();
    written.fill(0);
    written.write(8, DATA);
    let plain = Page::take();
    tables::make_read_only(plain);
    tables::set_entry(30, entry_for(plain.frame(), bit::READ_WRITE));
    for (what, at) in [
        ("shared info", shared.address()),
        ("a table", tables::window_entry(0) & !0xfff),
        ("the root", tables::root()),
        ("the grant table", arch::grant_window()),
        ("a page that is written", written.address()),
        ("a page that is written elsewhere", plain.address()),
        // The second page of it would be the first that is no address.
        ("the end of the lower half", 0x0000_7fff_ffff_f000),
    ] {
        let pages = if at >> 46 == 1 { 16 } else { 1 };
        answers.take(format_args!("set to {what}"), set(at, pages * 512), 0);
        for page in 0..pages {
            let index = page * 512 + 1;
            answers.take(
                format_args!("{what}: descriptor {index} faults"),
                load(index),
                true,
            );
        }
        // The last descriptor that a selector can name.
        answers.take(format_args!("{what}: the last faults"), load(8191), true);
    }
    answers.take("none", set(0, 0), 0);
    answers.take(
        "still written",
        {
            written.write::<u64>(8, 1);
            written.read::<u64>(8)
        },
        1,
    );
    // What was said of no page while it could be none holds no more than it did.
    tables::set_entry(30, 0);
    answers.take("writable again", tables::make_writable(plain), 0);
    answers.end()
}

fn record() -> Outcome {
    let mut answers = Answers::default();
    // Xen takes these two for it.
    let taken = ["shared info", "the grant table"];
    for (what, frame) in others()
        .into_iter()
        .filter(|(what, _)| !taken.contains(what))
    {
        let mut argument = [frame, 0];
        let at = argument.as_mut_ptr() as u64;
        answers.take(
            what,
            hypercall(nr::VCPU_OP, [REGISTER_VCPU_INFO, 0, at, 0, 0]),
            EINVAL,
        );
    }
    answers.end()
}
