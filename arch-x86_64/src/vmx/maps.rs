//! Bitmaps: which ports and MSRs a guest uses without an exit (Intel SDM, volume 3, 25.6.4 and 25.6.9).

use alloc::vec::Vec;

use crate::svm::maps::OWN;

/// Bytes of the port bitmaps: A for the lower half of the ports, B for the upper one.
pub const PORT_MAP_BYTES: usize = 2 * 4096;
/// Bytes of the MSR bitmap: reads of two ranges of 8192 numbers, then writes of them.
pub const MSR_MAP_BYTES: usize = 4096;

const WRITES: usize = MSR_MAP_BYTES / 2;

/// Bitmaps where the ports of these ranges exit. An access that runs over the last port exits by itself.
#[must_use]
pub fn port_map(exits: &[core::ops::RangeInclusive<u16>]) -> Vec<u8> {
    let mut map = alloc::vec![0; PORT_MAP_BYTES];
    for port in exits.iter().cloned().flatten() {
        if let Some(byte) = map.get_mut(usize::from(port / 8)) {
            *byte |= 1 << (port % 8);
        }
    }
    map
}

/// Byte and bit of an MSR among reads.
fn msr_place(number: u32) -> Option<(usize, u32)> {
    let bit = match number {
        0..=0x1fff => number,
        0xc000_0000..=0xc000_1fff => number - 0xc000_0000 + 0x2000,
        _ => return None,
    };
    Some((bit as usize / 8, bit % 8))
}

/// A bitmap where every MSR but the guest's own exits.
#[must_use]
pub fn msr_map() -> Vec<u8> {
    let mut map = alloc::vec![0xff; MSR_MAP_BYTES];
    for (byte, bit) in OWN.iter().filter_map(|number| msr_place(*number)) {
        for at in [byte, byte + WRITES] {
            if let Some(byte) = map.get_mut(at) {
                *byte &= !(1 << bit);
            }
        }
    }
    map
}

/// The same where the CPU has the guest's x2APIC: the task priority, and writes that end an interrupt or send one to oneself.
#[must_use]
pub fn msr_map_with_apic() -> Vec<u8> {
    const TASK_PRIORITY: u32 = 0x808;
    const END_OF_INTERRUPT: u32 = 0x80b;
    const SELF_IPI: u32 = 0x83f;
    let mut map = msr_map();
    let mut open = |number, half| {
        if let Some((byte, bit)) = msr_place(number)
            && let Some(byte) = map.get_mut(byte + half)
        {
            *byte &= !(1 << bit);
        }
    };
    open(TASK_PRIORITY, 0);
    for number in [TASK_PRIORITY, END_OF_INTERRUPT, SELF_IPI] {
        open(number, WRITES);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registers_that_are_switched_do_not_exit() {
        let map = msr_map();
        let exits = |number| {
            let (byte, bit) = msr_place(number).unwrap();
            (map[byte] >> bit & 1, map[byte + WRITES] >> bit & 1)
        };
        assert_eq!(exits(0xc000_0080), (1, 1)); // EFER
        assert_eq!(exits(0x1b), (1, 1));
        assert!(OWN.iter().all(|number| exits(*number) == (0, 0)));
        assert_eq!(map.iter().map(|b| b.count_zeros()).sum::<u32>(), 22);
        // LSTAR: bit 2 of the byte behind 0x400 + 0x80 / 8.
        assert_eq!(map[0x410] & 1 << 2, 0);
        assert_eq!(map[0xc10] & 1 << 2, 0);
    }

    #[test]
    fn of_an_apic_only_what_the_cpu_keeps_in_its_page_does_not_exit() {
        let (without, with) = (msr_map(), msr_map_with_apic());
        let opened: Vec<(usize, u8)> = without
            .iter()
            .zip(&with)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(at, (a, b))| (at, a ^ b))
            .collect();
        // Reads of 0x808; writes of 0x808 and 0x80b, of 0x83f.
        assert_eq!(opened, [(0x101, 1), (0x901, 1 | 1 << 3), (0x907, 1 << 7)]);
    }

    #[test]
    fn ports_are_bits_in_their_order() {
        let map = port_map(&[0x3f8..=0x3ff, 0xcf8..=0xcff, 0x8001..=0x8001]);
        assert_eq!((map[0x7f], map[0x19f], map[0x1000]), (0xff, 0xff, 2));
        assert_eq!(map.iter().map(|b| b.count_ones()).sum::<u32>(), 17);
        let all = port_map(&[0..=u16::MAX]);
        assert!(all.iter().all(|byte| *byte == 0xff));
    }
}
