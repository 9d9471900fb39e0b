//! The guest's IOAPIC.

use xenolith_core::{DomainRef, Hypervisor};

use super::{exit::Context, hardware::Hardware, mmio};
use crate::X86_64;

/// Where it is in the guest's memory.
pub const ADDRESS: u64 = 0xfec0_0000;

/// Its registers.
pub struct Page;

impl<H: Hardware> mmio::Device<H> for Page {
    fn read(&mut self, _: &mut Context<'_, H>, _: u64, _: usize) -> u64 {
        0
    }

    fn write(&mut self, _: &mut Context<'_, H>, _: u64, _: usize, _: u64) {}
}

/// A line of the machine changed.
pub fn set_line(_: &Hypervisor<X86_64>, _: &DomainRef<X86_64>, _: u32, _: bool) {}

/// The guest handled an interrupt that came by level.
pub fn end_of_interrupt(_: &Hypervisor<X86_64>, _: &DomainRef<X86_64>, _: u8) {}
