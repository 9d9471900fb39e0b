//! How a domain runs: in the CPU's virtualization by PVH, or paravirtual in ring 3.
//!
//! What is asked for counts; else PVH where the CPU and the kernel can, and PV where not. A kernel may be able to do both.

use core::fmt;

use xenolith_abi::elfnote::ElfNote;
use xenolith_core::boot::{cmdline::Dom0Mode, elf::Elf, modules::DomainMode};

/// How a domain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the CPU's virtualization.
    Pvh,
    /// In ring 3.
    Pv,
}

impl From<Dom0Mode> for Kind {
    fn from(mode: Dom0Mode) -> Self {
        match mode {
            Dom0Mode::Pv => Self::Pv,
            Dom0Mode::Pvh => Self::Pvh,
        }
    }
}

impl From<DomainMode> for Kind {
    fn from(mode: DomainMode) -> Self {
        match mode.is_paravirtual() {
            true => Self::Pv,
            false => Self::Pvh,
        }
    }
}

/// What the machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Able {
    /// Run guests in the CPU's virtualization.
    pub pvh: bool,
    /// Run guests in ring 3.
    pub pv: bool,
}

/// Why no kind is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindError {
    /// The machine runs no guests at all.
    NoWay,
    /// PVH is asked for, or all that the kernel can do, and the CPU cannot.
    NotPvh,
    /// PV is asked for, or all that the kernel can do, and is not to be had.
    NotPv,
}

impl fmt::Display for KindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWay => "no way to run guests",
            Self::NotPvh => {
                "PVH needs a CPU with SVM or VMX, switched on: give a kernel that starts by PV, and do not ask for PVH"
            }
            Self::NotPv => {
                "PV guests do not run on this machine: give a kernel that starts by PVH, and do not ask for PV"
            }
        })
    }
}

/// Chooses.
pub fn choose(asked: Option<Kind>, kernel: &Elf<'_>, able: Able) -> Result<Kind, KindError> {
    let pvh_kernel = kernel.note(ElfNote::Phys32Entry).is_some();
    match asked {
        _ if !able.pv && !able.pvh => Err(KindError::NoWay),
        Some(Kind::Pvh) if able.pvh => Ok(Kind::Pvh),
        Some(Kind::Pvh) => Err(KindError::NotPvh),
        Some(Kind::Pv) if able.pv => Ok(Kind::Pv),
        Some(Kind::Pv) => Err(KindError::NotPv),
        // Where the kernel can do neither, it is told so as a PVH kernel.
        None if able.pvh && (pvh_kernel || !kernel.is_pv()) => Ok(Kind::Pvh),
        None if able.pv && kernel.is_pv() => Ok(Kind::Pv),
        None if able.pvh => Err(KindError::NotPv),
        None => Err(KindError::NotPvh),
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use xenolith_core::boot::elf::Width;

    use super::*;

    const NO: Able = Able {
        pvh: false,
        pv: false,
    };
    const PVH: Able = Able { pvh: true, ..NO };
    const PV: Able = Able { pv: true, ..NO };
    const BOTH: Able = Able {
        pvh: true,
        pv: true,
    };

    fn kernel(notes: &[ElfNote]) -> Elf<'static> {
        let notes: Vec<_> = notes.iter().map(|n| (*n as u32, &[0u8; 8][..])).collect();
        Elf {
            width: Width::Bits64,
            machine: 62,
            entry: 0,
            segments: vec![],
            notes,
        }
    }

    #[test]
    fn pvh_is_taken_where_cpu_and_kernel_can() {
        let linux = kernel(&[ElfNote::Entry, ElfNote::Phys32Entry]);
        assert_eq!(choose(None, &linux, BOTH), Ok(Kind::Pvh));
        assert_eq!(choose(None, &linux, PVH), Ok(Kind::Pvh));
        assert_eq!(choose(None, &linux, PV), Ok(Kind::Pv));
        assert_eq!(choose(None, &linux, NO), Err(KindError::NoWay));
    }

    #[test]
    fn a_kernel_that_can_do_one_thing_does_it_or_nothing() {
        let pv = kernel(&[ElfNote::Entry]);
        assert_eq!(choose(None, &pv, BOTH), Ok(Kind::Pv));
        assert_eq!(choose(None, &pv, PVH), Err(KindError::NotPv));
        let pvh = kernel(&[ElfNote::Phys32Entry]);
        assert_eq!(choose(None, &pvh, BOTH), Ok(Kind::Pvh));
        assert_eq!(choose(None, &pvh, PV), Err(KindError::NotPvh));
        let neither = kernel(&[]);
        assert_eq!(choose(None, &neither, BOTH), Ok(Kind::Pvh));
    }

    #[test]
    fn what_is_asked_for_counts() {
        let linux = kernel(&[ElfNote::Entry, ElfNote::Phys32Entry]);
        let (pv, pvh) = (Some(Dom0Mode::Pv.into()), Some(Dom0Mode::Pvh.into()));
        assert_eq!(choose(pv, &linux, BOTH), Ok(Kind::Pv));
        assert_eq!(choose(pv, &linux, PVH), Err(KindError::NotPv));
        assert_eq!(choose(pvh, &linux, BOTH), Ok(Kind::Pvh));
        assert_eq!(choose(pvh, &linux, PV), Err(KindError::NotPvh));
        // The kernel's own notes are looked at afterwards.
        let other = kernel(&[]);
        assert_eq!(choose(pv, &other, BOTH), Ok(Kind::Pv));
        // 64 bits and PV; 64 bits and PVH.
        assert_eq!(Kind::from(DomainMode(5)), Kind::Pv);
        assert_eq!(Kind::from(DomainMode(4)), Kind::Pvh);
    }
}
