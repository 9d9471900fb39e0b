//! The machine's clocks of known rate, for measuring others by: the HPET ("IA-PC HPET Specification" 1.0a), ACPI's PM timer
//! (ACPI Specification 6.4, 4.8.3.3), the PC's interval timer (8254 data sheet).

use tock_registers::{
    LocalRegisterCopy,
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};
use x86_64::instructions::port::Port;
use xenolith_arch_common::is_ram;
use xenolith_hal::{HostPhys, PAGE_SIZE};

use crate::{
    acpi::Acpi,
    calibration::{Clock, Rate, measure},
    machine,
    mm::hyp::Hyp,
};

/// Femtoseconds from one look at both counters to the next.
const SPAN: u64 = 3_000_000_000_000;

register_bitfields! {u32,
    HpetConfig [
        ENABLE OFFSET(0) NUMBITS(1) [],
    ],
}

register_structs! {
    Hpet {
        (0x000 => _features: ReadOnly<u32>),
        /// Femtoseconds of a tick.
        (0x004 => period: ReadOnly<u32>),
        (0x008 => _reserved0),
        (0x010 => config: ReadWrite<u32, HpetConfig::Register>),
        (0x014 => _reserved1),
        (0x0f0 => counter: ReadOnly<u32>),
        (0x0f4 => @END),
    }
}

/// A clock's name, and what it said.
type Measured = (&'static str, Rate);

/// Measures the time-stamp counter by the best clock that runs.
pub(super) fn rate(acpi: &Acpi<'_>, counter: impl Fn() -> u64 + Copy) -> Option<Measured> {
    by_hpet(acpi, counter)
        .or_else(|| by_pm_timer(acpi, counter))
        .or_else(|| by_interval_timer(counter))
}

fn by_hpet(acpi: &Acpi<'_>, counter: impl Fn() -> u64) -> Option<Measured> {
    /// No HPET is slower.
    const LONGEST_PERIOD: u32 = 100_000_000;
    let at = HostPhys(acpi.hpet?);
    // Firmware's word is not enough to write to memory, nor to a place that no address reaches.
    let limit = 1u64 << machine::paging_limits().physical_bits.min(52);
    if !at.0.is_multiple_of(8) || at.0 >= limit - PAGE_SIZE as u64 || is_ram(at.frame()) {
        return None;
    }
    let registers = Hyp::map_device(at, size_of::<Hpet>() as u64).ok()?;
    // SAFETY: mapped for ever as device registers, aligned, and used by nobody else; the layout is the specification's.
    let hpet = unsafe { &*registers.cast::<Hpet>() };
    let period = hpet.period.get();
    if !(1..=LONGEST_PERIOD).contains(&period) {
        return None;
    }
    let before: LocalRegisterCopy<u32, HpetConfig::Register> = hpet.config.extract();
    let mut on = before;
    on.modify(HpetConfig::ENABLE::SET);
    hpet.config.set(on.get());
    let clock = Clock {
        name: "the HPET",
        period: period.into(),
        mask: u32::MAX,
    };
    let rate = measure(&clock, SPAN, || hpet.counter.get(), counter);
    hpet.config.set(before.get());
    Some((clock.name, rate?))
}

fn by_pm_timer(acpi: &Acpi<'_>, counter: impl Fn() -> u64) -> Option<Measured> {
    let fadt = acpi.fadt.filter(|fadt| fadt.timer != 0 && !fadt.reduced)?;
    let clock = Clock {
        name: "the PM timer",
        // A second of 3,579,545 ticks.
        period: 279_365_115,
        mask: 0xff_ffff,
    };
    let read = || {
        // SAFETY: firmware names this port as that of the timer; reading it changes nothing.
        unsafe { Port::<u32>::new(fadt.timer).read() }
    };
    Some((clock.name, measure(&clock, SPAN, read, counter)?))
}

/// By the third channel, which belongs to the speaker; it counts down from 65,535.
fn by_interval_timer(counter: impl Fn() -> u64) -> Option<Measured> {
    const COUNT_DOWN_CHANNEL_2: u8 = 0xb0;
    const LATCH_CHANNEL_2: u8 = 0x80;
    const GATE: u8 = 1;
    const SPEAKER: u8 = 2;
    let clock = Clock {
        name: "the interval timer",
        // A second of 1,193,182 ticks.
        period: 838_095_110,
        mask: 0xffff,
    };
    // SAFETY: the channel and its gate are the speaker's, which nobody uses.
    let write = |port: u16, value: u8| unsafe { Port::<u8>::new(port).write(value) };
    // SAFETY: as above; reading the channel takes the value that was latched.
    let read = |port: u16| unsafe { Port::<u8>::new(port).read() };
    let (channel, control, gate) = (0x42, 0x43, 0x61);
    let before = read(gate);
    write(gate, before & !SPEAKER | GATE);
    write(control, COUNT_DOWN_CHANNEL_2);
    write(channel, 0xff);
    write(channel, 0xff);
    let count = || {
        write(control, LATCH_CHANNEL_2);
        u32::from(!u16::from_le_bytes([read(channel), read(channel)]))
    };
    let rate = measure(&clock, SPAN, count, counter);
    write(gate, before);
    Some((clock.name, rate?))
}
