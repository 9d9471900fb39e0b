//! Accesses that stage 2 refused: emulated devices, or nothing.
//!
//! Where the syndrome does not describe the access, the instruction is fetched and decoded. The guest may change it
//! meanwhile: it is believed only where it explains the fault (same direction, same address), and whatever it says, it
//! reaches only the page that the fault was in.

use xenolith_core::{DomainRef, Hypervisor};
use xenolith_hal::{GuestPhys, GuestVirt, PAGE_SIZE, sync::Mutex};

use super::{
    decode::Transfer,
    esr::{Access, DataAbort},
    exit::{Context, Name},
    inject,
    stage2_fault::{self, Tried},
    vpl011::Vpl011,
};
use crate::{
    Aarch64,
    cpu::regs::{read, write},
    domain_build::{PL011, PL011_SPI},
    irq,
    mm::guest_access,
    vgic::{REDIST_SIZE, Size},
    with_gic,
};

/// Serves a data abort.
#[inline]
pub fn data_abort(cx: &mut Context<'_>, abort: DataAbort) {
    // Emulated devices are never mapped, so only a fault of translation may be for one; it names its page.
    if abort.translation
        && !abort.table_walk
        && !abort.far_invalid
        && let Some(access) = abort.access
    {
        let far = read!("far_el2");
        let gpa = GuestPhys((read!("hpfar_el2") & !0xf) << 8 | far & 0xfff);
        if emulate(cx, gpa, access, abort.write) {
            cx.regs.skip_trapped(abort.long);
            return;
        }
    }
    not_for_device(cx, abort);
}

/// An abort that no device answered at once.
#[inline(never)]
fn not_for_device(cx: &mut Context<'_>, abort: DataAbort) {
    let far = read!("far_el2");
    if abort.stage2 && !abort.far_invalid {
        let Some(gpa) = stage2_fault::address(cx.vcpu, far, abort.ipa_valid) else {
            inject::data_abort(cx.regs, far, abort.write);
            return;
        };
        if abort.translation
            && !abort.table_walk
            && abort.access.is_none()
            && undescribed(cx, gpa, far, abort)
        {
            cx.regs.skip_trapped(abort.long);
            return;
        }
        let tried = match abort.write {
            true => Tried::Store,
            false => Tried::Load,
        };
        if stage2_fault::is_over(cx.vcpu, far, gpa, tried) {
            return;
        }
        nothing_there(cx, gpa);
    }
    inject::data_abort(cx.regs, far, abort.write);
}

/// An access that the syndrome does not describe: true when devices answered all of it.
#[cold]
fn undescribed(cx: &mut Context<'_>, gpa: GuestPhys, far: u64, abort: DataAbort) -> bool {
    if abort.cache_op || cx.regs.is_aarch32() {
        return false;
    }
    let mut word = [0; 4];
    let p2m = &cx.vcpu.domain().p2m;
    if guest_access::copy_from(p2m, GuestVirt(cx.regs.pc), &mut word).is_err() {
        return false;
    }
    let Some(transfer) = Transfer::decode(u32::from_le_bytes(word)) else {
        return false;
    };
    let uses_sp_el1 = cx.regs.uses_sp_el1();
    let sp = if uses_sp_el1 {
        read!("sp_el1")
    } else {
        read!("sp_el0")
    };
    let general = |reg| cx.regs.get(usize::from(reg));
    let resolved = transfer.resolve(cx.regs.pc, general, sp);
    // The top byte may be a tag, which FAR_EL2 need not keep.
    let same_address = (resolved.address ^ far) << 8 == 0;
    let in_one_page = gpa.offset() as u64 + transfer.bytes() <= PAGE_SIZE as u64;
    if transfer.write != abort.write || !same_address || !in_one_page {
        return false;
    }
    if !both(cx, gpa, &transfer) {
        return false;
    }
    match resolved.write_back {
        Some((31, value)) if uses_sp_el1 => write!("sp_el1", value),
        Some((31, value)) => write!("sp_el0", value),
        Some((reg, value)) => cx.regs.set(usize::from(reg), value),
        None => {}
    }
    true
}

