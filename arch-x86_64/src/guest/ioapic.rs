//! The guest's IOAPIC, where the domain has one, and the machine's lines behind it.

use xenolith_core::{DomainRef, Hypervisor};

use super::{exit::Context, hardware::Hardware, interrupts, mmio};
use crate::{
    X86_64,
    ioapic::Line,
    irq,
    vioapic::{PinSetup, Polarity},
    vlapic::{Message, Trigger},
};

/// Where it is in the guest's memory.
pub const ADDRESS: u64 = 0xfec0_0000;
const PAGE: u64 = 0xfff;

/// Its registers.
pub struct Page;

impl<H: Hardware> mmio::Device<H> for Page {
    fn read(&mut self, cx: &mut Context<'_, H>, address: u64, _: usize) -> u64 {
        match &cx.vcpu.domain().arch.ioapic {
            Some(ioapic) => ioapic.lock().read((address & PAGE) as u32).into(),
            None => u64::MAX,
        }
    }

    fn write(&mut self, cx: &mut Context<'_, H>, address: u64, _: usize, value: u64) {
        let domain = cx.vcpu.domain();
        let Some(ioapic) = &domain.arch.ioapic else {
            return;
        };
        let mut ioapic = ioapic.lock();
        let written = ioapic.write((address & PAGE) as u32, value as u32);
        drop(ioapic);
        if let Some(pin) = written.changed
            && domain.arch.owns_devices
        {
            bind(&pin);
        }
        post(cx.hv(), domain, written.message);
    }
}

/// The guest changed an entry: the machine's line follows.
fn bind(pin: &PinSetup) {
    if pin.masked {
        irq::mask(pin.gsi);
        return;
    }
    let line = Line {
        level: pin.trigger == Trigger::Level,
        active_low: pin.polarity == Polarity::ActiveLow,
    };
    irq::bind(pin.gsi, line);
}

fn post(hv: &Hypervisor<X86_64>, domain: &DomainRef<X86_64>, message: Option<Message>) {
    if let Some(message) = message {
        interrupts::send(hv, domain, None, &message);
    }
}

/// A line of the machine signalled. One that does so by level is masked until the guest has handled it, and comes again then
/// if its device still asks; so the guest's line is let down at once, and whether it is up is never out of date.
pub fn signal(hv: &Hypervisor<X86_64>, domain: &DomainRef<X86_64>, gsi: u32) {
    let Some(ioapic) = &domain.arch.ioapic else {
        return;
    };
    let message = {
        let mut ioapic = ioapic.lock();
        let message = ioapic.set_line(gsi, true);
        ioapic.set_line(gsi, false);
        message
    };
    post(hv, domain, message);
}

/// The guest handled an interrupt that came by level. The machine's line may come again: if the device still asks, it
/// does at once.
pub fn end_of_interrupt(domain: &DomainRef<X86_64>, vector: u8) {
    let Some(ioapic) = &domain.arch.ioapic else {
        return;
    };
    // What a line asked for went out when it came, and the line was let down then: nothing new is to be sent here.
    ioapic.lock().eoi(vector, |pin| {
        if domain.arch.owns_devices {
            irq::handled(pin.gsi);
        }
    });
}
