//! How a domain runs: in the CPU's virtualization by PVH, or paravirtual in ring 3.
//!
//! What is asked for counts; else PVH where the CPU and the kernel can, and PV where not. A kernel may be able to do both.

use core::fmt;

use xenolith_abi::elfnote::ElfNote;
use xenolith_core::boot::{cmdline::Dom0Mode, elf::Elf};

/// How a domain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the CPU's virtualization.
    Pvh,
    /// In ring 3.
    Pv,
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
                "PVH needs a CPU with SVM or VMX, switched on: use dom0=pv with a kernel that starts so"
            }
            Self::NotPv => {
                "PV guests do not run on this machine: use dom0=pvh with a kernel that starts so"
            }
        })
    }
}

/// Chooses.
pub fn choose(asked: Option<Dom0Mode>, kernel: &Elf<'_>, able: Able) -> Result<Kind, KindError> {
    let pvh_kernel = kernel.note(ElfNote::Phys32Entry).is_some();
    match asked {
        _ if !able.pv && !able.pvh => Err(KindError::NoWay),
        Some(Dom0Mode::Pvh) if able.pvh => Ok(Kind::Pvh),
        Some(Dom0Mode::Pvh) => Err(KindError::NotPvh),
        Some(Dom0Mode::Pv) if able.pv => Ok(Kind::Pv),
        Some(Dom0Mode::Pv) => Err(KindError::NotPv),
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
        let (pv, pvh) = (Some(Dom0Mode::Pv), Some(Dom0Mode::Pvh));
        assert_eq!(choose(pv, &linux, BOTH), Ok(Kind::Pv));
        assert_eq!(choose(pv, &linux, PVH), Err(KindError::NotPv));
        assert_eq!(choose(pvh, &linux, BOTH), Ok(Kind::Pvh));
        assert_eq!(choose(pvh, &linux, PV), Err(KindError::NotPvh));
        // The kernel's own notes are looked at afterwards.
        let other = kernel(&[]);
        assert_eq!(choose(pv, &other, BOTH), Ok(Kind::Pv));
    }
}
