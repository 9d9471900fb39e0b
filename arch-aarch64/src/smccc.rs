//! Calls to the firmware: SMC Calling Convention (DEN 0028) and PSCI (DEN 0022) as a client.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use xenolith_hal::HostPhys;

use crate::cpu::probe;
use crate::cpu::speculation::{Offers, WORKAROUND_1, WORKAROUND_2, WORKAROUND_3};

const PSCI_VERSION: u32 = 0x8400_0000;
const PSCI_SYSTEM_OFF: u32 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u32 = 0x8400_0009;
const PSCI_CPU_ON: u32 = 0xc400_0003;

/// The firmware is there and speaks PSCI by SMC.
static PRESENT: AtomicBool = AtomicBool::new(false);

/// One call with up to three arguments; the first result.
pub fn smc(function: u32, args: [u64; 3]) -> i64 {
    let mut result = u64::from(function);
    // SAFETY: the calling convention lets the firmware change x0 to x17 only; memory effects are those of the call.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") result, inout("x1") args[0] => _, inout("x2") args[1] => _, inout("x3") args[2] => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
            out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    result.cast_signed()
}

/// Looks for a firmware that speaks PSCI, where no device tree tells of one. Start-up only.
pub fn find() {
    if probe::firmware(PSCI_VERSION).is_some_and(|version| version > 0) {
        PRESENT.store(true, Relaxed);
    }
}

/// Tells that the device tree names a firmware that is called by SMC.
pub fn init() {
    PRESENT.store(true, Relaxed);
}

/// The firmware's PSCI version, major and minor; `None` without firmware.
pub fn psci_version() -> Option<(u32, u32)> {
    if !PRESENT.load(Relaxed) {
        return None;
    }
    let version = smc(PSCI_VERSION, [0; 3]);
    (version >= 0).then_some((version as u32 >> 16, version as u32 & 0xffff))
}

/// What the firmware answers about the architecture's calls (`SMCCC_ARCH_FEATURES`, from convention 1.1 on) on this CPU.
pub fn offers() -> Offers {
    const SMCCC_VERSION: u32 = 0x8000_0000;
    const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    const PSCI_FEATURES: u32 = 0x8400_000a;
    // Older firmware may do anything at an unknown call; PSCI 1.0 can be asked first.
    let can_be_asked = psci_version().is_some_and(|(major, _)| major >= 1)
        && smc(PSCI_FEATURES, [SMCCC_VERSION.into(), 0, 0]) >= 0
        && smc(SMCCC_VERSION, [0; 3]) >= 0x1_0001;
    let ask = |function: u32| match can_be_asked {
        // Answers of 32-bit calls are 32 bits wide.
        true => i64::from(smc(SMCCC_ARCH_FEATURES, [function.into(), 0, 0]) as i32),
        false => -1,
    };
    Offers {
        branches: ask(WORKAROUND_1),
        stores: ask(WORKAROUND_2),
        history: ask(WORKAROUND_3),
    }
}

/// Switches this CPU's mitigation of speculative store bypass on.
pub fn keep_stores_in_order() {
    smc(WORKAROUND_2, [1, 0, 0]);
}

/// Starts a CPU at a physical address with a value in x0; the firmware's error number else.
pub fn cpu_on(mpidr: u64, entry: HostPhys, context: u64) -> Result<(), i64> {
    if !PRESENT.load(Relaxed) {
        return Err(-1);
    }
    match smc(PSCI_CPU_ON, [mpidr & 0xff_00ff_ffff, entry.0, context]) {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Powers the machine off; returns only where the firmware cannot.
pub fn system_off() {
    if PRESENT.load(Relaxed) {
        smc(PSCI_SYSTEM_OFF, [0; 3]);
    }
}

/// Restarts the machine; returns only where the firmware cannot.
pub fn system_reset() {
    if PRESENT.load(Relaxed) {
        smc(PSCI_SYSTEM_RESET, [0; 3]);
    }
}
