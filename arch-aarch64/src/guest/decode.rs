//! Decoding of the A64 loads and stores whose stage-2 aborts carry no valid syndrome (ESR_EL2.ISV = 0): register pairs,
//! write-back forms and whatever else a CPU chooses not to describe (Arm ARM DDI 0487, C4.1.94 "Loads and stores").
//!
//! The word comes from guest memory and may have changed since the trap, so every pattern of bits is a legal input:
//! what is not a plain load or store of general registers is `None`. Also refused: exclusives, atomics and SIMD & FP
//! registers, which devices do not serve, and combinations that the architecture calls CONSTRAINED UNPREDICTABLE.
//! Pure, so that it is tested on the host.

use super::esr::Access;
use crate::vgic::Size;

/// Where the address of a transfer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// A general register; 31 is the stack pointer.
    Register(u8),
    /// The address of the instruction (a literal load).
    Pc,
}

/// How an index register is widened before it is shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// The low 32 bits, zero-extended.
    Uxtw,
    /// The low 32 bits, sign-extended.
    Sxtw,
    /// All 64 bits.
    Whole,
}

/// What is added to the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// Bytes.
    Immediate(i64),
    /// A general register (31 is zero), widened, then shifted left.
    Register {
        /// The register.
        reg: u8,
        /// How it is widened.
        extend: Extend,
        /// By how many bits it is shifted.
        shift: u32,
    },
}

/// When the offset is added, and whether the base register keeps the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Before the access; the base stays.
    Offset,
    /// Before the access; the base takes the sum.
    Pre,
    /// After the access; the base takes the sum.
    Post,
}

/// One or two transfers between general registers and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The (first) transfer.
    pub access: Access,
    /// The register of the second transfer, which goes to the bytes behind the first; otherwise it is as the first.
    pub second: Option<u8>,
    /// The instruction stores.
    pub write: bool,
    /// Where the address starts.
    pub base: Base,
    /// What is added to it.
    pub offset: Offset,
    /// When it is added.
    pub index: Index,
}

/// What the registers make of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The virtual address of the first byte.
    pub address: u64,
    /// The new value of the base register (31 is the stack pointer).
    pub write_back: Option<(u8, u64)>,
}

const fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

const fn register(word: u32, low: u32) -> u8 {
    field(word, low, 5) as u8
}

/// A two's-complement field.
const fn signed(word: u32, low: u32, bits: u32) -> i64 {
    let unused = 32 - bits;
    ((field(word, low, bits) << unused).cast_signed() >> unused) as i64
}

/// The transfer of size and `opc` that the single-register classes share; `None` for prefetches and unallocated ones.
const fn single(size: u32, opc: u32, reg: u8) -> Option<(Access, bool)> {
    let (write, signed, wide) = match (opc, size) {
        (0, _) => (true, false, size == 3),
        (1, _) => (false, false, size == 3),
        (2, 0..=2) => (false, true, true),
        (3, 0..=1) => (false, true, false),
        _ => return None,
    };
    let access = Access {
        size: Size::from_log2(size),
        signed,
        wide,
        reg,
    };
    Some((access, write))
}

impl Transfer {
    /// Decodes an instruction.
    #[must_use]
    pub fn decode(word: u32) -> Option<Self> {
        // Bits 29:24 name the class; bit 26, the SIMD & FP register file, is clear in all that are taken.
        let transfer = match field(word, 24, 6) {
            0b00_1000 => ordered(word),
            0b01_1000 => literal(word),
            0b01_1001 => unscaled_ordered(word),
            0b10_1000 | 0b10_1001 => pair(word),
            0b11_1000 => indexed(word),
            0b11_1001 => scaled(word),
            _ => None,
        }?;
        transfer.is_predictable().then_some(transfer)
    }

    /// Not one of the forms whose outcome the architecture leaves open: write-back into a register that is also
    /// transferred, or a pair that loads the same register twice.
    fn is_predictable(&self) -> bool {
        let first = self.access.reg;
        if !self.write && self.second == Some(first) {
            return false;
        }
        match (self.index, self.base) {
            (Index::Pre | Index::Post, Base::Register(base)) => {
                base == 31 || first != base && self.second != Some(base)
            }
            _ => true,
        }
    }

    /// All bytes that it moves.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.access.size.bytes()) * (1 + u64::from(self.second.is_some()))
    }

    /// The second transfer.
    #[must_use]
    pub fn second(&self) -> Option<Access> {
        self.second.map(|reg| Access { reg, ..self.access })
    }

    /// Its address and write-back, at `pc`, with general registers by number (31 is zero) and the stack pointer.
    #[must_use]
    pub fn resolve(&self, pc: u64, general: impl Fn(u8) -> u64, sp: u64) -> Resolved {
        let start = match self.base {
            Base::Pc => pc,
            Base::Register(31) => sp,
            Base::Register(reg) => general(reg),
        };
        let offset = match self.offset {
            Offset::Immediate(bytes) => bytes.cast_unsigned(),
            Offset::Register { reg, extend, shift } => {
                let value = general(reg);
                let widened = match extend {
                    Extend::Uxtw => value & 0xffff_ffff,
                    Extend::Sxtw => i64::from(value as u32 as i32).cast_unsigned(),
                    Extend::Whole => value,
                };
                widened.wrapping_shl(shift)
            }
        };
        let sum = start.wrapping_add(offset);
        let write_back = match (self.index, self.base) {
            (Index::Pre | Index::Post, Base::Register(base)) => Some((base, sum)),
            _ => None,
        };
        Resolved {
            address: if self.index == Index::Post {
                start
            } else {
                sum
            },
            write_back,
        }
    }

    const fn plain((access, write): (Access, bool), base: u8, offset: i64) -> Self {
        Self {
            access,
            second: None,
            write,
            base: Base::Register(base),
            offset: Offset::Immediate(offset),
            index: Index::Offset,
        }
    }
}

