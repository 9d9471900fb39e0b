//! Ways out of code that faults or panics: a landing keeps the registers of where to go on. Which these are and how they are
//! kept is the architecture's (`guest_attempt`, `guest_escape`).

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch;

/// Registers that a call preserves, where to return and the stack pointer: as many as any architecture has.
const WORDS: usize = 14;

/// Where to go on.
pub(crate) struct Landing(UnsafeCell<[u64; WORDS]>);

// SAFETY: each is used by one CPU only, through raw pointers.
unsafe impl Sync for Landing {}

struct Run<'a>(&'a mut dyn FnMut());

unsafe extern "C" {
    /// Calls `run` with the argument and returns 1; returns 0 instead when `guest_escape` is called meanwhile.
    fn guest_attempt(landing: *mut u64, run: extern "C" fn(*mut Run), argument: *mut Run) -> u64;
    fn guest_escape(landing: *mut u64) -> !;
}

extern "C" fn run(argument: *mut Run) {
    // SAFETY: `Landing::call` passes its own, which outlives the call.
    unsafe { ((*argument).0)() }
}

impl Landing {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new([0; WORDS]))
    }

    /// Runs `f`; false if it was left by [`Landing::exit`]. On one CPU, and not nested.
    pub(crate) fn call(&'static self, f: &mut dyn FnMut()) -> bool {
        let mut argument = Run(f);
        // SAFETY: the landing is this CPU's, and is left before this function returns.
        unsafe { guest_attempt(self.0.get().cast(), run, &raw mut argument) != 0 }
    }

    /// Argument and address of the code that leaves what this runs.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn exit(&self) -> (u64, u64) {
        (self.0.get() as u64, guest_escape as *const () as u64)
    }
}

static CASE: Landing = Landing::new();
static ARMED: AtomicU32 = AtomicU32::new(0);

/// Runs `f` on CPU 0; false if it was left by `escape`. Not nested. Interrupts are on or off afterwards as
/// they were before.
pub fn attempt(f: &mut dyn FnMut()) -> bool {
    let on = arch::irqs_are_on();
    ARMED.store(1, Ordering::Relaxed);
    let ended = CASE.call(f);
    ARMED.store(0, Ordering::Relaxed);
    if on {
        arch::irq_on()
    } else {
        arch::irq_off()
    }
    ended
}

/// Goes back to the `attempt` that runs, with interrupts off; returns if none does, or on another CPU.
pub fn escape() {
    if ARMED.load(Ordering::Relaxed) != 0 && arch::cpu_index() == 0 {
        arch::this_cpu().expecting.store(0, Ordering::Relaxed);
        arch::irq_off();
        // SAFETY: `attempt` filled the landing, and its frame is still on the stack.
        unsafe { guest_escape(CASE.0.get().cast()) }
    }
}
