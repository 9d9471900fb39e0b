//! Writes to control registers: what a guest may set, and what follows (Intel SDM, volume 3, 2.5; AMD APM, volume 2, 3.1).

use iced_x86::{Code, OpKind, Register};
use xenolith_hal::{Gfn, Hal, P2m, PAGE_SHIFT, PAGE_SIZE};

use super::{
    exit::Context,
    fpu,
    hardware::{ControlAccess, Event, Hardware},
    instruction,
};

const CR0_PE: u64 = 1;
const CR0_TS: u64 = 1 << 3;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// A move to or from a control register, CLTS, or LMSW. Where the CPU does not say which, the instruction does.
pub fn access<H: Hardware>(cx: &mut Context<'_, H>, known: Option<ControlAccess>) {
    let found = match known {
        Some(access) => cx.hw.instruction_length().map(|length| (access, length)),
        None => decode(cx),
    };
    let Some((access, length)) = found else {
        return;
    };
    let done = match access {
        ControlAccess::Write { register, general } => {
            let value = general_register(cx, general);
            write(cx, register, value)
        }
        ControlAccess::Read { register, general } => read(cx, register, general),
        ControlAccess::Clts => {
            let value = cx.hw.cr0() & !CR0_TS;
            set_cr0(cx, value)
        }
        ControlAccess::Lmsw(value) => {
            // The low four bits; PE can be set and not cleared.
            let old = cx.hw.cr0();
            set_cr0(cx, old & !0xe | u64::from(value) & 0xf)
        }
    };
    if done {
        cx.skip(length);
    } else {
        cx.raise(Event::PROTECTION);
    }
}

/// What the instruction does, and its length. `None`: an exception was raised instead.
fn decode<H: Hardware>(cx: &mut Context<'_, H>) -> Option<(ControlAccess, u64)> {
    let instruction = instruction::decode(cx, Event::UNDEFINED)?;
    let number = |register: Register| register.number() as u8;
    let access = match instruction.code() {
        Code::Mov_cr_r64 | Code::Mov_cr_r32 => ControlAccess::Write {
            register: number(instruction.op0_register()),
            general: number(instruction.op1_register()),
        },
        Code::Clts => ControlAccess::Clts,
        Code::Lmsw_r32m16 | Code::Lmsw_r64m16 | Code::Lmsw_rm16
            if instruction.op0_kind() == OpKind::Register =>
        {
            ControlAccess::Lmsw(general_register(cx, number(instruction.op0_register())) as u16)
        }
        _ => {
            cx.raise(Event::UNDEFINED);
            return None;
        }
    };
    Some((access, instruction.len() as u64))
}

/// False when the guest may not set it so.
fn write<H: Hardware>(cx: &mut Context<'_, H>, register: u8, value: u64) -> bool {
    match register {
        0 => return set_cr0(cx, value),
        3 => cx.hw.set_cr3(value),
        4 => return set_cr4(cx, value),
        8 if value >> 4 == 0 => cx.hw.set_cr8(value as u8),
        _ => return false,
    }
    true
}

/// Only CR8 is not read by the guest itself.
fn read<H: Hardware>(cx: &mut Context<'_, H>, register: u8, general: u8) -> bool {
    const RSP: u8 = 4;
    if register != 8 {
        return false;
    }
    // What the guest wrote last may be in the hardware's copy only.
    cx.sync_lapic();
    let value = cx.vcpu.arch.lapic.tpr().into();
    match general {
        RSP => cx.hw.set_rsp(value),
        _ => cx.regs.set(general, value),
    }
    true
}

/// A general register as wide as the guest's code has it.
fn general_register<H: Hardware>(cx: &Context<'_, H>, number: u8) -> u64 {
    const RSP: u8 = 4;
    let value = match number {
        RSP => cx.hw.rsp(),
        _ => cx.regs.get(number),
    };
    if instruction::is_64_bit(cx.hw) {
        value
    } else {
        value & 0xffff_ffff
    }
}

/// False when the guest may not set it so.
fn set_cr0<H: Hardware>(cx: &mut Context<'_, H>, value: u64) -> bool {
    let old = cx.hw.cr0();
    let value = value | CR0_ET;
    if value >> 32 != 0
        || (value & CR0_PG != 0 && value & CR0_PE == 0)
        || (value & CR0_NW != 0 && value & CR0_CD == 0)
    {
        return false;
    }
    let starts_paging = value & !old & CR0_PG != 0;
    if starts_paging && cx.hw.efer() & EFER_LME != 0 && cx.hw.cr4() & CR4_PAE == 0 {
        return false;
    }
    if old & !value & CR0_PG != 0 && cx.hw.cr4() & CR4_PCIDE != 0 {
        return false;
    }
    cx.hw.set_cr0(value);
    cx.hw.flush();
    load_pointers(cx)
}

fn set_cr4<H: Hardware>(cx: &mut Context<'_, H>, value: u64) -> bool {
    let old = cx.hw.cr4();
    let long = cx.hw.efer() & EFER_LMA != 0;
    if value & !cx.vcpu.domain().arch.policy.cr4_valid() != 0
        || (long && value & CR4_PAE == 0)
        || (value & !old & CR4_PCIDE != 0 && (!long || cx.hw.cr3() & 0xfff != 0))
    {
        return false;
    }
    cx.hw.set_cr4(value);
    cx.hw.flush();
    load_pointers(cx)
}

/// With PAE paging and without long mode the CPU holds the four page directory pointers, which are read here where the
/// guest begins that. False when it has none to read; the guest is lost then anyway.
pub fn load_pointers<H: Hardware>(cx: &mut Context<'_, H>) -> bool {
    let paging = cx.hw.cr0() & CR0_PG != 0 && cx.hw.cr4() & CR4_PAE != 0;
    if !paging || cx.hw.efer() & EFER_LMA != 0 {
        return true;
    }
    let at = cx.hw.cr3() & 0xffff_ffe0;
    let mut bytes = [0; 32];
    let read = cx
        .vcpu
        .domain()
        .p2m
        .with_entry(Gfn(at >> PAGE_SHIFT), |entry| {
            let mfn = entry?.mfn;
            let hal = &cx.hv().hal;
            hal.read_frame(mfn, at as usize % PAGE_SIZE, &mut bytes)
                .ok()
        });
    if read.is_none() {
        return false;
    }
    let mut pointers = [0; 4];
    for (pointer, bytes) in pointers.iter_mut().zip(bytes.as_chunks().0) {
        *pointer = u64::from_le_bytes(*bytes);
    }
    cx.hw.set_page_directory_pointers(pointers);
    true
}

/// XSETBV.
pub fn set_xcr<H: Hardware>(cx: &mut Context<'_, H>) {
    let value = cx.regs.edx_eax();
    if cx.regs.rcx as u32 != 0 || cx.hw.cpl() != 0 || !fpu::is_valid_xcr0(value) {
        cx.raise(Event::PROTECTION);
        return;
    }
    // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use; the value was checked.
    unsafe {
        (*cx.vcpu.arch.fpu_ptr()).xcr0 = value;
        fpu::set_xcr0(value);
    }
    instruction::skip(cx);
}
