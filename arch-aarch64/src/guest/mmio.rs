//! Accesses that stage 2 refused: emulated devices, or nothing.

use xenolith_core::{DomainRef, Hypervisor};
use xenolith_hal::{GuestPhys, GuestVirt, sync::Mutex};

use super::{
    esr::{Access, DataAbort},
    exit::{Context, Name},
    inject,
    stage2_fault::{self, Tried},
    vpl011::Vpl011,
    writeback,
};
use crate::{
    Aarch64,
    cpu::regs::read,
    domain_build::{PL011, PL011_SPI},
    irq,
    mm::guest_access,
    vgic::{REDIST_SIZE, Size},
    with_gic,
};

/// Serves a data abort.
#[inline]
pub fn data_abort(cx: &mut Context<'_>, abort: DataAbort) {
    let far = read!("far_el2");
    if abort.stage2 && !abort.far_invalid {
        let Some(gpa) = stage2_fault::address(cx.vcpu, far, abort.ipa_valid) else {
            inject::data_abort(cx.regs, far, abort.write);
            return;
        };
        if let Some(access) = abort.access
            && !abort.table_walk
            && emulate(cx, gpa, access, abort.write)
        {
            cx.regs.skip();
            return;
        }
        let tried = match abort.write {
            true => Tried::Store,
            false => Tried::Load,
        };
        if stage2_fault::is_over(cx.vcpu, gpa, tried) {
            return;
        }
        if abort.access.is_none() && !abort.table_walk && emulate_writeback(cx, gpa, abort.write) {
            cx.regs.skip();
            return;
        }
        nothing_there(cx, gpa);
    }
    inject::data_abort(cx.regs, far, abort.write);
}

/// An access that moves its base register, which the syndrome does not describe. True when a device answered.
#[inline(never)]
fn emulate_writeback(cx: &mut Context<'_>, gpa: GuestPhys, write: bool) -> bool {
    let mut instruction = [0; 4];
    let p2m = &cx.vcpu.domain().p2m;
    if guest_access::copy_from(p2m, GuestVirt(cx.regs.pc), &mut instruction).is_err() {
        return false;
    }
    let Some(found) = writeback::decode(u32::from_le_bytes(instruction)) else {
        return false;
    };
    if found.write != write || !emulate(cx, gpa, found.access, write) {
        return false;
    }
    let base = usize::from(found.base);
    let moved = cx.regs.get(base).wrapping_add_signed(found.step);
    cx.regs.set(base, moved);
    true
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
