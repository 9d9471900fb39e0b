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
#[inline(always)]
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

#[inline(always)]
const fn offset(va: GuestVirt) -> usize {
    (va.0 & PAGE_MASK) as usize
}

/// Whether a range that is not empty lies in one page, as nearly every argument does.
#[inline(always)]
const fn in_one_page(va: GuestVirt, len: usize) -> bool {
    len.wrapping_sub(1) < PAGE_SIZE - offset(va)
}

/// Whether EL1 reaches the address through both stages, once nobody changes stage 2.
#[inline]
pub fn is_reachable(p2m: &Stage2, va: GuestVirt, want: Want) -> bool {
    let _stable = p2m.read_lock();
    translate(va.0, want).is_ok()
}

/// Copies in.
#[inline(always)]
pub fn copy_from(p2m: &Stage2, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
    if !in_one_page(from, buf.len()) {
        return copy_from_pages(p2m, from, buf);
    }
    let _stable = p2m.read_lock();
    direct::read(translate(from.0, Want::Read)?, offset(from), buf)
}

/// Copies out.
#[inline(always)]
pub fn copy_to(p2m: &Stage2, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
    if !in_one_page(to, buf.len()) {
        return copy_to_pages(p2m, to, buf);
    }
    let _stable = p2m.read_lock();
    direct::write(translate(to.0, Want::Write)?, offset(to), buf)
}

#[cold]
#[inline(never)]
fn copy_from_pages(p2m: &Stage2, mut from: GuestVirt, mut buf: &mut [u8]) -> Result<(), Fault> {
    while !buf.is_empty() {
        let here = buf.len().min(PAGE_SIZE - offset(from));
        let (piece, rest) = buf.split_at_mut(here);
        copy_from(p2m, from, piece)?;
        (from, buf) = (from.plus(here as u64), rest);
    }
    Ok(())
}

#[cold]
#[inline(never)]
fn copy_to_pages(p2m: &Stage2, mut to: GuestVirt, mut buf: &[u8]) -> Result<(), Fault> {
    while !buf.is_empty() {
        let here = buf.len().min(PAGE_SIZE - offset(to));
        let (piece, rest) = buf.split_at(here);
        copy_to(p2m, to, piece)?;
        (to, buf) = (to.plus(here as u64), rest);
    }
    Ok(())
}