/// The transfers of an instruction, in order. When the second fails the first register is as before: it may be the
/// base, which an abort leaves as it was.
fn both(cx: &mut Context<'_>, gpa: GuestPhys, transfer: &Transfer) -> bool {
    let first = usize::from(transfer.access.reg);
    let before = cx.regs.get(first);
    if !emulate(cx, gpa, transfer.access, transfer.write) {
        return false;
    }
    let Some(second) = transfer.second() else {
        return true;
    };
    let behind = GuestPhys(gpa.0 + u64::from(second.bytes));
    if emulate(cx, behind, second, transfer.write) {
        return true;
    }
    cx.regs.set(first, before);
    false
}

#[cold]
fn nothing_there(cx: &Context<'_>, gpa: GuestPhys) {
    log::debug!(
        "{}: nothing at {gpa:?}, pc {:#x}",
        Name(cx.vcpu),
        cx.regs.pc
    );
}

/// True when a device answered.
#[inline]
fn emulate(cx: &mut Context<'_>, gpa: GuestPhys, access: Access, write: bool) -> bool {
    let domain = cx.vcpu.domain();
    let Some(gic) = irq::gic() else { return false };
    let Some(size) = Size::from_bytes(u64::from(access.bytes)) else {
        return false;
    };
    let index = cx.vcpu.arch.index;
    let frames = &domain.arch.frames;
    let notify = |vcpu: usize| irq::notify(domain, vcpu);
    let vgic = &domain.arch.vgic;
    let reg = usize::from(access.reg);
    let value = access.truncate(cx.regs.get(reg));
    let answer = if let Some(offset) = frames.distributor(gpa) {
        with_gic!(gic, |hw| if write {
            vgic.dist_write(hw, index, offset, size, value, notify)
                .map(|()| 0)
        } else {
            vgic.dist_read(hw, index, offset, size, notify)
        })
    } else if let Some(offset) = frames.redistributors(gpa) {
        let (owner, offset) = (
            (offset / REDIST_SIZE as u32) as usize,
            offset % REDIST_SIZE as u32,
        );
        with_gic!(gic, |hw| if write {
            vgic.redist_write(hw, index, owner, offset, size, value, notify)
                .map(|()| 0)
        } else {
            vgic.redist_read(hw, index, owner, offset, size, notify)
        })
    } else if let Some(uart) = &domain.arch.uart
        && gpa.frame().base() == GuestPhys(PL011.start()).frame().base()
    {
        Ok(console(
            cx,
            uart,
            gpa.offset() as u32,
            write.then_some(value as u32),
        ))
    } else {
        return false;
    };
    match answer {
        Ok(read) => {
            if !write {
                cx.regs.set(reg, access.extend(read));
            }
            true
        }
        Err(_) => false,
    }
}

/// An access to the domain's emulated UART.
#[inline(never)]
fn console(cx: &Context<'_>, uart: &Mutex<Vpl011>, offset: u32, write: Option<u32>) -> u64 {
    let domain = cx.vcpu.domain();
    let effect = {
        let mut uart = uart.lock();
        match write {
            Some(value) => uart.write(offset, value),
            None => uart.read(offset),
        }
    };
    if let Some(byte) = effect.print {
        cx.hv().console.guest_char(cx.hv(), domain, byte);
    }
    set_uart_line(domain, effect.line);
    u64::from(effect.value)
}

fn set_uart_line(domain: &DomainRef<Aarch64>, asserted: bool) {
    domain
        .arch
        .vgic
        .set_line(0, PL011_SPI, asserted, |vcpu| irq::notify(domain, vcpu));
}

/// A byte was typed for the domain; false when it has no UART.
pub fn console_input(_: &Hypervisor<Aarch64>, domain: &DomainRef<Aarch64>, byte: u8) -> bool {
    let Some(uart) = &domain.arch.uart else {
        return false;
    };
    let asserted = {
        let mut uart = uart.lock();
        uart.receive(byte);
        uart.asserted()
    };
    set_uart_line(domain, asserted);
    true
}
