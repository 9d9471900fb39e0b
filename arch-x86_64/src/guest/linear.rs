//! The linear address space of the vCPU that this CPU has loaded, for the core's copies and for fetching instructions.

use xenolith_hal::{Fault, GuestPhys, GuestVirt};

use super::{
    exit::Context,
    hardware::{Event, Hardware},
    instruction::LONGEST,
    paging::{Access, PagingState},
    vcpu::{ArchVcpu, HwVcpu},
};
use crate::{
    machine,
    mm::{
        guest_access::{GuestAccess, Registers, TranslationCache},
        hardware::{Hardware as Memory, Ram},
        nested::{Flushes, Nested},
        second_level::OfMachine,
        walk::WalkError,
    },
};

type Space<'a> = GuestAccess<'a, OfMachine, Memory<Flushes>, Ram>;

/// How the vCPU's addresses translate.
#[inline(always)]
fn state(vcpu: &ArchVcpu) -> PagingState {
    match &vcpu.hw {
        HwVcpu::Svm(svm) => svm.paging(),
        HwVcpu::Vmx(vmx) => vmx.paging(),
        // Whose memory is reached at its own addresses.
        HwVcpu::Pv(_) => crate::cpu::fault::stop(),
    }
}

/// What of that kept ways depend on.
#[inline(always)]
fn registers(vcpu: &ArchVcpu) -> Registers {
    Registers::of(&state(vcpu))
}

/// Gives `f` the ways that were kept.
#[inline(always)]
fn with_cache<R>(vcpu: &ArchVcpu, f: impl FnOnce(&mut TranslationCache<Ram>) -> R) -> R {
    // SAFETY: only the CPU that has the vCPU loaded calls this, and nothing that `f` does calls it again.
    f(unsafe { &mut *vcpu.translations_ptr() })
}

fn with<R>(
    vcpu: &ArchVcpu,
    p2m: &Nested,
    f: impl FnOnce(&mut Space<'_>) -> Result<R, WalkError>,
) -> Result<R, WalkError> {
    with_cache(vcpu, |cache| {
        f(&mut GuestAccess {
            p2m,
            frames: Ram,
            state: state(vcpu),
            limits: machine::paging_limits(),
            cache,
        })
    })
}

/// Copies in.
#[inline(never)]
pub fn copy_from(
    vcpu: &ArchVcpu,
    p2m: &Nested,
    from: GuestVirt,
    buf: &mut [u8],
) -> Result<(), Fault> {
    match with_cache(vcpu, |cache| {
        cache.read((p2m, Ram), || registers(vcpu), from, buf)
    }) {
        true => Ok(()),
        false => walk_from(vcpu, p2m, from, buf),
    }
}

#[cold]
#[inline(never)]
fn walk_from(vcpu: &ArchVcpu, p2m: &Nested, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
    with(vcpu, p2m, |space| space.read(from, buf)).map_err(|_| Fault)
}

/// Copies out.
#[inline(never)]
pub fn copy_to(vcpu: &ArchVcpu, p2m: &Nested, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
    match with_cache(vcpu, |cache| {
        cache.write((p2m, Ram), || registers(vcpu), to, buf)
    }) {
        true => Ok(()),
        false => walk_to(vcpu, p2m, to, buf),
    }
}

#[cold]
#[inline(never)]
fn walk_to(vcpu: &ArchVcpu, p2m: &Nested, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
    with(vcpu, p2m, |space| space.write(to, buf)).map_err(|_| Fault)
}

/// The guest-physical address behind an address that the guest's kernel may write.
pub fn guest_phys(vcpu: &ArchVcpu, p2m: &Nested, at: GuestVirt) -> Result<GuestPhys, Fault> {
    let found = with(vcpu, p2m, |space| space.translate(at, Access::Write));
    found.map(|found| found.address).map_err(|_| Fault)
}

/// The bytes of the instruction at a linear address. `None`: not one can be fetched, and the guest gets that fault.
pub fn fetch<H: Hardware>(
    cx: &mut Context<'_, H>,
    at: u64,
    bytes: &mut [u8; LONGEST],
) -> Option<usize> {
    let domain = cx.vcpu.domain();
    match with(&cx.vcpu.arch, &domain.p2m, |space| {
        space.fetch(GuestVirt(at))
    }) {
        Ok(fetched) => {
            let fetched = fetched.as_slice();
            bytes.get_mut(..fetched.len())?.copy_from_slice(fetched);
            Some(fetched.len())
        }
        Err(error) => {
            raise(cx, error);
            None
        }
    }
}

/// As [`fetch`], four bytes or nothing, and the guest hears nothing of it. Nothing also where the way there was not taken
/// before: then [`fetch`] takes it.
#[inline(always)]
pub fn fetch_opcode<H: Hardware>(cx: &Context<'_, H>, at: u64) -> Option<[u8; 4]> {
    let (vcpu, p2m) = (&cx.vcpu.arch, &cx.vcpu.domain().p2m);
    with_cache(vcpu, |cache| {
        cache.fetch_opcode((p2m, Ram), || registers(vcpu), GuestVirt(at))
    })
}

/// Reads for an instruction of the guest's; false: it got a fault.
pub fn read<H: Hardware>(cx: &mut Context<'_, H>, at: u64, bytes: &mut [u8]) -> bool {
    let done = with(&cx.vcpu.arch, &cx.vcpu.domain().p2m, |space| {
        space.read(GuestVirt(at), bytes)
    });
    done.map_err(|error| raise(cx, error)).is_ok()
}

/// Writes for an instruction of the guest's; false: it got a fault.
pub fn write<H: Hardware>(cx: &mut Context<'_, H>, at: u64, bytes: &[u8]) -> bool {
    let done = with(&cx.vcpu.arch, &cx.vcpu.domain().p2m, |space| {
        space.write(GuestVirt(at), bytes)
    });
    done.map_err(|error| raise(cx, error)).is_ok()
}

fn raise<H: Hardware>(cx: &mut Context<'_, H>, error: WalkError) {
    const PAGE_FAULT: u8 = 14;
    match error {
        WalkError::Page(fault) => {
            cx.hw.set_cr2(fault.address);
            cx.raise(Event::Exception {
                vector: PAGE_FAULT,
                error: Some(fault.code),
            });
        }
        _ => cx.raise(Event::PROTECTION),
    }
}
