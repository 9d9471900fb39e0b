//! PSCI 1.1 for guests (DEN 0022), and the little of the SMC Calling Convention (DEN 0028) around it.

use xenolith_abi::sched::ShutdownReason;
use xenolith_core::{VcpuId, VcpuRef};

use super::exit::Context;
use crate::{
    Aarch64,
    cpu::speculation::{self, WORKAROUND_1, WORKAROUND_2, WORKAROUND_3},
};

const VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
const SYSTEM_RESET2: u32 = 0x8400_0012;
const SMC64: u32 = 0x4000_0000;
const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const HYP_CALL_COUNT: u32 = 0x8600_ff00;
const HYP_CALL_UID: u32 = 0x8600_ff01;
const HYP_REVISION: u32 = 0x8600_ff03;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const INVALID_ADDRESS: i64 = -9;

/// Affinity bits of an MPIDR value.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// What a call left behind.
enum Answer {
    /// The result for x0.
    Value(i64),
    /// x0 to x3.
    Four([u32; 4]),
    /// Nothing is to be written, as when the vCPU does not go on here.
    Gone,
}

/// Serves a call by `hvc #0` or `smc #0`; the function number is in x0.
pub fn call(mut cx: Context<'_>) {
    let function = cx.regs.x[0] as u32;
    match serve(&mut cx, function) {
        Answer::Value(value) => cx.regs.x[0] = value.cast_unsigned(),
        Answer::Four(words) => {
            for (register, word) in cx.regs.x.iter_mut().zip(words) {
                *register = u64::from(word);
            }
        }
        Answer::Gone => {}
    }
}

#[inline]
fn serve(cx: &mut Context<'_>, function: u32) -> Answer {
    if function == VERSION {
        return Answer::Value(1 << 16 | 1);
    }
    serve_slow(cx, function)
}

#[inline(never)]
fn serve_slow(cx: &mut Context<'_>, function: u32) -> Answer {
    let x = |n: usize| cx.regs.x[n & 7];
    // The 64-bit form of a call differs in the width of its arguments only.
    let wide = function & SMC64 != 0;
    let arg = |n: usize| if wide { x(n) } else { x(n) & 0xffff_ffff };
    Answer::Value(match function {
        SMCCC_VERSION => 1 << 16 | 1,
        SMCCC_ARCH_FEATURES => match x(1) as u32 {
            SMCCC_VERSION | SMCCC_ARCH_FEATURES => SUCCESS,
            other => speculation::MACHINE.answer(other).unwrap_or(NOT_SUPPORTED),
        },
        // No result. Where the CPU needs it, it was done before this exit was looked at.
        WORKAROUND_1 | WORKAROUND_2 | WORKAROUND_3 => return Answer::Gone,
        FEATURES => features(x(1) as u32),
        // No power state loses anything: a standby that ends with an interrupt.
        CPU_SUSPEND | 0xc400_0001 => {
            cx.regs.x[0] = 0;
            cx.hv().block(cx.vcpu);
            return Answer::Gone;
        }
        CPU_OFF => {
            cx.hv().vcpu_down(cx.vcpu);
            return Answer::Gone;
        }
        CPU_ON | 0xc400_0003 => cpu_on(cx, arg(1), arg(2), arg(3)),
        AFFINITY_INFO | 0xc400_0004 => affinity_info(cx, arg(1), arg(2)),
        MIGRATE_INFO_TYPE => 2, // no trusted OS to migrate
        SYSTEM_OFF => {
            shut_down(cx, ShutdownReason::Poweroff);
            return Answer::Gone;
        }
        SYSTEM_RESET => {
            shut_down(cx, ShutdownReason::Reboot);
            return Answer::Gone;
        }
        SYSTEM_RESET2 | 0xc400_0012 if x(1) as u32 == 0 => {
            shut_down(cx, ShutdownReason::Reboot);
            return Answer::Gone;
        }
        SYSTEM_RESET2 | 0xc400_0012 => INVALID_PARAMETERS,
        HYP_CALL_COUNT => 3,
        // The UID by which Xen is known (`public/arch-arm/smccc.h`).
        HYP_CALL_UID => return Answer::Four(uid_words()),
        HYP_REVISION => return Answer::Four([0, 1, 0, 0]),
        _ => NOT_SUPPORTED,
    })
}

/// The UID as its four registers carry it: bytes in order, least significant first.
fn uid_words() -> [u32; 4] {
    let uid = u128::from_le_bytes(xenolith_abi::arm::SMCCC_UID);
    core::array::from_fn(|i| (uid >> (32 * i)) as u32)
}

fn features(function: u32) -> i64 {
    match function {
        VERSION | CPU_SUSPEND | 0xc400_0001 | CPU_OFF | CPU_ON | 0xc400_0003 | AFFINITY_INFO
        | 0xc400_0004 | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET | FEATURES
        | SYSTEM_RESET2 | 0xc400_0012 | SMCCC_VERSION => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

fn by_affinity(cx: &Context<'_>, mpidr: u64) -> Option<VcpuRef<Aarch64>> {
    if mpidr & !AFFINITY != 0 || mpidr & 0xff > 15 || mpidr > 0xffff {
        return None;
    }
    let index = (mpidr >> 8) << 4 | (mpidr & 0xf);
    VcpuRef::new(cx.vcpu.domain(), VcpuId(index as u16))
}

fn shut_down(cx: &Context<'_>, reason: ShutdownReason) {
    let hv = cx.hv();
    if let Some(action) = hv.shutdown(cx.vcpu.domain(), reason.number()) {
        action.carry_out(&hv.hal);
    }
}

fn cpu_on(cx: &Context<'_>, mpidr: u64, entry: u64, context: u64) -> i64 {
    let Some(target) = by_affinity(cx, mpidr) else {
        return INVALID_PARAMETERS;
    };
    if entry & 1 != 0 {
        return INVALID_ADDRESS; // a Thumb entry: EL1 is AArch64 only
    }
    let domain = cx.vcpu.domain();
    // One starter at a time, so that nobody runs what is being prepared.
    let _starting = domain.arch.starting.lock();
    if cx.hv().vcpu_is_up(&target) || cx.hv().is_running_anywhere(&target) {
        return ALREADY_ON;
    }
    // SAFETY: the vCPU is down, on no CPU, and `starting` keeps every other starter out.
    unsafe { target.arch.reset(entry, context) };
    target.arch.vgic.reset_interface();
    cx.hv().vcpu_up(&target);
    SUCCESS
}

fn affinity_info(cx: &Context<'_>, mpidr: u64, level: u64) -> i64 {
    if level != 0 {
        return INVALID_PARAMETERS;
    }
    let Some(target) = by_affinity(cx, mpidr) else {
        return INVALID_PARAMETERS;
    };
    i64::from(!cx.hv().vcpu_is_up(&target) && !cx.hv().is_running_anywhere(&target))
}
