//! RDMSR and WRMSR of a guest.

use super::{
    exit::Context,
    hardware::{Event, Hardware},
    instruction::{self, Kind},
    interrupts,
};
use crate::msr::GeneralProtection;

const EFER: u32 = 0xc000_0080;
const APIC_BASE: u32 = 0x1b;
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const TSC: u32 = 0x10;

/// Serves RDMSR.
#[inline(never)]
pub fn read<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(length) = instruction::length(cx, Kind::ReadMsr) else {
        return;
    };
    match value(cx, cx.regs.rcx as u32) {
        Ok(value) => {
            cx.regs.set_edx_eax(value);
            cx.skip(length);
        }
        Err(GeneralProtection) => cx.raise(Event::PROTECTION),
    }
}

fn value<H: Hardware>(cx: &Context<'_, H>, index: u32) -> Result<u64, GeneralProtection> {
    Ok(match index {
        APIC_BASE | 0x800..=0x8ff | 0x6e0 => {
            cx.sync_tpr();
            return cx.vcpu.arch.lapic.read_msr(index, cx.now());
        }
        EFER => cx.hw.efer(),
        // SAFETY: reading the counter changes nothing.
        TSC => unsafe { core::arch::x86_64::_rdtsc() }.wrapping_add(cx.vcpu.domain().arch.tsc_offset),
        0x8b | 0x17 | 0xfe | 0x179 | 0x17a | 0x1a0 | 0xc001_0015 | 0xc001_001f | 0xc001_0010 | 0xc001_1029 | 0xc001_0055 | 0xc001_0140 | 0xc001_0141 => 0,
        0x2ff => 0xc06,
        0xce => 0,
        _ => {
            log::debug!("{}: RDMSR {index:#x}", super::exit::Name(cx.vcpu));
            return Err(GeneralProtection);
        }
    })
}

/// Serves WRMSR.
#[inline(never)]
pub fn write<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(length) = instruction::length(cx, Kind::WriteMsr) else {
        return;
    };
    let (index, value) = (cx.regs.rcx as u32, cx.regs.edx_eax());
    if set(cx, index, value).is_ok() {
        cx.skip(length);
    } else {
        cx.raise(Event::PROTECTION);
    }
}

fn set<H: Hardware>(cx: &mut Context<'_, H>, index: u32, value: u64) -> Result<(), GeneralProtection> {
    match index {
        APIC_BASE | 0x800..=0x8ff | 0x6e0 => {
            cx.sync_tpr();
            let effect = cx.vcpu.arch.lapic.write_msr(index, value, cx.now())?;
            cx.hw.set_cr8(cx.vcpu.arch.lapic.tpr());
            interrupts::carry_out(cx, effect);
        }
        EFER => {
            const KNOWN: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 14;
            const LMA: u64 = 1 << 10;
            if value & !KNOWN != 0 {
                return Err(GeneralProtection);
            }
            let lma = cx.hw.efer() & LMA;
            cx.hw.set_efer(value & !LMA | lma);
            cx.hw.flush();
        }
        HYPERCALL_PAGE => super::hypercall_page::write(cx, value)?,
        0x8b | 0x79 | 0x17 | 0x1a0 | 0x2ff | 0xc001_0015 | 0xc001_1029 => {}
        _ => {
            log::debug!("{}: WRMSR {index:#x} {value:#x}", super::exit::Name(cx.vcpu));
            return Err(GeneralProtection);
        }
    }
    Ok(())
}
