//! Exceptions and interrupts of S-mode. A test says beforehand that an instruction may fault (`fault_of`); the handler then
//! notes the cause and skips the instruction. Any other exception ends the guest with a result line.

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::cpu::this_cpu;
use super::entry::Frame;
use super::plic;

/// What an expected fault looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// scause: one of `cause`.
    pub cause: u64,
    /// stval: the address of an access, the bits of an illegal instruction or 0.
    pub value: u64,
    /// Address of the faulting instruction.
    pub pc: u64,
}

/// Exceptions that tests meet.
#[allow(missing_docs)]
pub mod cause {
    pub const FETCH_ACCESS: u64 = 1;
    pub const ILLEGAL: u64 = 2;
    pub const BREAKPOINT: u64 = 3;
    pub const LOAD_MISALIGNED: u64 = 4;
    pub const LOAD_ACCESS: u64 = 5;
    pub const STORE_MISALIGNED: u64 = 6;
    pub const STORE_ACCESS: u64 = 7;
    pub const USER_CALL: u64 = 8;
    pub const FETCH_PAGE: u64 = 12;
    pub const LOAD_PAGE: u64 = 13;
    pub const STORE_PAGE: u64 = 15;
}

/// Interrupts: numbers of their causes, and of their bits in sie and sip.
#[allow(missing_docs)]
pub mod interrupt {
    pub const SOFTWARE: u32 = 1;
    pub const TIMER: u32 = 5;
    pub const EXTERNAL: u32 = 9;
}

const INTERRUPT: u64 = 1 << 63;

static HANDLERS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

fn handler_of(line: u32) -> &'static AtomicUsize {
    &HANDLERS[usize::from(line == interrupt::TIMER)]
}

/// Lets this CPU take the timer's or the software interrupt, and has `handler` called with its number. An interrupt has
/// one handler for all CPUs.
pub(super) fn on_cause(line: u32, handler: fn(u32)) {
    handler_of(line).store(handler as usize, Ordering::Relaxed);
    enable(line);
}

/// Lets this CPU take an interrupt.
pub fn enable(line: u32) {
    // SAFETY: the interrupt has a handler, or ends the guest with a line that says so.
    unsafe { asm!("csrs sie, {}", in(reg) 1u64 << line, options(nostack)) };
}

/// Keeps an interrupt from this CPU.
pub fn disable(line: u32) {
    // SAFETY: masks an interrupt.
    unsafe { asm!("csrc sie, {}", in(reg) 1u64 << line, options(nostack)) };
}

/// Whether an interrupt waits for this CPU: it is let through to a vector that only notes it. (QEMU 7.2 does not show a guest
/// its timer's and external interrupts in sip.)
pub fn is_pending(line: u32) -> bool {
    let own = this_cpu();
    let on = super::irqs_are_on();
    let others: u64;
    super::irq_off();
    own.noticed.store(0, Ordering::SeqCst);
    own.probing.store(1, Ordering::SeqCst);
    // SAFETY: for a moment only this interrupt is let through.
    unsafe { asm!("csrrw {}, sie, {}", out(reg) others, in(reg) 1u64 << line, options(nostack)) };
    super::irq_on();
    super::irq_off();
    // SAFETY: puts back what was let through before.
    unsafe { asm!("csrw sie, {}", in(reg) others, options(nostack)) };
    own.probing.store(0, Ordering::SeqCst);
    if on {
        super::irq_on();
    }
    own.noticed.load(Ordering::SeqCst) != 0
}

/// Takes back a software interrupt.
pub fn clear_software() {
    // SAFETY: clears a pending bit.
    unsafe { asm!("csrc sip, {}", in(reg) 1u64 << interrupt::SOFTWARE, options(nostack)) };
}

/// Lets this CPU take external interrupts; the other two are switched on with their handlers.
pub(super) fn init_cpu() {
    enable(interrupt::EXTERNAL);
}

/// Runs `f`, in which at most one instruction faults; says how it faulted, if it did. A call to where nothing runs comes
/// back by the link register.
pub fn fault_of(f: impl FnOnce()) -> Option<Fault> {
    let own = this_cpu();
    own.faulted.store(0, Ordering::SeqCst);
    own.expecting.store(1, Ordering::SeqCst);
    f();
    own.expecting.store(0, Ordering::SeqCst);
    (own.faulted.load(Ordering::SeqCst) != 0).then(|| Fault {
        cause: own.cause.load(Ordering::Relaxed),
        value: own.value.load(Ordering::Relaxed),
        pc: own.pc.load(Ordering::Relaxed),
    })
}

/// Runs `f` with a vector for each interrupt; exceptions go to the first.
pub fn with_many_vectors(f: impl FnOnce()) {
    unsafe extern "C" {
        static guest_vectors: u8;
    }
    const VECTORED: u64 = 1;
    let many = (&raw const guest_vectors) as u64 | VECTORED;
    let before: u64;
    // SAFETY: these vectors are aligned, and lead to where the other one does.
    unsafe { asm!("csrrw {}, stvec, {}", out(reg) before, in(reg) many, options(nostack)) };
    f();
    // SAFETY: puts the vector back.
    unsafe { asm!("csrw stvec, {}", in(reg) before, options(nostack)) };
}

/// Bytes of the instruction at an address of the guest's code.
fn length_at(pc: u64) -> u64 {
    if super::read16(pc) & 3 == 3 { 4 } else { 2 }
}

fn scause_stval() -> (u64, u64) {
    let (cause, value): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        asm!("csrr {}, scause", "csrr {}, stval", out(reg) cause, out(reg) value, options(nomem, nostack))
    };
    (cause, value)
}

#[unsafe(no_mangle)]
extern "C" fn guest_exception_rust(frame: &mut Frame) {
    let (cause, value) = scause_stval();
    let own = this_cpu();
    if own.expecting.load(Ordering::SeqCst) != 0 {
        own.cause.store(cause, Ordering::Relaxed);
        own.value.store(value, Ordering::Relaxed);
        own.pc.store(frame.pc, Ordering::Relaxed);
        own.faulted.fetch_add(1, Ordering::SeqCst);
        // A walk that fails for a fetch is one for a load in QEMU 7.2; no instruction is there in either case.
        let jumped = matches!(cause, cause::FETCH_ACCESS | cause::FETCH_PAGE) || value == frame.pc;
        let link = frame.x[0];
        frame.pc = if jumped {
            link
        } else {
            frame.pc + length_at(frame.pc)
        };
        return;
    }
    panic!(
        "exception {cause} value {value:#x} pc {:#x} link {:#x} image {:#x}",
        frame.pc,
        frame.x[0],
        super::image().start
    );
}

#[unsafe(no_mangle)]
extern "C" fn guest_irq_rust(cause: u64) {
    let line = (cause & !INTERRUPT) as u32;
    let own = this_cpu();
    if own.probing.load(Ordering::SeqCst) != 0 {
        own.noticed.store(1, Ordering::SeqCst);
        return disable(line);
    }
    match line {
        interrupt::EXTERNAL => return plic::serve(),
        interrupt::SOFTWARE => clear_software(),
        interrupt::TIMER => {}
        _ => panic!("interrupt {line} out of nowhere"),
    }
    let handler = handler_of(line).load(Ordering::Relaxed);
    if handler == 0 {
        panic!("interrupt {line} without a handler");
    }
    // SAFETY: only `on_cause` stores here, and it stores a `fn(u32)`.
    let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
    handler(line);
}
