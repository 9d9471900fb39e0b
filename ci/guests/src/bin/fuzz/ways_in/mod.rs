//! The ways from code into its kernel, from everywhere: `INT n` for all n, `INT3`, `INT1`, `INTO`, SYSCALL and SYSENTER, in 64-bit
//! and 32-bit programs and in the kernel, with random addresses, stacks, flags and selectors, trap tables and callbacks. What the kernel
//! then finds is told beforehand by a model of the ABI, and is the same on Xen.
//!
//! `ways=N` says how many turns; with `trace=N`, each is printed from the Nth on.

mod model;

use core::arch::asm;

use xenolith_guests::arch::low::{self, Low};
use xenolith_guests::arch::tables::{self, ext, mmuext};

use xenolith_guests::arch::trap::{self, Entry, entry_of};
use xenolith_guests::arch::upcall::{callback, register_callbacks};
use xenolith_guests::arch::user::{self, Iret};
use xenolith_guests::arch::{exception, hypercall, selector};
use xenolith_guests::bootargs;
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::console::line;
use xenolith_guests::report::{Outcome, Why, value};
use xenolith_guests::xen::{call, nr};
use xenolith_guests::{ensure, expect};

use super::DEFAULT_SEED;
use super::special::is_traced;
use super::words::Words;
use model::{
    Kernel, Machine, OLD_SYSTEM_CALL, OVERFLOW, SYSCALL_32_ENTRY, SYSENTER_ENTRY, Turn, Way, flag,
    note_mask, register,
};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("ways.every_interrupt_instruction", every_interrupt),
    ("ways.random_entries", random_entries),
];

const TURNS: u64 = 4000;
/// Turns with one table.
const PER_TABLE: u64 = 16;
/// Turns that differ are printed up to this number.
const PRINTED: u32 = 10;

/// `PHYSDEVOP_set_iopl`.
const SET_IOPL: u64 = 6;

/// The places of programs and of the kernel's own code and stack, and descriptor tables of the kernel's.
struct World {
    low: Low,
    kernel_stack: u64,
    tables: [Page; 2],
    machine: Machine,
    kernel: Kernel,
    differ: u32,
}

/// Code and data of ring 3 in both tables, with these selectors.
const WIDE: [u64; 3] = [selector::USER_CODE as u64, 0x0b, 0x0f];
const NARROW: [u64; 3] = [selector::CODE_32 as u64, 0x13, 0x17];
const DATA: [u64; 3] = [selector::USER_DATA as u64, 0x1b, 0x1f];

impl World {
    fn new() -> Result<Self, Why> {
        let tables = [(); 2].map(|_| {
            let page = Page::take();
            page.fill(0);
            page.write::<u64>(8, 0x00af_fb00_0000_ffff);
            page.write::<u64>(16, 0x00cf_fb00_0000_ffff);
            page.write::<u64>(24, 0x00cf_f300_0000_ffff);
            tables::make_read_only(page);
            page
        });
        let frame = [tables[0].frame()];
        let set = hypercall(nr::SET_GDT, [frame.as_ptr() as u64, 512, 0, 0, 0]);
        expect!(set, 0, "the table of descriptors");
        let local = mmuext(ext::SET_LDT, tables[1].address(), 512);
        expect!(local, 0, "the local table");
        let mut world = Self {
            low: Low::new(),
            kernel_stack: Page::take_many(4).address() + 3 * PAGE,
            tables,
            machine: Machine {
                no_sysenter: [None; 2],
                no_syscall_32: None,
                no_int1: None,
                scale: 8,
            },
            kernel: Kernel::new(),
            differ: 0,
        };
        // The flags that the kernel sees are the machine's but for this.
        let level = call(nr::PHYSDEV_OP, SET_IOPL, &mut 0u32);
        expect!(level, 0, "the level of ports");
        trap::on_exception(Some(note_mask));
        world.try_the_machine();
        Ok(world)
    }

    /// A turn with nothing odd.
    fn plain(&self, way: Way, wide: bool) -> Turn {
        let code = if wide { WIDE[0] } else { NARROW[0] };
        Turn {
            way,
            in_kernel: false,
            wide,
            loads: false,
            rip: low::CODE,
            argument: 0,
            frame: Iret {
                rip: low::CODE,
                cs: code,
                rsp: low::STACK_TOP,
                rax: 5,
                ..Iret::USER
            },
        }
    }

