//! Decoding of ESR_EL2: why a guest stopped (Arm ARM DDI 0487, D24.2.40). Pure, so that it is tested on the host.

/// A trapped access to a system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysRegAccess {
    /// Which register.
    pub reg: SysReg,
    /// The general register that gives or takes the value; 31 is the zero register.
    pub rt: u8,
    /// The guest reads (`mrs`); otherwise it writes.
    pub read: bool,
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

/// A data access that stage 2 refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// The access as the syndrome describes it; `None` when it does not and the instruction must be looked at.
    pub access: Option<Access>,
    /// The guest wrote (or did cache maintenance, which reads as a write).
    pub write: bool,
    /// It happened in a walk of the guest's own tables.
    pub table_walk: bool,
    /// FAR_EL2 holds no address.
    pub far_invalid: bool,
    /// Translation, access-flag or permission fault: nothing of the machine failed.
    pub stage2: bool,
    /// HPFAR_EL2 holds the guest-physical address.
    pub ipa_valid: bool,
    /// Translation or access-flag fault: HPFAR_EL2 holds the page (after a permission fault it need not).
    pub translation: bool,
    /// It was cache maintenance.
    pub cache_op: bool,
    /// The instruction has 32 bits, not 16.
    pub long: bool,
}

/// The operands of a load or store with a valid syndrome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// 1, 2, 4 or 8 bytes.
    pub bytes: u8,
    /// The value is sign-extended.
    pub signed: bool,
    /// The register is 64 bits wide.
    pub wide: bool,
    /// The general register.
    pub reg: u8,
}

impl Access {
    /// The value as it goes into the register of a load.
    #[must_use]
    pub fn extend(self, value: u64) -> u64 {
        let bits = u32::from(self.bytes) * 8;
        if bits >= 64 {
            return value;
        }
        let low = value & ((1 << bits) - 1);
        if !self.signed {
            return low;
        }
        let shift = 64 - bits;
        let extended = ((low << shift).cast_signed() >> shift).cast_unsigned();
        if self.wide {
            extended
        } else {
            extended & 0xffff_ffff
        }
    }

    /// The bits of a register that a store writes.
    #[must_use]
    pub fn truncate(self, value: u64) -> u64 {
        match self.bytes {
            8 => value,
            n => value & ((1 << (u32::from(n) * 8)) - 1),
        }
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

const fn is_translation_fault(status: u32) -> bool {
    matches!(status & 0x3f, 0x04..=0x0b)
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
            0x18 => Self::SysReg(SysRegAccess {
                reg: SysReg(iss & SysReg::MASK),
                rt: (iss >> 5 & 0x1f) as u8,
                read: iss & 1 != 0,
            }),
            0x20 => Self::InstructionAbort {
                stage2: is_stage2_fault(iss),
                ipa_valid: is_ipa_valid(iss),
            },
            0x24 => Self::DataAbort(DataAbort {
                access: (iss >> 24 & 1 != 0).then_some(Access {
                    bytes: 1 << (iss >> 22 & 3),
                    signed: iss >> 21 & 1 != 0,
                    wide: iss >> 15 & 1 != 0,
                    reg: (iss >> 16 & 0x1f) as u8,
                }),
                write: iss >> 6 & 1 != 0,
                table_walk: iss >> 7 & 1 != 0,
                far_invalid: iss >> 10 & 1 != 0,
                stage2: is_stage2_fault(iss),
                ipa_valid: is_ipa_valid(iss),
                translation: is_translation_fault(iss),
                cache_op: iss >> 8 & 1 != 0,
                long: esr >> 25 & 1 != 0,
            }),
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
            Exit::DataAbort(DataAbort {
                access: Some(access),
                ..
            }) => {
                assert!(matches!(access.bytes, 1 | 2 | 4 | 8) && access.reg < 32);
                let low = access.truncate(esr);
                assert_eq!(access.truncate(access.extend(low)), low);
            }
            Exit::SysReg(SysRegAccess { reg, rt, .. }) => {
                assert!(
                    rt < 32
                        && reg
                            == SysReg::new(reg.op0(), reg.op1(), reg.crn(), reg.crm(), reg.op2())
                );
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
    }

    #[test]
    fn a_store_to_a_device_is_decoded_from_its_syndrome() {
        // str w1, [x0]: ISV, 4 bytes, register 1, write, translation fault level 3.
        let esr = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 1 << 16 | 1 << 6 | 7;
        let Exit::DataAbort(abort) = Exit::decode(esr) else {
            panic!("not a data abort")
        };
        assert!(abort.write && abort.stage2 && !abort.table_walk);
        assert_eq!(
            abort.access,
            Some(Access {
                bytes: 4,
                signed: false,
                wide: false,
                reg: 1
            })
        );
    }

    #[test]
    fn a_signed_byte_load_extends_to_the_width_of_its_register() {
        let narrow = Access {
            bytes: 1,
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
    fn a_register_encoding_survives_the_syndrome() {
        // mrs x3, icc_sgi1r_el1 is write-only, so: msr icc_sgi1r_el1, x3 = S3_0_C12_C11_5.
        let reg = SysReg::new(3, 0, 12, 11, 5);
        let esr = 0x18 << 26 | u64::from(reg.0) | 3 << 5;
        assert_eq!(
            Exit::decode(esr),
            Exit::SysReg(SysRegAccess {
                reg,
                rt: 3,
                read: false
            })
        );
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
            Exit::DataAbort(abort) => abort.stage2 && abort.ipa_valid,
            _ => panic!("not a data abort"),
        };
        let (translation, permission, table_walk) = (0b00_0111, 0b00_1111, 1 << 7);
        assert!(valid(translation));
        assert!(!valid(permission));
        assert!(valid(permission | table_walk));
    }
}
