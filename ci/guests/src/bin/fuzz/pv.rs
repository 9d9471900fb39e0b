//! Random use of what only PV guests have, a few turns each unless the words say how many: `frames=N` random frames
//! for `iret`, `code=N` random instructions as user code, one at a time, `tables=N` random descriptor tables. At the end, with `fault=N`, one of
//! nine exceptions without a way into the kernel (`last_fault`).
#![allow(unsafe_code)] // Runs bytes that are no function.

use core::arch::asm;
use core::sync::atomic::Ordering;

use xenolith_guests::arch::tables::{self, ext, mmuext};
use xenolith_guests::arch::user::{self, CODE, Iret, STACK_TOP};
use xenolith_guests::arch::{self, exception, fault_of, hypercall, trap};
use xenolith_guests::bootargs;
use xenolith_guests::buffer::Page;
use xenolith_guests::console;
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::nr;
use xenolith_guests::{ensure, expect};

use super::words::Words;
use super::{DEFAULT_SEED, still_answers};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("fuzz.random_frames", random_frames),
    ("fuzz.random_code", random_code),
    ("fuzz.random_descriptors", random_descriptors),
    ("fuzz.last_fault", last_fault),
];

const TURNS: u64 = 2000;

fn words() -> Words {
    Words::new(bootargs::number("seed", DEFAULT_SEED), Page::take(), 1, 0)
}

/// Whether the turn is to be printed.
pub(crate) fn is_traced(turn: u64) -> bool {
    turn >= bootargs::number("trace", u64::MAX)
}

/// User code goes on with odd flags, selectors, addresses and stacks; whatever comes of it, the kernel gets it.
fn random_frames() -> Outcome {
    let mut words = words();
    user::use_root();
    // Whatever is run there, it is a trap, or a system call.
    let mut code = [0xcc; 64];
    (code[16], code[17], code[32], code[33]) = (0x0f, 0x05, 0xcd, 0x80);
    user::load(&code);
    let (mut traps, mut failsafes) = (0i64, 0i64);
    for turn in 0..bootargs::number("frames", TURNS) {
        let mut frame = Iret::USER;
        let number = |words: &mut Words| match words.below(6) {
            0 => words.bad_pointer(),
            1 => CODE + words.below(4096),
            2 => STACK_TOP - words.below(64),
            3 => 1 << words.below(64),
            4 => words.random(),
            _ => words.word(),
        };
        let selector = |words: &mut Words| match words.below(6) {
            0 => 0xe023,
            1 => 0xe02b,
            2 => 0xe033,
            3 => words.below(64),
            4 => 0xe000 + words.below(256),
            _ => words.random() & 0xffff,
        };
        for _ in 0..1 + words.below(3) {
            match words.below(7) {
                0 => frame.rip = number(&mut words),
                // Ring 3 is user code; the kernel's own would run the user's bytes with its rights.
                1 => frame.cs = selector(&mut words) | 3,
                2 => frame.ss = selector(&mut words),
                3 => frame.rsp = number(&mut words),
                4 => frame.rflags = words.random(),
                5 => frame.rflags = 0x202 | 1 << words.below(22),
                _ => frame.flags = words.word(),
            }
        }
        if is_traced(turn) {
            console::line(format_args!("[guest] frame {turn} {frame:x?}"));
        }
        if let Some(fault) = user::iret(&frame, words.word()) {
            traps += 1;
            failsafes += i64::from(fault.vector == trap::FAILSAFE);
        }
    }
    value("fuzz.frames_that_trapped", traps);
    value("fuzz.frames_that_failed", failsafes);
    still_answers()
}

