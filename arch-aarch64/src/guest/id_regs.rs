//! The identification registers as guests see them: the host's, less what the hypervisor does not give.
//!
//! Hidden: EL2 and EL3, SVE, SME, MTE, RAS, AMU, MPAM, pointer authentication (its keys are not switched), PMU, trace,
//! statistical profiling, breakpoints beyond the least, nested virtualisation, LORegions, random
//! traps. A guest that looks before it uses never meets one of them; one that does not gets an undefined instruction.

use super::{
    debug_regs::{BREAKPOINTS, WATCHPOINTS},
    esr::SysReg,
};

/// Values by CRm (1 to 7) and op2.
pub struct IdRegs([[u64; 8]; 7]);

/// Clears the fields that start at each of `shifts` (4 bits each).
const fn hide(value: u64, shifts: &[u32]) -> u64 {
    let mut value = value;
    let mut i = 0;
    while i < shifts.len() {
        value &= !(0xf << shifts[i]);
        i += 1;
    }
    value
}

/// Lowers the 4-bit field at `shift` to `limit`.
const fn at_most(value: u64, shift: u32, limit: u64) -> u64 {
    if value >> shift & 0xf > limit {
        with(value, shift, limit)
    } else {
        value
    }
}

/// Keeps only the fields that start at each of `shifts` (4 bits each).
const fn keep(value: u64, shifts: &[u32]) -> u64 {
    value & !hide(u64::MAX, shifts)
}

/// Replaces the 4-bit field at `shift`.
const fn with(value: u64, shift: u32, field: u64) -> u64 {
    value & !(0xf << shift) | field << shift
}

/// The value that a guest sees of register (3, 0, 0, crm, op2) when the host has `host`.
#[must_use]
pub const fn sanitise(crm: u32, op2: u32, host: u64) -> u64 {
    match (crm, op2) {
        // ID_DFR0_EL1: no PMU, no trace, no trace filter.
        (1, 2) => hide(host, &[12, 16, 20, 24, 28]),
        // ID_PFR0/1 and ID_ISAR: AArch32 at EL0 only; kept but RAS, AMU and virtualisation.
        (1, 0) => hide(host, &[20, 28]),
        (1, 1) => hide(host, &[4, 12, 24]),
        // ID_PFR2_EL1: no RAS fraction. ID_DFR1_EL1: nothing of the PMU.
        (3, 4) => hide(host, &[8]),
        (3, 5) => 0,
        // ID_AA64PFR0_EL1: EL0 as host, EL1 AArch64 only, no EL2 and EL3, no RAS, SVE, SEL2, MPAM, AMU, RME;
        // CSV2 without SCXTNUM, which traps.
        (4, 0) => {
            let value = hide(host, &[8, 12, 28, 32, 36, 40, 44, 52]);
            at_most(with(value, 4, 1), 56, 1)
        }
        // ID_AA64PFR1_EL1: only BTI and SSBS (state of PSTATE, nothing to switch).
        (4, 1) => host & 0xff,
        // ID_AA64ZFR0, SMFR0: nothing.
        (4, 2..=7) => 0,
        // ID_AA64DFR0_EL1: v8 debug with the least breakpoints and watchpoints, no PMU, trace, SPE.
        (5, 0) => 0x6 | (BREAKPOINTS as u64 - 1) << 12 | (WATCHPOINTS as u64 - 1) << 20,
        (5, 1..=7) => 0,
        // ID_AA64ISAR0_EL1: no transactional memory.
        (6, 0) => hide(host, &[24]),
        // ID_AA64ISAR1_EL1: no pointer authentication, no LS64.
        (6, 1) => hide(host, &[4, 8, 24, 28, 60]),
        // ID_AA64ISAR2_EL1: RPRES, BC, CLRBHB, RPRFM, CSSC, which no trap and no state of ours touches. So no QARMA3
        // keys, WFET (its trap differs), MOPS, 128-bit registers.
        (6, 2) => keep(host, &[4, 20, 28, 48, 52]),
        (6, 3..=7) => 0,
        // ID_AA64MMFR0_EL1: no granules of stage 2, no fine-grained traps; ECV without the physical offset of EL2.
        (7, 0) => at_most(hide(host, &[32, 36, 40, 56]), 60, 1),
        // ID_AA64MMFR1_EL1: no VHE, VMIDs as they are, no LORegions, TWED, HCX, nor what HCRX_EL2 would switch (CMOW).
        (7, 1) => hide(host, &[8, 16, 32, 40, 56]),
        // ID_AA64MMFR2_EL1: no IESB (RAS), nested virtualisation, forced write-back of stage 2, EVT.
        (7, 2) => hide(host, &[12, 24, 40, 56]),
        (7, 3..=7) => 0,
        _ => host,
    }
}

impl IdRegs {
    /// From the host's values, by CRm and op2.
    pub fn new(host: impl Fn(u32, u32) -> u64) -> Self {
        let mut values = [[0; 8]; 7];
        for (crm, row) in (1..).zip(values.iter_mut()) {
            for (op2, value) in (0..).zip(row.iter_mut()) {
                *value = sanitise(crm, op2, host(crm, op2));
            }
        }
        Self(values)
    }

    /// The value of a register of the space (3, 0, 0, 1..=7, *); `None` for any other.
    #[inline]
    pub fn get(&self, reg: SysReg) -> Option<u64> {
        const SPACE: u32 = SysReg::new(3, 0, 0, 0, 0).0;
        const FIXED: u32 = SysReg::new(3, 7, 15, 0, 0).0;
        if reg.0 & FIXED != SPACE {
            return None;
        }
        let row = self.0.get((reg.crm() as usize).wrapping_sub(1))?;
        row.get(reg.op2() as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_no_el2_and_no_scalable_vectors() {
        let seen = sanitise(4, 0, 0x1_1_1_1_2_1_1_0_2_2_2_2);
        assert_eq!(seen >> 8 & 0xff, 0, "EL2 and EL3");
        assert_eq!(seen >> 4 & 0xf, 1, "EL1 is AArch64 only");
        assert_eq!(sanitise(4, 0, u64::MAX) >> 32 & 0xf, 0, "SVE");
    }

    #[test]
    fn what_traps_is_hidden_and_what_needs_no_help_stays() {
        assert_eq!(
            sanitise(4, 0, 2 << 56) >> 56 & 0xf,
            1,
            "CSV2 without SCXTNUM"
        );
        assert_eq!(sanitise(6, 0, u64::MAX) >> 24 & 0xf, 0, "TME");
        assert_eq!(sanitise(6, 2, u64::MAX), 0x00ff_0000_f0f0_00f0, "ISAR2");
        assert_eq!(sanitise(7, 0, u64::MAX) >> 56, 0x10, "FGT, ECV");
        assert_eq!(sanitise(7, 0, 0x1122) & 0xffff, 0x1122);
    }

    #[test]
    fn only_the_identification_space_is_answered() {
        let regs = IdRegs::new(|crm, op2| u64::from(crm * 8 + op2));
        assert_eq!(regs.get(SysReg::new(3, 0, 0, 7, 0)), Some(56));
        assert_eq!(regs.get(SysReg::new(3, 0, 0, 0, 0)), None);
        assert_eq!(regs.get(SysReg::new(3, 0, 0, 8, 0)), None);
        assert_eq!(regs.get(SysReg::new(3, 0, 1, 1, 0)), None);
        assert_eq!(regs.get(SysReg::new(2, 0, 0, 7, 0)), None);
    }
}
