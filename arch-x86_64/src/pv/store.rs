//! Instructions with which kernels write page tables as if they were plain memory, as far as the hypervisor does them for a guest
//! (AMD APM, volume 3): moves, exchanges, and the locked operations on single entries.
//!
//! Where the memory operand is, the page fault told already; only how long the instruction is, and what it does with its operand,
//! is read here. Everything is 64-bit code.

use crate::pv::frame::Frame;

/// What an instruction does with its operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Writes the value.
    Write(u64),
    /// Writes the value, and the old one goes to a register.
    Exchange {
        /// The register.
        register: u8,
        /// The value.
        value: u64,
    },
    /// Writes the value if RAX holds what is there, which RAX gets otherwise.
    Compare(u64),
    /// Adds the register to what is there, and the old value goes to the register.
    Add {
        /// The register.
        register: u8,
        /// What it holds.
        value: u64,
    },
    /// Keeps only these bits.
    And(u64),
    /// Sets these bits.
    Or(u64),
    /// Turns these bits over.
    Xor(u64),
    /// One bit: told in the carry flag, and set, cleared or turned over.
    Bit {
        /// Its number.
        number: u8,
        /// What happens to it.
        change: Change,
    },
}

/// What happens to a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is set.
    Set,
    /// It is cleared.
    Clear,
    /// It is turned over.
    Turn,
}

/// A write that was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes of the instruction.
    pub length: u8,
    /// Bytes of the operand: 1, 2, 4 or 8.
    pub size: u8,
    /// What it does.
    pub store: Store,
}

/// The longest instruction that is read here: three prefixes, opcode of two bytes, two bytes for the operand's place, displacement and immediate.
pub const LONGEST: usize = 15;

struct Bytes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.bytes.len()).then_some(())
    }

    /// An immediate that is extended by its sign.
    fn immediate(&mut self, size: u8) -> Option<u64> {
        let mut value = 0u64;
        for index in 0..size {
            value |= u64::from(self.next()?) << (index * 8);
        }
        let unused = 64 - u32::from(size) * 8;
        Some(((value << unused) as i64 >> unused) as u64)
    }
}

const fn cut(value: u64, size: u8) -> u64 {
    match size {
        8 => value,
        size => value & ((1 << (size * 8)) - 1),
    }
}

/// Length and value of what most kernels write entries with, by its first eight bytes: `mov %r64, (%r64)` and
/// `mov %r64, disp8(%r64)`. `None` for all else, which [`decode`] may know.
#[inline(always)]
#[must_use]
pub fn quick(bytes: u64, regs: &Frame) -> Option<(u64, u64)> {
    /// REX.W, whatever its other bits are, and the opcode.
    const KIND: u64 = 0xfff8;
    const MOV: u64 = 0x8948;
    if bytes & KIND != MOV {
        return None;
    }
    let (place, base) = (bytes >> 22 & 3, bytes >> 16 & 7);
    let length = match (place, base) {
        (_, 4) | (0, 5) | (2.., _) => return None,
        (0, _) => 3,
        (_, _) => 4,
    };
    let register = (bytes << 1 & 8 | bytes >> 19 & 7) as u8;
    Some((length, regs.get(register)))
}