    fn try_the_machine(&mut self) {
        let all = Kernel {
            sysenter: Some(true),
            syscall_32: Some(true),
            ..Kernel::new()
        };
        all.tell();
        let seen = |way, wide| {
            let turn = self.plain(way, wide);
            self.put(&turn);
            turn.seen().map_or((0, 0), |seen| (seen.vector, seen.error))
        };
        let unless = |wanted: u64, (vector, _)| (vector != wanted).then_some(vector);
        let machine = Machine {
            no_sysenter: [true, false]
                .map(|wide| unless(SYSENTER_ENTRY.into(), seen(Way::Sysenter, wide))),
            no_syscall_32: unless(SYSCALL_32_ENTRY.into(), seen(Way::Syscall, false)),
            no_int1: unless(exception::DEBUG, seen(Way::Int1, true)),
            scale: match seen(Way::Int(0x93), true) {
                (_, error) if error == 0x93 * 16 + 2 => 16,
                _ => 8,
            },
        };
        let has = |refused: Option<u64>| i64::from(refused.is_none());
        value("ways.sysenter_in_64_bit_code", has(machine.no_sysenter[0]));
        value("ways.sysenter_in_32_bit_code", has(machine.no_sysenter[1]));
        value("ways.syscall_in_32_bit_code", has(machine.no_syscall_32));
        value("ways.int1", has(machine.no_int1));
        value("ways.bytes_of_a_gate", machine.scale as i64);
        self.machine = machine;
        self.kernel.tell();
    }

    /// Puts the code of a turn where it is to run.
    fn put(&self, turn: &Turn) {
        let [text, stack] = match turn.frame.rip & !(2 * PAGE - 1) {
            low::CODE => [self.low.text, self.low.stack],
            _ => user::pages(),
        };
        let mut at = turn.frame.rip % (2 * PAGE);
        let mut put = |byte: u8| {
            let page = if at < PAGE { text } else { stack };
            page.write::<u8>(at % PAGE, byte);
            at += 1;
        };
        if turn.loads {
            // mov ds, edi; mov es, edi; mov fs, edi; mov gs, edi
            [0x8e, 0xdf, 0x8e, 0xc7, 0x8e, 0xe7, 0x8e, 0xef]
                .into_iter()
                .for_each(&mut put);
        }
        let (bytes, _) = turn.way.bytes();
        bytes.into_iter().for_each(&mut put);
        put(0xcc);
    }

    fn take(&mut self, what: u64, turn: &Turn) {
        self.put(turn);
        let wanted = turn.expected(&self.machine, &self.kernel);
        let seen = turn.seen();
        if seen != Some(wanted) {
            self.differ += 1;
            if self.differ <= PRINTED {
                line(format_args!("[guest] differs turn {what} {turn:x?}"));
                line(format_args!("[guest]   got      {seen:x?}"));
                line(format_args!("[guest]   expected {wanted:x?}"));
            }
        }
    }

    fn end(self) -> Outcome {
        trap::on_exception(None);
        trap::set_trap_table(&trap::table());
        register_callbacks();
        register(callback::SYSENTER, None, 0);
        register(callback::SYSCALL_32, None, 0);
        // SAFETY: nothing uses these registers.
        unsafe {
            asm!("mov es, {0:x}", "mov ds, {0:x}", "mov fs, {0:x}", in(reg) 0u16, options(nostack))
        };
        mmuext(ext::SET_LDT, 0, 0);
        expect!(hypercall(nr::SET_GDT, [0; 5]), 0, "no table");
        for page in self.tables {
            expect!(tables::make_writable(page), 0, "memory again");
        }
        expect!(self.low.end(), 0, "tables are memory again");
        ensure!(self.differ == 0, "{} turns differ", self.differ);
        Ok(())
    }
}