/// Load-acquire and store-release (LDAR, STLR, LDLAR, STLLR); the exclusive and compare-and-swap forms beside them
/// are refused.
fn ordered(word: u32) -> Option<Transfer> {
    if field(word, 23, 1) == 0 || field(word, 21, 1) != 0 {
        return None;
    }
    let moved = single(field(word, 30, 2), field(word, 22, 1), register(word, 0))?;
    Some(Transfer::plain(moved, register(word, 5), 0))
}

/// STLUR, LDAPUR and its signed forms.
fn unscaled_ordered(word: u32) -> Option<Transfer> {
    if field(word, 21, 1) != 0 || field(word, 10, 2) != 0 {
        return None;
    }
    let moved = single(field(word, 30, 2), field(word, 22, 2), register(word, 0))?;
    Some(Transfer::plain(
        moved,
        register(word, 5),
        signed(word, 12, 9),
    ))
}

/// LDR and LDRSW of a literal.
fn literal(word: u32) -> Option<Transfer> {
    let (size, signed_load) = match field(word, 30, 2) {
        0 => (Size::Word, false),
        1 => (Size::Double, false),
        2 => (Size::Word, true),
        _ => return None, // prefetch
    };
    Some(Transfer {
        access: Access {
            size,
            signed: signed_load,
            wide: size == Size::Double || signed_load,
            reg: register(word, 0),
        },
        second: None,
        write: false,
        base: Base::Pc,
        offset: Offset::Immediate(signed(word, 5, 19) * 4),
        index: Index::Offset,
    })
}

/// LDP, STP, LDPSW, and the no-allocate LDNP and STNP.
fn pair(word: u32) -> Option<Transfer> {
    let load = field(word, 22, 1) != 0;
    let mode = field(word, 23, 2);
    let (size, signed_load) = match (field(word, 30, 2), load) {
        (0, _) => (Size::Word, false),
        (1, true) if mode != 0 => (Size::Word, true),
        (2, _) => (Size::Double, false),
        _ => return None, // tag stores and unallocated
    };
    Some(Transfer {
        access: Access {
            size,
            signed: signed_load,
            wide: size == Size::Double || signed_load,
            reg: register(word, 0),
        },
        second: Some(register(word, 10)),
        write: !load,
        base: Base::Register(register(word, 5)),
        offset: Offset::Immediate(signed(word, 15, 7) * i64::from(size.bytes())),
        index: match mode {
            1 => Index::Post,
            3 => Index::Pre,
            _ => Index::Offset,
        },
    })
}

/// The unsigned 12-bit offset.
fn scaled(word: u32) -> Option<Transfer> {
    let size = field(word, 30, 2);
    let moved = single(size, field(word, 22, 2), register(word, 0))?;
    let offset = i64::from(field(word, 10, 12) << size);
    Some(Transfer::plain(moved, register(word, 5), offset))
}

/// The 9-bit offset in its four uses, the register offset, and LDAPR; the atomics beside it are refused.
fn indexed(word: u32) -> Option<Transfer> {
    let size = field(word, 30, 2);
    let kind = field(word, 10, 2);
    let base = register(word, 5);
    if field(word, 21, 1) == 0 {
        let opc = field(word, 22, 2);
        let moved = single(size, opc, register(word, 0))?;
        return Some(Transfer {
            index: match kind {
                1 => Index::Post,
                3 => Index::Pre,
                _ => Index::Offset, // unscaled and unprivileged
            },
            ..Transfer::plain(moved, base, signed(word, 12, 9))
        });
    }
    match kind {
        // LDAPR: in the space of the atomics, with A, not R, Rs = 31, o3 and opc 100.
        0 if field(word, 12, 12) == 0b1011_1111_1100 => Some(Transfer::plain(
            single(size, 1, register(word, 0))?,
            base,
            0,
        )),
        2 => {
            let moved = single(size, field(word, 22, 2), register(word, 0))?;
            let extend = match field(word, 13, 3) {
                0b010 => Extend::Uxtw,
                0b110 => Extend::Sxtw,
                0b011 | 0b111 => Extend::Whole,
                _ => return None,
            };
            Some(Transfer {
                offset: Offset::Register {
                    reg: register(word, 16),
                    extend,
                    shift: size * field(word, 12, 1),
                },
                ..Transfer::plain(moved, base, 0)
            })
        }
        _ => None,
    }
}

/// Decodes what a fuzzer made up, as the trap of an access does: nothing may panic, whatever comes out keeps its
/// promises.
#[doc(hidden)]
pub fn fuzz_instruction(bytes: &[u8]) {
    for word in bytes.as_chunks::<4>().0 {
        let Some(transfer) = Transfer::decode(u32::from_le_bytes(*word)) else {
            continue;
        };
        assert!(transfer.access.reg < 32 && transfer.bytes() <= 16);
        let general = |reg: u8| u64::from(reg) << 58;
        let resolved = transfer.resolve(u64::MAX, general, 0);
        assert_eq!(
            resolved.write_back.is_some(),
            transfer.index != Index::Offset
        );
        let _ = transfer
            .access
            .extend(transfer.access.truncate(resolved.address));
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
