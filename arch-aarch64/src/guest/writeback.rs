//! Loads and stores that move their base register: the syndrome of an abort does not describe them (Arm ARM DDI 0487,
//! C4.1.92, "Load/store register (immediate post-indexed)" and "(immediate pre-indexed)"). Compilers use them on device
//! registers, so the instruction is decoded as Xen does. Pure, so that it is tested on the host.

use super::esr::Access;

/// A load or store with writeback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writeback {
    /// The operands.
    pub access: Access,
    /// It stores.
    pub write: bool,
    /// The base register, which is not the stack pointer.
    pub base: u8,
    /// What the base register moves by, in bytes.
    pub step: i64,
}

/// Decodes an instruction; `None` for any other and for those whose outcome the architecture leaves open.
#[must_use]
pub fn decode(instruction: u32) -> Option<Writeback> {
    const MASK: u32 = 0x3f20_0400;
    const SHAPE: u32 = 0x3800_0400;
    if instruction & MASK != SHAPE {
        return None;
    }
    let register = |shift: u32| (instruction >> shift & 0x1f) as u8;
    let (size, opc) = (instruction >> 30, instruction >> 22 & 3);
    let (reg, base) = (register(0), register(5));
    if base == 31 || base == reg {
        return None;
    }
    let (signed, wide) = match (opc, size) {
        (0 | 1, _) => (false, size == 3),
        (2, 0..=2) => (true, true),
        (3, 0..=1) => (true, false),
        _ => return None,
    };
    let immediate = (instruction >> 12 & 0x1ff) << 23;
    Some(Writeback {
        access: Access {
            bytes: 1 << size,
            signed,
            wide,
            reg,
        },
        write: opc == 0,
        base,
        step: i64::from(immediate.cast_signed() >> 23),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_stores_that_move_their_base_are_decoded() {
        let word = Access {
            bytes: 4,
            signed: false,
            wide: false,
            reg: 1,
        };
        let load = Writeback {
            access: word,
            write: false,
            base: 0,
            step: 4,
        };
        // ldr w1, [x0], #4
        assert_eq!(decode(0xb840_4401), Some(load));
        // ldr w1, [x0, #4]!
        assert_eq!(decode(0xb840_4c01), Some(load));
        // str w1, [x0], #-4
        let store = Writeback {
            write: true,
            step: -4,
            ..load
        };
        assert_eq!(decode(0xb81f_c401), Some(store));
        // ldrsb x3, [x2], #1
        let signed = Access {
            bytes: 1,
            signed: true,
            wide: true,
            reg: 3,
        };
        let byte = decode(0x3880_1443);
        assert_eq!(
            byte.map(|found| (found.access, found.base)),
            Some((signed, 2))
        );
    }

    #[test]
    fn what_has_no_certain_outcome_is_not_decoded() {
        // ldr w0, [x0], #4: the base is the target.
        assert_eq!(decode(0xb840_4400), None);
        // ldr w1, [sp], #4
        assert_eq!(decode(0xb840_47e1), None);
        // ldp w1, w2, [x0]; ldr q0, [x0], #16; ldr w1, [x0]
        for other in [0x2940_0801, 0x3cc1_0400, 0xb940_0001] {
            assert_eq!(decode(other), None, "{other:#x}");
        }
    }

    #[test]
    fn no_instruction_makes_the_decoder_panic() {
        let mut state = 1u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let shaped = state & !0x3f20_0400 | 0x3800_0400;
            for instruction in [state, shaped] {
                if let Some(found) = decode(instruction) {
                    assert!(matches!(found.access.bytes, 1 | 2 | 4 | 8));
                    assert!((-256..256).contains(&found.step));
                }
            }
        }
    }
}
