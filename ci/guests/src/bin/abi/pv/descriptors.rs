//! Descriptor tables: pages of them are of a type of their own, and what they hold is looked at.

use core::arch::asm;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{self, entry_address, ext, machine_address, mmuext};
use xenolith_guests::arch::{
    self, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, fault_of, hypercall,
};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::errno::{EBUSY, EFAULT, EINVAL};
use xenolith_guests::xen::nr;

use super::types::{BEYOND, VGA, table};
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("types.descriptor_tables", descriptors),
    ("types.update_descriptor", update_descriptor),
    ("types.local_descriptors", local_descriptors),
];

const CODE_64: u64 = 0x00af_fb00_0000_ffff;
const DATA: u64 = 0x00cf_f300_0000_ffff;

fn set_gdt(frames: &[u64], entries: u64) -> i64 {
    hypercall(nr::SET_GDT, [frames.as_ptr() as u64, entries, 0, 0, 0])
}

fn descriptors() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    page.fill(0);
    page.write::<u64>(8, CODE_64);
    page.write::<u64>(16, DATA);
    let frame = page.frame();
    answers.take("a page that is writable", set_gdt(&[frame], 512), EINVAL);
    tables::make_read_only(page);
    answers.take("read-only", set_gdt(&[frame], 512), 0);
    answers.take(
        "then it is not writable",
        tables::make_writable(page),
        EBUSY,
    );
    answers.take("nor a table", mmuext(ext::PIN_L1, frame, 0), EINVAL);
    let load = |selector: u16| {
        // SAFETY: es is used by nothing; a bad selector faults.
        fault_of(|| unsafe { asm!("mov es, {:x}", in(reg) selector, options(nostack)) })
            .map(|fault| (fault.vector, fault.error))
    };
    answers.take("a selector of it", load(0x13), None);
    answers.take("with the privilege of ring 0", load(0x10), None);
    answers.take("an empty one", load(0x1b), Some((13, 0x18)));
    answers.take("the last", load(0xffb), Some((13, 0xff8)));
    answers.take(
        "the hypervisor's flat data",
        load(arch::selector::DATA),
        None,
    );
    answers.take(
        "one of the hypervisor's own",
        load(0xe00b),
        Some((13, 0xe008)),
    );
    load(0);
    answers.take(
        "two pages, the second none",
        set_gdt(&[frame, BEYOND], 1024),
        EINVAL,
    );
    answers.take("too many entries", set_gdt(&[frame; 15], 512 * 15), EINVAL);
    answers.take("one entry", set_gdt(&[frame], 1), 0);
    answers.take("beyond it", load(0x13), None);
    answers.take("none", set_gdt(&[], 0), 0);
    load(0);
    answers.take(
        "a selector of none",
        load(0x13).map(|fault| fault.0),
        Some(13),
    );
    answers.take(
        "frames at a bad pointer",
        hypercall(nr::SET_GDT, [UNMAPPED, 512, 0, 0, 0]),
        EFAULT,
    );
    answers.take("writable again", tables::make_writable(page), 0);
    // What descriptors may be.
    // Rings 0 to 2 become 3, and a gate of ring 0 for all is for nobody.
    for (what, descriptor, becomes, wanted) in [
        (
            "code of ring 0",
            0x00af_9b00_0000_ffff,
            0x00af_fb00_0000_ffff,
            0,
        ),
        (
            "data of ring 0",
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0,
        ),
        (
            "data of ring 1",
            0x00cf_b300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0,
        ),
        (
            "task state",
            0x0000_8900_0000_0067,
            0x0000_8900_0000_0067,
            EINVAL,
        ),
        (
            "local table",
            0x0000_8200_0000_0067,
            0x0000_8200_0000_0067,
            EINVAL,
        ),
        (
            "call gate to ring 3",
            0x0000_ec00_e033_0000,
            0x0000_8c00_e033_0000,
            0,
        ),
        (
            "call gate of ring 0",
            0x0000_8c00_e033_0000,
            0x0000_8c00_e033_0000,
            0,
        ),
        (
            "call gate to the hypervisor's code",
            0x0000_ec00_e008_0000,
            0x0000_ec00_e008_0000,
            EINVAL,
        ),
        (
            "interrupt gate",
            0x0000_ee00_e033_0000,
            0x0000_ee00_e033_0000,
            EINVAL,
        ),
        (
            "not present",
            0x0000_0900_0000_0067,
            0x0000_0900_0000_0067,
            0,
        ),
        (
            "16-bit code",
            0x008f_fb00_0000_ffff,
            0x008f_fb00_0000_ffff,
            0,
        ),
        (
            "conforming code",
            0x00af_ff00_0000_ffff,
            0x00af_ff00_0000_ffff,
            0,
        ),
    ] {
        let page = table(&[(1, descriptor)]);
        let errno = set_gdt(&[page.frame()], 512);
        answers.take(what, errno, wanted);
        let now = page.read::<u64>(8);
        answers.take(
            format_args!("{what} afterwards"),
            now,
            if errno == 0 { becomes } else { descriptor },
        );
        set_gdt(&[], 0);
        answers.take(
            format_args!("{what}, writable again"),
            tables::make_writable(page),
            0,
        );
    }
    answers.end()
}

