//! The ways to call: the CPU's instruction, the hypercall page, the hypervisor's CPUID leaves that lead there; callers
//! in 32-bit code and in user mode.

use core::arch::asm;

use xenolith_guests::arch::{self, regs};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::ENOSYS;
use xenolith_guests::xen::{SELF, call, event, memory, nr};
use xenolith_guests::{ensure, expect};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("gate.cpuid_leaves", leaves),
    ("gate.page_answers_like_the_instruction", page),
    ("gate.page_fills_whole_frames", fills),
    ("gate.page_refuses_what_is_no_frame", refuses),
    ("gate.keeps_other_registers", keeps_registers),
    ("gate.number_with_a_high_half", high_half),
    ("gate.from_32_bit_code", from_32_bit_code),
];

fn leaves() -> Outcome {
    let base = arch::leaves();
    ensure!(base != 0, "no leaf says XenVMMXenVMM");
    let first = regs::cpuid(base, 0);
    ensure!(first.eax >= base + 2, "last leaf {:#x}", first.eax);
    value("gate.leaves", i64::from(first.eax - base));
    let version = regs::cpuid(base + 1, 0).eax;
    expect!(
        i64::from(version),
        arch::hypercall(nr::XEN_VERSION, [0; 5]),
        "version"
    );
    let pages = regs::cpuid(base + 2, 0);
    expect!(pages.eax, 1, "hypercall pages");
    value("gate.page_msr", i64::from(pages.ebx));
    for (leaf, subleaf) in [(2, 0), (3, 0), (3, 1), (3, 2), (4, 0), (5, 0)] {
        let words = regs::cpuid(base + leaf, subleaf);
        let show = |name: &str, word: u32| {
            value(
                format_args!("gate.leaf_{leaf}_{subleaf}_{name}"),
                i64::from(word),
            )
        };
        show("eax", words.eax);
        show("ecx", words.ecx);
        if leaf != 3 {
            show("ebx", words.ebx);
            show("edx", words.edx);
        }
    }
    Ok(())
}

fn page() -> Outcome {
    for number in [nr::XEN_VERSION, 60, 0, 127] {
        expect!(
            arch::hypercall_by_page(number, [0, 0, 0, 0, 0]),
            arch::hypercall(number, [0, 0, 0, 0, 0]),
            "number {number}"
        );
    }
    Ok(())
}

fn set_page(value: u64) -> bool {
    let msr = regs::cpuid(arch::leaves() + 2, 0).ebx;
    arch::fault_of(|| regs::wrmsr(msr, value)).is_some()
}

/// The page may be anywhere, any number of times; all of it is written.
fn fills() -> Outcome {
    let page = Page::take();
    page.fill(0xcc);
    ensure!(!set_page(page.address()), "the MSR faults");
    for entry in 0..128 {
        let first: u8 = page.read(entry * 32);
        let wanted = if entry == 23 { 0x0f } else { 0xb8 };
        expect!(first, wanted, "entry {entry}");
    }
    // mov eax, number; the CPU's instruction; ret
    let code: [u8; 9] = page.read(17 * 32);
    let last = if arch::is_amd() { 0xd9 } else { 0xc1 };
    expect!(code, [0xb8, 17, 0, 0, 0, 0x0f, 0x01, last, 0xc3]);
    let msr = regs::cpuid(arch::leaves() + 2, 0).ebx;
    let mut number = 0;
    let fault = arch::fault_of(|| number = regs::rdmsr(msr));
    value("gate.page_msr_read_faults", i64::from(fault.is_some()));
    value("gate.page_msr_reads", number as i64);
    Ok(())
}

fn refuses() -> Outcome {
    let page = Page::take();
    page.write::<u64>(0, 7);
    value(
        "gate.page_index_1_faults",
        i64::from(set_page(page.address() | 1)),
    );
    expect!(page.read::<u64>(0), 7, "index 1 writes");
    value(
        "gate.page_beyond_memory_faults",
        i64::from(set_page(0xfff_ffff_f000)),
    );
    value(
        "gate.page_on_a_device_faults",
        i64::from(set_page(arch::device_address())),
    );
    Ok(())
}

/// A call changes the accumulator only; arguments may be lost, nothing else.
fn keeps_registers() -> Outcome {
    let (rcx, r9, r11, r12, r15): (u64, u64, u64, u64, u64);
    let result: i64;
    let amd = u64::from(arch::is_amd());
    // SAFETY: xen_version 0 by the CPU's instruction.
    unsafe {
        asm!("test {amd}, {amd}", "jz 2f", "vmmcall", "jmp 3f", "2: vmcall", "3:", amd = in(reg) amd,
             inout("rax") nr::XEN_VERSION => result, inout("rdi") 0u64 => _, inout("rsi") 0u64 => _,
             inout("rdx") 0u64 => _, inout("r10") 0u64 => _, inout("r8") 0u64 => _,
             inout("rcx") 1u64 => rcx, inout("r9") 9u64 => r9, inout("r11") 11u64 => r11,
             inout("r12") 12u64 => r12, inout("r15") 15u64 => r15)
    };
    ensure!(result >> 16 == 4, "version {result:#x}");
    expect!([rcx, r9, r11, r12, r15], [1, 9, 11, 12, 15]);
    Ok(())
}

fn high_half() -> Outcome {
    let plain = arch::hypercall(nr::XEN_VERSION, [0; 5]);
    let high = arch::hypercall(nr::XEN_VERSION | 1 << 32, [0; 5]);
    value("gate.number_with_high_bit", high);
    ensure!(high == plain || high == ENOSYS);
    Ok(())
}

/// Structures have their 32-bit form there: longs and pointers are of 4 bytes.
fn from_32_bit_code() -> Outcome {
    arch::irq_off();
    let page = Page::take();
    let call_32 = |number: u64, first: u64, address: u64| {
        i64::from(arch::hypercall_from_32_bit_code(
            number as u32,
            first as u32,
            address as u32,
        ))
    };
    expect!(
        call_32(nr::XEN_VERSION, 0, 0),
        arch::hypercall(nr::XEN_VERSION, [0; 5]),
        "version"
    );
    expect!(call_32(60, 0, 0), ENOSYS, "unknown");
    page.write::<u16>(0, SELF);
    expect!(
        call_32(
            nr::MEMORY_OP,
            memory::op::CURRENT_RESERVATION,
            page.address()
        ),
        call(nr::MEMORY_OP, memory::op::CURRENT_RESERVATION, &mut {
            SELF
        }),
        "reservation"
    );
    page.write::<[u16; 4]>(64, [SELF, SELF, 0, 0]);
    expect!(
        call_32(
            nr::EVENT_CHANNEL_OP,
            event::op::ALLOC_UNBOUND,
            page.address() + 64
        ),
        0,
        "alloc_unbound"
    );
    expect!(event::close(page.read(68)), 0);
    // xen_memory_reservation: extents, count, order, flags, domain; 32-bit frames.
    let target = Page::take();
    page.write::<u32>(256, target.frame() as u32);
    page.write::<[u32; 5]>(128, [page.address() as u32 + 256, 1, 0, 0, u32::from(SELF)]);
    let reservation = |operation: u64| call_32(nr::MEMORY_OP, operation, page.address() + 128);
    expect!(reservation(memory::op::DECREASE_RESERVATION), 1, "decrease");
    ensure!(
        arch::is_nothing_at(target.address()),
        "the page is still there"
    );
    expect!(reservation(memory::op::POPULATE_PHYSMAP), 1, "populate");
    target.write::<u64>(0, 9);
    expect!(target.read::<u64>(0), 9);
    Ok(())
}
