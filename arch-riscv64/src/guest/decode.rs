//! Which load or store a guest made where nothing is mapped: from `htinst` where the CPU fills it, else from the instruction
//! (RISC-V Unprivileged ISA, "RV32I", "RV64I" and "C" chapters; Privileged Architecture, "Transformed Instruction or
//! Pseudoinstruction for mtinst or htinst").

/// An access of one to eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does with which register.
    pub what: What,
    /// log2 of its bytes.
    pub size: u8,
    /// Bytes of the instruction.
    pub length: u8,
}

/// The direction of an [`Access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A load into a register.
    Load {
        /// Which.
        register: u8,
        /// Whether its highest bit is spread.
        signed: bool,
    },
    /// A store from a register.
    Store {
        /// Which.
        register: u8,
    },
}

const OPCODE_LOAD: u32 = 0x03;
const OPCODE_STORE: u32 = 0x23;

/// What `htinst` says; `None` where it says nothing of a load or store.
#[must_use]
pub fn transformed(htinst: u64) -> Option<Access> {
    let word = u32::try_from(htinst).ok()?;
    // Bit 0 marks an instruction, not a pseudoinstruction; bit 1 is clear for a compressed one.
    if word & 1 == 0 {
        return None;
    }
    let length = if word & 2 == 0 { 2 } else { 4 };
    let access = long(word | 2)?;
    Some(Access { length, ..access })
}

/// Whether `htinst` says that not the instruction itself but a walk of the guest's own tables met the address.
#[must_use]
pub const fn is_walk(htinst: u64) -> bool {
    matches!(htinst, 0x2000 | 0x2020 | 0x3000 | 0x3020)
}

/// What an instruction does.
#[must_use]
pub fn instruction(word: u32) -> Option<Access> {
    if word & 3 == 3 {
        long(word)
    } else {
        short(word as u16)
    }
}

fn long(word: u32) -> Option<Access> {
    let width = word >> 12 & 7;
    let what = match word & 0x7f {
        OPCODE_LOAD if width != 7 => What::Load {
            register: (word >> 7 & 31) as u8,
            signed: width < 4,
        },
        OPCODE_STORE if width < 4 => What::Store {
            register: (word >> 20 & 31) as u8,
        },
        _ => return None,
    };
    Some(Access {
        what,
        size: (width & 3) as u8,
        length: 4,
    })
}

/// The loads and stores of extension C for integers; those of Zcb are not known.
fn short(word: u16) -> Option<Access> {
    const WORD: u8 = 2;
    const DOUBLE: u8 = 3;
    let narrow = 8 + (word >> 2 & 7) as u8;
    let load = |register, size| {
        let signed = true;
        let what = What::Load { register, signed };
        Some((what, size))
    };
    let store = |register, size| Some((What::Store { register }, size));
    let (what, size) = match (word & 3, word >> 13) {
        (0, 0b010) => load(narrow, WORD),
        (0, 0b011) => load(narrow, DOUBLE),
        (0, 0b110) => store(narrow, WORD),
        (0, 0b111) => store(narrow, DOUBLE),
        (2, 0b010) => load((word >> 7 & 31) as u8, WORD),
        (2, 0b011) => load((word >> 7 & 31) as u8, DOUBLE),
        (2, 0b110) => store((word >> 2 & 31) as u8, WORD),
        (2, 0b111) => store((word >> 2 & 31) as u8, DOUBLE),
        _ => None,
    }?;
    Some(Access {
        what,
        size,
        length: 2,
    })
}

/// A wait that VS-mode may not make without the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until an interrupt is pending: WFI.
    Interrupt,
    /// Until another hart writes to what was reserved, or for no reason: WRS.NTO and WRS.STO of extension Zawrs.
    Reservation,
}

/// Which wait an instruction is.
#[must_use]
pub const fn wait(word: u64) -> Option<Wait> {
    match word {
        0x1050_0073 => Some(Wait::Interrupt),
        0x00d0_0073 | 0x01d0_0073 => Some(Wait::Reservation),
        _ => None,
    }
}

/// Whether an illegal instruction is one of floating point: a load or store, arithmetic, or an access to its control
/// registers. Those of extension C too.
#[must_use]
pub fn is_floating_point(word: u32) -> bool {
    if word & 3 != 3 {
        // C.FLD, C.FSD, C.FLDSP, C.FSDSP.
        return word & 1 == 0 && matches!(word >> 13 & 7, 0b001 | 0b101);
    }
    let width = word >> 12 & 7;
    match word & 0x7f {
        // Loads and stores; widths 0 and 5 to 7 are those of vectors.
        0x07 | 0x27 => (1..=4).contains(&width),
        0x43 | 0x47 | 0x4b | 0x4f | 0x53 => true,
        // fflags, frm, fcsr.
        0x73 => width & 3 != 0 && matches!(word >> 20, 1..=3),
        _ => false,
    }
}

