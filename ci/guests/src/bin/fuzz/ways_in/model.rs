//! What a kernel finds behind each of the ways into it: the ABI, and what of it is the machine's own.

use core::sync::atomic::{AtomicBool, Ordering};

use xenolith_guests::arch::trap::{self, Entry, Frame, MASKS_EVENTS, SYSCALL, entry_of};
use xenolith_guests::arch::upcall::{callback, callback_op, callbacks};
use xenolith_guests::arch::user::{self, Iret};
use xenolith_guests::arch::{self, exception, hypercall, irqs_are_on, selector};
use xenolith_guests::xen::nr;

use crate::words::Words;

/// Entries of SYSENTER and of SYSCALL in 32-bit code, if the kernel has them: those of vectors that nothing else raises.
pub(super) const SYSENTER_ENTRY: u8 = 0x91;
pub(super) const SYSCALL_32_ENTRY: u8 = 0x92;
/// From one stub of the runtime's to the next.
const STUB_BYTES: u64 = 16;

pub(super) const OLD_SYSTEM_CALL: u8 = 0x80;
pub(super) const OVERFLOW: u8 = 4;

/// The flags that a program gets as the frame of `iret` says.
const KEPT: u64 = 0x24_4dd5;
/// Those that are looked at: also those that it may never have, and the one that stands for the event mask.
const CHECKED: u64 = KEPT | flag::INTERRUPTS | flag::IOPL | flag::VM86 | 2;

pub(super) mod flag {
    pub const TRAP: u64 = 1 << 8;
    pub const INTERRUPTS: u64 = 1 << 9;
    pub const OVERFLOW: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const VM86: u64 = 1 << 17;
}

/// An instruction that enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Int(u8),
    Int3,
    Int1,
    Into,
    Syscall,
    Sysenter,
}

impl Way {
    pub(super) fn bytes(self) -> ([u8; 2], u64) {
        match self {
            Way::Int(number) => ([0xcd, number], 2),
            Way::Int3 => ([0xcc, 0xcc], 1),
            Way::Int1 => ([0xf1, 0xcc], 1),
            Way::Into => ([0xce, 0xcc], 1),
            Way::Syscall => ([0x0f, 0x05], 2),
            Way::Sysenter => ([0x0f, 0x34], 2),
        }
    }
}

/// What the machine makes of some of them, which is not the ABI's: found out by trying.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// The exception of SYSENTER in 64-bit code and in that of 32 bits, where the CPU has none there.
    pub(super) no_sysenter: [Option<u64>; 2],
    /// The same of SYSCALL in 32-bit code.
    pub(super) no_syscall_32: Option<u64>,
    /// The same of INT1.
    pub(super) no_int1: Option<u64>,
    /// Bytes of a gate, of which the error code of INT n counts: QEMU 7.2 takes 16, and Xen believes it.
    pub(super) scale: u64,
}

/// What the kernel told the hypervisor.
pub(super) struct Kernel {
    pub(super) traps: [Entry; 256],
    pub(super) syscall: Option<bool>,
    pub(super) sysenter: Option<bool>,
    pub(super) syscall_32: Option<bool>,
}

/// Where and how the instruction is executed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) way: Way,
    /// By the kernel itself.
    pub(super) in_kernel: bool,
    /// In 64-bit code.
    pub(super) wide: bool,
    /// The data segments are loaded with the argument before.
    pub(super) loads: bool,
    /// Where the instruction is.
    pub(super) rip: u64,
    pub(super) argument: u64,
    pub(super) frame: Iret,
}

/// What the kernel finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) vector: u64,
    pub(super) error: u64,
    pub(super) rip: u64,
    pub(super) cs: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
    pub(super) ss: u64,
    pub(super) rax: u64,
    pub(super) rcx: u64,
    pub(super) r11: u64,
    pub(super) rdi: u64,
    pub(super) masked: bool,
}

static MASKED: AtomicBool = AtomicBool::new(false);

/// Sees every exception before the runtime does, and leaves it to it.
pub(super) fn note_mask(_: &mut Frame) -> bool {
    MASKED.store(!irqs_are_on(), Ordering::SeqCst);
    false
}

