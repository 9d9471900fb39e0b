//! Moves to and from control and debug registers, and what else changes how the CPU runs its guest.

use core::sync::atomic::Ordering::Relaxed;

use iced_x86::{Decoder, DecoderOptions, Register};
use x86_64::registers::control::{Cr0, Cr4};
use xenolith_hal::{HostPhys, Mfn, PAGE_SHIFT};

use super::{
    control::{self, chosen_cr4, debug_register, shown_cr0, shown_cr4, written_cr0},
    controls,
    decode::LONGEST,
    place,
    serve::Done,
};
use crate::{
    cpu::errand::write_back_caches,
    cpuid::pv::cr4,
    guest::fpu,
    pv::{
        access, flush,
        machine::ThisCpu,
        memory::Stop,
        registers,
        run::Stopped,
        switch::{self, Base},
        trap,
    },
};

/// A move from a control register.
pub(super) fn read_control(cx: &mut Stopped<'_>, register: u8, general: u8) -> Done {
    let pv = cx.pv;
    let value = match register {
        0 => shown_cr0(Cr0::read_raw(), pv.task_switched.get()),
        2 => pv.cr2.get(),
        3 => pv.space.kernel().map_or(0, |root| root.base().0),
        4 => shown_cr4(
            pv.cr4.get() & cx.vcpu.domain().arch.policy.pv_cr4(),
            Cr4::read_raw(),
        ),
        _ => return Done::No,
    };
    cx.frame().set(general, value);
    Done::Yes
}

/// A move to a control register.
pub(super) fn write_control(cx: &mut Stopped<'_>, register: u8, general: u8) -> Done {
    let value = cx.frame().get(general);
    match register {
        0 => match written_cr0(value, Cr0::read_raw()) {
            Some(on) => set_task_switched(cx, on),
            None => return Done::No,
        },
        2 => {
            cx.pv.cr2.set(value);
            cx.pv.info().cr2.store(value, Relaxed);
        }
        3 => return cx.new_root(HostPhys(value).frame()),
        4 => {
            let chosen = chosen_cr4(value, cx.vcpu.domain().arch.policy.pv_cr4());
            cx.pv.cr4.set(chosen);
            controls::load_cr4(chosen);
        }
        _ => return Done::No,
    }
    Done::Yes
}

impl Stopped<'_> {
    /// Another root for the kernel that runs.
    pub(super) fn new_root(&mut self, root: Mfn) -> Done {
        const NONE: u64 = u64::MAX >> PAGE_SHIFT;
        if root.0 >= NONE {
            return Done::No;
        }
        match ThisCpu(self.cpu).tables().set_kernel_root(self.vcpu, root) {
            Ok(()) => Done::Yes,
            Err(Stop::Preempted) => Done::Stays,
            Err(Stop::Failed(_)) => Done::No,
        }
    }
}

/// CR0.TS.
pub(super) fn set_task_switched(cx: &Stopped<'_>, on: bool) {
    if cx.pv.task_switched.replace(on) != on {
        switch::set_task_switched(on);
    }
}

/// Where a debug register is, or an exception instead.
fn debug_place(cx: &mut Stopped<'_>, number: u8) -> Option<u32> {
    let place = debug_register(number, cx.pv.cr4.get());
    if place.is_none() {
        trap::undefined(cx);
    }
    place
}

/// A move from a debug register.
pub(super) fn read_debug(cx: &mut Stopped<'_>, number: u8, general: u8) -> Done {
    let Some(place) = debug_place(cx, number) else {
        return Done::Stays;
    };
    let value = cx.pv.debug.get().get(place as usize).copied();
    cx.frame().set(general, value.unwrap_or_default());
    Done::Yes
}

/// A move to a debug register.
pub(super) fn write_debug(cx: &mut Stopped<'_>, number: u8, general: u8) -> Done {
    let Some(place) = debug_place(cx, number) else {
        return Done::Stays;
    };
    let value = cx.frame().get(general);
    registers::set_debug(cx.pv, place, value).is_ok().into()
}

/// XSETBV.
pub(super) fn set_xcr(cx: &mut Stopped<'_>) -> Done {
    let policy = &cx.vcpu.domain().arch.policy;
    if cx.pv.cr4.get() & policy.pv_cr4() & cr4::OSXSAVE == 0 {
        trap::undefined(cx);
        return Done::Stays;
    }
    let frame = cx.frame();
    let value = frame.rdx << 32 | frame.rax & 0xffff_ffff;
    if frame.rcx as u32 != 0 || !policy.xstate().is_valid_xcr0(value) || !fpu::is_valid_xcr0(value)
    {
        return Done::No;
    }
    // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use; the value was checked.
    unsafe {
        (*cx.vcpu.arch.fpu_ptr()).xcr0 = value;
        fpu::set_xcr0(value);
    }
    Done::Yes
}

/// WBINVD: for who has devices; others' memory is coherent.
pub(super) fn flush_caches(cx: &Stopped<'_>) {
    if cx.vcpu.domain().arch.owns_devices {
        write_back_caches();
    }
}

/// INVLPG: forgets the translation of one of the guest's own addresses. Tells the length.
pub(super) fn flush_page(cx: &mut Stopped<'_>, at: u64) -> Option<u8> {
    let mut bytes = [0; LONGEST];
    let count = place::whole(at, &mut bytes)?;
    let mut decoder = Decoder::with_ip(
        64,
        bytes.get(..count)?,
        cx.frame().rip,
        DecoderOptions::NONE,
    );
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let frame = *cx.frame();
    let address = instruction.virtual_address(0, 0, |register, _, _| {
        Some(match register {
            Register::FS => switch::base(Base::Fs),
            Register::GS => switch::base(Base::GsKernel),
            register if register.is_segment_register() => 0,
            register if register.is_gpr64() => frame.get(register.number() as u8),
            register if register.is_gpr32() => frame.get(register.number() as u8) & 0xffff_ffff,
            _ => return None,
        })
    })?;
    if access::is_guest(address) {
        flush::page(address);
    }
    Some(instruction.len() as u8)
}

const _: () = assert!(control::TASK_SWITCHED == 8);
