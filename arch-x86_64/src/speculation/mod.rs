//! Speculation controls: what is done at entries into guests, exits from them and switches between them.
//!
//! [`Facts`] of the CPU and the words of `spec-ctrl=` ([`Words`]) decide on a [`Plan`], once, on the first CPU: the CPUs of a
//! machine are taken to be alike. `apply` carries it out. A CPU that shows no control at all, as emulators do, gets an
//! empty plan and pays one comparison for each entry.
//!
//! Intel's "Speculative Execution Side Channel Mitigations" (336996), "Deep Dive" notes on MDS and L1TF; AMD's "Indirect
//! Branch Control Extension" and "Speculative Store Bypass Disable" notes (111006, 124441).

#[cfg(target_os = "none")]
pub mod apply;
mod bugs;
mod isolation;
mod words;

#[cfg(test)]
mod tests;

pub use bugs::Bugs;
pub use isolation::{Isolation, Paging, Requests};
pub use words::{NotUnderstood, Words};

use crate::cpuid::{
    Leaf, Vendor,
    features::{ext8_ebx, leaf7_edx, speculation_leaf7_edx, speculation_leaf21_eax},
};

/// SPEC_CTRL: indirect branch restricted speculation.
pub const IBRS: u32 = 1 << 0;
/// SPEC_CTRL: single thread indirect branch predictors.
pub const STIBP: u32 = 1 << 1;
/// SPEC_CTRL: speculative store bypass disable.
pub const SSBD: u32 = 1 << 2;

/// Bits of ARCH_CAPABILITIES.
mod capability {
    pub const RDCL_NO: u64 = 1 << 0;
    pub const SKIP_L1D_FLUSH: u64 = 1 << 3;
    pub const SSB_NO: u64 = 1 << 4;
    pub const MDS_NO: u64 = 1 << 5;
    pub const PAGE_SIZE_CHANGE_SAFE: u64 = 1 << 6;
    pub const TAA_NO: u64 = 1 << 8;
    pub const FBSDP_NO: u64 = 1 << 14;
    pub const FB_CLEAR: u64 = 1 << 17;
}

/// What the CPU says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    vendor: Vendor,
    /// Leaf 7.0, EDX.
    intel: u32,
    /// Leaf 0x8000_0008, EBX.
    amd: u32,
    /// Leaf 0x8000_0021, EAX and ECX.
    amd_later: [u32; 2],
    capabilities: u64,
    /// Transactional memory is there.
    transactions: bool,
    family: u32,
}

/// Leaf 7.0, EBX: RTM.
const TRANSACTIONS: u32 = 1 << 11;

/// The CPU's family from leaf 1, EAX.
const fn family(signature: u32) -> u32 {
    const EXTENDED: u32 = 15;
    let base = signature >> 8 & 15;
    if base == EXTENDED {
        base + (signature >> 20 & 0xff)
    } else {
        base
    }
}

impl Facts {
    /// From CPUID; `capabilities` reads ARCH_CAPABILITIES and is called only where that exists.
    #[must_use]
    pub fn new(leaf: impl Fn(u32, u32) -> Leaf, capabilities: impl FnOnce() -> u64) -> Self {
        let [last, name, ..] = leaf(0, 0);
        let last_extended = leaf(0x8000_0000, 0)[0];
        let extended = |number: u32| {
            if last_extended >> 31 != 0 && last_extended >= number {
                leaf(number, 0)
            } else {
                [0; 4]
            }
        };
        let [_, seven, _, intel] = if last >= 7 { leaf(7, 0) } else { [0; 4] };
        let [_, amd, ..] = extended(0x8000_0008);
        let [eax, _, ecx, _] = extended(0x8000_0021);
        Self {
            vendor: Vendor::of(name),
            transactions: seven & TRANSACTIONS != 0,
            family: family(leaf(1, 0)[0]),
            intel,
            amd,
            amd_later: [eax, ecx],
            capabilities: if intel & leaf7_edx::ARCH_CAPABILITIES != 0 {
                capabilities()
            } else {
                0
            },
        }
    }

    fn either(&self, intel: u32, amd: u32) -> bool {
        self.intel & intel != 0 || self.amd & amd != 0
    }

    /// The bits of SPEC_CTRL that exist.
    fn controls(&self) -> u32 {
        [
            (IBRS, leaf7_edx::IBRS, ext8_ebx::IBRS),
            (STIBP, leaf7_edx::STIBP, ext8_ebx::STIBP),
            (SSBD, leaf7_edx::SSBD, ext8_ebx::SSBD),
        ]
        .iter()
        .filter(|(_, intel, amd)| self.either(*intel, *amd))
        .fold(0, |bits, (bit, ..)| bits | bit)
    }

    fn has_barrier(&self) -> bool {
        self.either(leaf7_edx::IBRS, ext8_ebx::IBPB)
    }

    fn has(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }

