//! Accesses that stage 2 refused: emulated devices, or nothing.
//!
//! Where the syndrome does not describe the access, the instruction is fetched and decoded. The guest may change it
//! meanwhile: it is believed only where it explains the fault (same direction, same address), and whatever it says, it
//! reaches only the page that the fault was in.

use xenolith_core::{DomainRef, Hypervisor};
use xenolith_hal::{GuestPhys, GuestVirt, PAGE_SIZE};

use super::{
    decode::Transfer,
    esr::{Access, DataAbort},
    exit::{Context, Name},
    inject,
    stage2_fault::{self, Tried},
};
use crate::{
    Aarch64,
    cpu::{
        errata::{self, Workaround},
        regs::{read, write},
    },
    domain_build::{PL011, PL011_SPI},
    irq,
    mm::guest_access,
    vgic::{BadAccess, Size},
    with_gic,
};

/// Serves a data abort.
#[inline]
pub fn data_abort(cx: Context<'_>, abort: DataAbort) {
    if cx.regs.is_el0() {
        return of_program(cx, abort);
    }
    let mut cx = cx;
    if abort.is_described() && emulate(&mut cx, fault_address(), abort.access(), abort.is_write()) {
        // AArch64, as EL1 always is.
        cx.regs.skip();
        return;
    }
    not_for_device(cx, abort);
}

/// The guest-physical address that a stage 2 fault names.
#[inline(always)]
fn fault_address() -> GuestPhys {
    GuestPhys((read!("hpfar_el2") & !0xf) << 8 | read!("far_el2") & 0xfff)
}

/// A data abort of EL0, in whatever instruction set.
#[inline(never)]
fn of_program(mut cx: Context<'_>, abort: DataAbort) {
    // Where stage 1 would have faulted, the guest runs the instruction again and takes that fault itself. It is a
    // guest's programs that this keeps from its devices; what a kernel maps for itself it may use.
    if errata::needs(Workaround::AskStage1) && stage1_faults(read!("far_el2")) {
        return;
    }
    if abort.is_described() && emulate(&mut cx, fault_address(), abort.access(), abort.is_write()) {
        cx.regs.skip_trapped(abort.is_long());
        return;
    }
    not_for_device(cx, abort);
}

/// Whether the guest's own translation refuses the address, for reading as EL0.
#[cold]
fn stage1_faults(far: u64) -> bool {
    let saved = read!("par_el1");
    // SAFETY: address translation only writes PAR_EL1, which is restored below.
    unsafe {
        core::arch::asm!("at s1e0r, {}", "isb", in(reg) far, options(nostack, preserves_flags))
    };
    let result = read!("par_el1");
    write!("par_el1", saved);
    // F: a fault; S: it was one of stage 2, met by the walk, which the guest could only meet again.
    result & 1 != 0 && result & 1 << 9 == 0
}

/// An abort that no device answered at once.
#[inline(never)]
fn not_for_device(mut cx: Context<'_>, abort: DataAbort) {
    let far = read!("far_el2");
    if abort.is_stage2() {
        let Some(gpa) = stage2_fault::address(cx.vcpu, far, abort.is_ipa_valid()) else {
            inject::data_abort(cx.regs, far, abort.is_write());
            return;
        };
        if abort.is_undescribed() && undescribed(&mut cx, gpa, far, abort) {
            cx.regs.skip_trapped(abort.is_long());
            return;
        }
        let tried = match abort.is_write() {
            true => Tried::Store,
            false => Tried::Load,
        };
        if stage2_fault::is_over(cx.vcpu, far, gpa, tried) {
            return;
        }
        nothing_there(&cx, gpa);
    }
    inject::data_abort(cx.regs, far, abort.is_write());
}

/// An access that the syndrome does not describe: true when devices answered all of it.
#[cold]
fn undescribed(cx: &mut Context<'_>, gpa: GuestPhys, far: u64, abort: DataAbort) -> bool {
    if cx.regs.is_aarch32() {
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
    if transfer.write != abort.is_write() || !same_address || !in_one_page {
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
    let behind = GuestPhys(gpa.0 + u64::from(second.size.bytes()));
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
    let reg = usize::from(access.reg);
    if write {
        let value = access.truncate(cx.regs.get(reg));
        return store(cx, gpa, access.size, value).is_ok();
    }
    match load(cx, gpa, access.size) {
        Ok(value) => {
            cx.regs.set(reg, access.extend(value));
            true
        }
        Err(BadAccess) => false,
    }
}

/// A load from a device.
#[inline(never)]
fn load(cx: &Context<'_>, gpa: GuestPhys, size: Size) -> Result<u64, BadAccess> {
    let domain = cx.vcpu.domain();
    let (vgic, index) = (&domain.arch.vgic, cx.arch.index);
    let gic = irq::gic().ok_or(BadAccess)?;
    let notify = |vcpu: usize| irq::notify(domain, vcpu);
    if let Some(offset) = domain.arch.frames.distributor(gpa) {
        with_gic!(gic, |hw| vgic.dist_read(hw, index, offset, size, notify))
    } else if let Some((owner, offset)) = domain.arch.frames.redistributor(gpa) {
        with_gic!(gic, |hw| vgic
            .redist_read(hw, index, owner, offset, size, notify))
    } else {
        console(cx, gpa, None)
    }
}

/// A store to a device.
#[inline(never)]
fn store(cx: &Context<'_>, gpa: GuestPhys, size: Size, value: u64) -> Result<(), BadAccess> {
    let domain = cx.vcpu.domain();
    let (vgic, index) = (&domain.arch.vgic, cx.arch.index);
    let gic = irq::gic().ok_or(BadAccess)?;
    let notify = |vcpu: usize| irq::notify(domain, vcpu);
    if let Some(offset) = domain.arch.frames.distributor(gpa) {
        with_gic!(gic, |hw| vgic
            .dist_write(hw, index, offset, size, value, notify))
    } else if let Some((owner, offset)) = domain.arch.frames.redistributor(gpa) {
        with_gic!(gic, |hw| vgic
            .redist_write(hw, index, owner, offset, size, value, notify))
    } else {
        console(cx, gpa, Some(value as u32)).map(|_| ())
    }
}

/// An access to the domain's emulated UART, where there is one and this is its page.
#[inline(never)]
fn console(cx: &Context<'_>, gpa: GuestPhys, write: Option<u32>) -> Result<u64, BadAccess> {
    let domain = cx.vcpu.domain();
    let uart = domain.arch.uart.as_ref().ok_or(BadAccess)?;
    if gpa.frame() != GuestPhys(PL011.start()).frame() {
        return Err(BadAccess);
    }
    let offset = gpa.offset() as u32;
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
    Ok(u64::from(effect.value))
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
