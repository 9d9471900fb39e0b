//! Exceptions of EL1. A test says beforehand that an access may fault (`fault_of`); the handler then
//! notes the syndrome and skips the instruction. Any other fault ends the guest with a result line.

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use super::cpu::this_cpu;
use super::entry::Frame;

/// What an expected fault looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1; of meaning for aborts only.
    pub far: u64,
    /// Address of the faulting instruction.
    pub elr: u64,
}

impl Fault {
    /// Exception class.
    pub fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Fault status code of an abort.
    pub fn status(&self) -> u64 {
        self.esr & 0x3f
    }
}

/// Exception classes that tests meet.
#[allow(missing_docs)]
pub mod class {
    pub const UNKNOWN: u64 = 0x00;
    pub const SYSREG: u64 = 0x18;
    pub const INSTRUCTION_ABORT: u64 = 0x21;
    pub const DATA_ABORT: u64 = 0x25;
    pub const SERROR: u64 = 0x2f;
}

/// Runs `f`, in which at most one instruction faults; says how it faulted, if it did.
pub fn fault_of(f: impl FnOnce()) -> Option<Fault> {
    let own = this_cpu();
    own.faulted.store(0, Ordering::SeqCst);
    own.expecting.store(1, Ordering::SeqCst);
    f();
    // SAFETY: barriers and the SError mask; a pending SError is taken here, while it is expected.
    unsafe { core::arch::asm!("dsb sy", "msr daifclr, #4", "isb", "msr daifset, #4") };
    own.expecting.store(0, Ordering::SeqCst);
    (own.faulted.load(Ordering::SeqCst) != 0).then(|| Fault {
        esr: own.esr.load(Ordering::Relaxed),
        far: own.far.load(Ordering::Relaxed),
        elr: own.elr.load(Ordering::Relaxed),
    })
}

fn esr_far() -> (u64, u64) {
    let (esr, far): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        core::arch::asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) esr, out(reg) far,
                         options(nomem, nostack))
    };
    (esr, far)
}

#[unsafe(no_mangle)]
extern "C" fn guest_exception(frame: &mut Frame, kind: u64) {
    let (esr, far) = esr_far();
    let own = this_cpu();
    if kind != 4 && own.expecting.load(Ordering::SeqCst) != 0 {
        own.esr.store(esr, Ordering::Relaxed);
        own.far.store(far, Ordering::Relaxed);
        own.elr.store(frame.elr, Ordering::Relaxed);
        own.faulted.fetch_add(1, Ordering::SeqCst);
        if kind == 0 {
            let jumped = esr >> 26 == class::INSTRUCTION_ABORT;
            frame.elr = if jumped { frame.x[30] } else { frame.elr + 4 };
        }
        return;
    }
    panic!(
        "exception {kind} esr {esr:#x} far {far:#x} elr {:#x} image {:#x}",
        frame.elr,
        super::image().start
    );
}

global_asm!(
    r#"
    .global guest_attempt
    .global guest_escape
    // Calls x1(x2) and returns 1; returns 0 instead when guest_escape is called meanwhile. x0: the landing, for x19
    // to x30 and sp.
guest_attempt:
    stp     x19, x20, [x0, #0]
    stp     x21, x22, [x0, #16]
    stp     x23, x24, [x0, #32]
    stp     x25, x26, [x0, #48]
    stp     x27, x28, [x0, #64]
    stp     x29, x30, [x0, #80]
    mov     x3, sp
    str     x3, [x0, #96]
    mov     x19, x0
    mov     x0, x2
    blr     x1
    mov     x3, #1
    mov     x0, x19
    b       1f
guest_escape:
    mov     x3, #0
1:  ldp     x19, x20, [x0, #0]
    ldp     x21, x22, [x0, #16]
    ldp     x23, x24, [x0, #32]
    ldp     x25, x26, [x0, #48]
    ldp     x27, x28, [x0, #64]
    ldp     x29, x30, [x0, #80]
    ldr     x4, [x0, #96]
    mov     sp, x4
    mov     x0, x3
    ret
"#
);

/// As [`crate::landing::attempt`]; whatever was masked within, the masks are afterwards as they were before.
pub fn attempt(f: &mut dyn FnMut()) -> bool {
    let masks: u64;
    // SAFETY: reads the interrupt masks.
    unsafe { core::arch::asm!("mrs {}, daif", out(reg) masks, options(nomem, nostack)) };
    let ended = crate::landing::attempt(f);
    // SAFETY: puts the interrupt masks back as they were before.
    unsafe { core::arch::asm!("msr daif, {}", in(reg) masks, options(nomem, nostack)) };
    ended
}
