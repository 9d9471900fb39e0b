//! Memory type ranges (Intel SDM, volume 3, 12.11): kept for the guest to read back, checked as the CPU would check them,
//! and without effect. A guest's memory is cached as the host has it, and its devices' as their own ranges and the guest's
//! page attributes say.

use super::GeneralProtection;

const CAPABILITIES: u32 = 0xfe;
const DEFAULT: u32 = 0x2ff;
const FIRST_VARIABLE: u32 = 0x200;
const VARIABLE: usize = 8;
const LAST_VARIABLE: u32 = FIRST_VARIABLE + 2 * VARIABLE as u32 - 1;
/// Each holds the types of eight parts of the first megabyte.
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

const WRITE_COMBINING: u64 = 1 << 10;
const FIXED_RANGES: u64 = 1 << 8;
const ENABLE: u64 = 1 << 11;
const FIXED_ENABLE: u64 = 1 << 10;
const WRITE_BACK: u64 = 6;
/// In the second register of a variable range.
const VALID: u64 = 1 << 11;

/// What one vCPU has written.
#[derive(Clone, Copy, Debug)]
pub struct MemoryTypes {
    default: u64,
    /// Base and mask by turns.
    variable: [u64; 2 * VARIABLE],
    fixed: [u64; FIXED.len()],
}

impl Default for MemoryTypes {
    /// All memory is write-back, as firmware leaves it.
    fn default() -> Self {
        Self {
            default: ENABLE | WRITE_BACK,
            variable: [0; 2 * VARIABLE],
            fixed: [0x0101_0101_0101_0101 * WRITE_BACK; FIXED.len()],
        }
    }
}

/// Whether an MSR is one of them.
pub(super) const fn is_one(index: u32) -> bool {
    matches!(
        index,
        CAPABILITIES | DEFAULT | FIRST_VARIABLE..=LAST_VARIABLE | 0x250 | 0x258..=0x259 | 0x268..=0x26f
    )
}

const fn is_type(kind: u64) -> bool {
    matches!(kind, 0 | 1 | 4..=6)
}

impl MemoryTypes {
    fn place(&mut self, index: u32) -> Option<&mut u64> {
        match index {
            DEFAULT => Some(&mut self.default),
            FIRST_VARIABLE..=LAST_VARIABLE => {
                self.variable.get_mut((index - FIRST_VARIABLE) as usize)
            }
            _ => {
                let at = FIXED.iter().position(|fixed| *fixed == index)?;
                self.fixed.get_mut(at)
            }
        }
    }

    pub(super) fn read(&self, index: u32) -> Result<u64, GeneralProtection> {
        if index == CAPABILITIES {
            return Ok(WRITE_COMBINING | FIXED_RANGES | VARIABLE as u64);
        }
        let mut copy = *self;
        copy.place(index)
            .map(|value| *value)
            .ok_or(GeneralProtection)
    }

    /// Refuses what the CPU would: types that are none, addresses beyond `physical_bits`, reserved bits.
    pub(super) fn write(
        &mut self,
        index: u32,
        value: u64,
        physical_bits: u32,
    ) -> Result<(), GeneralProtection> {
        let beyond = !0u64 << physical_bits.min(63);
        let fine = match index {
            DEFAULT => value & !(ENABLE | FIXED_ENABLE | 0xff) == 0 && is_type(value & 0xff),
            FIRST_VARIABLE..=LAST_VARIABLE if index & 1 == 0 => {
                value & (beyond | 0xf00) == 0 && is_type(value & 0xff)
            }
            FIRST_VARIABLE..=LAST_VARIABLE => value & (beyond | 0xfff & !VALID) == 0,
            _ => value
                .to_le_bytes()
                .into_iter()
                .all(|kind| is_type(kind.into())),
        };
        match self.place(index) {
            Some(place) if fine => {
                *place = value;
                Ok(())
            }
            _ => Err(GeneralProtection),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: u32 = 40;

    #[test]
    fn every_register_reads_back_what_the_cpu_would_take() {
        let mut types = MemoryTypes::default();
        assert_eq!(types.read(CAPABILITIES), Ok(0x508));
        assert_eq!(types.read(DEFAULT), Ok(0x806));
        for (index, value) in [
            (DEFAULT, 0xc00),
            (0x200, 0xe000_0001),
            (0x201, 0xff_f000_0800),
            (0x20f, 0x800),
            (0x250, 0x0606_0606_0606_0606),
            (0x26f, 0x0505_0505_0404_0100),
        ] {
            assert_eq!(types.write(index, value, BITS), Ok(()), "{index:#x}");
            assert_eq!(types.read(index), Ok(value));
        }
    }

    #[test]
    fn what_the_cpu_would_refuse_is_refused_and_changes_nothing() {
        let mut types = MemoryTypes::default();
        for (index, value) in [
            (CAPABILITIES, 0),
            (DEFAULT, 0x802),
            (DEFAULT, 0x1806),
            (0x200, 2),
            (0x200, 0x106),
            (0x200, 1 << BITS),
            (0x201, 0x400),
            (0x201, 1 << BITS),
            (0x258, 0x0700_0000_0000_0000),
            (0x210, 0),
            (0x251, 0),
        ] {
            let before = types.read(index);
            assert_eq!(types.write(index, value, BITS), Err(GeneralProtection));
            assert_eq!(types.read(index), before, "{index:#x}");
        }
    }
}
