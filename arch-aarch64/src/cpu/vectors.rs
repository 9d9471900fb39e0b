//! Exception vectors and the world switch.
//!
//! [`enter`] runs the guest until something needs the hypervisor. Only general registers, PC and PSTATE move here; the
//! EL1 system registers stay in the CPU until another vCPU is loaded (`guest/context.rs`).

use core::arch::{asm, global_asm};

use crate::{
    cpu::speculation::{AtExit, WORKAROUND_1, WORKAROUND_3},
    guest::regs::{GuestRegs, OFFSET_HOST_SP, OFFSET_PC, OFFSET_PSTATE},
};

/// Why the guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Reason(u64);

impl Reason {
    /// A synchronous exception; ESR_EL2 says which.
    pub const SYNC: Self = Self(0);
    /// A physical interrupt is pending.
    pub const IRQ: Self = Self(1);
    /// An asynchronous external abort.
    pub const SERROR: Self = Self(2);
}

global_asm!(
    r#"
    // One exit: fits the 32 instructions of a vector slot. SP points to the guest's GuestRegs. A firmware call of SMCCC 1.1
    // changes x0 to x3 only; it comes before the first branch that could be predicted.
    .macro GUEST_EXIT reason, firmware
    .balign 128
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    .if \firmware
    movz    w0, #0x8000, lsl #16
    movk    w0, #(\firmware & 0xffff)
    smc     #0
    .endif
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, elr_el2
    mrs     x2, spsr_el2
    stp     x30, x1, [sp, #240]         // x30 and pc are neighbours
    ldr     x3, [sp, #{host_sp}]
    str     x2, [sp, #{pstate}]
    mov     sp, x3                      // the hypervisor's stack
    mov     x0, #\reason
    ldp     x29, x30, [sp], #16         // as guest_enter pushed them
    ret
    .endm

    // The hypervisor itself faulted: report and stop, on a stack kept for that.
    .macro OWN_FAULT kind
    .balign 128
    msr     tpidr_el1, x0               // no guest will miss it
    adrp    x0, fault_stack_top         // the stack in use may be what is wrong
    add     x0, x0, :lo12:fault_stack_top
    mov     sp, x0
    mrs     x0, tpidr_el1
    sub     sp, sp, #272
    stp     x0, x1, [sp, #0]
    mov     x0, #\kind
    b       own_fault
    .endm

    .macro VECTORS firmware
    .balign 2048
    OWN_FAULT 0
    OWN_FAULT 1
    OWN_FAULT 2
    OWN_FAULT 3
    OWN_FAULT 4
    OWN_FAULT 5
    OWN_FAULT 6
    OWN_FAULT 7
    GUEST_EXIT 0, \firmware
    GUEST_EXIT 1, \firmware
    GUEST_EXIT 1, \firmware             // FIQ: no such interrupt is routed here; look as for IRQ
    GUEST_EXIT 2, \firmware
    GUEST_EXIT 0, \firmware             // the same from AArch32 (EL0 only)
    GUEST_EXIT 1, \firmware
    GUEST_EXIT 1, \firmware
    GUEST_EXIT 2, \firmware
    .balign 128
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global vectors
vectors:                                // three tables of 2 KiB, in the order of `table`
    VECTORS 0
    VECTORS {workaround_1}
    VECTORS {workaround_3}

own_fault:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, elr_el2
    mrs     x2, spsr_el2
    stp     x30, x1, [sp, #240]
    str     x2, [sp, #{pstate}]
    mov     x1, sp
    bl      {own_fault}
0:  wfe
    b       0b

    .section .bss.fault_stack, "aw", %nobits
    .balign 16
    .skip   16384
fault_stack_top:

    .section .text.guest_enter, "ax"
    .global guest_enter
guest_enter:                            // x0: GuestRegs
    stp     x29, x30, [sp, #-16]!
    mov     x1, sp
    str     x1, [x0, #{host_sp}]
    mov     sp, x0                      // where the exit will store
    ldp     x30, x1, [sp, #240]
    ldr     x2, [sp, #{pstate}]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp, #0]
    eret
    dsb     nsh                         // nothing is speculated past the eret
    isb
    "#,
    host_sp = const OFFSET_HOST_SP,
    pstate = const OFFSET_PSTATE,
    own_fault = sym crate::cpu::fault::own_fault,
    workaround_1 = const WORKAROUND_1,
    workaround_3 = const WORKAROUND_3,
);

const _: () = assert!(
    OFFSET_PC == 248,
    "the exit path stores x30 and pc as a pair"
);

unsafe extern "C" {
    static vectors: [[u8; 2048]; 3];
}

/// Points this CPU at vectors that call nobody.
pub fn install() {
    choose(AtExit::Nothing);
}

/// Points this CPU at the vectors that do `first` when a guest stops.
pub fn choose(first: AtExit) {
    let table = match first {
        AtExit::Nothing => 0,
        AtExit::ForgetBranches => 1,
        AtExit::ForgetHistory => 2,
    };
    let base = core::ptr::addr_of!(vectors) as u64 + table * 2048;
    crate::cpu::regs::write!("vbar_el2", base);
    crate::cpu::regs::isb();
}

/// Runs the guest whose EL1 context this CPU holds, until an exit.
///
/// # Safety
/// `regs` must belong to the vCPU that is loaded on this CPU and must not be used by anyone else during the call.
#[inline(always)]
pub unsafe fn enter(regs: *mut GuestRegs) -> Reason {
    let reason: u64;
    // SAFETY: guest_enter saves x29 and x30 and gives the stack back as it was; every other register is declared lost.
    // x19 cannot be declared, so it is kept on the stack here.
    unsafe {
        asm!(
            "str x19, [sp, #-16]!",
            "bl guest_enter",
            "ldr x19, [sp], #16",
            inout("x0") regs => reason,
            out("x20") _, out("x21") _, out("x22") _, out("x23") _, out("x24") _,
            out("x25") _, out("x26") _, out("x27") _, out("x28") _,
            clobber_abi("C"),
        );
    }
    Reason(reason)
}
