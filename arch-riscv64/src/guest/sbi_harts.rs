//! A guest's harts: their states (SBI, "HSM Extension"), interrupts between them ("IPI"), remote fences ("RFENCE").

use xenolith_core::{VcpuId, VcpuRef};
use xenolith_hal::{Gfn, P2m, P2mType, PAGE_SHIFT};

use super::{
    exit::Context,
    regs::number::{A0, A1},
    sbi::{Answer, Error},
};
use crate::{Riscv64, sbi as firmware};

/// States of a hart.
const STARTED: u64 = 0;
const STOPPED: u64 = 1;
/// It is on its way out.
const STOP_PENDING: u64 = 3;

fn hart(cx: &Context<'_>, number: u64) -> Option<VcpuRef<Riscv64>> {
    let id = VcpuId(u16::try_from(number).ok()?);
    VcpuRef::new(cx.vcpu.domain(), id)
}

/// HSM.
pub fn state(cx: &mut Context<'_>, function: u64) -> Answer {
    let x = &cx.regs.x;
    match function {
        0 => start(cx, x[A0], x[A1], x[A1 + 1]),
        1 => {
            cx.hv().vcpu_down(cx.vcpu);
            Answer::Gone
        }
        2 => match hart(cx, x[A0]) {
            None => Answer::Failed(Error::InvalidParam),
            Some(target) if cx.hv().vcpu_is_up(&target) => Answer::Value(STARTED),
            Some(target) if cx.hv().is_running_anywhere(&target) => Answer::Value(STOP_PENDING),
            Some(_) => Answer::Value(STOPPED),
        },
        // The default retentive suspend: a wait that ends with an interrupt.
        3 if x[A0] as u32 == 0 => {
            let regs = &mut *cx.regs;
            (regs.x[A0], regs.x[A1]) = (0, 0);
            cx.hv().block(cx.vcpu);
            Answer::Gone
        }
        3 => match x[A0] as u32 {
            // The default that loses the registers, and what platforms may have.
            0x8000_0000 | 0x1000_0000..=0x7fff_ffff | 0x9000_0000.. => {
                Answer::Failed(Error::NotSupported)
            }
            _ => Answer::Failed(Error::InvalidParam),
        },
        _ => Answer::Failed(Error::NotSupported),
    }
}

fn start(cx: &Context<'_>, number: u64, entry: u64, opaque: u64) -> Answer {
    let Some(target) = hart(cx, number) else {
        return Answer::Failed(Error::InvalidParam);
    };
    let domain = cx.vcpu.domain();
    let place = domain.p2m.lookup(Gfn(entry >> PAGE_SHIFT));
    let runs = place.is_some_and(|place| matches!(place.kind, P2mType::RamRw | P2mType::RamRo));
    if !runs || entry & 1 != 0 {
        return Answer::Failed(Error::InvalidAddress);
    }
    // One starter at a time, so that nobody runs what is being prepared.
    let _starting = domain.arch.starting.lock();
    if cx.hv().vcpu_is_up(&target) || cx.hv().is_running_anywhere(&target) {
        return Answer::Failed(Error::AlreadyAvailable);
    }
    // SAFETY: the vCPU is down, on no CPU, and `starting` keeps every other starter out.
    unsafe { target.arch.reset(entry, opaque) };
    cx.hv().vcpu_up(&target);
    Answer::Value(0)
}

/// Calls `f` with each hart of a mask; an error where the mask names one that is not there.
fn each(
    cx: &Context<'_>,
    mask: u64,
    base: u64,
    mut f: impl FnMut(&VcpuRef<Riscv64>),
) -> Result<(), Error> {
    let count = cx.vcpu.domain().vcpus.len() as u64;
    // All of them.
    let (mut mask, base) = if base == u64::MAX {
        let all = if count < 64 {
            (1 << count) - 1
        } else {
            u64::MAX
        };
        (all, 0)
    } else {
        (mask, base)
    };
    let highest = u64::from(63 - mask.leading_zeros().min(63));
    if mask != 0 && base.checked_add(highest).is_none_or(|last| last >= count) {
        return Err(Error::InvalidParam);
    }
    while mask != 0 {
        let number = base + u64::from(mask.trailing_zeros());
        mask &= mask - 1;
        if let Some(target) = hart(cx, number) {
            f(&target);
        }
    }
    Ok(())
}

/// The software interrupt of each hart in a mask.
pub fn send_ipi(cx: &Context<'_>) -> Answer {
    let hv = cx.hv();
    let result = each(cx, cx.regs.x[A0], cx.regs.x[A1], |target| {
        target.arch.waiting.send();
        hv.notify(target);
    });
    match result {
        Ok(()) => Answer::Value(0),
        Err(error) => Answer::Failed(error),
    }
}

/// Fences of other harts. All CPUs make them, for the domain's number in their TLBs: so it does not matter where its vCPUs run.
/// What a vCPU that is on no CPU left behind is dropped when it comes to one.
pub fn remote_fence(cx: &Context<'_>, function: u64) -> Answer {
    let x = &cx.regs.x;
    if let Err(error) = each(cx, x[A0], x[A1], |_| {}) {
        return Answer::Failed(error);
    }
    let (start, size, asid) = (x[A1 + 1], x[A1 + 2], x[A1 + 3]);
    match function {
        0 => firmware::fence_instructions(),
        1 => firmware::fence_guest_virtual(start, size, None),
        2 => firmware::fence_guest_virtual(start, size, Some(asid)),
        // Those of hypervisors below this one, which there are not.
        _ => return Answer::Failed(Error::NotSupported),
    }
    Answer::Value(0)
}