/// The value that a load puts into its register.
#[must_use]
pub const fn extend(value: u64, size: u8, signed: bool) -> u64 {
    let unused = 64 - (8 << (size & 3));
    if signed {
        (value.cast_signed() << unused >> unused).cast_unsigned()
    } else {
        value << unused >> unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(register: u8, signed: bool, size: u8, length: u8) -> Option<Access> {
        Some(Access {
            what: What::Load { register, signed },
            size,
            length,
        })
    }

    fn store(register: u8, size: u8, length: u8) -> Option<Access> {
        Some(Access {
            what: What::Store { register },
            size,
            length,
        })
    }

    #[test]
    fn waits_are_told_apart() {
        assert_eq!(wait(0x1050_0073), Some(Wait::Interrupt));
        for word in [0x00d0_0073, 0x01d0_0073] {
            assert_eq!(wait(word), Some(Wait::Reservation));
        }
        // HFENCE.GVMA, MRET, WFI with a register.
        for word in [0x6200_0073, 0x3020_0073, 0x1050_00f3] {
            assert_eq!(wait(word), None);
        }
    }

    #[test]
    fn long_loads_and_stores_are_known() {
        assert_eq!(instruction(0x0005_2503), load(10, true, 2, 4)); // lw a0, 0(a0)
        assert_eq!(instruction(0x0005_e583), load(11, false, 2, 4)); // lwu a1, 0(a1)
        assert_eq!(instruction(0x0085_4603), load(12, false, 0, 4)); // lbu a2, 8(a0)
        assert_eq!(instruction(0x0005_3683), load(13, true, 3, 4)); // ld a3, 0(a0)
        assert_eq!(instruction(0x00b5_2023), store(11, 2, 4)); // sw a1, 0(a0)
        assert_eq!(instruction(0x00c5_0223), store(12, 0, 4)); // sb a2, 4(a0)
        for other in [
            0x0005_7503,
            0x00b5_4023,
            0x0000_0013,
            0x00b5_2027,
            0x0000_100f,
        ] {
            assert_eq!(instruction(other), None, "{other:#x}");
        }
    }

    #[test]
    fn short_loads_and_stores_are_known() {
        assert_eq!(instruction(0x4108), load(10, true, 2, 2)); // c.lw a0, 0(a0)
        assert_eq!(instruction(0x610c), load(11, true, 3, 2)); // c.ld a1, 0(a0)
        assert_eq!(instruction(0xc14c), store(11, 2, 2)); // c.sw a1, 4(a0)
        assert_eq!(instruction(0xe150), store(12, 3, 2)); // c.sd a2, 128(a0)
        assert_eq!(instruction(0x4582), load(11, true, 2, 2)); // c.lwsp a1, 0(sp)
        assert_eq!(instruction(0xe02e), store(11, 3, 2)); // c.sdsp a1, 0(sp)
        assert_eq!(instruction(0x2108), None); // c.fld
        assert_eq!(instruction(0x0000), None);
    }

    #[test]
    fn transformed_instructions_tell_their_own_length() {
        // lw a0 with its address fields zero, from a long and from a compressed instruction.
        assert_eq!(transformed(0x0000_2503), load(10, true, 2, 4));
        assert_eq!(transformed(0x0000_2501), load(10, true, 2, 2));
        assert_eq!(transformed(0), None);
        // A walk of the guest's own tables: reads and writes of 64 bits.
        assert_eq!(transformed(0x3000), None);
        assert_eq!(transformed(0x3020), None);
        assert!(is_walk(0x3000) && is_walk(0x3020));
        assert!(!is_walk(0) && !is_walk(0x2503));
        assert_eq!(transformed(1 << 40 | 0x2503), None);
    }

    #[test]
    fn floating_point_is_told_from_the_rest() {
        let yes = [
            0x0005_3507, // fld
            0x00a5_3027, // fsd
            0x02b5_7553, // fadd.d
            0x0035_1073, // csrw fcsr
            0x0020_2573, // csrr frm
            0x2108,      // c.fld
            0xa108,      // c.fsd
            0x2502,      // c.fldsp
        ];
        for word in yes {
            assert!(is_floating_point(word), "{word:#x}");
        }
        let no = [
            0x0005_2503,
            0x0205_7507,
            0x3420_2573,
            0x0000_0073,
            0x4108,
            0x0000,
            0xffff_ffff,
            0x0000_1001,
        ];
        for word in no {
            assert!(!is_floating_point(word), "{word:#x}");
        }
    }

    #[test]
    fn loads_spread_their_highest_bit_or_not() {
        assert_eq!(extend(0x80, 0, true), 0xffff_ffff_ffff_ff80);
        assert_eq!(extend(0x1280, 0, false), 0x80);
        assert_eq!(extend(0x8000_0000, 2, true), 0xffff_ffff_8000_0000);
        assert_eq!(extend(u64::MAX, 2, false), 0xffff_ffff);
        assert_eq!(extend(u64::MAX, 3, true), u64::MAX);
    }
}
