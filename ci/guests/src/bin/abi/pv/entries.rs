//! Classes of holes in the ways between guest and hypervisor: code at the end of an address space, breakpoints on what the
//! hypervisor touches, single steps across an entry, far jumps and returns into what is not the guest's.

use core::arch::asm;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{
    self, Update, bit, empty_table, entry_for, machine_address, mmu_update,
};
use xenolith_guests::arch::user::{self, CODE, Iret, STACK_TOP};
use xenolith_guests::arch::{self, Fault, exception, fault_of, hypercall, trap};
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::{SELF, nr};

use super::types::table;
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    (
        "class.an_entry_from_the_last_byte_of_an_address_space",
        last_byte,
    ),
    ("class.breakpoints_on_what_the_hypervisor_touches", watched),
    (
        "class.a_breakpoint_behind_a_load_of_the_stack_segment",
        behind_mov_ss,
    ),
    ("class.single_steps_across_an_entry", single_steps),
    ("class.far_jumps_and_returns_into_the_hypervisor", far),
    ("class.segments_that_are_no_more", lost_segments),
];

const BEYOND: u64 = 0x0000_8000_0000_0000;
const LAST_PAGE: u64 = BEYOND - 4096;
const TRAP: u64 = 0x100;

fn told(fault: Option<Fault>) -> (u64, u64, u64) {
    fault.map_or((u64::MAX, 0, 0), |fault| {
        (fault.vector, fault.error, fault.rip)
    })
}

/// A page at the end of the lower half, for kernel and programs; gives the tables and the page.
fn last_page() -> [Page; 4] {
    let [level1, level2, level3] = [0; 3].map(|_| empty_table());
    let text = Page::take();
    let set = |table: Page, index: u64, entry: u64| {
        let errno = mmu_update(machine_address(table.address()) + index * 8, entry);
        assert!(errno == 0, "a table of the last page: {errno}");
    };
    set(level1, 511, entry_for(text.frame(), bit::READ_WRITE));
    for root in [Page::at(tables::root()), user::root()] {
        set(root, 255, entry_for(level3.frame(), bit::TABLE));
    }
    set(level3, 511, entry_for(level2.frame(), bit::TABLE));
    set(level2, 511, entry_for(level1.frame(), bit::TABLE));
    [text, level3, level2, level1]
}

/// What comes next is at no address, to which SYSRET would fault with the guest's stack (and the hypervisor's rights, on CPUs of one
/// vendor).
fn last_byte() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    let [text, rest @ ..] = last_page();
    let nowhere = (exception::PROTECTION, 0, BEYOND);
    for (what, code, wanted) in [
        (
            "a system call",
            &[0x0f, 0x05][..],
            (trap::SYSCALL, 0, BEYOND),
        ),
        ("int 0x80", &[0xcd, 0x80], (0x80, 0, BEYOND)),
        ("int3", &[0xcc], (exception::BREAKPOINT, 0, BEYOND)),
        ("nothing", &[0x90], nowhere),
        // It answers by itself, and goes on behind it.
        (
            "a system call that returns",
            &[0x31, 0xc0, 0x0f, 0x05],
            nowhere,
        ),
    ] {
        let start = 4096 - code.len() as u64;
        for (offset, byte) in (start..).zip(code) {
            text.write::<u8>(offset, *byte);
        }
        for rflags in [0x202, 0x2] {
            let frame = Iret {
                rip: LAST_PAGE + start,
                rax: 5,
                rflags,
                ..Iret::USER
            };
            answers.take(
                format_args!("{what}, flags {rflags:#x}"),
                told(user::iret(&frame, 0)),
                wanted,
            );
        }
    }
    // A hypervisor may look behind ud2 for what it stands before.
    text.write::<[u8; 2]>(4094, [0x0f, 0x0b]);
    let fault = user::iret(
        &Iret {
            rip: BEYOND - 2,
            ..Iret::USER
        },
        0,
    );
    let fault = fault.map_or((0, 0), |fault| (fault.vector, fault.rip));
    answers.take(
        format_args!("ud2: {fault:x?}"),
        [exception::UNDEFINED, exception::PAGE]
            .map(|vector| (vector, BEYOND - 2))
            .contains(&fault),
        true,
    );
    text.write::<[u8; 2]>(4094, [0x0f, 0x05]);
    let from_kernel = |number: u64| {
        told(fault_of(|| {
            // SAFETY: a hypercall whose return faults; the fault comes back here.
            unsafe {
                asm!("jmp {}", in(reg) BEYOND - 2, in("rax") number, in("rdi") 0u64,
                     options(noreturn))
            }
        }))
    };
    for (what, number) in [
        ("a known call", nr::XEN_VERSION),
        ("an unknown call", 60),
        ("no number", u64::MAX),
    ] {
        answers.take(what, from_kernel(number), nowhere);
    }
    let version = arch::this_cpu().faulted_at.load().rax;
    answers.take("what it answered", version, -38_i64 as u64);
    for root in [Page::at(tables::root()), user::root()] {
        let at = machine_address(root.address()) + 255 * 8;
        answers.take("the slot emptied", mmu_update(at, 0), 0);
    }
    for table in rest {
        answers.take("a table is memory again", tables::make_writable(table), 0);
    }
    answers.end()
}