/// Decodes the instruction that wrote; `None` for one that is not done here.
#[must_use]
pub fn decode(bytes: &[u8], regs: &Frame) -> Option<Instruction> {
    let mut bytes = Bytes { bytes, at: 0 };
    let mut rex = 0u8;
    let mut short = false;
    let opcode = loop {
        match bytes.next()? {
            0x66 => (short, rex) = (true, 0),
            // LOCK, and the segments that change nothing: kernels put one in the place of LOCK where they have one CPU.
            0xf0 | 0x26 | 0x2e | 0x36 | 0x3e => rex = 0,
            byte @ 0x40..=0x4f => rex = byte,
            opcode => break opcode,
        }
        if bytes.at > 4 {
            return None;
        }
    };
    let two = opcode == 0x0f;
    let opcode = if two { bytes.next()? } else { opcode };
    let wide = match (rex & 8 != 0, short) {
        (true, _) => 8,
        (_, true) => 2,
        _ => 4,
    };
    let bytewise = !two && matches!(opcode, 0x88 | 0x86 | 0xc6 | 0x80 | 0x20 | 0x08 | 0x30)
        || two && matches!(opcode, 0xb0 | 0xc0);
    let size = if bytewise { 1 } else { wide };
    let form = bytes.next()?;
    let (place, middle) = (form >> 6, form >> 3 & 7);
    if place == 3 {
        return None;
    }
    skip_place(&mut bytes, place, form & 7)?;
    let register = middle | rex << 1 & 8;
    // Without a REX prefix byte registers 4 to 7 are the upper halves of the first four.
    if bytewise && rex == 0 && (4..8).contains(&register) && !matches!(opcode, 0xc6 | 0x80) {
        return None;
    }
    let value = cut(regs.get(register), size);
    let store = match (two, opcode) {
        (false, 0x88 | 0x89) => Store::Write(value),
        (false, 0xc6 | 0xc7) if middle == 0 => {
            Store::Write(cut(bytes.immediate(size.min(4))?, size))
        }
        (false, 0x86 | 0x87) => Store::Exchange { register, value },
        (true, 0xb0 | 0xb1) => Store::Compare(value),
        (true, 0xc0 | 0xc1) => Store::Add { register, value },
        (false, 0x20 | 0x21) => Store::And(value),
        (false, 0x08 | 0x09) => Store::Or(value),
        (false, 0x30 | 0x31) => Store::Xor(value),
        (false, 0x80 | 0x81 | 0x83) => {
            let bytes_of_it = if opcode == 0x81 { size.min(4) } else { 1 };
            let value = cut(bytes.immediate(bytes_of_it)?, size);
            match middle {
                1 => Store::Or(value),
                4 => Store::And(value),
                6 => Store::Xor(value),
                _ => return None,
            }
        }
        // With a register the bit may be in another word: the fault's address says which, the register's low bits where.
        (true, 0xab | 0xb3 | 0xbb) => Store::Bit {
            number: bit(value, size),
            change: change((opcode >> 3) & 3)?,
        },
        (true, 0xba) => Store::Bit {
            number: bit(bytes.next()?.into(), size),
            change: change(middle.checked_sub(4)?)?,
        },
        _ => return None,
    };
    Some(Instruction {
        length: bytes.at as u8,
        size,
        store,
    })
}

const fn bit(value: u64, size: u8) -> u8 {
    (value & (size as u64 * 8 - 1)) as u8
}

const fn change(number: u8) -> Option<Change> {
    match number {
        1 => Some(Change::Set),
        2 => Some(Change::Clear),
        3 => Some(Change::Turn),
        _ => None,
    }
}

