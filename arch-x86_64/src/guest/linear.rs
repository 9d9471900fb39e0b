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
        guest_access::GuestAccess,
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
    }
}

#[inline(always)]
fn with<R>(
    vcpu: &ArchVcpu,
    p2m: &Nested,
    f: impl FnOnce(&mut Space<'_>) -> Result<R, WalkError>,
) -> Result<R, WalkError> {
    // SAFETY: only the CPU that has the vCPU loaded calls this, and nothing below calls it again.
    let cache = unsafe { &mut *vcpu.translations_ptr() };
    f(&mut GuestAccess {
        p2m,
        frames: Ram,
        state: state(vcpu),
        limits: machine::paging_limits,
        cache,
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
    with(vcpu, p2m, |space| space.read(from, buf)).map_err(|_| Fault)
}

/// Copies out.
#[inline(never)]
pub fn copy_to(vcpu: &ArchVcpu, p2m: &Nested, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
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

/// As [`fetch`], four bytes or nothing, and the guest hears nothing of it.
#[inline]
pub fn fetch_opcode<H: Hardware>(cx: &Context<'_, H>, at: u64) -> Option<[u8; 4]> {
    let domain = cx.vcpu.domain();
    let opcode = with(&cx.vcpu.arch, &domain.p2m, |space| {
        Ok(space.fetch_opcode(GuestVirt(at)))
    });
    opcode.ok()?
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
