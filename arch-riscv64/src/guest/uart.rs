//! A domain's emulated UART on this machine: its registers, what is typed for it, its interrupt.

use xenolith_core::{DomainRef, Hypervisor};

use super::{
    decode::{self, Access, What},
    exit::Context,
    interrupts,
};
use crate::Riscv64;

/// Prints what a domain wrote on a console device of its own. The control domain has the machine's console as it is.
pub fn print(hv: &Hypervisor<Riscv64>, domain: &DomainRef<Riscv64>, text: &[u8]) {
    if domain.config.privileged {
        return hv.console.write_raw(&hv.hal, text);
    }
    for byte in text {
        hv.console.guest_char(hv, domain, *byte);
    }
}

/// A load or store of a register, which is a byte.
pub fn access(cx: &mut Context<'_>, offset: u64, access: Access) -> bool {
    let domain = cx.vcpu.domain();
    let Some(uart) = &domain.arch.uart else {
        return false;
    };
    let (before, effect, after) = {
        let mut uart = uart.lock();
        let before = uart.line();
        let effect = match access.what {
            What::Load { .. } => uart.read(offset),
            What::Store { register } => uart.write(offset, cx.regs.get(register.into()) as u8),
        };
        (before, effect, uart.line())
    };
    if let What::Load { register, signed } = access.what {
        let value = decode::extend(effect.value.into(), access.size, signed);
        cx.regs.set(register.into(), value);
    }
    if let Some(byte) = effect.print {
        print(cx.hv(), domain, &[byte]);
    }
    if after && !before {
        raise(cx.hv(), domain);
    }
    true
}

/// Something was typed for a domain; false when it has no UART.
pub fn typed(hv: &Hypervisor<Riscv64>, domain: &DomainRef<Riscv64>, byte: u8) -> bool {
    let Some(uart) = &domain.arch.uart else {
        return false;
    };
    let up = {
        let mut uart = uart.lock();
        uart.receive(byte);
        uart.line()
    };
    if up {
        raise(hv, domain);
    }
    true
}

/// Whether a source is that of the domain's UART.
pub fn has(domain: &DomainRef<Riscv64>, source: u32) -> bool {
    let uart = domain.arch.places.uart;
    uart.is_some_and(|(_, own)| own == source)
}

/// The guest has completed the UART's interrupt: it comes again if its line is still up.
pub fn completed(hv: &Hypervisor<Riscv64>, domain: &DomainRef<Riscv64>) {
    let uart = domain.arch.uart.as_ref();
    if uart.is_some_and(|uart| uart.lock().line()) {
        raise(hv, domain);
    }
}

fn raise(hv: &Hypervisor<Riscv64>, domain: &DomainRef<Riscv64>) {
    if let Some((_, source)) = domain.arch.places.uart {
        let touched = domain.arch.plic.lock().raise(source);
        interrupts::update(hv, domain, touched);
    }
}
