//! A serial console, whichever chip it is.

#[cfg(feature = "cadence")]
use crate::cadence::Cadence;
#[cfg(feature = "ns16550")]
use crate::ns16550::Ns16550;
#[cfg(all(feature = "ns16550", target_arch = "x86_64"))]
use crate::ns16550::Ports;
#[cfg(feature = "pl011")]
use crate::pl011::Pl011;

/// Which chip, as the device tree's `compatible` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// Arm PrimeCell PL011 or the SBSA subset of it.
    #[cfg(feature = "pl011")]
    Pl011,
    /// Cadence UART of Xilinx chips.
    #[cfg(feature = "cadence")]
    Cadence,
    /// 16550 with registers `1 << reg_shift` bytes apart, accessed by bytes (or 32-bit words when the shift is 2).
    #[cfg(feature = "ns16550")]
    Ns16550 {
        /// log2 of the distance between registers.
        reg_shift: u8,
    },
}

impl UartKind {
    /// From one entry of a `compatible` property; `reg_shift` is the node's property of that name.
    #[must_use]
    pub fn from_compatible(compatible: &str, reg_shift: u8) -> Option<Self> {
        let _ = reg_shift;
        match driver_for(compatible)? {
            #[cfg(feature = "pl011")]
            "pl011" => Some(Self::Pl011),
            #[cfg(feature = "cadence")]
            "cadence" => Some(Self::Cadence),
            #[cfg(feature = "ns16550")]
            "ns16550" => Some(Self::Ns16550 { reg_shift }),
            _ => None,
        }
    }
}

/// The driver, by the name of its Cargo feature, for one entry of a `compatible` property; whether it was built or not.
#[must_use]
pub fn driver_for(compatible: &str) -> Option<&'static str> {
    match compatible {
        "arm,pl011" | "arm,sbsa-uart" => Some("pl011"),
        "cdns,uart-r1p8" | "cdns,uart-r1p12" | "xlnx,xuartps" => Some("cadence"),
        "ns16550" | "ns16550a" | "snps,dw-apb-uart" => Some("ns16550"),
        _ => None,
    }
}

/// A UART that interrupts when it can send more. Receive interrupts are on while it is used so.
pub trait Transmitter {
    /// Asks for the cause of an interrupt; false when none waits.
    fn take_interrupt(&self) -> bool;
    /// How many bytes it takes now without waiting.
    fn room(&self) -> usize;
    /// Sends a byte for which there is room.
    fn push(&self, byte: u8);
    /// Whether it interrupts when it has room again.
    fn set_transmit_interrupt(&self, on: bool);
}

/// A serial console.
pub enum Uart {
    /// PL011.
    #[cfg(feature = "pl011")]
    Pl011(Pl011),
    /// Cadence.
    #[cfg(feature = "cadence")]
    Cadence(Cadence),
    /// 16550.
    #[cfg(feature = "ns16550")]
    Ns16550(Ns16550),
    /// 16550 of a PC.
    #[cfg(all(feature = "ns16550", target_arch = "x86_64"))]
    Ns16550Ports(Ns16550<Ports>),
}

macro_rules! each {
    ($self:ident, $uart:ident => $body:expr) => {
        match *$self {
            #[cfg(feature = "pl011")]
            Uart::Pl011(ref $uart) => $body,
            #[cfg(feature = "cadence")]
            Uart::Cadence(ref $uart) => $body,
            #[cfg(feature = "ns16550")]
            Uart::Ns16550(ref $uart) => $body,
            #[cfg(all(feature = "ns16550", target_arch = "x86_64"))]
            Uart::Ns16550Ports(ref $uart) => $body,
        }
    };
}

impl Uart {
    /// Takes over a UART that firmware has set up (speed and format stay).
    ///
    /// # Safety
    /// `base` must map the device's registers, as device memory, for ever, and nothing else may drive the device.
    #[must_use]
    pub unsafe fn new(kind: UartKind, base: *mut u8) -> Self {
        let _ = base;
        match kind {
            // SAFETY: the caller's promise.
            #[cfg(feature = "pl011")]
            UartKind::Pl011 => Self::Pl011(unsafe { Pl011::new(base) }),
            // SAFETY: the caller's promise.
            #[cfg(feature = "cadence")]
            UartKind::Cadence => Self::Cadence(unsafe { Cadence::new(base) }),
            #[cfg(feature = "ns16550")]
            UartKind::Ns16550 { reg_shift } => {
                // SAFETY: the caller's promise.
                Self::Ns16550(unsafe { Ns16550::new(base, reg_shift) })
            }
        }
    }

    /// Takes over a PC's 16550 at eight I/O ports from `base` and sets its speed.
    ///
    /// # Safety
    /// The ports must be the device's or nobody's, and nothing else may drive the device.
    #[cfg(all(feature = "ns16550", target_arch = "x86_64"))]
    #[must_use]
    pub unsafe fn at_ports(base: u16) -> Self {
        // SAFETY: the caller's promise.
        Self::Ns16550Ports(unsafe { Ns16550::at_ports(base) })
    }

    /// Sends a byte; waits while the transmitter is full.
    pub fn put(&self, byte: u8) {
        each!(self, uart => uart.put(byte));
    }

    /// The device as one that interrupts when it can send, where its driver knows how.
    #[must_use]
    pub fn transmitter(&self) -> Option<&dyn Transmitter> {
        match self {
            #[cfg(feature = "ns16550")]
            Self::Ns16550(uart) => Some(uart),
            #[cfg(all(feature = "ns16550", target_arch = "x86_64"))]
            Self::Ns16550Ports(uart) => Some(uart),
            #[allow(unreachable_patterns, reason = "drivers are left out by feature")]
            _ => None,
        }
    }

    /// A received byte, if there is one.
    pub fn get(&self) -> Option<u8> {
        each!(self, uart => uart.get())
    }

    /// Lets the device interrupt when bytes arrive.
    pub fn enable_receive_interrupt(&self) {
        each!(self, uart => uart.enable_receive_interrupt());
    }

    /// Acknowledges the receive interrupt; bytes that wait are read with [`Uart::get`] afterwards.
    pub fn clear_receive_interrupt(&self) {
        each!(self, uart => uart.clear_receive_interrupt());
    }
}
