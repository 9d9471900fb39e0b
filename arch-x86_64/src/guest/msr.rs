//! RDMSR and WRMSR: from the number to whoever answers for it.

use super::{
    exit::{Context, Name},
    hardware::{Event, Hardware},
    hypercall_page,
    instruction::{self, Kind},
    interrupts, ioapic,
};
use crate::{
    msr::{GeneralProtection, Msr, Register, check_efer, classify},
    speculation::apply,
    timer,
    vlapic::{Effect, MSR_END_OF_INTERRUPT, Mode, hangs_on_the_unseen},
};

/// Serves RDMSR.
#[inline(never)]
pub fn read<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(length) = instruction::length(cx, Kind::ReadMsr) else {
        return;
    };
    let index = cx.regs.rcx as u32;
    match value(cx, index) {
        Ok(value) => {
            cx.regs.set_edx_eax(value);
            cx.skip(length);
        }
        Err(GeneralProtection) => {
            log::debug!("{}: RDMSR {index:#x} refused", Name(cx.vcpu));
            cx.raise(Event::PROTECTION);
        }
    }
}

fn value<H: Hardware>(cx: &mut Context<'_, H>, index: u32) -> Result<u64, GeneralProtection> {
    let arch = &cx.vcpu.domain().arch;
    match classify(index) {
        Msr::LocalApic => {
            if hangs_on_the_unseen(index) {
                cx.sync_lapic();
            }
            cx.vcpu.arch.lapic.read_msr(index, cx.now())
        }
        Msr::Register(Register::SpecCtrl) if Register::SpecCtrl.exists(&arch.policy) => {
            Ok(cx.regs.spec_ctrl.into())
        }
        Msr::Register(which) if which.exists(&arch.policy) => Ok(cx.hw.register(which)),
        Msr::Tsc => Ok(timer::ticks().wrapping_add(arch.tsc_offset)),
        Msr::HypercallPage => Ok(0),
        Msr::Modelled => {
            // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
            let state = unsafe { &*cx.vcpu.arch.msrs_ptr() };
            arch.msrs.read(state, index)
        }
        Msr::Register(_) | Msr::PredictionCommand | Msr::Unknown => Err(GeneralProtection),
    }
}

/// Serves WRMSR.
#[inline(never)]
pub fn write<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(length) = instruction::length(cx, Kind::WriteMsr) else {
        return;
    };
    let (index, value) = (cx.regs.rcx as u32, cx.regs.edx_eax());
    // The commonest write of all has a short way.
    let lapic = &cx.vcpu.arch.lapic;
    if (index, value) == (MSR_END_OF_INTERRUPT, 0) && lapic.mode() == Mode::X2Apic {
        if let Effect::Eoi(vector) = lapic.end_of_interrupt() {
            ioapic::end_of_interrupt(cx.vcpu.domain(), vector);
        }
        return cx.skip(length);
    }
    match set(cx, index, value) {
        Ok(()) => cx.skip(length),
        Err(GeneralProtection) => {
            log::debug!("{}: WRMSR {index:#x} {value:#x} refused", Name(cx.vcpu));
            cx.raise(Event::PROTECTION);
        }
    }
}

fn set<H: Hardware>(
    cx: &mut Context<'_, H>,
    index: u32,
    value: u64,
) -> Result<(), GeneralProtection> {
    let arch = &cx.vcpu.domain().arch;
    match classify(index) {
        Msr::LocalApic => {
            let unseen = hangs_on_the_unseen(index);
            if unseen {
                cx.sync_lapic();
            }
            let effect = cx.vcpu.arch.lapic.write_msr(index, value, cx.now())?;
            if unseen {
                cx.hw.set_cr8(cx.vcpu.arch.lapic.tpr());
            }
            interrupts::carry_out(cx, effect);
        }
        Msr::Register(Register::Efer) => {
            let paging = cx.hw.cr0() & 1 << 31 != 0;
            let value = check_efer(cx.hw.efer(), value, paging, &arch.policy)?;
            cx.hw.set_efer(value);
            cx.hw.flush();
        }
        Msr::Register(Register::SpecCtrl) => {
            let value = Register::SpecCtrl.check(value, &arch.policy)?;
            cx.regs.spec_ctrl = value as u32;
        }
        Msr::Register(which) => {
            let value = which.check(value, &arch.policy)?;
            cx.hw.set_register(which, value);
        }
        // The counter is one for all; a guest that sets it goes on with what it reads.
        Msr::Tsc => {}
        Msr::HypercallPage => hypercall_page::write(cx, value)?,
        Msr::Modelled => {
            // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
            let state = unsafe { &mut *cx.vcpu.arch.msrs_ptr() };
            arch.msrs.write(state, index, value)?;
        }
        Msr::PredictionCommand if arch.policy.has_prediction_barrier() && value <= 1 => {
            if value == 1 {
                apply::forget_branches();
            }
        }
        Msr::PredictionCommand | Msr::Unknown => return Err(GeneralProtection),
    }
    Ok(())
}
