//! Accesses to device registers that are emulated: the instruction is decoded, the register read or written, and the
//! guest goes on behind it. What kernels use for registers is understood: moves, with and without extension, and string
//! instructions.

use iced_x86::{Code, Instruction, OpKind, Register};

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
    let Some((kind, size)) = kind(instruction.code()) else {
        return false;
    };
    let (first, second) = (instruction.op0_kind(), instruction.op1_kind());
    match (kind, first, second) {
        (Kind::Move, OpKind::Register, OpKind::Memory) => {
            let value = device.read(cx, address, size) & mask(size);
            set(cx, instruction.op0_register(), value)
        }
        (Kind::MoveWithSign, OpKind::Register, OpKind::Memory) => {
            let value = device.read(cx, address, size) & mask(size);
            let unused = 64 - size * 8;
            let value = ((value << unused).cast_signed() >> unused).cast_unsigned();
            set(cx, instruction.op0_register(), value)
        }
        (Kind::Move, OpKind::Memory, OpKind::Register) => {
            let Some(value) = get(cx, instruction.op1_register()) else {
                return false;
            };
            device.write(cx, address, size, value & mask(size));
            true
        }
        (Kind::Move, OpKind::Memory, _) => {
            let Ok(value) = instruction.try_immediate(1) else {
                return false;
            };
            device.write(cx, address, size, value & mask(size));
            true
        }
        _ => false,
    }
}

/// How an instruction that is done here moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As it is, or with zeroes above.
    Move,
    MoveWithSign,
}

/// What an instruction does, and how many bytes it has in memory. By its code: tables of what instructions are called and how
/// wide they are would be large.
fn kind(code: Code) -> Option<(Kind, usize)> {
    Some(match code {
        Code::Mov_r8_rm8
        | Code::Mov_rm8_r8
        | Code::Mov_rm8_imm8
        | Code::Mov_AL_moffs8
        | Code::Mov_moffs8_AL
        | Code::Movzx_r16_rm8
        | Code::Movzx_r32_rm8
        | Code::Movzx_r64_rm8 => (Kind::Move, 1),
        Code::Mov_r16_rm16
        | Code::Mov_rm16_r16
        | Code::Mov_rm16_imm16
        | Code::Mov_AX_moffs16
        | Code::Mov_moffs16_AX
        | Code::Movzx_r16_rm16
        | Code::Movzx_r32_rm16
        | Code::Movzx_r64_rm16 => (Kind::Move, 2),
        Code::Mov_r32_rm32
        | Code::Mov_rm32_r32
        | Code::Mov_rm32_imm32
        | Code::Mov_EAX_moffs32
        | Code::Mov_moffs32_EAX => (Kind::Move, 4),
        Code::Mov_r64_rm64
        | Code::Mov_rm64_r64
        | Code::Mov_rm64_imm32
        | Code::Mov_RAX_moffs64
        | Code::Mov_moffs64_RAX => (Kind::Move, 8),
        Code::Movsx_r16_rm8 | Code::Movsx_r32_rm8 | Code::Movsx_r64_rm8 => (Kind::MoveWithSign, 1),
        Code::Movsx_r16_rm16
        | Code::Movsx_r32_rm16
        | Code::Movsx_r64_rm16
        | Code::Movsxd_r16_rm16 => (Kind::MoveWithSign, 2),
        Code::Movsxd_r32_rm32 | Code::Movsxd_r64_rm32 => (Kind::MoveWithSign, 4),
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Mnemonic;

    #[test]
    fn moves_are_as_wide_as_the_decoder_says() {
        for code in Code::values() {
            let extends = matches!(
                code.mnemonic(),
                Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd
            );
            let Some((kind, size)) = kind(code) else {
                assert!(!extends, "{code:?}");
                continue;
            };
            let mut instruction = Instruction::default();
            instruction.set_code(code);
            assert_eq!(instruction.memory_size().size(), size, "{code:?}");
            assert!(extends || code.mnemonic() == Mnemonic::Mov, "{code:?}");
            let with_sign = matches!(code.mnemonic(), Mnemonic::Movsx | Mnemonic::Movsxd);
            assert_eq!(kind == Kind::MoveWithSign, with_sign, "{code:?}");
        }
    }
}