fn random_code() -> Outcome {
    let turns = bootargs::number("code", TURNS);
    let mut words = words();
    let mut faults = 0;
    user::use_root();
    for turn in 0..turns {
        let mut code = [0xcc; 32];
        for byte in &mut code[..16] {
            *byte = words.random() as u8;
        }
        if is_traced(turn) {
            console::line(format_args!("[guest] code {turn} {code:x?}"));
        }
        user::load(&code);
        // One step: a trap behind the first instruction, or in it.
        let frame = Iret {
            rflags: 0x302,
            rax: words.word(),
            rcx: words.word(),
            r11: words.word(),
            ..Iret::USER
        };
        let fault = user::iret(&frame, words.word());
        faults += i64::from(fault.is_some_and(|fault| fault.vector != exception::DEBUG));
    }
    value("fuzz.instructions_that_faulted", faults);
    still_answers()
}

/// A descriptor: any word, or one of a code or data segment with some bits turned over.
fn descriptor(words: &mut Words) -> u64 {
    const SEGMENTS: [u64; 6] = [
        0x00af_fb00_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x008f_fa00_0000_ffff,
        0x0040_f200_0000_0fff,
        0x0000_ec00_e033_0000,
    ];
    let plain = SEGMENTS[words.below(SEGMENTS.len() as u64) as usize];
    match words.below(8) {
        0 => words.random(),
        1 => plain ^ words.random() & 0x00f0_7f00_0000_0000,
        2 => plain ^ 1 << words.below(64),
        3 => plain | (words.random() & 0xffff) << 16,
        _ => plain,
    }
}

/// Pages of random descriptors as global and local tables, which programs and the kernel then use; whatever comes of it, the pages
/// are memory again afterwards.
fn random_descriptors() -> Outcome {
    let mut words = words();
    let pages = [(); 3].map(|_| Page::take());
    let (mut set, mut faults) = (0i64, 0i64);
    user::use_root();
    user::load(&[0xcc; 16]);
    // Whenever another domain had the CPU, registers are loaded again, and those that name a descriptor which has changed since
    // do not load.
    trap::on_exception(Some(|frame| {
        frame.vector == trap::FAILSAFE && arch::this_cpu().expecting.load(Ordering::SeqCst) == 0
    }));
    for turn in 0..bootargs::number("tables", TURNS / 10) {
        for page in pages {
            page.fill(0);
            for _ in 0..words.below(24) {
                let value = descriptor(&mut words);
                page.write(words.below(16) * 8, value);
            }
            tables::make_read_only(page);
        }
        let frames = pages.map(Page::frame);
        let count = match words.below(4) {
            0 => words.below(3 * 512 + 1),
            _ => 512 * (1 + words.below(3)),
        };
        set += i64::from(hypercall(nr::SET_GDT, [frames.as_ptr() as u64, count, 0, 0, 0]) == 0);
        let base = pages[words.below(3) as usize].address();
        set += i64::from(mmuext(ext::SET_LDT, base, words.below(1100)) == 0);
        for step in 0..16 {
            if is_traced(turn) {
                console::line(format_args!("[guest] table {turn} step {step}"));
            }
            let selector = match words.below(4) {
                0 => words.random() & 0xffff,
                1 => words.below(3) * 4096 + words.below(16) * 8 + words.below(8),
                _ => words.below(16) << 3 | 3 | words.below(2) << 2,
            };
            let which = words.below(8);
            let at = (frames[words.below(3) as usize] << 12) + words.below(16) * 8;
            let value = descriptor(&mut words);
            let fault = match which {
                // SAFETY: nothing uses these registers.
                0 => fault_of(|| unsafe {
                    asm!("mov es, {:x}", in(reg) selector as u16, options(nostack))
                }),
                // SAFETY: as above.
                1 => fault_of(|| unsafe {
                    asm!("mov ds, {0:x}", "mov fs, {0:x}", in(reg) selector as u16, options(nostack))
                }),
                2 => {
                    hypercall(nr::UPDATE_DESCRIPTOR, [at, value, 0, 0, 0]);
                    None
                }
                3 => {
                    // Another vCPU may run meanwhile, and these registers be loaded again.
                    hypercall(nr::SCHED_OP, [0; 5]);
                    None
                }
                // A program's own loads: mov ds, edi; mov es, edi; mov fs, edi; mov gs, edi; mov ss, edi
                4 => user::run(
                    &[
                        0x8e, 0xdf, 0x8e, 0xc7, 0x8e, 0xe7, 0x8e, 0xef, 0x8e, 0xd7, 0xcc,
                    ],
                    selector,
                ),
                _ => {
                    let mut frame = Iret::USER;
                    if words.once_in(2) {
                        frame.ss = selector;
                    }
                    frame.cs = (words.below(16) << 3 | 3 | words.below(2) << 2) & 0xffff;
                    frame.rip = match words.below(3) {
                        0 => words.below(1 << 20),
                        _ => CODE,
                    };
                    user::load(&[0xcc; 16]);
                    user::iret(&frame, 0)
                }
            };
            faults += i64::from(fault.is_some());
        }
        // SAFETY: as above.
        unsafe {
            asm!("mov es, {0:x}", "mov ds, {0:x}", "mov fs, {0:x}", in(reg) 0u16, options(nostack))
        };
        mmuext(ext::SET_LDT, 0, 0);
        expect!(hypercall(nr::SET_GDT, [0; 5]), 0, "turn {turn}: no table");
        for page in pages {
            expect!(tables::make_writable(page), 0, "turn {turn}: memory again");
        }
    }
    trap::on_exception(None);
    value("fuzz.tables_that_were_set", set);
    value("fuzz.selectors_that_faulted", faults);
    ensure!(set > 0, "no table was good");
    still_answers()
}

