//! The local APIC, as x2APIC where the CPU has it (the word `apic=xapic` keeps to the memory-mapped form), and the
//! handlers of vectors. AMD64 manual, volume 2, chapter 16.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::regs::{cpuid, msr, rdmsr, wrmsr};
use super::{read32, write32};
use crate::bootargs;

/// Register offsets of the memory-mapped form.
#[allow(missing_docs)]
pub mod reg {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

/// Vectors that the runtime uses.
#[allow(missing_docs)]
pub mod vector {
    pub const TIMER: u8 = 0x50;
    pub const IPI: u8 = 0x60;
    pub const EVENT: u8 = 0x70;
    pub const SPURIOUS: u8 = 0xff;
}

/// The page of the memory-mapped form.
pub const BASE: u64 = 0xfee0_0000;
const X2APIC_ENABLE: u64 = 1 << 10;
const ENABLE: u64 = 1 << 11;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

static X2APIC: AtomicU32 = AtomicU32::new(0);
static HANDLERS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// Whether the registers are reached as MSRs.
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed) != 0
}

/// Reads a register of this CPU's APIC.
pub fn read(register: u32) -> u32 {
    if is_x2apic() {
        rdmsr(msr::X2APIC + (register >> 4)) as u32
    } else {
        read32(BASE + u64::from(register))
    }
}

/// Writes a register of this CPU's APIC.
pub fn write(register: u32, value: u32) {
    if is_x2apic() {
        wrmsr(msr::X2APIC + (register >> 4), u64::from(value));
    } else {
        write32(BASE + u64::from(register), value);
    }
}

/// Sends an interrupt command to the CPU with APIC id `target`.
pub fn command(target: u32, value: u32) {
    if is_x2apic() {
        let whole = u64::from(target) << 32 | u64::from(value);
        wrmsr(msr::X2APIC + (reg::ICR >> 4), whole);
    } else {
        write(reg::ICR_HIGH, target << 24);
        write(reg::ICR, value);
        while read(reg::ICR) & PENDING != 0 {
            core::hint::spin_loop();
        }
    }
}

/// Sends `vector` to the CPU with APIC id `target`.
pub fn send(target: u32, vector: u8) {
    command(target, ASSERT | u32::from(vector));
}

pub(super) fn send_init(target: u32) {
    command(target, ASSERT | INIT);
}

/// Sends a start-up command for the page `page`.
pub fn send_sipi(target: u32, page: u8) {
    command(target, ASSERT | STARTUP | u32::from(page));
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    let id = read(reg::ID);
    if is_x2apic() { id } else { id >> 24 }
}

/// Ends the interrupt that is being served.
pub fn end() {
    write(reg::EOI, 0);
}

/// The vector's bit in one of the 256-bit arrays (ISR, TMR, IRR).
pub fn bit(array: u32, vector: u8) -> bool {
    let register = array + u32::from(vector / 32) * 16;
    read(register) >> (vector % 32) & 1 != 0
}

/// Whether any interrupt waits to be taken.
pub fn is_pending() -> bool {
    (0..8).any(|index| read(reg::IRR + index * 16) != 0)
}

/// Has `handler` called with the vector on the CPU that takes it. A vector has one handler for all CPUs.
pub fn on_vector(vector: u8, handler: fn(u32)) {
    HANDLERS[usize::from(vector)].store(handler as usize, Ordering::Relaxed);
}

/// Leaves `vector` without a handler.
pub fn no_vector(vector: u8) {
    HANDLERS[usize::from(vector)].store(0, Ordering::Relaxed);
}

pub(super) fn init() {
    let has = cpuid(1, 0).ecx >> 21 & 1 != 0;
    let wanted = has && bootargs::word("apic") != Some("xapic");
    X2APIC.store(u32::from(wanted), Ordering::Relaxed);
    init_cpu();
}

/// Brings this CPU's APIC up, all sources of its own masked.
pub(super) fn init_cpu() {
    let base = rdmsr(msr::APIC_BASE) | ENABLE;
    wrmsr(msr::APIC_BASE, base);
    if is_x2apic() {
        wrmsr(msr::APIC_BASE, base | X2APIC_ENABLE);
    }
    write(reg::SVR, SOFTWARE_ENABLE | u32::from(vector::SPURIOUS));
    write(reg::TPR, 0);
    super::timer::init_cpu();
}

#[unsafe(no_mangle)]
extern "C" fn guest_irq_rust(number: u64) {
    let vector = number as u8;
    if vector == vector::SPURIOUS {
        return;
    }
    let handler = HANDLERS[usize::from(vector)].load(Ordering::Relaxed);
    if handler == 0 {
        panic!("interrupt {vector:#x} without a handler");
    }
    // SAFETY: only `on_vector` stores here, and it stores a `fn(u32)`.
    let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
    handler(u32::from(vector));
    if vector != vector::EVENT || super::upcall_needs_end() {
        end();
    }
}
