//! The way out of a case that panics: a landing keeps the registers of where to go on.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::cpu::this_cpu;

/// What `attempt` must restore: s0 to s11, ra, and the stack pointer; valid while `ARMED`.
#[repr(C)]
struct Landing([u64; 14]);

#[unsafe(no_mangle)]
static mut GUEST_LANDING: Landing = Landing([0; 14]);
static ARMED: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    fn guest_attempt(
        landing: *mut Landing,
        run: extern "C" fn(*mut Run),
        argument: *mut Run,
    ) -> u64;
    fn guest_escape(landing: *mut Landing) -> !;
}

global_asm!(
    r#"
    // Calls a1(a2) and returns 1; returns 0 instead when guest_escape is called meanwhile.
guest_attempt:
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    sd      s\n, 8*\n(a0)
    .endr
    sd      ra, 96(a0)
    sd      sp, 104(a0)
    mv      s0, a0
    mv      a0, a2
    jalr    a1
    mv      a0, s0
    li      a1, 1
    j       1f
guest_escape:
    li      a1, 0
1:  .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    ld      s\n, 8*\n(a0)
    .endr
    ld      ra, 96(a0)
    ld      sp, 104(a0)
    mv      a0, a1
    ret
"#
);

struct Run<'a>(&'a mut dyn FnMut());

extern "C" fn run(argument: *mut Run) {
    // SAFETY: `attempt` passes its own, which outlives the call.
    unsafe { ((*argument).0)() }
}

/// Runs `f` on CPU 0; false if it was left by `escape`. Not nested. Interrupts are on or off afterwards as
/// they were before.
pub fn attempt(f: &mut dyn FnMut()) -> bool {
    let on = super::irqs_are_on();
    let mut argument = Run(f);
    ARMED.store(1, Ordering::Relaxed);
    // SAFETY: the landing is used by CPU 0 only, between here and the store below.
    let ended = unsafe { guest_attempt(&raw mut GUEST_LANDING, run, &raw mut argument) };
    ARMED.store(0, Ordering::Relaxed);
    if on {
        super::irq_on()
    } else {
        super::irq_off()
    }
    ended != 0
}

/// Goes back to the `attempt` that runs, with interrupts off; returns if none does, or on another CPU.
pub fn escape() {
    if ARMED.load(Ordering::Relaxed) != 0 && super::cpu_index() == 0 {
        this_cpu().expecting.store(0, Ordering::Relaxed);
        super::irq_off();
        // SAFETY: `attempt` filled the landing, and its frame is still on the stack.
        unsafe { guest_escape(&raw mut GUEST_LANDING) }
    }
}
