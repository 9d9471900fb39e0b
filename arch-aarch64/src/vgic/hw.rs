//! What the virtual interrupt controller asks of the physical one: list registers, the guest's CPU interface, and a few
//! operations on physical interrupts that stand behind virtual ones. Static dispatch: the paths are compiled once
//! per GIC version.

use xenolith_hal::CpuId;

use crate::gic::{
    Trigger,
    info::Version,
    regs::{GICH_LR, GICH_VMCR, ICH_LR, ICH_VMCR},
};

/// Most list registers that the architecture allows (GICv3) or that we use (GICv2 may have 64).
pub const MAX_LRS: usize = 16;

/// A guest's view of its CPU interface while it is not loaded: masks, enables and active priorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuInterface {
    /// `ICH_VMCR_EL2` or `GICH_VMCR`.
    pub vmcr: u64,
    /// Active priorities of group 0; GICv2 keeps its only word here.
    pub ap0r: [u32; 4],
    /// Active priorities of group 1.
    pub ap1r: [u32; 4],
}

/// The interrupt hardware of the CPU that executes the call.
pub trait Hardware {
    /// Which list register format.
    const VERSION: Version;
    /// List register bit: the interrupt is pending.
    const PENDING: u64 = match Self::VERSION {
        Version::V2 => GICH_LR::PENDING::SET.value,
        Version::V3 => ICH_LR::PENDING::SET.value,
    };
    /// List register bit: the interrupt is active.
    const ACTIVE: u64 = match Self::VERSION {
        Version::V2 => GICH_LR::ACTIVE::SET.value,
        Version::V3 => ICH_LR::ACTIVE::SET.value,
    };
    /// List register bit: deactivation also deactivates a physical interrupt.
    const HW: u64 = match Self::VERSION {
        Version::V2 => GICH_LR::HW::SET.value,
        Version::V3 => ICH_LR::HW::SET.value,
    };
    /// List register bit: deactivation raises the maintenance interrupt. Only without [`Hardware::HW`].
    const EOI: u64 = match Self::VERSION {
        Version::V2 => GICH_LR::EOI::SET.value,
        Version::V3 => ICH_LR::EOI::SET.value,
    };

    /// A list register's link to a shared physical interrupt reaches it only on the CPU that acknowledged it. So it is
    /// in QEMU's GICv2 (up to 7.2 at least), which keeps the active state of shared interrupts per CPU.
    const LINKS_ARE_LOCAL: bool = matches!(Self::VERSION, Version::V2);

    /// How many list registers there are; the same on all CPUs, at most [`MAX_LRS`].
    fn lr_count(&self) -> usize;
    /// Reads list register `n`.
    fn lr(&self, n: usize) -> u64;
    /// Writes list register `n`.
    fn set_lr(&self, n: usize, value: u64);
    /// Which list registers hold no interrupt, one bit each.
    fn empty_lrs(&self) -> u32;
    /// Switches the underflow maintenance interrupt: "at most one list register is in use".
    fn set_underflow(&self, on: bool);
    /// The guest's masks and enables as they are now.
    fn vmcr(&self) -> u64;
    /// Reads the guest's CPU interface and stops presenting interrupts.
    fn save_interface(&self, to: &mut CpuInterface);
    /// Loads a guest's CPU interface and presents interrupts from now on.
    fn load_interface(&self, from: &CpuInterface, underflow: bool);

    /// Lets a physical shared interrupt through.
    fn enable(&self, intid: u32);
    /// Holds a physical shared interrupt back.
    fn disable(&self, intid: u32);
    /// Sets how a physical shared interrupt's line signals.
    fn configure(&self, intid: u32, trigger: Trigger);
    /// Makes a physical shared interrupt pending.
    fn set_pending(&self, intid: u32);
    /// Sends a physical shared interrupt to `cpu`.
    fn route(&self, intid: u32, cpu: CpuId);
    /// Deactivates a private physical interrupt of the executing CPU that was acknowledged there.
    fn finish_private(&self, intid: u32);
    /// Deactivates a shared physical interrupt, wherever it was acknowledged.
    fn finish_shared(&self, intid: u32);
    /// Makes a private physical interrupt of the executing CPU `cpu` active, so that its line is not looked at.
    fn set_active(&self, cpu: CpuId, intid: u32);
}

/// A list register value with the interrupt pending.
#[must_use]
pub const fn pending_lr(version: Version, intid: u32, priority: u8, physical: Option<u32>) -> u64 {
    match version {
        Version::V2 => {
            let base = GICH_LR::INTID.val(intid as u64).value
                | GICH_LR::PRIORITY.val(priority as u64 >> 3).value
                | GICH_LR::PENDING::SET.value;
            match physical {
                Some(line) => {
                    base | GICH_LR::HW::SET.value | GICH_LR::PHYSICAL.val(line as u64).value
                }
                None => base,
            }
        }
        Version::V3 => {
            let base = ICH_LR::INTID.val(intid as u64).value
                | ICH_LR::PRIORITY.val(priority as u64).value
                | ICH_LR::GROUP1::SET.value
                | ICH_LR::PENDING::SET.value;
            match physical {
                Some(line) => {
                    base | ICH_LR::HW::SET.value | ICH_LR::PHYSICAL.val(line as u64).value
                }
                None => base,
            }
        }
    }
}

/// A list register value without its link to a physical interrupt.
#[must_use]
pub const fn unlinked(version: Version, lr: u64) -> u64 {
    match version {
        Version::V2 => {
            lr & !(GICH_LR::HW::SET.value | GICH_LR::PHYSICAL.mask << GICH_LR::PHYSICAL.shift)
        }
        Version::V3 => {
            lr & !(ICH_LR::HW::SET.value | ICH_LR::PHYSICAL.mask << ICH_LR::PHYSICAL.shift)
        }
    }
}

/// A GICv2 list register value for a software interrupt that vCPU `source` sent.
#[must_use]
pub const fn with_source(lr: u64, source: u8) -> u64 {
    lr | GICH_LR::CPU.val(source as u64).value
}

/// The priority that a list register holds, widened to eight bits.
#[must_use]
pub fn lr_priority(version: Version, lr: u64) -> u8 {
    match version {
        Version::V2 => (GICH_LR::PRIORITY.read(lr) << 3) as u8,
        Version::V3 => ICH_LR::PRIORITY.read(lr) as u8,
    }
}

/// Interrupts with a priority number below this one are presented to the guest; 0 when none is.
#[must_use]
pub fn threshold(version: Version, vmcr: u64) -> u8 {
    match version {
        Version::V2 => {
            let vmcr = vmcr as u32;
            if GICH_VMCR::ENABLE_GRP0.is_set(vmcr) {
                (GICH_VMCR::PRIORITY_MASK.read(vmcr) << 3) as u8
            } else {
                0
            }
        }
        Version::V3 => {
            if ICH_VMCR::ENABLE_GRP1.is_set(vmcr) {
                ICH_VMCR::PRIORITY_MASK.read(vmcr) as u8
            } else {
                0
            }
        }
    }
}
