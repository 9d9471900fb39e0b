//! RDMSR and WRMSR of PV guests.

use x86_64::registers::model_specific::Msr;
use xenolith_hal::{Hal, HostPhys, Mfn};

use super::{
    controls,
    msr::{BANKS, EFER_SHOWN, MISC_ENABLE, PAT, PvMsr, classify},
    serve::{Done, read_tsc, set_edx_eax},
};
use crate::{
    domain_build::pv::hypercall_page,
    guest::exit::Name,
    msr::Register,
    pv::{
        hypercall::is_canonical,
        run::Stopped,
        switch::{self, Base},
        trap,
    },
    speculation::apply,
    timer,
};

/// RDMSR.
pub(super) fn read(cx: &mut Stopped<'_>) -> Done {
    let index = cx.frame().rcx as u32;
    match value(cx, index) {
        Some(value) => {
            set_edx_eax(cx, value);
            Done::Yes
        }
        None => {
            log::debug!("{}: RDMSR {index:#x} refused", Name(cx.vcpu));
            Done::No
        }
    }
}

#[inline(always)]
fn value(cx: &Stopped<'_>, index: u32) -> Option<u64> {
    let arch = &cx.vcpu.domain().arch;
    let policy = &arch.policy;
    Some(match classify(index, policy.vendor()) {
        PvMsr::FsBase => switch::base(Base::Fs),
        PvMsr::GsBase => switch::base(Base::GsKernel),
        PvMsr::UserGsBase => switch::base(Base::GsUser),
        PvMsr::Efer => efer(),
        PvMsr::ApicBase => apic_base(cx.vcpu.arch.index),
        PvMsr::Tsc => timer::own_ticks(),
        PvMsr::TscAux if policy.has_tsc_aux() => cx.pv.tsc_aux.get().into(),
        PvMsr::Pat => PAT,
        PvMsr::SpecCtrl if Register::SpecCtrl.exists(policy) => cx.pv.spec_ctrl.get().into(),
        PvMsr::MiscEnable => MISC_ENABLE,
        PvMsr::BankControl => u64::MAX,
        PvMsr::BankCount => BANKS.into(),
        PvMsr::Nothing | PvMsr::ReadsZero | PvMsr::Zero | PvMsr::HypercallPage => 0,
        PvMsr::Model => {
            // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
            let state = unsafe { &*cx.vcpu.arch.msrs_ptr() };
            return arch.msrs.read(state, index).ok();
        }
        _ => return None,
    })
}

fn efer() -> u64 {
    const EFER: u32 = 0xc000_0080;
    // SAFETY: every CPU with long mode has it.
    unsafe { Msr::new(EFER).read() & EFER_SHOWN }
}

const fn apic_base(vcpu: usize) -> u64 {
    const PLACE: u64 = 0xfee0_0000;
    const ENABLED: u64 = 1 << 11;
    const FIRST_CPU: u64 = 1 << 8;
    PLACE | ENABLED | if vcpu == 0 { FIRST_CPU } else { 0 }
}

/// WRMSR.
pub(super) fn write(cx: &mut Stopped<'_>) -> Done {
    let frame = cx.frame();
    let index = frame.rcx as u32;
    let value = frame.rdx << 32 | frame.rax & 0xffff_ffff;
    let done = set(cx, index, value);
    if !done {
        log::debug!("{}: WRMSR {index:#x} {value:#x} refused", Name(cx.vcpu));
    }
    done.into()
}

#[inline(always)]
fn set(cx: &mut Stopped<'_>, index: u32, value: u64) -> bool {
    let arch = &cx.vcpu.domain().arch;
    let policy = &arch.policy;
    match classify(index, policy.vendor()) {
        PvMsr::FsBase => set_base(Base::Fs, value),
        PvMsr::GsBase => set_base(Base::GsKernel, value),
        PvMsr::UserGsBase => set_base(Base::GsUser, value),
        PvMsr::Efer => value == efer(),
        PvMsr::TscAux if policy.has_tsc_aux() => {
            let Ok(value) = u32::try_from(value) else {
                return false;
            };
            cx.pv.tsc_aux.set(value);
            controls::load_tsc_aux(value);
            true
        }
        PvMsr::SpecCtrl => match Register::SpecCtrl.check(value, policy) {
            Ok(value) => {
                cx.pv.spec_ctrl.set(value as u32);
                controls::load_spec_ctrl(value as u32);
                true
            }
            Err(_) => false,
        },
        PvMsr::PredictionCommand if policy.has_prediction_barrier() && value <= 1 => {
            if value == 1 {
                apply::forget_branches();
            }
            true
        }
        PvMsr::HypercallPage => write_hypercall_page(cx, value),
        PvMsr::MiscEnable
        | PvMsr::Nothing
        | PvMsr::Dropped
        | PvMsr::BankControl
        | PvMsr::BankCount => true,
        PvMsr::Zero => value == 0,
        PvMsr::Model => {
            // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
            let state = unsafe { &mut *cx.vcpu.arch.msrs_ptr() };
            arch.msrs.write(state, index, value).is_ok()
        }
        _ => false,
    }
}

fn set_base(which: Base, address: u64) -> bool {
    let good = is_canonical(address);
    if good {
        switch::set_base(which, address);
    }
    good
}

/// Fills a frame of the guest's: there is one page of hypercalls, and a number in the address would ask for another.
#[cold]
fn write_hypercall_page(cx: &Stopped<'_>, value: u64) -> bool {
    const PAGE: u64 = 0xfff;
    value & PAGE == 0 && fill(cx, HostPhys(value).frame()).is_some()
}

fn fill(cx: &Stopped<'_>, mfn: Mfn) -> Option<()> {
    let hv = cx.hv();
    let _held = hv.get_writable(mfn, cx.vcpu.domain())?;
    hv.hal.write_frame(mfn, 0, &hypercall_page::page()).ok()
}

/// RDTSCP.
pub(super) fn read_tsc_aux(cx: &mut Stopped<'_>) -> Done {
    if !cx.vcpu.domain().arch.policy.has_tsc_aux() {
        trap::undefined(cx);
        return Done::Stays;
    }
    read_tsc(cx);
    cx.frame().rcx = cx.pv.tsc_aux.get().into();
    Done::Yes
}
