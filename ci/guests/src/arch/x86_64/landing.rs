//! Ways out of code that faults or panics: a landing keeps the registers of where to go on.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use super::cpu::this_cpu;
use super::trap::Fault;

global_asm!(
    r#"
    .global guest_attempt
    .global guest_escape
    // Calls rsi(rdx) and returns 1; returns 0 instead when guest_escape is called meanwhile. rdi: the landing.
guest_attempt:
    mov     [rdi], rbx
    mov     [rdi + 8], rbp
    mov     [rdi + 16], r12
    mov     [rdi + 24], r13
    mov     [rdi + 32], r14
    mov     [rdi + 40], r15
    mov     [rdi + 48], rsp
    sub     rsp, 8
    mov     rdi, rdx
    call    rsi
    add     rsp, 8
    mov     eax, 1
    ret
guest_escape:
    mov     rbx, [rdi]
    mov     rbp, [rdi + 8]
    mov     r12, [rdi + 16]
    mov     r13, [rdi + 24]
    mov     r14, [rdi + 32]
    mov     r15, [rdi + 40]
    mov     rsp, [rdi + 48]
    cld
    xor     eax, eax
    ret
"#
);

/// What `guest_attempt` must restore: rbx, rbp, r12 to r15, and the stack pointer.
#[repr(C)]
struct Landing([u64; 7]);

struct Run<'a>(&'a mut dyn FnMut());

unsafe extern "C" {
    fn guest_attempt(
        landing: *mut Landing,
        run: extern "C" fn(*mut Run),
        argument: *mut Run,
    ) -> u64;
    fn guest_escape(landing: *mut Landing) -> !;
}

extern "C" fn run(argument: *mut Run) {
    // SAFETY: `attempt` and `fault_of` pass their own, which outlives the call.
    unsafe { ((*argument).0)() }
}

static FAULT_LANDINGS: [Landings; super::MAX_CPUS] =
    [const { Landings(UnsafeCell::new(Landing([0; 7]))) }; super::MAX_CPUS];
static CASE_LANDING: Landings = Landings(UnsafeCell::new(Landing([0; 7])));
static ARMED: AtomicU32 = AtomicU32::new(0);

struct Landings(UnsafeCell<Landing>);

// SAFETY: each is used by one CPU only, through raw pointers.
unsafe impl Sync for Landings {}

/// Runs `f` and leaves it at the first instruction that faults; says how it faulted, if it did. Not nested.
pub fn fault_of(f: impl FnOnce()) -> Option<Fault> {
    let own = this_cpu();
    let mut once = Some(f);
    let mut call = || {
        if let Some(f) = once.take() {
            f()
        }
    };
    let landing = FAULT_LANDINGS[super::cpu_index()].0.get();
    own.faulted.store(0, Ordering::SeqCst);
    own.expecting.store(1, Ordering::SeqCst);
    let mut argument = Run(&mut call);
    // SAFETY: the landing is this CPU's, and a fault comes back here before this function returns.
    unsafe { guest_attempt(landing, run, &raw mut argument) };
    own.expecting.store(0, Ordering::SeqCst);
    (own.faulted.load(Ordering::SeqCst) != 0).then(|| Fault {
        vector: own.vector.load(Ordering::Relaxed),
        error: own.error.load(Ordering::Relaxed),
        address: own.address.load(Ordering::Relaxed),
        rip: own.rip.load(Ordering::Relaxed),
    })
}

/// Argument and address of the code that leaves this CPU's `fault_of`.
pub(super) fn after_a_fault() -> (u64, u64) {
    let landing = FAULT_LANDINGS[super::cpu_index()].0.get() as u64;
    (landing, guest_escape as *const () as u64)
}

/// Runs `f` on CPU 0; false if it was left by `escape`. Not nested. Interrupts are on or off afterwards as
/// they were before.
pub fn attempt(f: &mut dyn FnMut()) -> bool {
    let on = super::irqs_are_on();
    ARMED.store(1, Ordering::Relaxed);
    let mut argument = Run(f);
    // SAFETY: the landing is used by CPU 0 only, between here and the store below.
    let ended = unsafe { guest_attempt(CASE_LANDING.0.get(), run, &raw mut argument) };
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
        unsafe { guest_escape(CASE_LANDING.0.get()) }
    }
}