fn update_descriptor() -> Outcome {
    let mut answers = Answers::default();
    let page = table(&[]);
    let update =
        |at: u64, descriptor: u64| hypercall(nr::UPDATE_DESCRIPTOR, [at, descriptor, 0, 0, 0]);
    let base = page.frame() << 12;
    answers.take("a page without a use", update(base + 8, CODE_64), 0);
    answers.take("it is there", page.read::<u64>(8), CODE_64);
    answers.take("as the table", set_gdt(&[page.frame()], 512), 0);
    answers.take("a descriptor of it", update(base + 16, DATA), 0);
    answers.take("it is there", page.read::<u64>(16), DATA);
    answers.take(
        "a task state",
        update(base + 24, 0x0000_8900_0000_0067),
        EINVAL,
    );
    answers.take("clear", update(base + 16, 0), 0);
    answers.take("not aligned", update(base + 4, 0), EINVAL);
    answers.take("no frame", update(BEYOND << 12, 0), EINVAL);
    answers.take("a device", update(VGA << 12, 0), EINVAL);
    answers.take(
        "a table",
        update(machine_address(entry_address(WINDOW, 1).unwrap_or(0)), 0),
        EINVAL,
    );
    set_gdt(&[], 0);
    answers.take("writable again", tables::make_writable(page), 0);
    answers.end()
}

fn local_descriptors() -> Outcome {
    let mut answers = Answers::default();
    let page = table(&[(1, CODE_64), (2, DATA), (3, 0x0000_8900_0000_0067)]);
    let at = page.address();
    let set = |at: u64, entries: u64| mmuext(ext::SET_LDT, at, entries);
    let load = |selector: u16| {
        // SAFETY: es is used by nothing; a bad selector faults.
        fault_of(|| unsafe { asm!("mov es, {:x}", in(reg) selector, options(nostack)) })
            .map(|fault| (fault.vector, fault.error))
    };
    answers.take("set", set(at, 512), 0);
    answers.take("a table with a task state", load(0x17), Some((14, 0)));
    set(0, 0);
    let page = table(&[(1, CODE_64), (2, DATA)]);
    let at = page.address();
    answers.take("set a good one", set(at, 512), 0);
    answers.take("a selector", load(0x17), None);
    answers.take(
        "then it is not writable",
        tables::make_writable(page),
        EBUSY,
    );
    load(0);
    answers.take("not aligned", set(at + 8, 512), EINVAL);
    answers.take("too many", set(at, 8193), EINVAL);
    answers.take("of the hypervisor", set(UPPER_HALF, 512), EINVAL);
    answers.take("no address", set(NON_CANONICAL, 512), EINVAL);
    answers.take("nothing there", set(UNMAPPED, 512), 0);
    answers.take("a selector of nothing", load(0x17), Some((14, 0)));
    answers.take("none", set(0, 0), 0);
    answers.take("writable again", tables::make_writable(page), 0);
    answers.end()
}
