//! CPUID as guests see it.

use core::arch::x86_64::__cpuid_count;

use super::{
    exit::Context,
    hardware::Hardware,
    instruction::{self, Kind},
};
use crate::timer;

/// Serves the instruction.
#[inline(never)]
pub fn serve<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(length) = instruction::length(cx, Kind::Cpuid) else {
        return;
    };
    let (leaf, subleaf) = (cx.regs.rax as u32, cx.regs.rcx as u32);
    let [a, b, c, d] = answer(cx, leaf, subleaf);
    cx.regs.rax = a.into();
    cx.regs.rbx = b.into();
    cx.regs.rcx = c.into();
    cx.regs.rdx = d.into();
    cx.skip(length);
}

fn host(leaf: u32, subleaf: u32) -> [u32; 4] {
    // SAFETY: CPUID exists and changes nothing.
    let r = unsafe { __cpuid_count(leaf, subleaf) };
    [r.eax, r.ebx, r.ecx, r.edx]
}

fn answer<H: Hardware>(cx: &Context<'_, H>, leaf: u32, subleaf: u32) -> [u32; 4] {
    const XEN: u32 = 0x4000_0000;
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let id = cx.vcpu.arch.lapic.id();
    match leaf {
        XEN => [XEN + 5, word(b"XenV"), word(b"MMXe"), word(b"nVMM")],
        0x4000_0001 => [4 << 16 | 17, 0, 0, 0],
        0x4000_0002 => [1, XEN, 0, 0],
        0x4000_0003 => match subleaf {
            0 => [0, 0, timer::kilohertz() as u32, 0],
            1 => {
                let rate = timer::rate();
                let offset = timer::reference().ticks.wrapping_neg();
                let _ = offset;
                [0, 0, rate.factor, rate.shift as u8 as u32]
            }
            _ => [timer::kilohertz() as u32, 0, 0, 0],
        },
        0x4000_0004 => [1 << 3 | 1 << 4 | 1 << 6, cx.vcpu.arch.index as u32, cx.vcpu.domain().id().0.into(), 0],
        0x4000_0005 => [0, 0, 0, 0],
        0x4000_0006..=0x4fff_ffff => [0; 4],
        1 => {
            let [a, b, c, d] = host(1, 0);
            let b = b & 0x00ff_ffff | id << 24;
            let osxsave = if cx.hw.cr4() & 1 << 18 != 0 { 1 << 27 } else { 0 };
            let c = c & !(1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 17 | 1 << 21 | 1 << 24 | 1 << 27) | 1 << 31 | 1 << 21 | osxsave;
            [a, b, c, d]
        }
        5 | 6 | 0xa => [0; 4],
        0x8000_0001 => {
            let [a, b, c, d] = host(leaf, 0);
            [a, b, c & !(1 << 2), d]
        }
        0x8000_000a => [0; 4],
        _ => host(leaf, subleaf),
    }
}
