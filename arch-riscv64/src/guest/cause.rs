//! Why a guest stopped: `scause`, `stval` and `htval` in words (Privileged Architecture, "Supervisor Cause Register",
//! "Hypervisor Trap Value Register").

use xenolith_hal::GuestPhys;

/// What was tried at a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// An instruction fetch.
    Fetch,
    /// A load.
    Load,
    /// A store, or an atomic operation.
    Store,
}

impl Tried {
    /// The cause of the access fault that a guest gets for it.
    #[must_use]
    pub const fn access_fault(self) -> u64 {
        match self {
            Self::Fetch => number::FETCH_ACCESS,
            Self::Load => number::LOAD_ACCESS,
            Self::Store => number::STORE_ACCESS,
        }
    }
}

/// Why a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Another CPU wants this one.
    Kick,
    /// The hypervisor's timer.
    Timer,
    /// An interrupt of the machine's devices.
    External,
    /// A call of the guest's kernel.
    Call,
    /// An instruction that does not exist, or not now.
    Illegal,
    /// An instruction that HS-mode would have been allowed.
    Virtual,
    /// The G-stage has no translation for what was tried.
    GuestPage(Tried, GuestPhys),
    /// Anything else; the number.
    Other(u64),
}

/// Numbers of causes.
pub mod number {
    /// An instruction was fetched from where nothing is.
    pub const FETCH_ACCESS: u64 = 1;
    /// An illegal instruction.
    pub const ILLEGAL: u64 = 2;
    /// A load from where nothing is.
    pub const LOAD_ACCESS: u64 = 5;
    /// A store to where nothing is.
    pub const STORE_ACCESS: u64 = 7;
}

/// What the manual calls an exception that a guest takes from here.
#[must_use]
pub const fn name(cause: u64) -> &'static str {
    match cause {
        number::FETCH_ACCESS => "instruction access fault",
        number::ILLEGAL => "illegal instruction",
        number::LOAD_ACCESS => "load access fault",
        number::STORE_ACCESS => "store access fault",
        _ => "another one",
    }
}

const INTERRUPT: u64 = 1 << 63;

impl Exit {
    /// From the trap registers.
    #[inline]
    #[must_use]
    pub const fn decode(scause: u64, stval: u64, htval: u64) -> Self {
        if scause & INTERRUPT != 0 {
            return match scause & !INTERRUPT {
                1 => Self::Kick,
                5 => Self::Timer,
                9 => Self::External,
                _ => Self::Other(scause),
            };
        }
        let tried = match scause {
            10 => return Self::Call,
            2 => return Self::Illegal,
            22 => return Self::Virtual,
            20 => Tried::Fetch,
            21 => Tried::Load,
            23 => Tried::Store,
            _ => return Self::Other(scause),
        };
        // htval has the address without its two lowest bits, which are those of the virtual one.
        Self::GuestPage(tried, GuestPhys(htval << 2 | stval & 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_and_exceptions_of_one_number_differ() {
        assert_eq!(Exit::decode(INTERRUPT | 1, 0, 0), Exit::Kick);
        assert_eq!(Exit::decode(1, 0, 0), Exit::Other(1));
        assert_eq!(Exit::decode(INTERRUPT | 5, 0, 0), Exit::Timer);
        assert_eq!(Exit::decode(5, 0, 0), Exit::Other(5));
        assert_eq!(Exit::decode(INTERRUPT | 9, 0, 0), Exit::External);
        assert_eq!(
            Exit::decode(INTERRUPT | 12, 0, 0),
            Exit::Other(INTERRUPT | 12)
        );
        assert_eq!(Exit::decode(10, 0, 0), Exit::Call);
        assert_eq!(Exit::decode(2, 0x3420_2573, 0), Exit::Illegal);
        assert_eq!(Exit::decode(22, 0x1050_0073, 0), Exit::Virtual);
    }

    #[test]
    fn addresses_have_their_lowest_bits_from_the_virtual_one() {
        let at = GuestPhys(0xc20_0006);
        for (number, tried) in [(20, Tried::Fetch), (21, Tried::Load), (23, Tried::Store)] {
            let exit = Exit::decode(number, 0xffff_0000_0000_0006, at.0 >> 2);
            assert_eq!(exit, Exit::GuestPage(tried, at));
        }
    }
}
