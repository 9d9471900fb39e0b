//! Accesses that the second-level tables stopped: emulated registers, memory of devices mapped on demand, nothing at all.

use xenolith_hal::{GuestPhys, P2m, P2mType};

use super::{
    exit::{Context, Name},
    hardware::{Event, Hardware, MemoryFault},
    ioapic, mmio,
    pci::{self, Found},
};
use crate::vlapic::{DEFAULT_ADDRESS, Mode};

const PAGE: u64 = 0xfff;

/// Serves a fault. `delivering`: the CPU made the access to deliver an event, not for the instruction that it stopped at.
#[inline(never)]
pub fn fault<H: Hardware>(cx: &mut Context<'_, H>, fault: MemoryFault, delivering: bool) {
    let gpa = GuestPhys(fault.address);
    let entry = cx.vcpu.domain().p2m.lookup(gpa.frame());
    if let Some(entry) = entry {
        let refused = (fault.write && !entry.kind.writable())
            || (fault.fetch && !matches!(entry.kind, P2mType::RamRw | P2mType::RamRo));
        if refused {
            log::debug!("{}: {fault:x?} on {:?}", Name(cx.vcpu), entry.kind);
            if delivering {
                return undeliverable(cx, fault);
            }
            cx.raise(Event::PROTECTION);
        }
        // Else another CPU has mapped it since.
        return;
    }
    let mut device = match fault.address & !PAGE {
        DEFAULT_ADDRESS if cx.vcpu.arch.lapic.mode() == Mode::XApic => {
            return emulate(cx, fault, delivering, &mut LapicPage);
        }
        ioapic::ADDRESS => Seldom::IoApic,
        _ => match pci::find(cx, gpa) {
            Found::Mapped => return,
            Found::Emulated(memory) => Seldom::Pci(memory),
            Found::Nothing => Seldom::Nothing,
        },
    };
    emulate(cx, fault, delivering, &mut device);
}

fn emulate<H: Hardware>(
    cx: &mut Context<'_, H>,
    fault: MemoryFault,
    delivering: bool,
    device: &mut impl mmio::Device<H>,
) {
    if delivering {
        return undeliverable(cx, fault);
    }
    mmio::emulate(cx, fault, device);
}

/// The stack, a table of descriptors, or one on the way to them is no memory that the guest may use so. No other event
/// would come through, and the same one anew would end here again, for ever.
#[cold]
fn undeliverable<H: Hardware>(cx: &mut Context<'_, H>, fault: MemoryFault) {
    cx.crash(format_args!(
        "delivery of an event to memory that is not there, at {:#x}",
        fault.address
    ));
}

/// What is not accessed often shares one copy of the emulator's code.
enum Seldom {
    IoApic,
    Pci(pci::Memory),
    Nothing,
}

impl<H: Hardware> mmio::Device<H> for Seldom {
    fn read(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize) -> u64 {
        match self {
            Self::IoApic => ioapic::Page.read(cx, address, size),
            Self::Pci(memory) => memory.read(cx, address, size),
            Self::Nothing => mmio::Nothing.read(cx, address, size),
        }
    }

    fn write(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize, value: u64) {
        match self {
            Self::IoApic => ioapic::Page.write(cx, address, size, value),
            Self::Pci(memory) => memory.write(cx, address, size, value),
            Self::Nothing => mmio::Nothing.write(cx, address, size, value),
        }
    }
}

/// The local APIC's registers.
struct LapicPage;

impl<H: Hardware> mmio::Device<H> for LapicPage {
    fn read(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize) -> u64 {
        // Registers have 32 bits, one every 16 bytes; narrower reads see a part of them.
        let offset = (address & PAGE) as u32;
        let now = cx.now();
        cx.sync_lapic();
        let value = cx.vcpu.arch.lapic.read(offset & !0xf, now);
        if offset & 0xc != 0 {
            return 0;
        }
        let _ = size;
        u64::from(value) >> ((offset & 3) * 8)
    }

    fn write(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize, value: u64) {
        let offset = (address & PAGE) as u32;
        if offset & 0xf != 0 || size != 4 {
            return;
        }
        let now = cx.now();
        cx.sync_lapic();
        let effect = cx.vcpu.arch.lapic.write(offset, value as u32, now);
        cx.hw.set_cr8(cx.vcpu.arch.lapic.tpr());
        super::interrupts::carry_out(cx, effect);
    }
}
