//! IN and OUT of PV guests. A guest may use a port if the privilege that it gave itself (`PHYSDEVOP_set_iopl`) or its bitmap
//! (`PHYSDEVOP_set_iobitmap`) says so; that is between its kernel and its programs. What is behind the port is another matter: the
//! domain that owns the devices reaches those that the hypervisor does not keep, the configuration of PCI by the model. For
//! everybody else nothing is there but a port to print to: reads give all ones, writes go nowhere.

use x86_64::instructions::port::Port as CpuPort;
use xenolith_abi::vm_assist::Assist;
use xenolith_hal::{AtomicOp, Hal};

use super::{
    decode::Port,
    port::{KERNEL, PROGRAM, bits_allow, is_open, merged},
    serve::Done,
};
use crate::{
    guest::{
        pci,
        port::{DEBUG, KEPT},
    },
    pv::{run::Stopped, tables, vcpu::Mode},
};

fn number(cx: &mut Stopped<'_>, port: Port) -> u16 {
    match port {
        Port::Is(port) => port.into(),
        Port::Dx => cx.frame().rdx as u16,
    }
}

/// IN.
pub(super) fn input(cx: &mut Stopped<'_>, port: Port, size: u8) -> Done {
    let port = number(cx, port);
    if !is_allowed(cx, port, size) {
        return Done::No;
    }
    let value = read(cx, port, size);
    let frame = cx.frame();
    frame.rax = merged(frame.rax, value, size);
    Done::Yes
}

/// OUT.
pub(super) fn output(cx: &mut Stopped<'_>, port: Port, size: u8) -> Done {
    let port = number(cx, port);
    if !is_allowed(cx, port, size) {
        return Done::No;
    }
    let value = cx.frame().rax as u32;
    write(cx, port, size, value);
    Done::Yes
}

/// Whether who runs has the privilege for all ports.
#[inline]
pub(super) fn has_privilege(cx: &Stopped<'_>) -> bool {
    let pv = cx.pv;
    match pv.mode.get() {
        Mode::User => pv.iopl.get() >= PROGRAM,
        Mode::Kernel => {
            pv.iopl.get() >= KERNEL || cx.vcpu.domain().assists(Assist::ArchitecturalIopl)
        }
    }
}

/// Whether who runs may use a port.
#[inline]
pub(super) fn is_allowed(cx: &Stopped<'_>, port: u16, size: u8) -> bool {
    has_privilege(cx) || by_bitmap(cx, port, size)
}

#[cold]
fn by_bitmap(cx: &Stopped<'_>, port: u16, size: u8) -> bool {
    let (bitmap, ports) = cx.pv.io_bitmap.get();
    if u32::from(port) + u32::from(size) > ports {
        return false;
    }
    let at = bitmap.wrapping_add(u64::from(port / 8));
    let byte = |at| bitmap_byte(cx, at);
    // The second byte counts only where the access reaches into it, and may be behind the bitmap's end otherwise.
    let Some(low) = byte(at) else { return false };
    let reaches = u16::from(size) + (port & 7) > 8;
    let high = match reaches {
        true => match byte(at.wrapping_add(1)) {
            Some(high) => high,
            None => return false,
        },
        false => 0,
    };
    bits_allow(u16::from_le_bytes([low, high]), port, size)
}

/// The kernel keeps the bitmap in its own address space, whoever runs.
fn bitmap_byte(cx: &Stopped<'_>, address: u64) -> Option<u8> {
    let hv = cx.hv();
    if !crate::pv::access::is_guest(address) {
        return None;
    }
    let at = tables::translate(hv, cx.pv.space.kernel()?, address)?;
    hv.hal.atomic8(at.frame(), at.offset(), AtomicOp::Load).ok()
}

/// Reads what is behind a port.
pub(super) fn read(cx: &Stopped<'_>, port: u16, size: u8) -> u32 {
    let domain = cx.vcpu.domain();
    if !domain.arch.owns_devices {
        return u32::MAX;
    }
    if !is_open(&KEPT, port, size) {
        return pci::read_port(cx.hv(), domain, port, size);
    }
    // SAFETY: a port of a device that is the domain's; it could as well let the device do the same.
    unsafe {
        match size {
            1 => CpuPort::<u8>::new(port).read().into(),
            2 => CpuPort::<u16>::new(port).read().into(),
            _ => CpuPort::<u32>::new(port).read(),
        }
    }
}

/// Writes it.
pub(super) fn write(cx: &Stopped<'_>, port: u16, size: u8, value: u32) {
    let domain = cx.vcpu.domain();
    if !domain.arch.owns_devices {
        if port == DEBUG {
            let byte = [value as u8];
            cx.hv().console.guest_lines(cx.hv(), domain, &byte);
        }
        return;
    }
    if !is_open(&KEPT, port, size) {
        return pci::write_port(cx.hv(), domain, port, size, value);
    }
    // SAFETY: as above.
    unsafe {
        match size {
            1 => CpuPort::<u8>::new(port).write(value as u8),
            2 => CpuPort::<u16>::new(port).write(value as u16),
            _ => CpuPort::<u32>::new(port).write(value),
        }
    }
}
