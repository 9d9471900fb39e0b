//! Accesses to device registers that are emulated: the instruction is decoded, the register read or written, and the
//! guest goes on behind it. What kernels use for registers is understood: moves, with and without extension, and string
//! instructions.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{
    exit::Context,
    hardware::{Event, Hardware, MemoryFault},
    instruction,
    strings::{self, Done},
};

/// Something with registers in memory.
pub trait Device<H> {
    /// Reads `size` bytes (1, 2, 4 or 8) at an address.
    fn read(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize) -> u64;
    /// Writes the low `size` bytes of a value.
    fn write(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize, value: u64);
}

/// Nothing there: reads give all ones, writes go nowhere.
pub struct Nothing;

impl<H> Device<H> for Nothing {
    fn read(&mut self, _: &mut Context<'_, H>, _: u64, _: usize) -> u64 {
        u64::MAX
    }
    fn write(&mut self, _: &mut Context<'_, H>, _: u64, _: usize, _: u64) {}
}

pub(super) const fn mask(size: usize) -> u64 {
    match size {
        0 => 0,
        1..8 => (1 << (size * 8)) - 1,
        _ => u64::MAX,
    }
}

/// Carries the access out.
pub fn emulate<H: Hardware>(
    cx: &mut Context<'_, H>,
    fault: MemoryFault,
    device: &mut impl Device<H>,
) {
    let Some(instruction) = instruction::decode(cx, Event::PROTECTION) else {
        return;
    };
    let usable = !fault.walk && !fault.fetch;
    if usable {
        match strings::emulate(cx, &instruction, fault, device) {
            Done::Other => {}
            Done::Finished => return cx.skip(instruction.len() as u64),
            Done::Partly | Done::Faulted => return,
        }
    }
    if !usable || !access(cx, &instruction, fault.address, device) {
        log::debug!(
            "{}: no such access to device registers at {:#x}: iced-x86's instruction {} at {:#x}",
            super::exit::Name(cx.vcpu),
            fault.address,
            // Its name would bring the names of all instructions into the image.
            instruction.code() as u32,
            cx.hw.rip()
        );
        cx.raise(Event::PROTECTION);
        return;
    }
    cx.skip(instruction.len() as u64);
}

/// False for an instruction that is not understood.
fn access<H: Hardware>(
    cx: &mut Context<'_, H>,
    instruction: &Instruction,
    address: u64,
    device: &mut impl Device<H>,
) -> bool {
    let size = instruction.memory_size().size();
    if !matches!(size, 1 | 2 | 4 | 8) {
        return false;
    }
    let (first, second) = (instruction.op0_kind(), instruction.op1_kind());
    match (instruction.mnemonic(), first, second) {
        (Mnemonic::Mov, OpKind::Register, OpKind::Memory) => {
            let value = device.read(cx, address, size) & mask(size);
            set(cx, instruction.op0_register(), value)
        }
        (Mnemonic::Movzx, OpKind::Register, OpKind::Memory) => {
            let value = device.read(cx, address, size) & mask(size);
            set(cx, instruction.op0_register(), value)
        }
        (Mnemonic::Movsx | Mnemonic::Movsxd, OpKind::Register, OpKind::Memory) => {
            let value = device.read(cx, address, size) & mask(size);
            let unused = 64 - size * 8;
            let value = ((value << unused).cast_signed() >> unused).cast_unsigned();
            set(cx, instruction.op0_register(), value)
        }
        (Mnemonic::Mov, OpKind::Memory, OpKind::Register) => {
            let Some(value) = get(cx, instruction.op1_register()) else {
                return false;
            };
            device.write(cx, address, size, value & mask(size));
            true
        }
        (Mnemonic::Mov, OpKind::Memory, _) => {
            let Ok(value) = instruction.try_immediate(1) else {
                return false;
            };
            device.write(cx, address, size, value & mask(size));
            true
        }
        _ => false,
    }
}

/// Whether a register is the second byte of its full one (AH and its like).
fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

/// A general register's value.
fn get<H: Hardware>(cx: &Context<'_, H>, register: Register) -> Option<u64> {
    if !register.is_gpr() {
        return None;
    }
    let full = register.full_register();
    let value = match full {
        Register::RSP => cx.hw.rsp(),
        _ => cx.regs.get(full.number() as u8),
    };
    let value = if is_high_byte(register) {
        value >> 8
    } else {
        value
    };
    Some(value & mask(register.size()))
}

/// Sets a general register: 32 bits clear the upper half, fewer leave the rest. False when it is none.
fn set<H: Hardware>(cx: &mut Context<'_, H>, register: Register, value: u64) -> bool {
    if !register.is_gpr() {
        return false;
    }
    let full = register.full_register();
    let number = full.number() as u8;
    let old = match full {
        Register::RSP => cx.hw.rsp(),
        _ => cx.regs.get(number),
    };
    let size = register.size();
    let new = match size {
        4 | 8 => value & mask(size),
        _ if is_high_byte(register) => old & !0xff00 | (value & 0xff) << 8,
        _ => old & !mask(size) | value & mask(size),
    };
    match full {
        Register::RSP => cx.hw.set_rsp(new),
        _ => cx.regs.set(number, new),
    }
    true
}
