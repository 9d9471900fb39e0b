//! Interrupts of the machine's devices, and the domain that gets them.
//!
//! Each line of the IOAPICs has the vector `FIRST + line`. A line is bound when the domain asks for it: when a translated guest
//! opens its entry in its emulated IOAPIC, with the trigger that the guest says there, or when a PV guest binds a port to its
//! number ([`pirqs`]). The vectors above the last
//! line's, up to `LAST`, are for messages ([`messages`]).

pub mod messages;
pub mod pirqs;

use alloc::sync::Weak;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use xenolith_core::{Domain, DomainRef};
use xenolith_hal::sync::{Mutex, Rank};

use crate::{
    X86_64, apic, console,
    cpu::percpu::PerCpu,
    ioapic::{self, Line},
};

/// Vector of line 0.
const FIRST: u8 = 0x30;
/// The last vector of devices; the hypervisor's own follow.
const LAST: u8 = 0xdf;
/// The old system call: an interrupt there would be taken for a PV guest's instruction.
const SYSTEM_CALL: u8 = 0x80;
/// Lines that have a vector, at most.
const LINES: usize = (SYSTEM_CALL - FIRST) as usize;

/// How a line is bound.
const UNBOUND: u8 = 0;
const EDGE: u8 = 1;
const LEVEL: u8 = 2;
/// The hypervisor's own console.
const CONSOLE: u8 = 3;

static BOUND: [AtomicU8; LINES] = [const { AtomicU8::new(UNBOUND) }; LINES];
static OWNER: Mutex<Weak<Domain<X86_64>>> = Mutex::new(Rank::DomainTable, Weak::new());

/// The domain gets the machine's device interrupts from now on.
pub fn give_to(domain: &DomainRef<X86_64>) {
    *OWNER.lock() = alloc::sync::Arc::downgrade(domain);
}

/// The domain is gone: its lines are closed.
pub fn release() {
    for (line, bound) in (0..).zip(&BOUND) {
        if !is_console(line) && bound.swap(UNBOUND, Relaxed) != UNBOUND {
            ioapic::set_mask(line, true);
        }
    }
    *OWNER.lock() = Weak::new();
}

/// The line of the console's UART interrupts this CPU.
pub fn bind_console(line: u32, how: Line) {
    open(line, how, CONSOLE);
    console::enable_input();
}

/// The owner wants a line; false when it is the hypervisor's own.
pub fn bind(line: u32, how: Line) -> bool {
    let free = !is_console(line);
    if free {
        open(line, how, if how.level { LEVEL } else { EDGE });
    }
    free
}

fn open(line: u32, how: Line, kind: u8) {
    if let Some(bound) = BOUND.get(line as usize) {
        bound.store(kind, Relaxed);
        ioapic::open(line, how, FIRST + line as u8, apic::id_for_devices());
    }
}

fn is_console(line: u32) -> bool {
    let bound = BOUND.get(line as usize);
    bound.is_some_and(|bound| bound.load(Relaxed) == CONSOLE)
}

/// The owner does not want a line any more.
pub fn mask(line: u32) {
    if let Some(bound) = BOUND.get(line as usize)
        && !is_console(line)
        && bound.swap(UNBOUND, Relaxed) != UNBOUND
    {
        ioapic::set_mask(line, true);
    }
}

/// The owner handled the interrupt of a line that signals by level: it may come again.
pub fn handled(line: u32) {
    if let Some(bound) = BOUND.get(line as usize)
        && bound.load(Relaxed) == LEVEL
    {
        ioapic::set_mask(line, false);
    }
}

/// The first vector that is no line's.
fn first_message() -> u8 {
    FIRST + ioapic::lines().min(LINES as u32) as u8
}

/// A device interrupt came; interrupts are masked, and no lock is held.
pub fn taken(vector: u8) {
    if (first_message()..=LAST).contains(&vector) {
        return messages::taken(vector);
    }
    let line = vector.wrapping_sub(FIRST);
    let Some(bound) = BOUND.get(usize::from(line)) else {
        log::warn!("interrupt with vector {vector:#x}, which nobody asked for");
        return;
    };
    let kind = bound.load(Relaxed);
    if kind == CONSOLE {
        if let Some(cpu) = PerCpu::try_current() {
            console::interrupt(cpu.hv);
        }
        return;
    }
    if kind == LEVEL {
        ioapic::set_mask(line.into(), true);
    }
    let owner = OWNER.lock().upgrade();
    if let (Some(domain), Some(cpu)) = (owner, PerCpu::try_current()) {
        match &domain.arch.pirqs {
            Some(pirqs) => pirqs.line_came(cpu.hv, &domain, line.into()),
            None => crate::guest::ioapic::signal(cpu.hv, &domain, line.into()),
        }
    }
}
