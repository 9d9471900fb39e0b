//! Breakpoint and watchpoint registers. The architecture has at least two of each (ID_AA64DFR0_EL1.BRPs and .WRPs count
//! from one less), and kernels clear them when a CPU starts without asking. So guests are shown the least, which read as
//! zero, ignore writes and do nothing; further ones do not exist. (Arm ARM, ID_AA64DFR0_EL1.)

use super::esr::SysReg;

/// Breakpoints that guests are shown.
pub const BREAKPOINTS: u32 = 2;
/// Watchpoints that guests are shown.
pub const WATCHPOINTS: u32 = 2;

/// Whether this is a value or control register of a breakpoint or watchpoint that guests are shown.
#[must_use]
pub fn is_shown(reg: SysReg) -> bool {
    let number = reg.crm();
    reg.op0() == 2
        && reg.op1() == 0
        && reg.crn() == 0
        && match reg.op2() {
            // DBGBVR<n>_EL1, DBGBCR<n>_EL1.
            4 | 5 => number < BREAKPOINTS,
            // DBGWVR<n>_EL1, DBGWCR<n>_EL1.
            6 | 7 => number < WATCHPOINTS,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::id_regs::sanitise;

    #[test]
    fn the_registers_are_as_many_as_the_identification_register_says() {
        let shown = sanitise(5, 0, u64::MAX);
        let count = |op2| {
            (0..16)
                .filter(|&n| is_shown(SysReg::new(2, 0, 0, n, op2)))
                .count() as u64
        };
        let (breakpoints, watchpoints) = ((shown >> 12 & 0xf) + 1, (shown >> 20 & 0xf) + 1);
        assert_eq!(
            [4, 5, 6, 7].map(count),
            [breakpoints, breakpoints, watchpoints, watchpoints]
        );
        assert!(
            breakpoints >= 2 && watchpoints >= 2,
            "the architecture's least"
        );
    }

    #[test]
    fn other_debug_registers_are_none_of_them() {
        let mdscr = SysReg::new(2, 0, 0, 2, 2);
        let oslar = SysReg::new(2, 0, 1, 0, 4);
        let dbgvcr32 = SysReg::new(2, 4, 0, 7, 0);
        let pmcr = SysReg::new(3, 3, 9, 12, 0);
        assert!(
            [mdscr, oslar, dbgvcr32, pmcr]
                .iter()
                .all(|reg| !is_shown(*reg))
        );
    }
}
