//! A walk of a guest's own page tables (Privileged Architecture, "Sv39", "Sv48", "Sv57"), as its kernel's store would do it.

use xenolith_hal::{Fault, GuestPhys, PAGE_MASK};

use super::pte::{EXECUTE, PPN, PPN_SHIFT, READ, VALID, WRITE};

const USER: u64 = 1 << 4;
const INDEX_BITS: u32 = 9;
const SATP_MODE_SHIFT: u32 = 60;
const SATP_PPN: u64 = (1 << 44) - 1;
/// `sstatus.SUM`: the kernel may touch user pages.
const SUM: u64 = 1 << 18;

/// Levels of tables in a mode of `satp`; none for no translation.
fn levels(satp: u64) -> Option<u32> {
    match satp >> SATP_MODE_SHIFT {
        0 => Some(0),
        mode @ 8..=10 => Some(mode as u32 - 5),
        _ => None,
    }
}

/// Where a store of the kernel to `va` goes, for these values of the guest's `vsatp` and `vsstatus`. `load` reads a word at a
/// guest-physical address.
pub fn store_address(
    vsatp: u64,
    vsstatus: u64,
    va: u64,
    load: impl Fn(GuestPhys) -> Result<u64, Fault>,
) -> Result<GuestPhys, Fault> {
    let levels = levels(vsatp).ok_or(Fault)?;
    if levels == 0 {
        return Ok(GuestPhys(va));
    }
    let bits = 12 + levels * INDEX_BITS;
    let spread = (va.cast_signed() << (64 - bits) >> (64 - bits)).cast_unsigned();
    if spread != va {
        return Err(Fault);
    }
    let mut table = (vsatp & SATP_PPN) << 12;
    for level in (0..levels).rev() {
        let shift = 12 + level * INDEX_BITS;
        let index = va >> shift & 511;
        let entry = load(GuestPhys(table + index * 8))?;
        if entry & VALID == 0 || entry & (READ | WRITE) == WRITE {
            return Err(Fault);
        }
        let frame = (entry & PPN) >> PPN_SHIFT << 12;
        if entry & (READ | EXECUTE) == 0 {
            table = frame;
            continue;
        }
        let below = (1 << shift) - 1;
        let user = entry & USER != 0 && vsstatus & SUM == 0;
        if entry & WRITE == 0 || user || frame & below != 0 {
            return Err(Fault);
        }
        return Ok(GuestPhys(frame | va & (below | PAGE_MASK)));
    }
    Err(Fault)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SV39: u64 = 8 << SATP_MODE_SHIFT;
    const RW: u64 = VALID | READ | WRITE;

    fn entry(pa: u64, bits: u64) -> u64 {
        pa >> 12 << PPN_SHIFT | bits
    }

    fn walk(tables: &[(u64, u64)], vsstatus: u64, va: u64) -> Result<u64, Fault> {
        let tables: BTreeMap<u64, u64> = tables.iter().copied().collect();
        let load = |at: GuestPhys| tables.get(&at.0).copied().ok_or(Fault);
        store_address(SV39 | 0x8_0000, vsstatus, va, load).map(|at| at.0)
    }

    #[test]
    fn pages_and_blocks_are_found() {
        let tables = [
            (0x8000_0000 + 8, entry(0x8000_1000, VALID)),
            (0x8000_1000 + 8, entry(0x8000_2000, VALID)),
            (0x8000_2000 + 16, entry(0x8123_4000, RW)),
            (0x8000_1000 + 16, entry(0x8140_0000, RW)),
            (0x8000_1000 + 24, entry(0x8140_1000, RW)),
        ];
        assert_eq!(walk(&tables, 0, 0x4020_2abc), Ok(0x8123_4abc));
        assert_eq!(walk(&tables, 0, 0x4041_2abc), Ok(0x8141_2abc));
        assert_eq!(
            walk(&tables, 0, 0x4061_2abc),
            Err(Fault),
            "misaligned block"
        );
        assert_eq!(walk(&tables, 0, 0x4080_0000), Err(Fault), "nothing there");
    }

    #[test]
    fn what_the_kernel_may_not_write_faults() {
        let table = |bits| [(0x8000_0000u64, entry(0x8000_0000, bits))];
        assert_eq!(walk(&table(RW), 0, 0x1234), Ok(0x8000_1234));
        assert_eq!(walk(&table(VALID | READ), 0, 0x1234), Err(Fault));
        assert_eq!(walk(&table(VALID | WRITE), 0, 0x1234), Err(Fault));
        assert_eq!(walk(&table(RW | USER), 0, 0x1234), Err(Fault));
        assert_eq!(walk(&table(RW | USER), SUM, 0x1234), Ok(0x8000_1234));
    }

    #[test]
    fn addresses_must_be_sign_extended_and_modes_known() {
        let block = [(0x8000_0000u64 + 511 * 8, entry(0xc000_0000, RW))];
        assert_eq!(walk(&block, 0, 0xffff_ffff_c000_0010), Ok(0xc000_0010));
        assert_eq!(walk(&block, 0, 0x7f_c000_0010), Err(Fault));
        let load = |_| Ok(0);
        assert_eq!(store_address(0, 0, 0x1234, load), Ok(GuestPhys(0x1234)));
        assert_eq!(store_address(7 << 60, 0, 0x1234, load), Err(Fault));
    }

    #[test]
    fn tables_that_point_to_each_other_end() {
        let tables = [(0x8000_0000u64, entry(0x8000_0000, VALID))];
        assert_eq!(walk(&tables, 0, 0), Err(Fault));
    }
}
