//! Walking a PV guest's page tables: they name machine frames, and were checked.

use xenolith_core::Hypervisor;
use xenolith_hal::{AtomicOp, Hal, HostPhys, Mfn};

use crate::X86_64;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where the entry of the last level is that maps an address: the table's frame and the offset in it.
#[must_use]
pub fn entry_of(hv: &Hypervisor<X86_64>, root: Mfn, address: u64) -> Option<(Mfn, usize)> {
    let mut table = root;
    for shift in [39, 30, 21] {
        let entry = read(hv, table, address, shift)?;
        if entry & (PRESENT | LARGE) != PRESENT {
            return None;
        }
        table = HostPhys(entry & ADDRESS).frame();
    }
    Some((table, offset(address, 12)))
}

/// The machine address behind an address.
#[must_use]
pub fn translate(hv: &Hypervisor<X86_64>, root: Mfn, address: u64) -> Option<HostPhys> {
    let (table, at) = entry_of(hv, root, address)?;
    let entry = hv.hal.atomic64(table, at, AtomicOp::Load).ok()?;
    (entry & PRESENT != 0).then_some(HostPhys(entry & ADDRESS | address & 0xfff))
}

const fn offset(address: u64, shift: u32) -> usize {
    (address >> shift & 511) as usize * 8
}

fn read(hv: &Hypervisor<X86_64>, table: Mfn, address: u64, shift: u32) -> Option<u64> {
    hv.hal
        .atomic64(table, offset(address, shift), AtomicOp::Load)
        .ok()
}