fn set_debug(register: u64, value: u64) -> i64 {
    hypercall(nr::SET_DEBUGREG, [register, value, 0, 0, 0])
}

/// Breakpoint 0, of reads and writes of eight bytes.
fn watch(address: u64) {
    set_debug(0, address);
    set_debug(7, 0xb_0001);
}

fn watch_nothing() {
    set_debug(7, 0);
    set_debug(0, 0);
    set_debug(6, 0);
}

/// The hypervisor reads and writes the guest's memory with the guest's breakpoints armed: it goes on, and the call is done.
fn watched() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    page.fill(0);
    watch(page.address());
    // In a struct that is copied the guest itself does not look until the breakpoint is gone.
    let version = hypercall(nr::XEN_VERSION, [1, page.address(), 0, 0, 0]);
    let status = hypercall(nr::EVENT_CHANNEL_OP, [5, page.address(), 0, 0, 0]);
    watch_nothing();
    answers.take("a result", (version, page.read::<u64>(0) != 0), (0, true));
    answers.take("an argument", status < 0, true);
    let request = Update {
        at: machine_address(tables::window_entry(0)),
        value: 0,
    };
    page.write(0, request);
    page.write(16, [nr::XEN_VERSION, 0, 0, 0, 0, 0, 0, 0]);
    watch(page.address());
    let update = hypercall(nr::MMU_UPDATE, [page.address(), 1, 0, u64::from(SELF), 0]);
    set_debug(0, page.address() + 24);
    let list = hypercall(nr::MULTICALL, [page.address() + 16, 1, 0, 0, 0]);
    watch_nothing();
    answers.take("a list of updates", update, 0);
    answers.take("a multicall", (list, page.read::<u64>(24) >> 16), (0, 4));
    // The frame that the hypervisor writes when a program traps, and the one that it reads for `iret`.
    user::use_root();
    let top = arch::user_stack_top(0);
    // The runtime's own way through that stack meets the breakpoint, too.
    trap::on_exception(Some(|frame| frame.vector == exception::DEBUG));
    for below in [8, 16, 24, 40, 56] {
        user::load(&[0xcc]);
        watch(top - below);
        let fault = user::iret(&Iret::USER, 0);
        watch_nothing();
        answers.take(
            format_args!("the stack, {below} bytes below its top"),
            told(fault).0,
            exception::BREAKPOINT,
        );
    }
    trap::on_exception(None);
    // Descriptors that the CPU reads by itself.
    let descriptors = table(&[(1, 0x00cf_f300_0000_ffff)]);
    let frame = descriptors.frame();
    hypercall(nr::SET_GDT, [(&raw const frame) as u64, 512, 0, 0, 0]);
    watch(descriptors.address() + 8);
    // SAFETY: es is used by nothing.
    let loaded = fault_of(|| unsafe { asm!("mov es, {:x}", in(reg) 0xbu16, options(nostack)) });
    // SAFETY: as above.
    unsafe { asm!("mov es, {:x}", in(reg) 0u16, options(nostack)) };
    watch_nothing();
    answers.take("a descriptor", told(loaded).0, u64::MAX);
    hypercall(nr::SET_GDT, [0; 5]);
    answers.take("writable again", tables::make_writable(descriptors), 0);
    answers.end()
}

