//! Ports (IN and OUT): a domain that owns the machine's devices reaches most by itself, as its permission map says; what
//! exits is answered here. Other domains have one port, 0xe9, to which they print a character (Linux: `earlyprintk=xen`).
//! Nothing answers at other ports: reads give all ones, writes go nowhere.

use super::{
    exit::Context,
    hardware::{Event, Hardware, PortAccess},
    instruction, pci,
};

/// Ports that a domain with devices does not reach itself: the hypervisor's interrupt controllers, interval timer, the
/// configuration space of PCI, its own serial line. One (0x92) takes address line 20 away from all CPUs: what the hypervisor runs on,
/// too.
pub const KEPT: [core::ops::RangeInclusive<u16>; 7] = [
    0x20..=0x21,
    0x40..=0x43,
    0x92..=0x92,
    0xa0..=0xa1,
    0x3f8..=0x3ff,
    0x4d0..=0x4d1,
    0xcf8..=0xcff,
];

/// Where a domain without devices prints early messages.
pub const DEBUG: u16 = 0xe9;

/// Serves a port access.
pub fn access<H: Hardware>(cx: &mut Context<'_, H>, access: PortAccess) {
    if access.string {
        return string(cx, access);
    }
    let bits = u32::from(access.size) * 8;
    let mask = u64::MAX >> (64 - bits.clamp(8, 32));
    let rax = cx.regs.rax;
    if access.input {
        let value = u64::from(pci::port_read(cx, access.port, access.size)) & mask;
        // A 32-bit result clears the upper half, narrower ones leave the rest.
        cx.regs.rax = if bits == 32 {
            value
        } else {
            rax & !mask | value
        };
    } else {
        write(cx, access.port, access.size, (rax & mask) as u32);
    }
    advance(cx, access);
}

fn write<H: Hardware>(cx: &Context<'_, H>, port: u16, size: u8, value: u32) {
    let domain = cx.vcpu.domain();
    if domain.arch.owns_devices {
        pci::port_write(cx, port, size, value);
    } else if port == DEBUG {
        cx.hv().console.guest_lines(cx.hv(), domain, &[value as u8]);
    }
}

fn advance<H: Hardware>(cx: &mut Context<'_, H>, access: PortAccess) {
    match access.next {
        Some(next) => {
            cx.hw.set_rip(next);
            cx.hw.end_shadow();
        }
        None => {
            if let Some(instruction) = instruction::decode(cx, Event::UNDEFINED) {
                cx.skip(instruction.len() as u64);
            }
        }
    }
}

/// String forms reach no device that is emulated here: the guest's mistake.
fn string<H: Hardware>(cx: &mut Context<'_, H>, access: PortAccess) {
    log::debug!("string access to port {:#x}", access.port);
    cx.raise(Event::PROTECTION);
}
