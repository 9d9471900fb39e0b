//! The hypercall page of a PV guest: one entry for each number, which a kernel calls.
//!
//! Arguments are in the registers that hypercalls take them in. SYSCALL overwrites RCX and R11, so an entry keeps them on
//! the stack. The entry of `iret` is jumped to and never comes back: it leaves on the stack what `iret_context` of
//! `arch-x86/xen-x86_64.h` says, from RAX up.

use xenolith_hal::PAGE_SIZE;

/// Bytes of an entry.
pub const ENTRY: usize = 32;
const IRET: usize = 23;

const PUSH_RCX: u8 = 0x51;
const PUSH_R11: [u8; 2] = [0x41, 0x53];
const PUSH_RAX: u8 = 0x50;
const MOV_EAX: u8 = 0xb8;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const POP_R11: [u8; 2] = [0x41, 0x5b];
const POP_RCX: u8 = 0x59;
const RET: u8 = 0xc3;
const INT3: u8 = 0xcc;

/// The page.
#[must_use]
pub fn page() -> [u8; PAGE_SIZE] {
    // INT3 wherever nothing is to be called.
    let mut page = [INT3; PAGE_SIZE];
    for (number, entry) in page.chunks_exact_mut(ENTRY).enumerate() {
        let [n0, n1, n2, n3] = (number as u32).to_le_bytes();
        let mut put = |code: &[u8]| {
            entry
                .iter_mut()
                .zip(code)
                .for_each(|(to, from)| *to = *from)
        };
        let [push_r11, push_r11_] = PUSH_R11;
        let [syscall, syscall_] = SYSCALL;
        let [pop_r11, pop_r11_] = POP_R11;
        if number == IRET {
            put(&[
                PUSH_RCX, push_r11, push_r11_, PUSH_RAX, MOV_EAX, n0, n1, n2, n3, syscall, syscall_,
            ]);
        } else {
            put(&[
                PUSH_RCX, push_r11, push_r11_, MOV_EAX, n0, n1, n2, n3, syscall, syscall_, pop_r11,
                pop_r11_, POP_RCX, RET,
            ]);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

    use super::*;

    fn entry(number: usize) -> Vec<Instruction> {
        let page = page();
        let code = &page[number * ENTRY..(number + 1) * ENTRY];
        Decoder::with_ip(64, code, 0, DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    /// What an instruction does, with the one register or number that it does it to.
    fn told(instruction: &Instruction) -> (Code, Register, u32) {
        let number = match instruction.code() {
            Code::Mov_r32_imm32 => instruction.immediate32(),
            _ => 0,
        };
        (instruction.code(), instruction.op0_register(), number)
    }

    #[test]
    fn an_entry_keeps_what_the_call_overwrites() {
        for number in (0..PAGE_SIZE / ENTRY).filter(|number| *number != 23) {
            let entry = entry(number);
            let want = [
                (Code::Push_r64, Register::RCX, 0),
                (Code::Push_r64, Register::R11, 0),
                (Code::Mov_r32_imm32, Register::EAX, number as u32),
                (Code::Syscall, Register::None, 0),
                (Code::Pop_r64, Register::R11, 0),
                (Code::Pop_r64, Register::RCX, 0),
                (Code::Retnq, Register::None, 0),
            ];
            assert_eq!(entry[..7].iter().map(told).collect::<Vec<_>>(), want);
            assert!(entry[7..].iter().all(|i| i.code() == Code::Int3));
        }
    }

    #[test]
    fn iret_leaves_its_registers_on_the_stack() {
        let entry = entry(23);
        let want = [
            (Code::Push_r64, Register::RCX, 0),
            (Code::Push_r64, Register::R11, 0),
            (Code::Push_r64, Register::RAX, 0),
            (Code::Mov_r32_imm32, Register::EAX, 23),
            (Code::Syscall, Register::None, 0),
        ];
        assert_eq!(entry[..5].iter().map(told).collect::<Vec<_>>(), want);
        assert!(entry[5..].iter().all(|i| i.code() == Code::Int3));
    }
}