    /// VERW overwrites buffers that leak.
    fn needs_verw(&self) -> bool {
        use speculation_leaf21_eax as later;
        const STORES_SAFE: u32 = 1 << 1;
        const CACHE_SAFE: u32 = 1 << 2;
        match self.vendor {
            Vendor::Intel => {
                let clears = self.intel & leaf7_edx::MD_CLEAR != 0;
                let devices = self.has(capability::FB_CLEAR) && !self.has(capability::FBSDP_NO);
                clears && !self.has(capability::MDS_NO) || devices
            }
            Vendor::Amd => {
                let [eax, ecx] = self.amd_later;
                eax & later::VERW_CLEAR != 0
                    && ecx & (STORES_SAFE | CACHE_SAFE) != STORES_SAFE | CACHE_SAFE
            }
        }
    }

    /// What is mapped may be read without the right to (Meltdown).
    fn needs_isolation(&self) -> bool {
        self.vendor == Vendor::Intel && !self.has(capability::RDCL_NO)
    }

    fn can_flush_cache(&self) -> bool {
        self.intel & speculation_leaf7_edx::L1D_FLUSH != 0
    }

    /// What is in the first cache may be read past a page that is not present (L1TF).
    fn needs_flush(&self) -> bool {
        self.vendor == Vendor::Intel
            && !self.has(capability::RDCL_NO)
            && !self.has(capability::SKIP_L1D_FLUSH)
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// SPEC_CTRL holds the guest's value in guests and [`Plan::host`] outside.
    pub switch: bool,
    /// Guests have a barrier to command.
    pub guest_barrier: bool,
    /// The hypervisor's value of SPEC_CTRL.
    pub host: u32,
    /// A barrier stands between guests of different domains on one CPU.
    pub barrier: bool,
    /// VERW before each entry into a guest in hardware.
    pub verw: bool,
    /// VERW before each entry into a PV guest.
    pub verw_pv: bool,
    /// The first data cache is flushed before each entry, under VMX.
    pub flush: bool,
    /// The return stack is filled after each exit of a guest in hardware.
    pub returns: bool,
    /// The same of a PV guest.
    pub returns_pv: bool,
}

impl Plan {
    /// What a CPU needs, as far as it has it and the words leave it on.
    #[must_use]
    pub fn new(cpu: &Facts, words: &Words) -> Self {
        let controls = cpu.controls();
        let switch = controls != 0 && words.switch.unwrap_or(true);
        let mut host = 0;
        // Without retpolines in the hypervisor's code this is what keeps guests from steering its branches.
        if words.ibrs.unwrap_or(true) {
            host |= controls & IBRS;
        }
        if words.stibp.unwrap_or(host & IBRS != 0) {
            host |= controls & STIBP;
        }
        if words.ssbd.unwrap_or(false) {
            host |= controls & SSBD;
        }
        Self {
            switch,
            guest_barrier: cpu.has_barrier() && words.switch.unwrap_or(true),
            host: if switch { host } else { 0 },
            barrier: cpu.has_barrier() && words.ibpb.unwrap_or(true),
            verw: words.verw.unwrap_or(cpu.needs_verw()),
            verw_pv: words.verw_pv.unwrap_or(cpu.needs_verw()),
            flush: cpu.can_flush_cache() && words.l1d_flush.unwrap_or(cpu.needs_flush()),
            returns: words.rsb.unwrap_or(controls != 0 || cpu.has_barrier()),
            returns_pv: words.rsb_pv.unwrap_or(controls != 0 || cpu.has_barrier()),
        }
    }

    /// Whether entries and exits of guests in hardware have anything to do.
    #[must_use]
    pub const fn has_work(&self) -> bool {
        self.switch || self.verw || self.flush || self.returns
    }
}

impl core::fmt::Display for Plan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let of = |both, hardware, paravirtual, here: bool, there: bool| match (here, there) {
            (true, true) => (true, both),
            (true, false) => (true, hardware),
            (false, true) => (true, paravirtual),
            (false, false) => (false, both),
        };
        let verw = of(
            "VERW",
            "VERW for HVM",
            "VERW for PV",
            self.verw,
            self.verw_pv,
        );
        let returns = of(
            "return stack filled",
            "return stack filled for HVM",
            "return stack filled for PV",
            self.returns,
            self.returns_pv,
        );
        let parts = [
            (self.switch, "SPEC_CTRL of guests"),
            (self.host & IBRS != 0, "IBRS"),
            (self.host & STIBP != 0, "STIBP"),
            (self.host & SSBD != 0, "SSBD"),
            (self.barrier, "IBPB between domains"),
            verw,
            (self.flush, "L1D flush"),
            returns,
        ];
        let mut comma = "";
        for (_, name) in parts.iter().filter(|(on, _)| *on) {
            write!(f, "{comma}{name}")?;
            comma = ", ";
        }
        if comma.is_empty() {
            f.write_str("nothing is done")?;
        }
        Ok(())
    }
}
