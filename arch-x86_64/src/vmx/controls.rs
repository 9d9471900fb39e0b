//! VM-execution, VM-exit and VM-entry controls, and what the CPU's capability registers allow (Intel SDM, volume 3, 25.6
//! to 25.8 and appendix A).

use bitflags::bitflags;

bitflags! {
    /// Pin-based controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pin: u32 {
        /// Physical interrupts end the guest.
        const INTERRUPTS = 1 << 0;
        /// So do non-maskable ones.
        const NMIS = 1 << 3;
        /// The guest has its own blocking of non-maskable interrupts.
        const VIRTUAL_NMIS = 1 << 5;
        const _ = !0;
    }

    /// Primary processor-based controls: what exits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Primary: u32 {
        /// The guest can take an interrupt.
        const INTERRUPT_WINDOW = 1 << 2;
        /// The time-stamp counter has an offset.
        const TSC_OFFSET = 1 << 3;
        /// HLT.
        const HLT = 1 << 7;
        /// INVLPG.
        const INVLPG = 1 << 9;
        /// MWAIT.
        const MWAIT = 1 << 10;
        /// RDPMC.
        const RDPMC = 1 << 11;
        /// RDTSC.
        const RDTSC = 1 << 12;
        /// Moves to CR3.
        const CR3_LOAD = 1 << 15;
        /// Moves from CR3.
        const CR3_STORE = 1 << 16;
        /// Moves to CR8.
        const CR8_LOAD = 1 << 19;
        /// Moves from CR8.
        const CR8_STORE = 1 << 20;
        /// The guest's task priority is in the virtual-APIC page.
        const TPR_SHADOW = 1 << 21;
        /// The guest can take a non-maskable interrupt.
        const NMI_WINDOW = 1 << 22;
        /// IN and OUT, as the bitmaps say.
        const IO_BITMAPS = 1 << 25;
        /// RDMSR and WRMSR, as the bitmap says.
        const MSR_BITMAP = 1 << 28;
        /// MONITOR.
        const MONITOR = 1 << 29;
        /// The secondary controls count.
        const SECONDARY = 1 << 31;
        const _ = !0;
    }

    /// Secondary processor-based controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Secondary: u32 {
        /// Guest-physical addresses are translated by second-level tables.
        const EPT = 1 << 1;
        /// Some MSRs of an x2APIC are registers in the virtual-APIC page.
        const X2APIC = 1 << 4;
        /// Translations are tagged with an identifier.
        const VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD = 1 << 6;
        /// The guest may run without paging and in real mode.
        const UNRESTRICTED = 1 << 7;
        /// Interrupts in the virtual-APIC page are delivered by the CPU.
        const INTERRUPT_DELIVERY = 1 << 9;
        /// PAUSE in a loop exits.
        const PAUSE_LOOP = 1 << 10;
        /// What it takes for the CPU to have an x2APIC.
        const VIRTUAL_APIC = Self::X2APIC.bits() | Self::INTERRUPT_DELIVERY.bits();
        const _ = !0;
    }

    /// Exit controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OnExit: u32 {
        /// DR7 and DEBUGCTL are saved.
        const SAVE_DEBUG = 1 << 2;
        /// The host runs 64-bit code.
        const HOST_64 = 1 << 9;
        /// The interrupt that ended the guest is acknowledged.
        const ACKNOWLEDGE = 1 << 15;
        /// The guest's PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// The host's PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// The guest's EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// The host's EFER is loaded.
        const LOAD_EFER = 1 << 21;
        const _ = !0;
    }

    /// Entry controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OnEntry: u32 {
        /// DR7 and DEBUGCTL are loaded.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in long mode.
        const LONG_MODE = 1 << 9;
        /// The guest's PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// The guest's EFER is loaded.
        const LOAD_EFER = 1 << 15;
        const _ = !0;
    }

    /// What the CPU offers for second-level tables and identifiers (`IA32_VMX_EPT_VPID_CAP`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Translation: u64 {
        /// Tables of four levels.
        const FOUR_LEVELS = 1 << 6;
        /// Tables may be cached write-back.
        const WRITE_BACK = 1 << 14;
        /// Blocks of 2 MiB.
        const BLOCKS_2M = 1 << 16;
        /// Blocks of 1 GiB.
        const BLOCKS_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// INVEPT of one tree of tables.
        const INVEPT_ONE = 1 << 25;
        /// INVEPT of all.
        const INVEPT_ALL = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID of all identifiers.
        const INVVPID_ALL = 1 << 42;
        const _ = !0;
    }
}

/// A value for a control word whose capability register reads `capability`: bits 0 to 31 must be 1 where they are 1, bits
/// 32 to 63 may be 1 where they are 1. `needed` has to be on, `wished` is on where it can be, `refused` has to be off.
/// The error is the bits that are not as they have to be.
pub const fn choose(capability: u64, needed: u32, wished: u32, refused: u32) -> Result<u32, u32> {
    let (fixed, allowed) = (capability as u32, (capability >> 32) as u32);
    let wrong = needed & !allowed | refused & fixed;
    if wrong != 0 {
        return Err(wrong);
    }
    Ok((needed | wished) & allowed | fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cpu_fixes_is_kept_and_what_it_lacks_is_left_out() {
        // Bits 1 and 2 fixed, 0 to 6 allowed.
        let capability = 0x7f_0000_0006;
        assert_eq!(choose(capability, 0x1, 0x180, 0), Ok(0x7));
        assert_eq!(choose(capability, 0x41, 0x20, 0), Ok(0x67));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let capability = 0x7f_0000_0006;
        assert_eq!(choose(capability, 0x81, 0, 0), Err(0x80));
        assert_eq!(choose(capability, 1, 0, 0xc), Err(0x4));
    }

    #[test]
    fn a_skylake_has_all_that_is_needed() {
        // IA32_VMX_TRUE_PINBASED_CTLS and IA32_VMX_TRUE_PROCBASED_CTLS of such a CPU.
        let pin = Pin::INTERRUPTS | Pin::NMIS | Pin::VIRTUAL_NMIS;
        assert_eq!(choose(0x0000_007f_0000_0016, pin.bits(), 0, 0), Ok(0x3f));
        let primary = Primary::HLT | Primary::SECONDARY | Primary::MSR_BITMAP;
        let refused = Primary::CR3_LOAD | Primary::CR3_STORE;
        let chosen = choose(0xfff9_fffe_0400_6172, primary.bits(), 0, refused.bits());
        assert_eq!(chosen, Ok(0x9400_61f2));
        // Without the "true" register, moves to CR3 always exit.
        let chosen = choose(0xfff9_fffe_0401_e172, primary.bits(), 0, refused.bits());
        assert_eq!(chosen, Err(refused.bits()));
    }
}
