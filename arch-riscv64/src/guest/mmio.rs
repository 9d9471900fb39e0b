//! Guest page faults: the domain's interrupt controller, and addresses with nothing behind them.

use xenolith_hal::{GuestPhys, P2m, P2mType};

use super::{
    cause::Tried,
    decode::{self, Access, What},
    exit::Context,
    inject, interrupts, uart,
};
use crate::{
    cpu::regs::read,
    mm::{fences, guest_access},
    plic,
};

/// The G-stage had no translation, or not with that right, when the guest tried.
pub fn fault(mut cx: Context<'_>, tried: Tried, at: GuestPhys) {
    let address = read!("stval");
    let vcpu = cx.vcpu;
    let places = &vcpu.domain().arch.places;
    if places.plic.contains_address(at.0) {
        let register = Register::Plic(at.0 - places.plic.start());
        return emulate(cx, tried, address, register);
    }
    if let Some((uart, _)) = &places.uart
        && uart.contains_address(at.0)
    {
        return emulate(cx, tried, address, Register::Uart(at.0 - uart.start()));
    }
    // A walk that would have noted something in the guest's own table stores, whatever the instruction does.
    let tried = match read!("htinst") {
        0x2020 | 0x3020 => Tried::Store,
        _ => tried,
    };
    let now = cx.vcpu.domain().p2m.with_entry(at.frame(), |entry| {
        entry.is_some_and(|entry| match tried {
            Tried::Fetch => matches!(entry.kind, P2mType::RamRw | P2mType::RamRo),
            Tried::Load => true,
            Tried::Store => entry.kind.writable(),
        })
    });
    if now {
        // Another CPU has mapped it meanwhile; this one may still remember that nothing was there.
        return fences::forget_guests();
    }
    inject::access_fault(&mut cx, tried, address);
}

/// A register of an emulated device, by its offset.
#[derive(Clone, Copy)]
enum Register {
    Plic(u64),
    Uart(u64),
}

impl Register {
    /// Serves a load or store; false if the device has none such.
    #[inline(always)]
    fn access(self, cx: &mut Context<'_>, access: Access) -> bool {
        match self {
            Self::Plic(offset) => controller(cx, offset, access),
            Self::Uart(offset) => uart::access(cx, offset, access),
        }
    }
}

/// Has a device serve an access. What is no load or store that is known, or not one that the device has, faults.
#[inline(never)]
fn emulate(mut cx: Context<'_>, tried: Tried, address: u64, register: Register) {
    let htinst = read!("htinst");
    // What another vCPU may have written there meanwhile is not what was tried.
    if tried == Tried::Fetch || decode::is_walk(htinst) {
        return inject::access_fault(&mut cx, tried, address);
    }
    let access = decode::transformed(htinst).or_else(|| {
        let word = guest_access::instruction(cx.regs.pc)?;
        decode::instruction(word)
    });
    match access {
        Some(access) if register.access(&mut cx, access) => {
            cx.regs.pc = cx.regs.pc.wrapping_add(access.length.into());
        }
        _ => inject::access_fault(&mut cx, tried, address),
    }
}

/// The interrupt controller, whose registers are words.
#[inline(always)]
fn controller(cx: &mut Context<'_>, offset: u64, access: Access) -> bool {
    const WORD: u8 = 2;
    if access.size != WORD || !offset.is_multiple_of(4) {
        return false;
    }
    let domain = cx.vcpu.domain();
    let touched = match access.what {
        What::Load { register, signed } => {
            let (value, touched) = domain.arch.plic.lock().read(offset);
            let value = decode::extend(value.into(), WORD, signed);
            cx.regs.set(register.into(), value);
            touched
        }
        What::Store { register } => {
            let value = cx.regs.get(register.into()) as u32;
            let (completed, touched) = domain.arch.plic.lock().write(offset, value);
            match completed {
                Some(source) if uart::has(domain, source) => uart::completed(cx.hv(), domain),
                Some(source) if domain.arch.has_devices => plic::complete(source),
                _ => {}
            }
            touched
        }
    };
    interrupts::update(cx.hv(), domain, touched);
    true
}
