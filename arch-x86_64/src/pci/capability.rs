//! The lists of capabilities, which a device may have damaged: each walk ends.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Bdf, Bus, register};

/// Message-signalled interrupts.
pub(super) const MSI: u8 = 0x05;
/// The extended form of them.
pub(super) const MSIX: u8 = 0x11;

/// More than fit in the space.
const MOST: usize = 48;
const MOST_EXTENDED: usize = 960;

/// Where a function has a capability.
pub(super) fn find(bus: &mut impl Bus, at: Bdf, wanted: u8) -> Option<u16> {
    const HAS_LIST: u32 = 1 << 20;
    if bus.config_read(at, register::COMMAND, 4) & HAS_LIST == 0 {
        return None;
    }
    let mut next = bus.config_read(at, register::CAPABILITIES, 1) as u16 & 0xfc;
    for _ in 0..MOST {
        if next < register::HEADER_END {
            return None;
        }
        let [kind, after, ..] = bus.config_read(at, next, 4).to_le_bytes();
        if kind == wanted {
            return Some(next);
        }
        next = u16::from(after) & 0xfc;
    }
    None
}

/// The extended capabilities that make a device answer at places its base addresses do not tell: virtual functions (SR-IOV),
/// resizable base addresses, theirs too. The domain neither sees nor writes them.
pub(super) fn hidden(bus: &mut impl Bus, at: Bdf) -> Vec<Range<u16>> {
    const VIRTUAL_FUNCTIONS: u32 = 0x10;
    const RESIZABLE: u32 = 0x15;
    const RESIZABLE_VIRTUAL: u32 = 0x24;
    let mut found = Vec::new();
    let mut next = register::EXTENDED;
    for _ in 0..MOST_EXTENDED {
        let header = bus.config_read(at, next, 4);
        if header == 0 || header == u32::MAX {
            break;
        }
        let size = match header & 0xffff {
            VIRTUAL_FUNCTIONS => 0x40,
            RESIZABLE | RESIZABLE_VIRTUAL => 0x34,
            _ => 0,
        };
        if size != 0 {
            found.push(next..next.saturating_add(size).min(register::END));
        }
        next = (header >> 20) as u16 & 0xffc;
        if next < register::EXTENDED {
            break;
        }
    }
    found
}
