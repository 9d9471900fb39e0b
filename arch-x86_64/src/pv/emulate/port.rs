//! Who may use which ports, and what an access does to the accumulator.

use core::ops::RangeInclusive;

/// The privilege that a guest's kernel has among ports, unless it asked for the one that kernels have elsewhere
/// (`VMASST_TYPE_architectural_iopl`).
pub const KERNEL: u8 = 1;
/// That of its programs.
pub const PROGRAM: u8 = 3;

/// Whether an access touches none of the kept ports, nor runs over the last port.
#[must_use]
pub fn is_open(kept: &[RangeInclusive<u16>], port: u16, size: u8) -> bool {
    let Some(last) = port.checked_add(u16::from(size.saturating_sub(1))) else {
        return false;
    };
    !kept
        .iter()
        .any(|kept| port <= *kept.end() && *kept.start() <= last)
}

/// Whether two bytes of a guest's bitmap, from that of the first port on, let an access pass: a port with a clear bit is open.
#[must_use]
pub const fn bits_allow(bits: u16, port: u16, size: u8) -> bool {
    let ports = (1u32 << size) - 1;
    (bits as u32 >> (port & 7)) & ports == 0
}

/// The accumulator after IN: 32 bits clear the upper half, fewer leave the rest.
#[must_use]
pub const fn merged(rax: u64, value: u32, size: u8) -> u64 {
    match size {
        1 => rax & !0xff | value as u64 & 0xff,
        2 => rax & !0xffff | value as u64 & 0xffff,
        _ => value as u64,
    }
}

/// A register of a string instruction that goes on by some bytes; with short addresses its upper half is cleared.
#[must_use]
pub const fn advanced(register: u64, by: u64, mask: u64) -> u64 {
    register.wrapping_add(by) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: [RangeInclusive<u16>; 2] = [0x3f8..=0x3ff, 0xcf8..=0xcff];

    #[test]
    fn an_access_that_touches_a_kept_port_is_not_open() {
        for (port, size, open) in [
            (0x3f7, 1, true),
            (0x3f7, 2, false),
            (0x3f4, 4, true),
            (0x3f5, 4, false),
            (0x3ff, 1, false),
            (0x400, 4, true),
            (0xcf9, 1, false),
            (0xffff, 1, true),
            (0xffff, 2, false),
        ] {
            assert_eq!(is_open(&KEPT, port, size), open, "{port:#x} {size}");
        }
    }

    #[test]
    fn every_port_of_an_access_must_be_open_in_the_bitmap() {
        assert!(bits_allow(0b1111_1110, 0, 1));
        assert!(!bits_allow(0b1111_1101, 0, 2));
        assert!(bits_allow(!0b11_1100_0000, 6, 4));
        assert!(!bits_allow(0b10_0000_0000, 6, 4));
        assert!(bits_allow(0b10_0000_0000, 6, 2));
    }

    #[test]
    fn a_narrow_result_leaves_the_rest_of_the_accumulator() {
        const OLD: u64 = 0x1122_3344_5566_7788;
        assert_eq!(merged(OLD, 0xffff_ffaa, 1), 0x1122_3344_5566_77aa);
        assert_eq!(merged(OLD, 0xffff_aabb, 2), 0x1122_3344_5566_aabb);
        assert_eq!(merged(OLD, 0xaabb_ccdd, 4), 0xaabb_ccdd);
    }

    #[test]
    fn short_addresses_wrap_at_32_bits() {
        assert_eq!(advanced(0x1_ffff_fffe, 4, 0xffff_ffff), 2);
        assert_eq!(
            advanced(2, 4u64.wrapping_neg(), u64::MAX),
            2u64.wrapping_sub(4)
        );
    }
}
