//! The guest's reads and writes of registers, in memory and as MSRs.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_hal::Nanos;

use super::{
    DEFAULT_ADDRESS, Destination, Effect, LVT_ENTRIES, Message, Mode, TIMER_ENTRY, Trigger, VLapic,
    registers::{
        BASE, Base, COMMAND, COMMAND_WRITABLE, Command, ERROR, LVT, LVT_WRITABLE, SPURIOUS,
        SPURIOUS_WRITABLE, VERSION, number,
    },
};
use crate::msr::GeneralProtection;

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// The MSR that ends an interrupt at an x2APIC.
pub const MSR_END_OF_INTERRUPT: u32 = 0x800 + number::END_OF_INTERRUPT;
/// Whether what an MSR reads, or what a write does, hangs on what a guest changes of its APIC without an exit: the priorities,
/// what is requested and in service, and whether all that is on.
#[inline]
#[must_use]
pub const fn hangs_on_the_unseen(index: u32) -> bool {
    const REST: u32 = number::ERROR_STATUS;
    match index.wrapping_sub(*MSRS_X2APIC.start()) {
        number::TASK_PRIORITY..REST | number::SELF_IPI => true,
        number::ID | number::VERSION | REST..=0xff => false,
        _ => true,
    }
}
/// The first and the last MSR of an x2APIC.
pub const MSRS_X2APIC: core::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// Status bits of a local vector table's entry: read-only, not reserved.
const LVT_STATUS: u32 = 1 << 12 | 1 << 14;
const LAST_SET_REGISTER: u32 = 7;
const LAST_LVT: u32 = number::LVT_TIMER + LVT_ENTRIES as u32 - 1;

impl VLapic {
    /// Reads the register at an offset into the page, in xAPIC mode. Only the first four bytes of each sixteen hold
    /// anything.
    #[must_use]
    pub fn read(&self, offset: u32, now: Nanos) -> u32 {
        if offset & 0xf != 0 {
            return 0;
        }
        match offset >> 4 {
            number::ID => self.id << 24,
            number::ARBITRATION_PRIORITY => self.processor_priority().into(),
            number::REMOTE_READ | number::END_OF_INTERRUPT => 0,
            number::DESTINATION_FORMAT => self.format.load(Relaxed),
            number::COMMAND_HIGH => self.command_high.load(Relaxed),
            register => self.read_common(register, now).unwrap_or_else(|| {
                self.raise_error(ERROR::ILLEGAL_REGISTER::SET.value);
                0
            }),
        }
    }

    /// Writes the register at an offset into the page, in xAPIC mode.
    pub fn write(&self, offset: u32, value: u32, now: Nanos) -> Effect {
        if offset & 0xf != 0 {
            return Effect::None;
        }
        match offset >> 4 {
            number::LOGICAL_DESTINATION => self.logical_id.store(value & 0xff00_0000, Relaxed),
            number::DESTINATION_FORMAT => self.format.store(value | 0x0fff_ffff, Relaxed),
            number::COMMAND_HIGH => self.command_high.store(value & 0xff00_0000, Relaxed),
            number::COMMAND => {
                let command = Command::new(value & COMMAND_WRITABLE);
                self.command.store(command.get(), Relaxed);
                let id = (self.command_high.load(Relaxed) >> 24) as u8;
                let destination = Destination::from_byte(id, command.is_set(COMMAND::LOGICAL));
                return self.send(command, destination);
            }
            register @ number::LVT_TIMER..=LAST_LVT => {
                let entry = (register - number::LVT_TIMER) as usize;
                return self.write_lvt(entry, value & LVT_WRITABLE[entry], now);
            }
            number::SPURIOUS => return self.write_spurious(value & SPURIOUS_WRITABLE),
            number::TASK_PRIORITY => self.set_task_priority(value as u8),
            number::END_OF_INTERRUPT => return self.end_of_interrupt(),
            number::ERROR_STATUS => self.latch_errors(),
            number::TIMER_INITIAL => return self.write_timer_initial(value, now),
            number::TIMER_DIVIDE => return self.write_timer_divide(value, now),
            // Read-only registers stay as they are.
            number::ID | number::ARBITRATION_PRIORITY | number::REMOTE_READ => {}
            register if self.read_common(register, now).is_some() => {}
            _ => self.raise_error(ERROR::ILLEGAL_REGISTER::SET.value),
        }
        Effect::None
    }