/// An exception that reaches no handler: nothing of this guest comes after it, and nothing else ends.
fn last_fault() -> Outcome {
    /// Where the hypervisor's addresses end.
    const BEHIND_HYPERVISOR: u64 = 0xffff_8800_0000_0000;
    let way = bootargs::number("fault", 0);
    let stack = match way {
        0 => return Ok(()),
        1 => {
            hypercall(nr::SET_TRAP_TABLE, [0; 5]);
            // SAFETY: it ends the domain, which is what was asked for.
            unsafe { asm!("ud2", options(noreturn)) }
        }
        2 => arch::UNMAPPED,
        // A frame would reach down into what is the hypervisor's.
        3 => BEHIND_HYPERVISOR + 16,
        4 => 0xffff_82d0_4020_0000,
        5 => arch::NON_CANONICAL,
        6 => {
            // The handler of page faults is nowhere: each fault of its own puts a frame on the stack, which ends.
            let entry = trap::Entry {
                address: arch::UNMAPPED,
                ..trap::entry_of(exception::PAGE as u8)
            };
            trap::set_trap_table(&[entry, trap::Entry::default()]);
            arch::read64(arch::UNMAPPED);
            return Ok(());
        }
        7 => {
            // A program traps, and the kernel's stack is the hypervisor's.
            user::use_root();
            user::load(&[0xcc]);
            arch::stack_switch(arch::selector::DATA, BEHIND_HYPERVISOR + 16);
            let frame = Iret::USER;
            // SAFETY: it ends the domain.
            unsafe {
                asm!("mov rsp, {}", "mov eax, 23", "syscall", "ud2", in(reg) &raw const frame, options(noreturn))
            }
        }
        8 => {
            // The frame of a return is the hypervisor's.
            // SAFETY: as above.
            unsafe {
                asm!("mov rsp, {}", "mov eax, 23", "syscall", "ud2", in(reg) BEHIND_HYPERVISOR - 32, options(noreturn))
            }
        }
        _ => {
            // To programs, for which there is no address space.
            mmuext(ext::NEW_USER_BASEPTR, 0, 0);
            user::iret(&Iret::USER, 0);
            return Ok(());
        }
    };
    // SAFETY: as above.
    unsafe { asm!("mov rsp, {}", "ud2", in(reg) stack, options(noreturn)) }
}
