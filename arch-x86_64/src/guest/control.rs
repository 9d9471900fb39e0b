//! Writes to control registers: what a guest may set, and what follows (Intel SDM, volume 3, 2.5; AMD APM, volume 2, 3.1).

use iced_x86::{Code, OpKind, Register};

use super::{
    exit::Context,
    fpu,
    hardware::{Event, Hardware},
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

/// A move to CR0 or CR4, CLTS, or LMSW.
pub fn write<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(instruction) = instruction::decode(cx) else {
        return;
    };
    let source = |cx: &Context<'_, H>| general(cx, instruction.op1_register());
    let done = match instruction.code() {
        Code::Mov_cr_r64 | Code::Mov_cr_r32 => match instruction.op0_register() {
            Register::CR0 => set_cr0(cx, source(cx)),
            Register::CR4 => set_cr4(cx, source(cx)),
            Register::CR3 => {
                let value = source(cx);
                cx.hw.set_cr3(value);
                true
            }
            Register::CR8 => {
                let value = source(cx);
                cx.hw.set_cr8(value as u8 & 15);
                true
            }
            _ => false,
        },
        Code::Clts => {
            let value = cx.hw.cr0() & !CR0_TS;
            set_cr0(cx, value)
        }
        Code::Lmsw_r32m16 | Code::Lmsw_r64m16 | Code::Lmsw_rm16
            if instruction.op0_kind() == OpKind::Register =>
        {
            // The low four bits; PE can be set and not cleared.
            let low = general(cx, instruction.op0_register()) & 0xf;
            let old = cx.hw.cr0();
            set_cr0(cx, old & !0xe | low)
        }
        _ => {
            cx.raise(Event::UNDEFINED);
            return;
        }
    };
    if done {
        cx.skip(instruction.len() as u64);
    } else {
        cx.raise(Event::PROTECTION);
    }
}

fn general<H: Hardware>(cx: &Context<'_, H>, register: Register) -> u64 {
    let full = register.full_register();
    if full == Register::RSP {
        return cx.hw.rsp();
    }
    let value = cx.regs.get(full.number() as u8);
    match register.size() {
        8 => value,
        4 => value & 0xffff_ffff,
        _ => value & 0xffff,
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
    // A guest's caches stay on: its memory is shared with the hypervisor, and its devices see the caches.
    cx.hw.set_cr0(value & !(CR0_CD | CR0_NW));
    cx.hw.flush();
    true
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
