//! The ACPI power-management timer as a guest reads it (ACPI 6.4, 4.8.3.3): 3.579545 MHz, counted from the system time.
//!
//! A guest gets this one rather than the machine's: it stands still for nobody, and reading it asks nothing of a chip. It
//! is read-only.

use xenolith_hal::Nanos;

/// Ticks a second.
pub const HERTZ: u64 = 3_579_545;
/// Bytes of its port range.
pub const PORTS: u16 = 4;
const SECOND: u64 = 1_000_000_000;

/// Bits that count, as the FADT's `TMR_VAL_EXT` flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 24 bits: wraps every 4.7 seconds.
    Bits24,
    /// 32 bits: wraps every 20 minutes.
    Bits32,
}

/// The counter at a time.
#[must_use]
pub const fn counter(now: Nanos, width: Width) -> u32 {
    let (seconds, rest) = (now.0 / SECOND, now.0 % SECOND);
    let ticks = seconds
        .wrapping_mul(HERTZ)
        .wrapping_add(rest * HERTZ / SECOND);
    match width {
        Width::Bits24 => ticks as u32 & 0xff_ffff,
        Width::Bits32 => ticks as u32,
    }
}

/// What a read at an offset from the first port gives; the caller cuts it to the size of the access.
#[must_use]
pub const fn read(offset: u16, now: Nanos, width: Width) -> u32 {
    if offset >= PORTS {
        return u32::MAX;
    }
    counter(now, width) >> (8 * offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_at_its_rate_and_wraps() {
        let second = Nanos(SECOND);
        assert_eq!(counter(Nanos(0), Width::Bits24), 0);
        assert_eq!(counter(second, Width::Bits24), 3_579_545);
        assert_eq!(counter(Nanos(SECOND / 2), Width::Bits32), 1_789_772);
        assert_eq!(
            counter(Nanos(5 * SECOND), Width::Bits24),
            5 * 3_579_545 - (1 << 24)
        );
        assert_eq!(counter(Nanos(5 * SECOND), Width::Bits32), 5 * 3_579_545);
    }

    #[test]
    fn it_never_goes_back_and_never_overflows() {
        let mut last = counter(Nanos(7), Width::Bits32);
        for step in 1..2000 {
            let now = counter(Nanos(7 + step * 141), Width::Bits32);
            assert!(now >= last);
            last = now;
        }
        let _ = counter(Nanos::MAX, Width::Bits32);
    }

    #[test]
    fn bytes_are_parts_of_the_whole() {
        let now = Nanos(3 * SECOND);
        let whole = counter(now, Width::Bits32);
        assert_eq!(read(1, now, Width::Bits32), whole >> 8);
        assert_eq!(read(4, now, Width::Bits32), u32::MAX);
    }
}
