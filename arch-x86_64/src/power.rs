//! Power off and restart.
//!
//! ACPI tells a machine's own way of powering off in byte code (the `_S5` package), which nothing reads here yet. The
//! emulators' ways are known, and writing them elsewhere does nothing.

use x86_64::instructions::port::Port;

/// Powers an emulated machine off; returns where that does not work.
pub fn off() {
    emulators_power_off();
}

/// Soft-off as the emulators' chipsets have it: power-management control registers at the addresses that their firmware
/// chooses, sleep type 0 (QEMU, both PC machines; Bochs).
fn emulators_power_off() {
    const QEMU: u16 = 0x604;
    const BOCHS: u16 = 0xb004;
    const SLEEP_ENABLE: u16 = 1 << 13;
    for register in [QEMU, BOCHS] {
        // SAFETY: the machine goes off; nothing is left to harm.
        unsafe { Port::<u16>::new(register).write(SLEEP_ENABLE) }
    }
}

/// Restarts the machine through the reset register of PC chipsets; returns where that does not work.
pub fn reset() {
    const RESET_CONTROL: u16 = 0xcf9;
    const FULL_RESET: u8 = 0xe;
    // SAFETY: the machine starts anew; nothing is left to harm.
    unsafe { Port::<u8>::new(RESET_CONTROL).write(FULL_RESET) }
}