/// The runtime's table, by vectors.
fn runtime_traps() -> [Entry; 256] {
    let mut traps = [Entry::default(); 256];
    for entry in trap::table() {
        if entry.address != 0 {
            traps[usize::from(entry.vector)] = entry;
        }
    }
    traps
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self {
            traps: runtime_traps(),
            syscall: Some(true),
            sysenter: None,
            syscall_32: None,
        }
    }

    /// Tells the hypervisor.
    pub(super) fn tell(&self) {
        // What is not named would stay.
        hypercall(nr::SET_TRAP_TABLE, [0; 5]);
        let mut list = [Entry::default(); 257];
        let there = self.traps.iter().filter(|entry| entry.address != 0);
        for (slot, entry) in list.iter_mut().zip(there) {
            *slot = *entry;
        }
        let errno = trap::set_trap_table(&list);
        assert!(errno == 0, "set_trap_table: {errno}");
        let [_, _, syscall] = callbacks();
        register(callback::SYSCALL, self.syscall, syscall);
        let entry = |vector| entry_of(vector).address;
        register(callback::SYSENTER, self.sysenter, entry(SYSENTER_ENTRY));
        register(
            callback::SYSCALL_32,
            self.syscall_32,
            entry(SYSCALL_32_ENTRY),
        );
    }

    /// A table that has any vector but those of the CPU's exceptions, and any callbacks.
    pub(super) fn random(words: &mut Words) -> Self {
        let mut kernel = Self::new();
        for (vector, entry) in (0..=255u8).zip(&mut kernel.traps) {
            let software = [exception::BREAKPOINT as u8, OVERFLOW].contains(&vector);
            if !software && vector < 32 {
                continue;
            }
            *entry = match words.below(4) {
                0 if !software => Entry::default(),
                _ => Entry {
                    flags: words.random() as u8 & 7,
                    cs: words.random() as u16,
                    ..entry_of(vector)
                },
            };
        }
        let mut masks = |none| Some(words.once_in(2)).filter(|_| !words.once_in(none));
        (kernel.sysenter, kernel.syscall) = (masks(3), masks(8));
        // Xen takes the flag of the other one.
        kernel.syscall_32 = masks(3).map(|_| kernel.syscall == Some(true));
        kernel
    }
}

/// `None`: there is no such callback.
pub(super) fn register(kind: u16, masks: Option<bool>, entry: u64) {
    let flags = match masks {
        Some(true) => callback::MASK_EVENTS,
        _ => 0,
    };
    let address = if masks.is_some() { entry } else { 0 };
    let errno = callback_op(callback::REGISTER, kind, flags, address);
    assert!(errno == 0, "callback {kind}: {errno}");
}

