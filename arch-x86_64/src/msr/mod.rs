//! What guests read and write through RDMSR and WRMSR (Intel SDM, volume 4; AMD64 APM, volume 2, appendix A).
//!
//! [`classify`] says who answers for an index: the local APIC, the backend (registers that the guest has loaded, checked
//! by [`Register::check`]), the clock, or the small model here ([`MsrPolicy`]). What is unknown takes #GP, as on Xen 4.17
//! with `msr_relaxed` off; no host register is ever read or written on a guest's word.

mod memory_types;
mod model;
mod register;

#[cfg(test)]
mod tests;

pub use model::{HostMsrs, MsrPolicy, MsrState};
pub use register::{Register, check_efer};

use crate::cpuid::xen::HYPERCALL_PAGE_MSR;

/// The access is refused: the guest takes #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// Who answers for an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Msr {
    /// `VLapic::read_msr` and `VLapic::write_msr`.
    LocalApic,
    /// The backend, which holds the guest's value.
    Register(Register),
    /// The time-stamp counter: read with the guest's offset; a write changes the offset or is dropped.
    Tsc,
    /// A write fills a page with hypercalls, at the address written; reads as zero.
    HypercallPage,
    /// A write of 1 is a prediction barrier (`cpuid::Policy::has_prediction_barrier`); all else is refused.
    PredictionCommand,
    /// [`MsrPolicy::read`] and [`MsrPolicy::write`].
    Modelled,
    /// #GP.
    Unknown,
}

/// Who answers for an index.
#[must_use]
pub const fn classify(index: u32) -> Msr {
    match index {
        0x1b | 0x800..=0x8ff => Msr::LocalApic,
        0x10 => Msr::Tsc,
        0x49 => Msr::PredictionCommand,
        0x48 => Msr::Register(Register::SpecCtrl),
        0x174 => Msr::Register(Register::SysenterCs),
        0x175 => Msr::Register(Register::SysenterEsp),
        0x176 => Msr::Register(Register::SysenterEip),
        0x277 => Msr::Register(Register::Pat),
        0xc000_0080 => Msr::Register(Register::Efer),
        0xc000_0081 => Msr::Register(Register::Star),
        0xc000_0082 => Msr::Register(Register::Lstar),
        0xc000_0083 => Msr::Register(Register::Cstar),
        0xc000_0084 => Msr::Register(Register::Sfmask),
        0xc000_0100 => Msr::Register(Register::FsBase),
        0xc000_0101 => Msr::Register(Register::GsBase),
        0xc000_0102 => Msr::Register(Register::KernelGsBase),
        0xc000_0103 => Msr::Register(Register::TscAux),
        HYPERCALL_PAGE_MSR => Msr::HypercallPage,
        _ if model::is_modelled(index) => Msr::Modelled,
        _ => Msr::Unknown,
    }
}
