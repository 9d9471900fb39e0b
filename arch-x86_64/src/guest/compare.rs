//! What a comparison leaves in the flags (Intel SDM, volume 1, appendix A).

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;

/// Flags after `a - b` of `size` bytes (1, 2, 4 or 8).
#[must_use]
pub fn flags(old: u64, a: u64, b: u64, size: usize) -> u64 {
    let bits = (size as u32 * 8).clamp(8, 64);
    let mask = u64::MAX >> (64 - bits);
    let sign = 1 << (bits - 1);
    let (a, b) = (a & mask, b & mask);
    let difference = a.wrapping_sub(b) & mask;
    let mut new = old & !(CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW);
    let mut set = |flag, is: bool| new |= if is { flag } else { 0 };
    set(CARRY, a < b);
    set(PARITY, (difference as u8).count_ones().is_multiple_of(2));
    set(ADJUST, a & 0xf < b & 0xf);
    set(ZERO, difference == 0);
    set(SIGN, difference & sign != 0);
    set(OVERFLOW, (a ^ b) & (a ^ difference) & sign != 0);
    new
}

/// Whether two values were equal.
#[must_use]
pub const fn are_equal(flags: u64) -> bool {
    flags & ZERO != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

    #[cfg(target_arch = "x86_64")]
    fn by_the_cpu(a: u64, b: u64, size: usize) -> u64 {
        let flags: u64;
        // SAFETY: compares two registers and reads the flags.
        unsafe {
            match size {
                1 => {
                    core::arch::asm!("cmp {a:l}, {b:l}", "pushfq", "pop {f}", a = in(reg) a, b = in(reg) b, f = out(reg) flags)
                }
                2 => {
                    core::arch::asm!("cmp {a:x}, {b:x}", "pushfq", "pop {f}", a = in(reg) a, b = in(reg) b, f = out(reg) flags)
                }
                4 => {
                    core::arch::asm!("cmp {a:e}, {b:e}", "pushfq", "pop {f}", a = in(reg) a, b = in(reg) b, f = out(reg) flags)
                }
                _ => {
                    core::arch::asm!("cmp {a}, {b}", "pushfq", "pop {f}", a = in(reg) a, b = in(reg) b, f = out(reg) flags)
                }
            }
        }
        flags & ALL
    }

    #[cfg(target_arch = "x86_64")]
    proptest! {
        #[test]
        fn flags_are_those_of_the_cpu(a: u64, b: u64, near in 0u64..3, which in 0usize..4) {
            let size = [1, 2, 4, 8][which];
            for (a, b) in [(a, b), (a, a.wrapping_add(near).wrapping_sub(1))] {
                prop_assert_eq!(flags(0, a, b, size), by_the_cpu(a, b, size));
                prop_assert_eq!(flags(u64::MAX, a, b, size) & !ALL, !ALL);
            }
        }
    }
}