impl Turn {
    /// What the model says.
    pub(super) fn expected(&self, machine: &Machine, kernel: &Kernel) -> Seen {
        let frame = &self.frame;
        let rflags = frame.rflags & (KEPT | flag::INTERRUPTS) | 2;
        let was_masked = rflags & flag::INTERRUPTS == 0;
        let (_, length) = self.way.bytes();
        let behind = self.rip + length;
        let mut seen = Seen {
            vector: 0,
            error: 0,
            rip: self.rip,
            cs: frame.cs & 0xffff | u64::from(was_masked) << 32,
            rflags,
            rsp: frame.rsp,
            ss: frame.ss | 3,
            rax: frame.rax,
            rcx: frame.rcx,
            r11: frame.r11,
            rdi: self.argument,
            masked: was_masked,
        };
        let by_entry = |seen: &mut Seen, vector: u8| {
            let entry = kernel.traps[usize::from(vector)];
            // By the stub that the entry names.
            seen.vector = (entry.address - entry_of(0).address) / STUB_BYTES;
            seen.masked |= entry.flags & MASKS_EVENTS != 0;
        };
        if let Some(exception) = self.refused(machine) {
            by_entry(&mut seen, exception as u8);
            return seen;
        }
        match self.way {
            Way::Int3 | Way::Int(3) | Way::Int1 => {
                by_entry(&mut seen, if self.way == Way::Int1 { 1 } else { 3 });
                seen.rip = behind;
            }
            Way::Into if self.wide => by_entry(&mut seen, exception::UNDEFINED as u8),
            Way::Into if rflags & flag::OVERFLOW != 0 => {
                by_entry(&mut seen, OVERFLOW);
                seen.rip = behind;
            }
            // It does nothing, and the next is a breakpoint.
            Way::Into => {
                let steps = rflags & flag::TRAP != 0;
                by_entry(&mut seen, if steps { 1 } else { 3 });
                seen.rip = if steps { behind } else { behind + 1 };
            }
            Way::Int(OVERFLOW) => {
                by_entry(&mut seen, OVERFLOW);
                seen.rip = behind;
            }
            Way::Int(number) => {
                let (told, error) = match number {
                    OLD_SYSTEM_CALL => (number, u64::from(number) * 8 + 2),
                    _ => {
                        let error = u64::from(number) * machine.scale + 2;
                        ((error >> 3) as u8, error)
                    }
                };
                let entry = kernel.traps[usize::from(told)];
                let privilege = if self.in_kernel { 1 } else { 3 };
                let admitted = entry.flags & 3 >= privilege || number == OLD_SYSTEM_CALL;
                if entry.address != 0 && admitted {
                    by_entry(&mut seen, told);
                    seen.rip = behind;
                } else {
                    by_entry(&mut seen, exception::PROTECTION as u8);
                    seen.error = error;
                }
            }
            Way::Syscall => {
                seen.ss = selector::USER_DATA.into();
                let code = if self.wide {
                    selector::USER_CODE
                } else {
                    selector::CODE_32
                };
                seen.cs = u64::from(code) | u64::from(was_masked) << 32;
                seen.rcx = behind;
                seen.r11 = rflags | flag::INTERRUPTS;
                let (vector, callback) = match self.wide {
                    true => (SYSCALL, kernel.syscall),
                    false => (SYSCALL_32_ENTRY.into(), kernel.syscall_32),
                };
                match callback {
                    Some(masks) => {
                        (seen.vector, seen.rip) = (vector, behind);
                        seen.masked |= masks;
                    }
                    None => by_entry(&mut seen, exception::UNDEFINED as u8),
                }
            }
            // It keeps nothing of where it was.
            Way::Sysenter => {
                (seen.rip, seen.rsp) = (0, 0);
                seen.cs = 3 | u64::from(was_masked) << 32;
                seen.ss = selector::USER_DATA.into();
                match kernel.sysenter {
                    Some(masks) => {
                        seen.vector = SYSENTER_ENTRY.into();
                        seen.masked |= masks;
                    }
                    None => by_entry(&mut seen, exception::PROTECTION as u8),
                }
            }
        }
        seen
    }

    /// The exception that the instruction is on this machine, if it is none of its ways.
    fn refused(&self, machine: &Machine) -> Option<u64> {
        match self.way {
            Way::Int1 => machine.no_int1,
            Way::Syscall if !self.wide => machine.no_syscall_32,
            Way::Sysenter => machine.no_sysenter[usize::from(!self.wide)],
            _ => None,
        }
    }

    /// Executes it.
    pub(super) fn seen(&self) -> Option<Seen> {
        user::iret(&self.frame, self.argument)?;
        let frame = arch::this_cpu().faulted_at.load();
        let flags = |word: u64| word & CHECKED;
        Some(Seen {
            vector: frame.vector,
            error: frame.error,
            rip: frame.rip,
            cs: frame.cs & 0xff_ffff_ffff,
            rflags: flags(frame.rflags),
            rsp: frame.rsp,
            ss: frame.ss,
            rax: frame.rax,
            rcx: frame.rcx,
            r11: match self.way {
                Way::Syscall if frame.rcx == self.rip + 2 => flags(frame.r11),
                _ => frame.r11,
            },
            rdi: frame.rdi,
            masked: MASKED.load(Ordering::SeqCst),
        })
    }
}
