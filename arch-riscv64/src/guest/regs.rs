//! What of a guest's registers moves at every entry and exit.

use core::{fmt, mem::offset_of};

/// General registers, program counter and the two status registers, and where the hypervisor goes on. Assembly knows the
/// layout.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct GuestRegs {
    /// x0 to x31; x0 is never used.
    pub x: [u64; 32],
    /// Where the guest goes on.
    pub pc: u64,
    /// `sstatus` of HS-mode: the guest's privilege (SPP), and whether it has floating point (FS).
    pub sstatus: u64,
    /// `hstatus`.
    pub hstatus: u64,
    /// The hypervisor's stack pointer while the guest runs.
    host_sp: u64,
    /// And its thread pointer.
    host_tp: u64,
}

/// Offsets for assembly.
pub const OFFSET_PC: usize = offset_of!(GuestRegs, pc);
/// See [`OFFSET_PC`].
pub const OFFSET_SSTATUS: usize = offset_of!(GuestRegs, sstatus);
/// See [`OFFSET_PC`].
pub const OFFSET_HSTATUS: usize = offset_of!(GuestRegs, hstatus);
/// See [`OFFSET_PC`].
pub const OFFSET_HOST_SP: usize = offset_of!(GuestRegs, host_sp);
/// See [`OFFSET_PC`].
pub const OFFSET_HOST_TP: usize = offset_of!(GuestRegs, host_tp);

/// `sstatus.SPP`: the guest goes on in VS-mode, else in VU-mode.
pub const SPP: u64 = 1 << 8;
/// `sstatus.SPIE`.
pub const SPIE: u64 = 1 << 5;
/// `sstatus.SIE`.
pub const SIE: u64 = 1 << 1;
/// `sstatus.FS`: the state of floating point; zero is off.
pub const FS: u64 = 3 << 13;
/// FS of a state that has not been written since it was loaded.
pub const FS_CLEAN: u64 = 2 << 13;
/// `sstatus.UXL` of 64 bits.
pub const UXL_64: u64 = 2 << 32;

/// `hstatus.SPV`: the guest goes on with V=1.
const SPV: u64 = 1 << 7;
/// `hstatus.SPVP`: HLV and HSV have the rights of VS-mode.
const SPVP: u64 = 1 << 8;
/// `hstatus.VTW`: a wait for interrupts in VS-mode traps.
const VTW: u64 = 1 << 21;
/// `hstatus.VSXL` of 64 bits.
const VSXL_64: u64 = 2 << 32;

/// Writes registers for a person to read.
pub fn print(
    out: &mut dyn fmt::Write,
    hart: usize,
    (pc, sstatus, x): (u64, u64, &[u64; 32]),
) -> fmt::Result {
    writeln!(out, "pc  {pc:#018x} sstatus {sstatus:#x} hart {hart}")?;
    for (n, value) in x.iter().enumerate().skip(1) {
        let end = if n % 4 == 0 || n == 31 { "\n" } else { " " };
        write!(out, "x{n:<2} {value:#018x}{end}")?;
    }
    Ok(())
}

/// Number of the registers of a call.
pub mod number {
    /// First argument, and error of an answer.
    pub const A0: usize = 10;
    /// Second argument, and value of an answer.
    pub const A1: usize = 11;
    /// Function.
    pub const A6: usize = 16;
    /// Extension.
    pub const A7: usize = 17;
}

impl GuestRegs {
    /// As a hart has them when firmware starts it: at `pc` in VS-mode, a0 and a1 as given.
    #[must_use]
    pub fn started(pc: u64, a0: u64, a1: u64) -> Self {
        let mut regs = Self {
            pc,
            sstatus: SPP | UXL_64,
            hstatus: SPV | SPVP | VTW | VSXL_64,
            ..Self::default()
        };
        regs.x[number::A0] = a0;
        regs.x[number::A1] = a1;
        regs
    }

    /// A general register. x0 is zero.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        match index & 31 {
            0 => 0,
            index => self.x[index],
        }
    }

    /// Writes a general register; what goes to x0 is lost.
    #[inline]
    pub fn set(&mut self, index: usize, value: u64) {
        if index & 31 != 0 {
            self.x[index & 31] = value;
        }
    }

    /// Whether the guest stopped in VS-mode, and not in VU-mode.
    #[inline]
    #[must_use]
    pub const fn in_kernel(&self) -> bool {
        self.sstatus & SPP != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_zero_stays_zero() {
        let mut regs = GuestRegs::started(0x8000_0000, 3, 0x8800_0000);
        regs.set(0, 7);
        assert_eq!((regs.get(0), regs.x[0]), (0, 0));
        assert_eq!((regs.get(10), regs.get(11)), (3, 0x8800_0000));
        regs.set(31, 9);
        assert_eq!(regs.get(31), 9);
        assert!(regs.in_kernel());
    }
}