    /// Reads IA32_APIC_BASE or a register of an x2APIC.
    pub fn read_msr(&self, index: u32, now: Nanos) -> Result<u64, GeneralProtection> {
        if index == MSR_APIC_BASE {
            return Ok(self.base().get());
        }
        match self.x2apic_register(index)? {
            number::ID => Ok(self.id.into()),
            number::COMMAND => Ok(u64::from(self.command_high.load(Relaxed)) << 32
                | u64::from(self.command.load(Relaxed))),
            register => self
                .read_common(register, now)
                .map(u64::from)
                .ok_or(GeneralProtection),
        }
    }

    /// Writes IA32_APIC_BASE or a register of an x2APIC.
    pub fn write_msr(
        &self,
        index: u32,
        value: u64,
        now: Nanos,
    ) -> Result<Effect, GeneralProtection> {
        if index == MSR_APIC_BASE {
            return self.write_base(value);
        }
        let register = self.x2apic_register(index)?;
        if register == number::COMMAND {
            return self.write_long_command(value);
        }
        let value = u32::try_from(value).map_err(|_| GeneralProtection)?;
        let only = |writable: u32| {
            if value & !writable == 0 {
                Ok(value)
            } else {
                Err(GeneralProtection)
            }
        };
        Ok(match register {
            number::TASK_PRIORITY => {
                self.set_task_priority(only(0xff)? as u8);
                Effect::None
            }
            number::END_OF_INTERRUPT => {
                only(0)?;
                self.end_of_interrupt()
            }
            number::SPURIOUS => self.write_spurious(only(SPURIOUS_WRITABLE)?),
            number::ERROR_STATUS => {
                only(0)?;
                self.latch_errors();
                Effect::None
            }
            number::LVT_TIMER..=LAST_LVT => {
                let entry = (register - number::LVT_TIMER) as usize;
                let value = only(LVT_WRITABLE[entry] | LVT_STATUS)? & LVT_WRITABLE[entry];
                self.write_lvt(entry, value, now)
            }
            number::TIMER_INITIAL => self.write_timer_initial(value, now),
            number::TIMER_DIVIDE => self.write_timer_divide(only(0b1011)?, now),
            number::SELF_IPI => {
                self.accept_own(only(0xff)? as u8);
                Effect::None
            }
            _ => return Err(GeneralProtection),
        })
    }

    /// The register that an MSR is, in x2APIC mode.
    fn x2apic_register(&self, index: u32) -> Result<u32, GeneralProtection> {
        if self.mode() == Mode::X2Apic && MSRS_X2APIC.contains(&index) {
            Ok(index - MSRS_X2APIC.start())
        } else {
            Err(GeneralProtection)
        }
    }