/// Passes over what says where the operand is.
fn skip_place(bytes: &mut Bytes<'_>, place: u8, base: u8) -> Option<()> {
    const WITH_INDEX: u8 = 4;
    const NONE: u8 = 5;
    let base = match base {
        WITH_INDEX => bytes.next()? & 7,
        base => base,
    };
    match (place, base) {
        (0, NONE) | (2, _) => bytes.skip(4),
        (1, _) => bytes.skip(1),
        _ => Some(()),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, OpKind};

    fn regs() -> Frame {
        let mut frame = Frame::default();
        for number in 0..16 {
            frame.set(number, (0x1111_1111_1111_1111 * u64::from(number)) ^ 0xf0);
        }
        frame
    }

    #[test]
    fn what_linux_uses_is_decoded() {
        let rows: &[(&[u8], u8, Store)] = &[
            // mov %rsi,(%rdi)
            (&[0x48, 0x89, 0x37], 8, Store::Write(0x6666_6666_6666_6696)),
            // movq $0,(%rdi)
            (&[0x48, 0xc7, 0x07, 0, 0, 0, 0], 8, Store::Write(0)),
            // xchg %rax,(%rbx)
            (
                &[0x48, 0x87, 0x03],
                8,
                Store::Exchange {
                    register: 0,
                    value: 0xf0,
                },
            ),
            // lock andb $0xfd,(%rdi)
            (&[0xf0, 0x80, 0x27, 0xfd], 1, Store::And(0xfd)),
            // ds andb $0xfd,(%r12)
            (&[0x3e, 0x41, 0x80, 0x24, 0x24, 0xfd], 1, Store::And(0xfd)),
            // lock btrq $1,(%rdi)
            (
                &[0xf0, 0x48, 0x0f, 0xba, 0x37, 1],
                8,
                Store::Bit {
                    number: 1,
                    change: Change::Clear,
                },
            ),
            // lock cmpxchg %rcx,8(%rsp)
            (
                &[0xf0, 0x48, 0x0f, 0xb1, 0x4c, 0x24, 8],
                8,
                Store::Compare(0x1111_1111_1111_11e1),
            ),
            // movl $0x12345678,4(%r13)
            (
                &[0x41, 0xc7, 0x45, 4, 0x78, 0x56, 0x34, 0x12],
                4,
                Store::Write(0x1234_5678),
            ),
            // andq $-2,(%rax)
            (&[0x48, 0x83, 0x20, 0xfe], 8, Store::And(u64::MAX - 1)),
        ];
        for (bytes, size, store) in rows {
            let expected = Instruction {
                length: bytes.len() as u8,
                size: *size,
                store: *store,
            };
            assert_eq!(decode(bytes, &regs()), Some(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn lengths_and_sizes_are_those_of_a_full_decoder() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let opcodes: &[&[u8]] = &[
            &[0x88],
            &[0x89],
            &[0x86],
            &[0x87],
            &[0xc6],
            &[0xc7],
            &[0x20],
            &[0x21],
            &[0x08],
            &[0x09],
            &[0x30],
            &[0x31],
            &[0x80],
            &[0x81],
            &[0x83],
            &[0x0f, 0xb0],
            &[0x0f, 0xb1],
            &[0x0f, 0xc0],
            &[0x0f, 0xc1],
            &[0x0f, 0xab],
            &[0x0f, 0xb3],
            &[0x0f, 0xbb],
            &[0x0f, 0xba],
        ];
        let prefixes: &[&[u8]] = &[
            &[],
            &[0x48],
            &[0x66],
            &[0xf0],
            &[0x3e, 0x41],
            &[0xf0, 0x48],
            &[0x4c],
            &[0x41],
            &[0x66, 0x41],
            &[0x66, 0x48],
        ];
        let (mut done, mut quickly) = (0, 0);
        for _ in 0..100_000 {
            let mut bytes = std::vec::Vec::new();
            bytes.extend(prefixes[random() as usize % prefixes.len()]);
            bytes.extend(opcodes[random() as usize % opcodes.len()]);
            bytes.extend(random().to_le_bytes());
            bytes.extend(random().to_le_bytes());
            bytes.truncate(LONGEST);
            let Some(ours) = decode(&bytes, &regs()) else {
                continue;
            };
            let first = bytes
                .first_chunk()
                .map_or(0, |first| u64::from_le_bytes(*first));
            if let Some((length, value)) = quick(first, &regs()) {
                assert_eq!(
                    (length, Store::Write(value)),
                    (ours.length.into(), ours.store)
                );
                quickly += 1;
            }
            let theirs = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
            if theirs.is_invalid() {
                continue;
            }
            assert_eq!(
                usize::from(ours.length),
                theirs.len(),
                "{bytes:x?} {theirs:?}"
            );
            assert_eq!(theirs.op0_kind(), OpKind::Memory, "{bytes:x?}");
            assert_eq!(
                usize::from(ours.size),
                theirs.memory_size().size(),
                "{bytes:x?}"
            );
            done += 1;
        }
        assert!(done > 20_000 && quickly > 300, "{done} {quickly}");
    }

    #[test]
    fn bytes_that_end_too_early_are_nothing() {
        let whole = [0xf0, 0x48, 0x0f, 0xb1, 0x8c, 0x24, 8, 0, 0, 0];
        assert!(decode(&whole, &regs()).is_some());
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut], &regs()), None);
        }
    }
}
