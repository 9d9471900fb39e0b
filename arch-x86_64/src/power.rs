//! Power off and restart: as ACPI says, or else as emulators and PC chipsets have it.

use spin::Once;
use x86_64::instructions::port::Port;

use crate::acpi::{
    Acpi,
    fadt::{Register, SleepType},
};

/// ACPI's ways, once its tables have been read.
struct Ways {
    /// Control registers, 0 for none, with the sleep types for soft-off.
    off: Option<([u16; 2], SleepType)>,
    /// A port and what to write there.
    reset: Option<(u16, u8)>,
}

static WAYS: Once<Ways> = Once::new();

/// Remembers what ACPI says.
pub fn init(acpi: &Acpi<'_>) {
    let off = acpi.fadt.zip(acpi.power_off);
    let reset = acpi.fadt.and_then(|fadt| match fadt.reset? {
        (Register::Port(port), value) => Some((port, value)),
        _ => None,
    });
    WAYS.call_once(|| Ways {
        off: off.map(|(fadt, kind)| (fadt.pm1_control, kind)),
        reset,
    });
}

/// Powers the machine off; returns where that does not work.
pub fn off() {
    crate::console::flush();
    const SLEEP_ENABLE: u16 = 1 << 13;
    const TYPE_SHIFT: u32 = 10;
    if let Some(Ways {
        off: Some((registers, kind)),
        ..
    }) = WAYS.get()
    {
        for (register, kind) in registers.iter().zip([kind.a, kind.b]) {
            if *register != 0 {
                // SAFETY: ACPI's control registers; the machine goes off, nothing is left to harm.
                unsafe {
                    Port::<u16>::new(*register).write(u16::from(kind) << TYPE_SHIFT | SLEEP_ENABLE);
                }
            }
        }
    }
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
    crate::console::flush();
    if let Some(Ways {
        reset: Some((port, value)),
        ..
    }) = WAYS.get()
    {
        // SAFETY: ACPI's reset register; the machine starts anew, nothing is left to harm.
        unsafe { Port::<u8>::new(*port).write(*value) }
    }
    const RESET_CONTROL: u16 = 0xcf9;
    const FULL_RESET: u8 = 0xe;
    // SAFETY: the machine starts anew; nothing is left to harm.
    unsafe { Port::<u8>::new(RESET_CONTROL).write(FULL_RESET) }
}