/// The breakpoint of the load waits until behind the next instruction, which enters the hypervisor: some emulators do not wait.
fn behind_mov_ss() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    let data = Page::take();
    data.write::<u64>(0, 0xe02b);
    let at = user::map(8, data);
    // mov ss, [rdi], and behind it: syscall (rax is 5), int 0x80, int3, icebp, ud2, sysenter, hlt, an invalid one in 64-bit code
    for (what, behind, vector) in [
        ("syscall", &[0x0f, 0x05][..], trap::SYSCALL),
        ("int 0x80", &[0xcd, 0x80], 0x80),
        ("int3", &[0xcc], exception::BREAKPOINT),
        ("icebp", &[0xf1], exception::DEBUG),
        ("ud2", &[0x0f, 0x0b], exception::UNDEFINED),
        ("hlt", &[0xf4], exception::PROTECTION),
        ("far call", &[0xff, 0x1f], exception::PROTECTION),
    ] {
        let mut code = [0xcc; 16];
        code[..2].copy_from_slice(&[0x8e, 0x17]);
        code[2..2 + behind.len()].copy_from_slice(behind);
        user::load(&code);
        watch(at);
        let fault = user::iret(
            &Iret {
                rax: 5,
                ..Iret::USER
            },
            at,
        );
        watch_nothing();
        let seen = told(fault).0;
        answers.take(
            format_args!("{what}: {seen}"),
            [vector, exception::DEBUG].contains(&seen),
            true,
        );
        answers.take(
            format_args!("after {what}"),
            hypercall(nr::XEN_VERSION, [0; 5]) >> 16,
            4,
        );
    }
    // From the kernel: a hypercall.
    watch(data.address());
    let fault = fault_of(|| {
        // SAFETY: loads the segment that is loaded; the call has no effect.
        unsafe {
            asm!("mov ss, word ptr [{}]", "syscall", in(reg) data.address(), inout("rax") nr::XEN_VERSION => _,
                 in("rdi") 0, out("rcx") _, out("r11") _)
        }
    });
    watch_nothing();
    let seen = told(fault).0;
    answers.take(
        format_args!("a hypercall: {seen}"),
        [u64::MAX, exception::DEBUG].contains(&seen),
        true,
    );
    user::set_entry(8, 0);
    answers.end()
}

fn single_steps() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    for (what, code, wanted) in [
        ("syscall", &[0x0f, 0x05][..], (trap::SYSCALL, 0, CODE + 2)),
        ("int 0x80", &[0xcd, 0x80], (0x80, 0, CODE + 2)),
        ("int3", &[0xcc], (exception::BREAKPOINT, 0, CODE + 1)),
        ("ud2", &[0x0f, 0x0b], (exception::UNDEFINED, 0, CODE)),
        (
            "a system call that returns",
            &[0x31, 0xc0],
            (exception::DEBUG, 0, CODE + 2),
        ),
    ] {
        user::load(code);
        let frame = Iret {
            rflags: 0x202 | TRAP,
            rax: 5,
            ..Iret::USER
        };
        answers.take(what, told(user::iret(&frame, 0)), wanted);
        let flags = arch::this_cpu().faulted_at.load().rflags;
        answers.take(format_args!("{what}: its flags"), flags & TRAP, TRAP);
        set_debug(6, 0);
    }
    // sysenter does not clear the flag: on Intel's CPUs the step is the hypervisor's.
    user::load(&[0x0f, 0x34]);
    let fault = user::iret(
        &Iret {
            rflags: 0x202 | TRAP,
            ..Iret::USER
        },
        0,
    );
    let seen = told(fault).0;
    answers.take(
        format_args!("sysenter: {seen}"),
        [exception::PROTECTION, exception::UNDEFINED].contains(&seen),
        true,
    );
    // A hypercall of a kernel that steps: the step comes behind the next instruction at the latest.
    let fault = fault_of(|| {
        // SAFETY: steps until the fault takes the flag away.
        unsafe {
            asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "syscall", "nop", "nop", "nop",
                 inout("rax") nr::XEN_VERSION => _, in("rdi") 0, out("rcx") _, out("r11") _)
        }
    });
    answers.take("a hypercall", told(fault).0, exception::DEBUG);
    set_debug(6, 0);
    let fault = fault_of(|| {
        arch::read64(arch::UNMAPPED);
    });
    answers.take("a fault after it", told(fault).0, exception::PAGE);
    let flags = arch::this_cpu().faulted_at.load().rflags;
    answers.take("no step is left", flags & TRAP, 0);
    answers.end()
}

