//! Permission maps: which ports and MSRs a guest uses without an exit (AMD APM, volume 2, 15.10 and 15.11).

use alloc::vec::Vec;

/// Bytes of the port map: a bit for each port, and room for an access that begins at the last one.
pub const PORT_MAP_BYTES: usize = 3 * 4096;
/// Bytes of the MSR map: two bits for each of three ranges of 8192 numbers.
pub const MSR_MAP_BYTES: usize = 2 * 4096;

/// A map where the ports of these ranges exit.
#[must_use]
pub fn port_map(exits: &[core::ops::RangeInclusive<u16>]) -> Vec<u8> {
    let mut map = alloc::vec![0; PORT_MAP_BYTES];
    for port in exits.iter().cloned().flatten() {
        if let Some(byte) = map.get_mut(usize::from(port / 8)) {
            *byte |= 1 << (port % 8);
        }
    }
    // An access that begins at the last ports and runs over the end.
    if let Some(end) = map.get_mut(8192..) {
        end.fill(0xff);
    }
    map
}

/// MSRs that are the guest's own while it runs: VMLOAD, VMSAVE and VMRUN switch them; with VMX the control structure does,
/// or the vCPU's load and save.
pub(crate) const OWN: [u32; 11] = [
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0x277,       // PAT
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0100, // FS base
    0xc000_0101, // GS base
    0xc000_0102, // kernel GS base
];

/// First bit of an MSR in the map: reading; writing is the next one.
fn msr_bit(number: u32) -> Option<usize> {
    let (range, first) = match number {
        0..=0x1fff => (0, 0),
        0xc000_0000..=0xc000_1fff => (1, 0xc000_0000),
        0xc001_0000..=0xc001_1fff => (2, 0xc001_0000),
        _ => return None,
    };
    Some(range * 0x800 * 8 + (number - first) as usize * 2)
}

/// A map where every MSR but the guest's own exits.
#[must_use]
pub fn msr_map() -> Vec<u8> {
    let mut map = alloc::vec![0xff; MSR_MAP_BYTES];
    for bit in OWN.iter().filter_map(|number| msr_bit(*number)) {
        if let Some(byte) = map.get_mut(bit / 8) {
            *byte &= !(3 << (bit % 8));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registers_that_are_switched_do_not_exit() {
        let map = msr_map();
        assert_eq!(map.len(), MSR_MAP_BYTES);
        let exits = |number| {
            let bit = msr_bit(number).unwrap();
            map[bit / 8] >> (bit % 8) & 3
        };
        assert_eq!(exits(0xc000_0080), 3); // EFER
        assert_eq!(exits(0x1b), 3);
        assert_eq!(exits(0xc001_0114), 3);
        assert!(OWN.iter().all(|number| exits(*number) == 0));
        assert_eq!(map.iter().map(|b| b.count_zeros()).sum::<u32>(), 22);
    }
}
