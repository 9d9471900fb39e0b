//! Copies to and from the address space of the guest that this CPU has loaded.
//!
//! HLV and HSV (Privileged Architecture, "Hypervisor Virtual-Machine Load and Store Instructions") access memory as the
//! guest's kernel would, through both stages. A fault of theirs ends the copy. Nothing has to be held still: what a change of
//! the G-stage took away is gone from this CPU's TLB when the change is over, and the next access sees it.

use core::arch::global_asm;

use xenolith_hal::{Fault, GuestPhys, GuestVirt, P2m, PAGE_MASK};

use super::{fences::GStage, hyp::Direct, walk};
use crate::cpu::regs::read;

global_asm!(
    r#"
    .section .text.guest_access, "ax"
    .option push
    .option arch, +h
    .balign 4
    // a0: to, a1: the guest's address, a2: bytes. Returns the bytes that are left.
guest_load:
    lla     t0, 9f
    csrrw   t0, stvec, t0
    or      t1, a0, a1
    andi    t1, t1, 7
    li      t2, 8
    bnez    t1, 2f
1:  bltu    a2, t2, 2f
    hlv.d   t1, (a1)
    sd      t1, 0(a0)
    addi    a0, a0, 8
    addi    a1, a1, 8
    addi    a2, a2, -8
    j       1b
2:  beqz    a2, 9f
    hlv.bu  t1, (a1)
    sb      t1, 0(a0)
    addi    a0, a0, 1
    addi    a1, a1, 1
    addi    a2, a2, -1
    j       2b

    // a0: the guest's address, a1: from, a2: bytes. Returns the bytes that are left.
    .balign 4
guest_store:
    lla     t0, 9f
    csrrw   t0, stvec, t0
    or      t1, a0, a1
    andi    t1, t1, 7
    li      t2, 8
    bnez    t1, 2f
1:  bltu    a2, t2, 2f
    ld      t1, 0(a1)
    hsv.d   t1, (a0)
    addi    a0, a0, 8
    addi    a1, a1, 8
    addi    a2, a2, -8
    j       1b
2:  beqz    a2, 9f
    lbu     t1, 0(a1)
    hsv.b   t1, (a0)
    addi    a0, a0, 1
    addi    a1, a1, 1
    addi    a2, a2, -1
    j       2b

    .balign 4
9:  csrw    stvec, t0
    mv      a0, a2
    ret

    // a0: the guest's address of an instruction. Returns its two bytes there, or -1.
    .balign 4
guest_fetch:
    lla     t0, 8f
    csrrw   t0, stvec, t0
    li      t1, -1
    hlvx.hu t1, (a0)
    .balign 4
8:  csrw    stvec, t0
    mv      a0, t1
    ret
    .option pop
    "#
);

unsafe extern "C" {
    fn guest_load(to: *mut u8, from: u64, len: usize) -> usize;
    fn guest_store(to: u64, from: *const u8, len: usize) -> usize;
    safe fn guest_fetch(at: u64) -> i64;
}

/// Copies in.
#[inline]
pub fn copy_from(from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
    // SAFETY: writes at most the bytes of `buf`; the guest's memory is read as the guest may.
    match unsafe { guest_load(buf.as_mut_ptr(), from.0, buf.len()) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// Copies out.
#[inline]
pub fn copy_to(to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
    // SAFETY: reads the bytes of `buf`; the guest's memory is written as the guest may, so never the hypervisor's.
    match unsafe { guest_store(to.0, buf.as_ptr(), buf.len()) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// The instruction at an address of the guest: two bytes, or four where the first two say that there are more.
pub fn instruction(at: u64) -> Option<u32> {
    let low = u32::try_from(guest_fetch(at)).ok()?;
    if low & 3 != 3 {
        return Some(low);
    }
    let high = u32::try_from(guest_fetch(at.wrapping_add(2))).ok()?;
    Some(high << 16 | low)
}

/// The guest-physical address behind an address of the loaded guest's kernel, for a store.
pub fn guest_phys(p2m: &GStage, va: GuestVirt) -> Result<GuestPhys, Fault> {
    let load = |at: GuestPhys| {
        p2m.with_entry(at.frame(), |entry| {
            let mut word = [0; 8];
            Direct::read(
                entry.ok_or(Fault)?.mfn,
                (at.0 & PAGE_MASK) as usize,
                &mut word,
            )?;
            Ok(u64::from_le_bytes(word))
        })
    };
    walk::store_address(read!("vsatp"), read!("vsstatus"), va.0, load)
}
