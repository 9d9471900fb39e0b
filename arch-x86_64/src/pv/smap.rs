//! Supervisor mode access prevention (Intel SDM, volume 3, 4.6.1): where the CPU has it, the hypervisor touches the memory of the guest whose
//! address space is loaded by the instructions of [`super::access`] alone.
//!
//! An exception leaves the guest's AC flag as it is, with which it would not hold: so behind one, jumps in the entry code lead over CLAC.
//!
//! Some emulators apply it to ring 3 as well, to the stack of a far return. No CPU does: a fault that says so makes a CPU go on without.

use core::{
    arch::global_asm,
    mem::offset_of,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use x86_64::registers::control::{Cr4, Cr4Flags};

use super::{
    frame::Frame,
    gate::Gate,
    isolation,
    patch::{self, Site},
};

global_asm!(
    r#"
    .section .text.pv_entry, "ax"
    .balign 16
pv_page_fault_closed:
    clac
    movq    %rax, {rax}(%rsp)
    jmp     pv_page_fault_open_rest

    .balign 16
pv_stopped_closed:
    clac
    movq    %rsp, %rsi
    movq    {cpu} - {frame}(%rsp), %rdi
    jmp     pv_stopped_full_rest

    .pushsection smap_sites, "a"
    .quad   pv_page_fault_open, pv_page_fault_closed
    .quad   pv_stopped_full, pv_stopped_closed
    .popsection
    .text
    "#,
    rax = const offset_of!(Frame, rax),
    cpu = const offset_of!(Gate, head.cpu),
    frame = const offset_of!(Gate, frame),
    options(att_syntax),
);

unsafe extern "C" {
    static _smap_sites_start: [Site; 0];
    static _smap_sites_end: [Site; 0];
}

static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// Makes all accesses say that they are meant, and what comes behind a guest's exception begin without. On the first CPU, before there is another, where SMAP is to hold.
pub fn start() {
    // SAFETY: the sites are those of `access` and of the entry code, where nobody is now; the other ways do the same, on a CPU that has the instructions.
    unsafe { patch::take_over(&raw const _smap_sites_start, &raw const _smap_sites_end) };
}

/// A fault of supervisor access to an address of a guest that ran in ring 3. True: that can have been this, and it does not come again.
#[cold]
pub fn give_up() -> bool {
    if !isolation::cpu::chosen().smap || !Cr4::read().contains(SMAP) {
        return false;
    }
    // SAFETY: without it, what is meant and what is not are both let pass.
    unsafe { Cr4::update(|cr4| cr4.remove(SMAP)) };
    if !GIVEN_UP.swap(true, Relaxed) {
        log::warn!("SMAP is switched off: the CPU applies it to ring 3");
    }
    true
}

const SMAP: Cr4Flags = Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION;
