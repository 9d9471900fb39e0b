//! The registers that every exit saves: general registers, program counter, processor state.

use core::mem::offset_of;

/// A guest's registers between an exit and the next entry.
///
/// While the guest runs, SP_EL2 points here, so that the exit path stores without a scratch register.
#[repr(C, align(16))]
#[derive(Default)]
pub struct GuestRegs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Program counter (ELR_EL2).
    pub pc: u64,
    /// Processor state (SPSR_EL2).
    pub pstate: u64,
    /// The hypervisor's stack pointer while the guest runs.
    pub(crate) host_sp: u64,
}

/// EL1 with its own stack pointer, all interrupts masked.
pub const PSTATE_EL1H_MASKED: u64 = 0x3c5;
/// Interrupts are masked (`PSTATE.I`).
pub const PSTATE_IRQ_MASKED: u64 = 1 << 7;
/// The mode field of a processor state: exception level, stack pointer, AArch32.
const PSTATE_MODE: u64 = 0x1f;
const PSTATE_AARCH32: u64 = 1 << 4;
const PSTATE_THUMB: u64 = 1 << 5;
/// The If-Then state of Thumb: bits 7:2 at 15:10, bits 1:0 at 26:25.
const PSTATE_IT: u64 = 0x3f << 10 | 3 << 25;

/// PSTATE in which EL1 takes an exception from `old` (Arm ARM DDI 0487, `AArch64.TakeException`): EL1h, masked; the
/// flags and DIT stay, PAN and SSBS follow SCTLR_EL1. Bits of features that the CPU lacks are ignored by it.
pub fn exception_pstate(old: u64, sctlr_el1: u64) -> u64 {
    const KEPT: u64 = 0xf << 28 | 1 << 24 | PAN; // NZCV, DIT, PAN
    const PAN: u64 = 1 << 22;
    const SSBS: u64 = 1 << 12;
    const SPAN: u64 = 1 << 23;
    const DSSBS: u64 = 1 << 44;
    // AArch32 has DIT at bit 21 of a saved state.
    let kept = if old & PSTATE_AARCH32 != 0 {
        old & KEPT & !(1 << 24) | (old >> 21 & 1) << 24
    } else {
        old & KEPT
    };
    let pan = if sctlr_el1 & SPAN == 0 { PAN } else { 0 };
    let ssbs = if sctlr_el1 & DSSBS != 0 { SSBS } else { 0 };
    kept | pan | ssbs | PSTATE_EL1H_MASKED
}

impl GuestRegs {
    /// Register `n` as an instruction names it: 31 is the zero register.
    #[inline]
    pub fn get(&self, n: usize) -> u64 {
        self.x.get(n).copied().unwrap_or(0)
    }

    /// Writes register `n`; writes to 31 are dropped.
    #[inline]
    pub fn set(&mut self, n: usize, value: u64) {
        if let Some(x) = self.x.get_mut(n) {
            *x = value;
        }
    }

    /// Steps over the 32-bit instruction that trapped.
    #[inline]
    pub fn skip(&mut self) {
        self.pc = self.pc.wrapping_add(4);
    }

    /// Steps over a trapped instruction of any instruction set; `long`: it has 32 bits (ESR_EL2.IL).
    ///
    /// A Thumb instruction in an IT block takes its block on by one (Arm ARM DDI 0487, `AArch32.ITAdvance`).
    #[inline]
    pub fn skip_trapped(&mut self, long: bool) {
        self.pc = self.pc.wrapping_add(if long { 4 } else { 2 });
        if self.pstate & (PSTATE_AARCH32 | PSTATE_THUMB) == PSTATE_AARCH32 | PSTATE_THUMB {
            self.advance_it();
        }
    }

    fn advance_it(&mut self) {
        let it = self.pstate >> 8 & 0xfc | self.pstate >> 25 & 3;
        let next = if it & 7 == 0 {
            0
        } else {
            it & 0xe0 | it << 1 & 0x1f
        };
        self.pstate = self.pstate & !PSTATE_IT | (next & 0xfc) << 8 | (next & 3) << 25;
    }

    /// The guest ran a 32-bit program.
    #[inline]
    pub fn is_el0(&self) -> bool {
        self.pstate & 0xf == 0
    }

    /// Whether the guest runs AArch32 code.
    #[inline]
    pub fn is_aarch32(&self) -> bool {
        self.pstate & PSTATE_AARCH32 != 0
    }

    /// The stack pointer in use is SP_EL1 (otherwise SP_EL0).
    #[inline]
    pub fn uses_sp_el1(&self) -> bool {
        self.pstate & PSTATE_MODE == PSTATE_EL1H_MASKED & PSTATE_MODE
    }

    /// Goes back to re-issue the `hvc` (its trap leaves the address behind it).
    #[inline]
    pub fn repeat_hvc(&mut self) {
        self.pc = self.pc.wrapping_sub(4);
    }

    /// The offset into the guest's vector table at which a synchronous exception from this state is taken.
    pub fn sync_vector(&self) -> u64 {
        match self.pstate & PSTATE_MODE {
            0b00101 => 0x200,                  // EL1h
            0b00100 => 0x000,                  // EL1t
            mode if mode & 0x10 != 0 => 0x600, // AArch32 EL0
            _ => 0x400,                        // EL0
        }
    }
}

pub(crate) const OFFSET_PC: usize = offset_of!(GuestRegs, pc);
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
pub(crate) const OFFSET_PSTATE: usize = offset_of!(GuestRegs, pstate);
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
pub(crate) const OFFSET_HOST_SP: usize = offset_of!(GuestRegs, host_sp);
const _: () = assert!(offset_of!(GuestRegs, x) == 0 && OFFSET_PC == 248);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trapped_thumb_instruction_takes_its_if_then_block_on() {
        // ITTE EQ before its second instruction: condition 0, mask 0b1100 of which one bit is shifted away each time.
        let with = |it: u64| 0x30 | (it & 0xfc) << 8 | (it & 3) << 25;
        let mut regs = GuestRegs {
            pc: 0x1000,
            pstate: with(0b0000_0110),
            ..GuestRegs::default()
        };
        regs.skip_trapped(false);
        assert_eq!((regs.pc, regs.pstate), (0x1002, with(0b0000_1100)));
        regs.skip_trapped(true);
        assert_eq!((regs.pc, regs.pstate), (0x1006, with(0b0001_1000)));
        regs.skip_trapped(true);
        assert_eq!((regs.pc, regs.pstate), (0x100a, with(0)));
    }

    #[test]
    fn an_exception_keeps_the_flags_and_sets_pan_as_the_kernel_asked() {
        let (pan, ssbs) = (1 << 22, 1 << 12);
        let span = 1 << 23;
        assert_eq!(exception_pstate(0x6120_0000, span), 0x6100_03c5);
        assert_eq!(exception_pstate(0, 0), pan | 0x3c5);
        assert_eq!(exception_pstate(pan | ssbs | 5, span), pan | 0x3c5);
        assert_eq!(exception_pstate(0, span | 1 << 44), ssbs | 0x3c5);
    }

    #[test]
    fn a_64_bit_instruction_is_stepped_over_and_nothing_else_changes() {
        let mut regs = GuestRegs {
            pstate: 0x6000_0005 | 3 << 25,
            ..GuestRegs::default()
        };
        regs.skip_trapped(true);
        assert_eq!((regs.pc, regs.pstate), (4, 0x6000_0005 | 3 << 25));
        assert!(regs.uses_sp_el1() && !regs.is_aarch32());
    }
}