    /// Registers that read alike in both modes.
    fn read_common(&self, register: u32, now: Nanos) -> Option<u32> {
        Some(match register {
            number::VERSION => VERSION,
            number::TASK_PRIORITY => self.task_priority.load(Relaxed).into(),
            number::PROCESSOR_PRIORITY => self.processor_priority().into(),
            number::LOGICAL_DESTINATION => self.logical_id.load(Relaxed),
            number::SPURIOUS => self.spurious.load(Relaxed),
            number::IN_SERVICE..number::TRIGGER_MODE => {
                self.in_service.register(register & LAST_SET_REGISTER)
            }
            number::TRIGGER_MODE..number::REQUEST => {
                self.level.register(register & LAST_SET_REGISTER)
            }
            number::REQUEST..number::ERROR_STATUS => {
                self.request.register(register & LAST_SET_REGISTER)
            }
            number::ERROR_STATUS => self.errors.load(Relaxed),
            number::COMMAND => self.command.load(Relaxed),
            number::LVT_TIMER..=LAST_LVT => self.lvt((register - number::LVT_TIMER) as usize).get(),
            number::TIMER_INITIAL => self.timer.initial(),
            number::TIMER_CURRENT => self.timer.current(now, self.timer_is_periodic()),
            number::TIMER_DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    fn write_base(&self, value: u64) -> Result<Effect, GeneralProtection> {
        let old = self.mode();
        let new = Base::new(value);
        let fixed =
            !(BASE::BOOT_CPU::SET.value | BASE::X2APIC::SET.value | BASE::ENABLE::SET.value);
        if value & fixed != DEFAULT_ADDRESS {
            return Err(GeneralProtection);
        }
        let mode = match (old, new.is_set(BASE::ENABLE), new.is_set(BASE::X2APIC)) {
            (_, false, false) => Mode::Disabled,
            (Mode::Disabled | Mode::XApic, true, false) => Mode::XApic,
            (Mode::XApic | Mode::X2Apic, true, true) => Mode::X2Apic,
            _ => return Err(GeneralProtection),
        };
        self.base.store(value, Relaxed);
        if mode == old {
            return Ok(Effect::None);
        }
        if mode == Mode::Disabled {
            self.init();
        }
        self.command_high.store(0, Relaxed);
        self.derive_logical_id();
        self.derive_accepting();
        Ok(Effect::Mode(mode))
    }

    fn write_long_command(&self, value: u64) -> Result<Effect, GeneralProtection> {
        let low = value as u32;
        if low & !COMMAND_WRITABLE != 0 {
            return Err(GeneralProtection);
        }
        let (command, id) = (Command::new(low), (value >> 32) as u32);
        self.command.store(low, Relaxed);
        self.command_high.store(id, Relaxed);
        let destination = Destination::from_word(id, command.is_set(COMMAND::LOGICAL));
        Ok(self.send(command, destination))
    }

    fn send(&self, command: Command, destination: Destination) -> Effect {
        let Some(message) = Message::from_command(command, destination) else {
            return Effect::None;
        };
        if message.has_illegal_vector() {
            self.raise_error(ERROR::SENT_ILLEGAL_VECTOR::SET.value);
            return Effect::None;
        }
        Effect::Ipi(message)
    }

    /// As a write of an illegal vector to the register for interrupts to oneself.
    pub fn sent_itself_an_illegal_vector(&self) {
        self.raise_error(ERROR::SENT_ILLEGAL_VECTOR::SET.value);
    }

    fn accept_own(&self, vector: u8) {
        if vector < 16 {
            self.sent_itself_an_illegal_vector();
        } else {
            self.accept(vector, Trigger::Edge);
        }
    }

    fn write_spurious(&self, value: u32) -> Effect {
        self.spurious.store(value, Relaxed);
        self.derive_accepting();
        if SPURIOUS::ENABLE.is_set(value) {
            return Effect::None;
        }
        for entry in &self.lvt {
            entry.store(entry.load(Relaxed) | LVT::MASKED::SET.value, Relaxed);
        }
        Effect::Timer(None)
    }

    fn write_lvt(&self, entry: usize, value: u32, now: Nanos) -> Effect {
        let enabled = SPURIOUS::ENABLE.is_set(self.spurious.load(Relaxed));
        let mask = if enabled { 0 } else { LVT::MASKED::SET.value };
        let old = self.lvt(entry);
        if entry == TIMER_ENTRY && old.is_set(LVT::MASKED) {
            // What ended while it was masked is not made up for.
            self.timer.expire(now, old.is_set(LVT::PERIODIC));
        }
        self.lvt[entry].store(value | mask, Relaxed);
        if entry == TIMER_ENTRY {
            Effect::Timer(self.deadline())
        } else {
            Effect::None
        }
    }

    fn latch_errors(&self) {
        self.errors.store(self.new_errors.swap(0, Relaxed), Relaxed);
    }

    fn write_timer_initial(&self, count: u32, now: Nanos) -> Effect {
        self.timer.set_initial(count, now);
        Effect::Timer(self.deadline())
    }

    fn write_timer_divide(&self, value: u32, now: Nanos) -> Effect {
        let periodic = self.timer_is_periodic();
        self.timer.set_divide(value, now, periodic);
        Effect::Timer(self.deadline())
    }
}
