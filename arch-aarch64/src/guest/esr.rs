//! Decoding of ESR_EL2: why a guest stopped (Arm ARM DDI 0487, D24.2.40). Pure, so that it is tested on the host.

use tock_registers::register_bitfields;

use crate::vgic::Size;

/// A trapped access to a system register: its syndrome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysRegAccess(u32);

impl SysRegAccess {
    /// Which register.
    #[inline]
    #[must_use]
    pub const fn reg(self) -> SysReg {
        SysReg(self.0 & SysReg::MASK)
    }

    /// The general register that gives or takes the value; 31 is the zero register.
    #[inline]
    #[must_use]
    pub const fn rt(self) -> usize {
        (self.0 >> 5 & 0x1f) as usize
    }

    /// The guest reads (`mrs`); otherwise it writes.
    #[inline]
    #[must_use]
    pub const fn is_read(self) -> bool {
        self.0 & 1 != 0
    }
}

/// A system register by its encoding, in the layout of the syndrome (so that no field moves when decoding).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysReg(pub u32);

impl SysReg {
    const MASK: u32 = 0x3f_fc1e;

    /// From the five numbers of the instruction.
    #[must_use]
    pub const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self(op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1)
    }

    /// CRm of the encoding.
    #[must_use]
    pub const fn crm(self) -> u32 {
        self.0 >> 1 & 0xf
    }

    /// CRn of the encoding.
    #[must_use]
    pub const fn crn(self) -> u32 {
        self.0 >> 10 & 0xf
    }

    /// op2 of the encoding.
    #[must_use]
    pub const fn op2(self) -> u32 {
        self.0 >> 17 & 7
    }

    /// op1 of the encoding.
    #[must_use]
    pub const fn op1(self) -> u32 {
        self.0 >> 14 & 7
    }

    /// op0 of the encoding.
    #[must_use]
    pub const fn op0(self) -> u32 {
        self.0 >> 20 & 3
    }
}

impl core::fmt::Debug for SysReg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "S{}_{}_C{}_C{}_{}",
            self.op0(),
            self.op1(),
            self.crn(),
            self.crm(),
            self.op2()
        )
    }
}

register_bitfields![u32,
    /// The syndrome of a data abort.
    DATA_ABORT [
        /// What failed, but for the level of the table.
        FAULT OFFSET(2) NUMBITS(4) [Translation = 1, AccessFlag = 2, Permission = 3],
        WRITE OFFSET(6) NUMBITS(1) [],
        /// In a walk of the guest's own tables.
        TABLE_WALK OFFSET(7) NUMBITS(1) [],
        CACHE_OP OFFSET(8) NUMBITS(1) [],
        FAR_INVALID OFFSET(10) NUMBITS(1) [],
        /// The register has 64 bits.
        WIDE OFFSET(15) NUMBITS(1) [],
        REGISTER OFFSET(16) NUMBITS(5) [],
        SIGNED OFFSET(21) NUMBITS(1) [],
        SIZE OFFSET(22) NUMBITS(2) [],
        /// The four fields above mean something.
        DESCRIBED OFFSET(24) NUMBITS(1) [],
        /// The instruction has 32 bits, not 16.
        LONG OFFSET(25) NUMBITS(1) []
    ]
];

/// A data access that stage 2 refused: its syndrome, of which nothing is taken apart before it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort(u32);

impl DataAbort {
    /// An access that may be for an emulated device and needs no look at the instruction. Emulated devices are never
    /// mapped, so only a fault of translation may be for one.
    #[inline]
    #[must_use]
    pub fn is_described(self) -> bool {
        (DATA_ABORT::DESCRIBED::SET
            + DATA_ABORT::FAULT::Translation
            + DATA_ABORT::TABLE_WALK::CLEAR
            + DATA_ABORT::FAR_INVALID::CLEAR)
            .matches_all(self.0)
    }

    /// As [`DataAbort::is_described`], but the instruction has to be looked at.
    #[must_use]
    pub fn is_undescribed(self) -> bool {
        (DATA_ABORT::DESCRIBED::CLEAR
            + DATA_ABORT::FAULT::Translation
            + DATA_ABORT::TABLE_WALK::CLEAR
            + DATA_ABORT::FAR_INVALID::CLEAR
            + DATA_ABORT::CACHE_OP::CLEAR)
            .matches_all(self.0)
    }

    /// The access, where the syndrome describes it.
    #[inline]
    #[must_use]
    pub fn access(self) -> Access {
        Access {
            size: Size::from_log2(DATA_ABORT::SIZE.read(self.0)),
            signed: DATA_ABORT::SIGNED.is_set(self.0),
            wide: DATA_ABORT::WIDE.is_set(self.0),
            reg: DATA_ABORT::REGISTER.read(self.0) as u8,
        }
    }

    /// The guest wrote (or did cache maintenance, which reads as a write).
    #[inline]
    #[must_use]
    pub fn is_write(self) -> bool {
        DATA_ABORT::WRITE.is_set(self.0)
    }

