//! Configuration space of PCI (mechanism 1, PCI Local Bus Specification 3.0, 3.2.2.3.2) for the domain that owns the
//! devices.
//!
//! Accesses go to the machine, but for two things: a device's capabilities to signal by messages (MSI, MSI-X) are shown as
//! empty ones, for a message would reach the machine's interrupt controllers and not the domain's; and the ports of
//! address and data are one step, so that the hypervisor's own accesses do not meet them.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use x86_64::instructions::port::Port;
use xenolith_hal::sync::{Mutex, Rank};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
const MSI: u8 = 0x05;
const MSIX: u8 = 0x11;
/// Status and command, and the bit that says "there is a list of capabilities".
const STATUS: u8 = 0x04;
const HAS_LIST: u32 = 1 << 20;
const HEADER_KIND: u8 = 0x0c;
const CARDBUS: u32 = 2;
/// First byte behind the standard header.
const FIRST_CAPABILITY: u8 = 0x40;
/// More than fit in the space.
const MOST_CAPABILITIES: usize = 48;

/// Held around each access to the two ports.
static PORTS: Mutex<()> = Mutex::new(Rank::Console, ());

/// A function, as the address port has it.
#[derive(Clone, Copy)]
struct Function(u32);

impl Function {
    fn select(self, register: u8) {
        // SAFETY: the address port; the lock makes it one step with the access that follows.
        unsafe { Port::<u32>::new(ADDRESS).write(self.0 | u32::from(register & 0xfc)) }
    }

    fn read(self, register: u8) -> u32 {
        self.select(register);
        // SAFETY: reading the standard header and the capability list changes nothing.
        unsafe { Port::<u32>::new(DATA).read() }
    }

    /// Whether a word-aligned register begins a capability that is not shown.
    fn hides(self, register: u8) -> bool {
        let kind = self.read(HEADER_KIND) >> 16 & 0x7f;
        if register < FIRST_CAPABILITY || kind >= CARDBUS || self.read(STATUS) & HAS_LIST == 0 {
            return false;
        }
        let mut at = self.read(0x34) as u8 & 0xfc;
        for _ in 0..MOST_CAPABILITIES {
            if at < FIRST_CAPABILITY {
                return false;
            }
            let [kind, next, ..] = self.read(at).to_le_bytes();
            if at == register {
                return kind == MSI || kind == MSIX;
            }
            at = next & 0xfc;
        }
        false
    }
}

/// What a domain wrote to the address port.
#[derive(Default)]
pub struct ConfigPorts {
    address: AtomicU32,
}

impl ConfigPorts {
    /// Reads `size` bytes of a port; `None` for one that is not of this mechanism.
    pub fn read(&self, port: u16, size: u8) -> Option<u32> {
        if port == ADDRESS && size == 4 {
            return Some(self.address.load(Relaxed));
        }
        let (function, register) = self.target(port)?;
        let _held = PORTS.lock();
        let hidden = function.hides(register & 0xfc);
        function.select(register);
        let port = DATA + u16::from(register & 3);
        // SAFETY: the domain owns the devices; the address was selected under the same lock.
        let value = unsafe {
            match size {
                1 => Port::<u8>::new(port).read().into(),
                2 => Port::<u16>::new(port).read().into(),
                _ => Port::<u32>::new(port).read(),
            }
        };
        // The capability's number is its first byte.
        Some(match register & 3 {
            0 if hidden => value & !0xff,
            _ => value,
        })
    }

    /// Writes `size` bytes; false for a port that is not of this mechanism.
    pub fn write(&self, port: u16, size: u8, value: u32) -> bool {
        if port == ADDRESS && size == 4 {
            self.address.store(value & 0x80ff_fffc, Relaxed);
            return true;
        }
        let Some((function, register)) = self.target(port) else {
            return false;
        };
        let _held = PORTS.lock();
        function.select(register);
        let port = DATA + u16::from(register & 3);
        // SAFETY: the domain owns the devices; the address was selected under the same lock.
        unsafe {
            match size {
                1 => Port::<u8>::new(port).write(value as u8),
                2 => Port::<u16>::new(port).write(value as u16),
                _ => Port::<u32>::new(port).write(value),
            }
        }
        true
    }

    /// What an access of the data port means, if the address is enabled.
    fn target(&self, port: u16) -> Option<(Function, u8)> {
        let byte = port.checked_sub(DATA).filter(|byte| *byte < 4)?;
        let address = self.address.load(Relaxed);
        if address & ENABLE == 0 {
            return None;
        }
        Some((Function(address & !0xff), address as u8 & 0xfc | byte as u8))
    }
}
