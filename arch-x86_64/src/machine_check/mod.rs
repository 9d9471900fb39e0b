//! What machine-check banks say, and what is to be done about it (Intel SDM, volume 3, chapter 16; AMD APM, volume 2,
//! chapter 9). Reading the banks is `cpu::machine_check`.
//!
//! The machine goes on only where the CPU says that it may: an error that is not known to be contained ends the machine, for
//! what it spoilt may be anyone's.

#[cfg(test)]
mod tests;

use core::fmt;

use tock_registers::LocalRegisterCopy;

#[allow(missing_docs, reason = "the fields are those of the manuals")]
mod fields {
    use tock_registers::register_bitfields;

    register_bitfields! {u64,
        /// MCG_CAP.
        pub Capabilities [
            BANKS OFFSET(0) NUMBITS(8) [],
            CONTROL OFFSET(8) NUMBITS(1) [],
            /// Intel: uncorrected errors that software can survive are told apart.
            RECOVERY OFFSET(24) NUMBITS(1) [],
        ],
        /// MCG_STATUS.
        pub Global [
            /// The interrupted program can go on.
            RESTART OFFSET(0) NUMBITS(1) [],
            /// The interrupted instruction has to do with the error.
            INSTRUCTION OFFSET(1) NUMBITS(1) [],
            IN_PROGRESS OFFSET(2) NUMBITS(1) [],
        ],
        /// MCi_STATUS.
        pub Status [
            CODE OFFSET(0) NUMBITS(16) [],
            MODEL_CODE OFFSET(16) NUMBITS(16) [],
            /// AMD: bad data was found and is marked; it will be an error where it is used.
            DEFERRED OFFSET(44) NUMBITS(1) [],
            /// Intel: somebody has to act. AMD: the interrupted program's state is lost.
            ACTION OFFSET(55) NUMBITS(1) [],
            /// Intel: this bank signals the machine check.
            SIGNALLED OFFSET(56) NUMBITS(1) [],
            CONTEXT_LOST OFFSET(57) NUMBITS(1) [],
            HAS_ADDRESS OFFSET(58) NUMBITS(1) [],
            HAS_MISC OFFSET(59) NUMBITS(1) [],
            ENABLED OFFSET(60) NUMBITS(1) [],
            UNCORRECTED OFFSET(61) NUMBITS(1) [],
            OVERFLOW OFFSET(62) NUMBITS(1) [],
            VALID OFFSET(63) NUMBITS(1) [],
        ],
        /// MCi_MISC, of Intel's recoverable errors.
        pub Misc [
            LOWEST_BIT OFFSET(0) NUMBITS(6) [],
            MODE OFFSET(6) NUMBITS(3) [
                Physical = 2,
            ],
        ],
    }
}
pub use fields::{Capabilities, Global, Misc, Status};

/// How the CPU tells errors that software can survive from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// It does not: whatever is uncorrected is the end.
    None,
    /// Intel's way, of CPUs with MCG_SER_P.
    Intel,
    /// AMD's, of CPUs that mark bad data (SUCCOR).
    Amd,
}

/// How bad an error is; the worst comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The hardware put it right.
    Corrected,
    /// Bad data was found that nobody used yet.
    Latent,
    /// The program that ran met bad data; nothing else is spoilt.
    Contained,
    /// Anything may be spoilt.
    Fatal,
}

/// A bank with a valid error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Its number.
    pub number: u8,
    /// MCi_STATUS.
    pub status: u64,
    /// MCi_ADDR, or 0.
    pub address: u64,
    /// MCi_MISC, or 0.
    pub misc: u64,
}

impl Bank {
    /// Reads a bank; `read` is asked only for what the status says is there. `None` when there is no error.
    #[must_use]
    pub fn read(number: u8, status: u64, mut read: impl FnMut(Detail) -> u64) -> Option<Self> {
        let fields = LocalRegisterCopy::<u64, Status::Register>::new(status);
        if !fields.is_set(Status::VALID) {
            return None;
        }
        let mut detail = |there: bool, which| if there { read(which) } else { 0 };
        Some(Self {
            number,
            status,
            address: detail(fields.is_set(Status::HAS_ADDRESS), Detail::Address),
            misc: detail(fields.is_set(Status::HAS_MISC), Detail::Misc),
        })
    }

    fn fields(&self) -> LocalRegisterCopy<u64, Status::Register> {
        LocalRegisterCopy::new(self.status)
    }