    /// FAR_EL2 holds an address, and nothing of the machine failed.
    #[must_use]
    pub fn is_stage2(self) -> bool {
        is_stage2_fault(self.0) && !DATA_ABORT::FAR_INVALID.is_set(self.0)
    }

    /// HPFAR_EL2 holds the guest-physical address.
    #[must_use]
    pub fn is_ipa_valid(self) -> bool {
        is_ipa_valid(self.0)
    }

    /// The instruction has 32 bits, not 16.
    #[must_use]
    pub fn is_long(self) -> bool {
        DATA_ABORT::LONG.is_set(self.0)
    }
}

/// The operands of a load or store with a valid syndrome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// How much memory.
    pub size: Size,
    /// The value is sign-extended.
    pub signed: bool,
    /// The register is 64 bits wide.
    pub wide: bool,
    /// The general register.
    pub reg: u8,
}

impl Access {
    /// The bits of a register that are not the accessed ones.
    const fn unused(self) -> u32 {
        64 - 8 * self.size.bytes()
    }

    /// The value as it goes into the register of a load.
    #[inline]
    #[must_use]
    pub const fn extend(self, value: u64) -> u64 {
        let high = value << self.unused();
        if !self.signed {
            return high >> self.unused();
        }
        let extended = (high.cast_signed() >> self.unused()).cast_unsigned();
        if self.wide {
            extended
        } else {
            extended & 0xffff_ffff
        }
    }

    /// The bits of a register that a store writes.
    #[inline]
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        value << self.unused() >> self.unused()
    }
}

/// What a synchronous exit wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `wfi`.
    Wfi,
    /// `wfe`.
    Wfe,
    /// First use of floating point since the vCPU was loaded.
    FpAccess,
    /// `hvc` with its immediate.
    Hvc(u16),
    /// `smc` with its immediate; the trapped address is the instruction itself.
    Smc(u16),
    /// A system register or system instruction.
    SysReg(SysRegAccess),
    /// An instruction fetch that stage 2 refused.
    InstructionAbort {
        /// Translation, access-flag or permission fault.
        stage2: bool,
        /// HPFAR_EL2 holds the guest-physical address.
        ipa_valid: bool,
    },
    /// A data access that stage 2 refused.
    DataAbort(DataAbort),
    /// Anything else, by exception class.
    Other(u8),
}

const fn is_stage2_fault(status: u32) -> bool {
    // Address size (0b0000xx), translation (0b0001xx), access flag (0b0010xx), permission (0b0011xx).
    status & 0x3f < 0x10
}

/// A permission fault names its guest-physical address only when it struck a walk of the guest's own tables (the
/// description of HPFAR_EL2).
const fn is_ipa_valid(iss: u32) -> bool {
    let (permission, table_walk) = (iss & 0x3c == 0x0c, iss >> 7 & 1 != 0);
    is_stage2_fault(iss) && (!permission || table_walk)
}

/// ESR_EL2 after `hvc` with this immediate.
#[must_use]
pub const fn hvc(immediate: u16) -> u64 {
    0x16 << 26 | 1 << 25 | immediate as u64
}

impl Exit {
    /// Decodes ESR_EL2.
    #[inline]
    #[must_use]
    pub fn decode(esr: u64) -> Self {
        let iss = (esr & 0x1ff_ffff) as u32;
        match (esr >> 26 & 0x3f) as u8 {
            0x01 if iss & 1 == 0 => Self::Wfi,
            0x01 => Self::Wfe,
            0x07 => Self::FpAccess,
            0x16 => Self::Hvc(iss as u16),
            0x17 => Self::Smc(iss as u16),
            0x18 => Self::SysReg(SysRegAccess(esr as u32)),
            0x20 => Self::InstructionAbort {
                stage2: is_stage2_fault(iss),
                ipa_valid: is_ipa_valid(iss),
            },
            0x24 => Self::DataAbort(DataAbort(esr as u32)),
            class => Self::Other(class),
        }
    }
}

