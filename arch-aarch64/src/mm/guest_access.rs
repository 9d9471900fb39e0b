//! Copies to and from the address space of the guest that this CPU has loaded.
//!
//! The guest's own translation is asked by `AT S12E1x`, which walks both stages as the guest's access would. Stage 2
//! is held for reading meanwhile: whoever takes a frame away first changes stage 2 under the write lock and flushes,
//! so a frame found here stays the guest's until the copy is over.

use core::arch::asm;

use xenolith_hal::{Fault, GuestPhys, GuestVirt, Mfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};

use super::{direct, hardware::Stage2};
use crate::cpu::regs::{read, write};

/// What is to be done with an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A load.
    Read,
    /// A store.
    Write,
}

const PAR_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The frame behind a guest address, with the guest's rights. PAR_EL1 is the guest's: it is put back.
#[inline]
fn translate(va: u64, want: Want) -> Result<Mfn, Fault> {
    let saved = read!("par_el1");
    // SAFETY: address translation only writes PAR_EL1, which is restored below.
    unsafe {
        match want {
            Want::Read => {
                asm!("at s12e1r, {}", "isb", in(reg) va, options(nostack, preserves_flags))
            }
            Want::Write => {
                asm!("at s12e1w, {}", "isb", in(reg) va, options(nostack, preserves_flags))
            }
        }
    }
    let par = read!("par_el1");
    write!("par_el1", saved);
    if par & 1 != 0 {
        return Err(Fault);
    }
    Ok(Mfn((par & PAR_ADDRESS) >> PAGE_SHIFT))
}

/// The guest-physical address behind an address of the guest's kernel: the guest's own translation alone, which may lead
/// to where nothing is. PAR_EL1 is the guest's: it is put back.
pub fn guest_phys(p2m: &Stage2, va: GuestVirt, want: Want) -> Result<GuestPhys, Fault> {
    // The walk reads the guest's tables through stage 2.
    let _stable = p2m.read_lock();
    let saved = read!("par_el1");
    // SAFETY: address translation only writes PAR_EL1, which is restored below.
    unsafe {
        match want {
            Want::Read => {
                asm!("at s1e1r, {}", "isb", in(reg) va.0, options(nostack, preserves_flags))
            }
            Want::Write => {
                asm!("at s1e1w, {}", "isb", in(reg) va.0, options(nostack, preserves_flags))
            }
        }
    }
    let par = read!("par_el1");
    write!("par_el1", saved);
    if par & 1 != 0 {
        return Err(Fault);
    }
    Ok(GuestPhys(par & PAR_ADDRESS | va.0 & PAGE_MASK))
}

fn for_each_piece(
    p2m: &Stage2,
    va: GuestVirt,
    len: usize,
    want: Want,
    mut copy: impl FnMut(Mfn, usize, core::ops::Range<usize>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let _stable = p2m.read_lock();
    let mut done = 0;
    while done < len {
        let at = va.plus(done as u64).0;
        let offset = (at & PAGE_MASK) as usize;
        let piece = (PAGE_SIZE - offset).min(len - done);
        copy(translate(at, want)?, offset, done..done + piece)?;
        done += piece;
    }
    Ok(())
}

/// Copies in.
pub fn copy_from(p2m: &Stage2, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
    for_each_piece(p2m, from, buf.len(), Want::Read, |mfn, offset, range| {
        direct::read(mfn, offset, buf.get_mut(range).ok_or(Fault)?)
    })
}

/// Copies out.
pub fn copy_to(p2m: &Stage2, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
    for_each_piece(p2m, to, buf.len(), Want::Write, |mfn, offset, range| {
        direct::write(mfn, offset, buf.get(range).ok_or(Fault)?)
    })
}