/// Each vector, from each kind of code, with each kind of entry.
fn every_interrupt() -> Outcome {
    let mut world = World::new()?;
    for number in 0..=255u8 {
        let vector = usize::from(number);
        let plain = entry_of(number);
        // The stub of an exception with an error code would look for one.
        let stub = if number < 32 { number + 0x40 } else { number };
        for flags in [None, Some(0), Some(1), Some(3), Some(7)] {
            world.kernel = Kernel::new();
            // Those of the CPU stay there; and that of refusals, which has an error code, as it is.
            let stays =
                number < 32 && flags.is_none() || u64::from(number) == exception::PROTECTION;
            if !stays {
                world.kernel.traps[vector] = flags.map_or(Entry::default(), |flags| Entry {
                    flags,
                    address: entry_of(stub).address,
                    ..plain
                });
            }
            world.kernel.tell();
            for (in_kernel, wide) in [(false, true), (false, false), (true, true)] {
                let mut turn = world.plain(Way::Int(number), wide);
                if in_kernel {
                    world.be_in_kernel(&mut turn);
                }
                world.take(number.into(), &turn);
            }
        }
    }
    world.end()
}

impl World {
    /// Has the turn be one of the kernel's own code.
    fn be_in_kernel(&self, turn: &mut Turn) {
        turn.in_kernel = true;
        turn.frame.cs = u64::from(selector::CODE & !3);
        turn.rip = user::CODE;
        turn.frame.rip = user::CODE;
        turn.frame.rsp = self.kernel_stack;
    }

    fn random_turn(&self, words: &mut Words) -> Turn {
        let wide = words.once_in(2);
        let way = match words.below(10) {
            0 => Way::Int3,
            1 => Way::Int1,
            2 => Way::Into,
            3 | 4 => Way::Syscall,
            5 | 6 => Way::Sysenter,
            7 => Way::Int([OLD_SYSTEM_CALL, 3, OVERFLOW][words.below(3) as usize]),
            _ => Way::Int(words.random() as u8),
        };
        let mut turn = self.plain(way, wide);
        let frame = &mut turn.frame;
        let pick = |words: &mut Words, list: &[u64; 3]| list[words.below(3) as usize];
        frame.rflags = match words.below(4) {
            0 => 0x202,
            1 => 0x202 | 1 << words.below(22),
            _ => words.random(),
        };
        (frame.rcx, frame.r11) = (words.random(), words.random());
        // A system call with 0 is answered at once.
        frame.rax = words.random() | 1;
        turn.argument = words.random();
        // The kernel's own system calls are hypercalls, and its stack is where an entry puts its frame.
        let in_kernel = wide && words.once_in(4) && !matches!(way, Way::Syscall | Way::Sysenter);
        if in_kernel {
            self.be_in_kernel(&mut turn);
            turn.frame.rsp -= words.below(1024);
        } else {
            frame.cs = pick(words, if wide { &WIDE } else { &NARROW });
            frame.ss = pick(words, &DATA);
            frame.rsp = match words.below(4) {
                _ if !wide => words.random() & 0xffff_ffff,
                0 => low::STACK_TOP,
                1 => words.bad_pointer(),
                _ => words.random(),
            };
        }
        let frame = &mut turn.frame;
        if wide && words.once_in(2) {
            frame.rip = user::CODE;
        }
        let start = frame.rip;
        frame.rip += match words.below(4) {
            // Up to the end of the page, or over it.
            0 => PAGE - 1 - words.below(3),
            1 => 0,
            _ => words.below(PAGE - 16),
        };
        turn.rip = frame.rip;
        // A program that takes single steps would not come further than the first.
        let within = frame.rip - start < PAGE - 16;
        if within && !in_kernel && frame.rflags & flag::TRAP == 0 && words.once_in(4) {
            turn.loads = true;
            turn.rip += 8;
            turn.argument = match words.below(3) {
                0 => words.below(4),
                _ => pick(words, &DATA),
            };
        }
        if !wide {
            // Registers of 32 bits: what is above is not the program's.
            frame.rax &= 0xffff_ffff;
            frame.rcx &= 0xffff_ffff;
            turn.argument &= 0xffff_ffff;
        }
        turn
    }
}

fn random_entries() -> Outcome {
    let seed = bootargs::number("seed", DEFAULT_SEED);
    value("ways.seed", seed as i64);
    let mut words = Words::new(seed, Page::take(), 1, 0);
    let mut world = World::new()?;
    for turn in 0..bootargs::number("ways", TURNS) {
        if turn % PER_TABLE == 0 {
            world.kernel = Kernel::random(&mut words);
            world.kernel.tell();
        }
        let what = world.random_turn(&mut words);
        if is_traced(turn) {
            line(format_args!("[guest] way {turn} {what:x?}"));
        }
        world.take(turn, &what);
    }
    world.end()
}