/// Decodes syndromes that a fuzzer made up: nothing may panic, and the described accesses are whole.
#[doc(hidden)]
pub fn fuzz_syndrome(bytes: &[u8]) {
    for word in bytes.as_chunks::<8>().0 {
        let esr = u64::from_le_bytes(*word);
        match Exit::decode(esr) {
            Exit::DataAbort(abort) => {
                assert!(!abort.is_described() || abort.is_stage2() && abort.is_ipa_valid());
                let access = abort.access();
                assert!(access.reg < 32);
                let low = access.truncate(esr);
                // A signed load into 32 bits keeps no more; no CPU describes one of 64 bits so, but the syndrome's bits can.
                let kept = match (access.signed, access.wide) {
                    (true, false) => 0xffff_ffff,
                    _ => u64::MAX,
                };
                assert_eq!(access.truncate(access.extend(low)) & kept, low & kept);
            }
            Exit::SysReg(access) => {
                let reg = access.reg();
                let again = SysReg::new(reg.op0(), reg.op1(), reg.crn(), reg.crm(), reg.op2());
                assert!(access.rt() < 32 && reg == again);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hypercall_is_recognised_with_its_tag() {
        assert_eq!(Exit::decode(0x5a00_0ea1), Exit::Hvc(0xea1));
        assert_eq!(hvc(0xea1), 0x5a00_0ea1);
    }

    #[test]
    fn a_store_to_a_device_is_decoded_from_its_syndrome() {
        // str w1, [x0]: ISV, 4 bytes, register 1, write, translation fault level 3.
        let esr = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 1 << 16 | 1 << 6 | 7;
        let Exit::DataAbort(abort) = Exit::decode(esr) else {
            panic!("not a data abort")
        };
        assert!(abort.is_described() && !abort.is_undescribed());
        assert!(abort.is_write() && abort.is_stage2() && abort.is_ipa_valid() && abort.is_long());
        assert_eq!(
            abort.access(),
            Access {
                size: Size::Word,
                signed: false,
                wide: false,
                reg: 1
            }
        );
    }

    #[test]
    fn a_signed_byte_load_extends_to_the_width_of_its_register() {
        let narrow = Access {
            size: Size::Byte,
            signed: true,
            wide: false,
            reg: 0,
        };
        assert_eq!(narrow.extend(0x80), 0xffff_ff80);
        assert_eq!(
            Access {
                wide: true,
                ..narrow
            }
            .extend(0x180),
            0xffff_ffff_ffff_ff80
        );
        assert_eq!(
            Access {
                signed: false,
                ..narrow
            }
            .extend(0x1ff),
            0xff
        );
    }

    #[test]
    fn a_store_keeps_the_bytes_that_it_moves() {
        for (size, stored) in [
            (Size::Byte, 0x88),
            (Size::Half, 0x7788),
            (Size::Word, 0x5566_7788),
            (Size::Double, 0x1122_3344_5566_7788),
        ] {
            let access = Access {
                size,
                signed: false,
                wide: true,
                reg: 0,
            };
            assert_eq!(access.truncate(0x1122_3344_5566_7788), stored);
            assert_eq!(access.extend(0x1122_3344_5566_7788), stored);
        }
    }

    #[test]
    fn only_a_translation_fault_of_the_access_itself_is_for_a_device() {
        const PLAIN: u64 = 0x24 << 26 | 1 << 24 | 0b00_0110;
        let decoded = |esr: u64| match Exit::decode(esr) {
            Exit::DataAbort(abort) => (abort.is_described(), abort.is_undescribed()),
            _ => panic!("not a data abort"),
        };
        let (isv, cache_op, table_walk, far_invalid) = (1 << 24, 1 << 8, 1 << 7, 1 << 10);
        assert_eq!(decoded(PLAIN), (true, false));
        assert_eq!(decoded(PLAIN ^ isv), (false, true));
        assert_eq!(decoded(PLAIN ^ isv | cache_op), (false, false));
        for esr in [PLAIN, PLAIN ^ isv] {
            assert_eq!(decoded(esr | table_walk), (false, false));
            assert_eq!(decoded(esr | far_invalid), (false, false));
            for status in (0..64).filter(|status| status >> 2 != 1) {
                assert_eq!(decoded(esr & !0x3f | status), (false, false), "{status:#x}");
            }
        }
    }

    #[test]
    fn a_register_encoding_survives_the_syndrome() {
        // mrs x3, icc_sgi1r_el1 is write-only, so: msr icc_sgi1r_el1, x3 = S3_0_C12_C11_5.
        let reg = SysReg::new(3, 0, 12, 11, 5);
        let esr = 0x18 << 26 | u64::from(reg.0) | 3 << 5;
        let Exit::SysReg(access) = Exit::decode(esr) else {
            panic!("not a system register")
        };
        assert_eq!((access.reg(), access.rt()), (reg, 3));
        assert!(!access.is_read());
        assert_eq!(
            (reg.op0(), reg.op1(), reg.crn(), reg.crm(), reg.op2()),
            (3, 0, 12, 11, 5)
        );
    }

    #[test]
    fn an_external_abort_is_not_a_stage_2_fault() {
        assert_eq!(
            Exit::decode(0x20 << 26 | 0x10),
            Exit::InstructionAbort {
                stage2: false,
                ipa_valid: false
            }
        );
    }

    #[test]
    fn a_permission_fault_names_its_address_only_in_a_table_walk() {
        let valid = |iss: u64| match Exit::decode(0x24 << 26 | iss) {
            Exit::DataAbort(abort) => abort.is_stage2() && abort.is_ipa_valid(),
            _ => panic!("not a data abort"),
        };
        let (translation, permission, table_walk) = (0b00_0111, 0b00_1111, 1 << 7);
        assert!(valid(translation));
        assert!(!valid(permission));
        assert!(valid(permission | table_walk));
    }
}
