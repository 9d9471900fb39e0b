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