    /// How bad it is.
    #[must_use]
    pub fn severity(&self, recovery: Recovery) -> Severity {
        let status = self.fields();
        if !status.is_set(Status::UNCORRECTED) {
            return if recovery == Recovery::Amd && status.is_set(Status::DEFERRED) {
                Severity::Latent
            } else {
                Severity::Corrected
            };
        }
        if status.is_set(Status::CONTEXT_LOST) {
            return Severity::Fatal;
        }
        let action = status.is_set(Status::ACTION);
        match recovery {
            Recovery::None => Severity::Fatal,
            // A second error in the same bank is not known.
            Recovery::Intel | Recovery::Amd if status.is_set(Status::OVERFLOW) => Severity::Fatal,
            Recovery::Intel if !action => Severity::Latent,
            Recovery::Intel if status.is_set(Status::SIGNALLED) => Severity::Contained,
            Recovery::Intel => Severity::Fatal,
            Recovery::Amd => Severity::Contained,
        }
    }

    /// The physical address that the error is about, where it is known to be one.
    #[must_use]
    pub fn physical(&self, recovery: Recovery) -> Option<u64> {
        if !self.fields().is_set(Status::HAS_ADDRESS) {
            return None;
        }
        let misc = LocalRegisterCopy::<u64, Misc::Register>::new(self.misc);
        match recovery {
            Recovery::Amd => Some(self.address),
            Recovery::Intel
                if self.fields().is_set(Status::HAS_MISC)
                    && misc.matches_all(Misc::MODE::Physical) =>
            {
                Some(self.address & !0 << misc.read(Misc::LOWEST_BIT))
            }
            _ => None,
        }
    }
}

/// What a bank says beside its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// MCi_ADDR.
    Address,
    /// MCi_MISC.
    Misc,
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.fields();
        write!(f, "bank {}, status {:#018x}", self.number, self.status)?;
        let words = [
            (
                true,
                if status.is_set(Status::UNCORRECTED) {
                    "uncorrected"
                } else {
                    "corrected"
                },
            ),
            (status.is_set(Status::CONTEXT_LOST), "context lost"),
            (status.is_set(Status::OVERFLOW), "more than one"),
        ];
        write!(f, ":")?;
        let mut comma = "";
        for (_, word) in words.iter().filter(|(said, _)| *said) {
            write!(f, "{comma} {word}")?;
            comma = ",";
        }
        write!(f, ", {}", kind(status.read(Status::CODE) as u16))?;
        if status.is_set(Status::HAS_ADDRESS) {
            write!(f, ", address {:#x}", self.address)?;
        }
        if status.is_set(Status::HAS_MISC) {
            write!(f, ", misc {:#x}", self.misc)?;
        }
        Ok(())
    }
}

/// What the architectural part of an error code is about (Intel SDM, volume 3, 16.9; AMD APM, volume 2, 9.5).
fn kind(code: u16) -> &'static str {
    // Bit 12 says how often corrected ones are reported.
    match code & !(1 << 12) {
        0 => "no error",
        1 => "unclassified",
        2 => "microcode ROM parity",
        3 => "another CPU's error",
        4 => "redundancy check",
        5 => "internal parity",
        6 => "SMM handler access",
        0x400 => "internal timer",
        code if code & 0xf800 != 0 => "unknown code",
        code if code & 0x0800 != 0 => "bus or interconnect",
        code if code & 0x0400 != 0 => "internal",
        code if code & 0x0100 != 0 => "cache hierarchy",
        code if code & 0x0080 != 0 => "memory controller",
        code if code & 0x0010 != 0 => "TLB",
        code if code & 0x000c == 0x000c => "cache",
        _ => "unknown code",
    }
}

/// Whose instructions a machine check interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// The hypervisor's.
    Hypervisor,
    /// A guest's.
    Guest,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing more.
    GoOn,
    /// The guest that ran met bad data of its own: its domain ends, if the data is its.
    EndGuest,
    /// The machine stops.
    Stop,
}

/// Judges one machine check by the global status and every bank with an error.
#[must_use]
pub fn judge<'b>(
    global: u64,
    banks: impl IntoIterator<Item = &'b Bank>,
    recovery: Recovery,
    during: During,
) -> Verdict {
    let global = LocalRegisterCopy::<u64, Global::Register>::new(global);
    let worst = banks.into_iter().map(|bank| bank.severity(recovery)).max();
    // Somebody was faster: a CPU that shares the banks, or the handler behind the guest's exit.
    let Some(worst) = worst.or(global
        .is_set(Global::IN_PROGRESS)
        .then_some(Severity::Corrected))
    else {
        return Verdict::GoOn;
    };
    match (worst, during) {
        (Severity::Fatal, _) | (Severity::Contained, During::Hypervisor) => Verdict::Stop,
        // The guest's own program is what cannot go on.
        (Severity::Contained, During::Guest) => Verdict::EndGuest,
        _ if !global.is_set(Global::RESTART) => Verdict::Stop,
        _ => Verdict::GoOn,
    }
}