/// By JMP, CALL, RET and IRET, from a program and from the kernel.
fn far() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    // A call gate of the guest's own, which nobody in ring 3 comes through; a task state it cannot have.
    let descriptors = table(&[(1, 0x0000_8c00_e033_0000), (2, 0)]);
    let frame = descriptors.frame();
    answers.take(
        "a table with a gate",
        hypercall(nr::SET_GDT, [(&raw const frame) as u64, 512, 0, 0, 0]),
        0,
    );
    let data = Page::take();
    let at = user::map(8, data);
    let selectors = [
        0xe008u64, 0xe00b, 0xe010, 0xe013, 0xe040, 0xe043, 0xe050, 0x8, 0xb, 0xfff8, 0x7, 0,
    ];
    for selector in selectors {
        let wanted = (exception::PROTECTION, selector & 0xfffc);
        data.write::<u64>(0, CODE | selector << 32);
        data.write(8, CODE as u32);
        data.write(12, selector as u32);
        // With REX.W the offset has 64 bits on Intel's CPUs alone.
        for (what, code) in [("jmp", &[0xff, 0x2f][..]), ("call", &[0xff, 0x1f])] {
            data.write::<u32>(0, 0x1000);
            data.write::<u16>(4, selector as u16);
            let fault = user::run(code, at).map(|fault| (fault.vector, fault.error));
            answers.take(format_args!("{what} to {selector:#x}"), fault, Some(wanted));
        }
        // push rsi; push rdx; retfq, with the registers from the data: mov rsi, [rdi+12]; mov rdx, [rdi+8] as 32 bits
        let code = [0x8b, 0x77, 12, 0x8b, 0x57, 8, 0x56, 0x52, 0x48, 0xcb];
        let fault = user::run(&code, at).map(|fault| (fault.vector, fault.error));
        answers.take(format_args!("retf to {selector:#x}"), fault, Some(wanted));
        // push 0xe02b (from the stack's segment); push rsp; pushfq; push rsi; push rdx; iretq
        let code = [
            0x8b, 0x77, 12, 0x8b, 0x57, 8, 0x8c, 0xd0, 0x50, 0x54, 0x9c, 0x56, 0x52, 0x48, 0xcf,
        ];
        let fault = user::run(&code, at).map(|fault| (fault.vector, fault.error));
        answers.take(format_args!("iret to {selector:#x}"), fault, Some(wanted));
    }
    answers.take(
        "its stack is as it was",
        arch::this_cpu().faulted_at.load().rsp >> 12,
        (STACK_TOP - 1) >> 12,
    );
    user::set_entry(8, 0);
    answers.take("no table", hypercall(nr::SET_GDT, [0; 5]), 0);
    answers.take("writable again", tables::make_writable(descriptors), 0);
    answers.end()
}

/// Selectors of a table that is gone, in registers that the hypervisor saves and loads when the vCPU leaves its CPU: they become
/// null, or the guest hears of it by its failsafe callback; never more.
fn lost_segments() -> Outcome {
    let mut answers = Answers::default();
    let descriptors = table(&[(1, 0x00cf_f300_0000_ffff)]);
    let frame = descriptors.frame();
    for turn in 0..4 {
        answers.take(
            "a table",
            hypercall(nr::SET_GDT, [(&raw const frame) as u64, 512, 0, 0, 0]),
            0,
        );
        let fault = fault_of(|| {
            // SAFETY: these registers are used by nothing.
            unsafe {
                match turn {
                    0 => asm!("mov es, {:x}", in(reg) 0xbu16, options(nostack)),
                    1 => asm!("mov ds, {:x}", in(reg) 0xbu16, options(nostack)),
                    2 => asm!("mov fs, {:x}", in(reg) 0xbu16, options(nostack)),
                    _ => {
                        asm!("mov es, {0:x}", "mov ds, {0:x}", "mov fs, {0:x}", in(reg) 0xbu16, options(nostack))
                    }
                }
            }
            hypercall(nr::SET_GDT, [0; 5]);
            let _ = crate::sched::block_for_a_millisecond();
        });
        let seen = told(fault).0;
        answers.take(
            format_args!("turn {turn}: {seen}"),
            [u64::MAX, trap::FAILSAFE].contains(&seen),
            true,
        );
        // SAFETY: as above.
        unsafe {
            asm!("mov es, {0:x}", "mov ds, {0:x}", "mov fs, {0:x}", in(reg) 0u16, options(nostack))
        };
        // The table is nobody's, whatever the registers said.
        answers.take(
            "writable, and not again",
            (
                tables::make_writable(descriptors),
                tables::make_read_only(descriptors),
            ),
            (0, 0),
        );
        answers.take("the record is where it was", arch::cpu_index(), 0);
    }
    answers.take("writable again", tables::make_writable(descriptors), 0);
    answers.end()
}
