//! What a machine's interrupt controller is made of, as plain data: found in the device tree and mapped by boot code.

/// Which architecture of interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: memory-mapped CPU interface, at most 8 CPUs.
    V2,
    /// GICv3 or GICv4: CPU interface in system registers.
    V3,
}

/// A run of redistributors, mapped.
#[derive(Clone, Copy, Debug)]
pub struct RedistRegion {
    /// First byte, as mapped for the hypervisor.
    pub base: *mut u8,
    /// Length in bytes.
    pub len: usize,
}

impl RedistRegion {
    /// No region.
    pub const NONE: Self = Self {
        base: core::ptr::null_mut(),
        len: 0,
    };
}

/// Most redistributor regions that a machine may have.
pub const MAX_REGIONS: usize = 16;

/// Private interrupts that the hypervisor itself deals with, by interrupt number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ppis {
    /// The hypervisor's own timer.
    pub hyp_timer: u32,
    /// The timer that a guest programs itself.
    pub virtual_timer: u32,
    /// What the list registers raise.
    pub maintenance: u32,
}

impl Default for Ppis {
    /// The numbers that the Base System Architecture recommends and QEMU uses.
    fn default() -> Self {
        Self {
            hyp_timer: 26,
            virtual_timer: 27,
            maintenance: 25,
        }
    }
}

/// The mapped register frames. Pointers of the other version are null.
#[derive(Clone, Copy, Debug)]
pub struct GicInfo {
    /// Which drivers to use.
    pub version: Version,
    /// Distributor: at least 4 KiB for GICv2, 64 KiB for GICv3.
    pub dist: *mut u8,
    /// GICv3: the redistributor regions; unused places are [`RedistRegion::NONE`].
    pub redist: [RedistRegion; MAX_REGIONS],
    /// GICv2: the CPU interface (`GICC`), 8 KiB.
    pub cpu: *mut u8,
    /// GICv2: the hypervisor interface (`GICH`), 4 KiB.
    pub hypervisor: *mut u8,
    /// The private interrupts.
    pub ppis: Ppis,
}

/// Why an interrupt controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicError {
    /// The image was built without the driver for this version.
    NotBuilt(Version),
    /// A frame that this version needs is not there.
    MissingFrame(&'static str),
    /// The CPU has no system registers for the interrupt controller, or firmware keeps them closed.
    NoSystemRegisters,
    /// No redistributor says that it belongs to this CPU (its affinity follows).
    NoRedistributor(u32),
}

impl core::fmt::Display for GicError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotBuilt(version) => write!(
                f,
                "the machine has a {}, and this image was built without its driver: build it with the feature {}",
                match version {
                    Version::V2 => "GICv2",
                    Version::V3 => "GICv3",
                },
                match version {
                    Version::V2 => "gicv2",
                    Version::V3 => "gicv3",
                }
            ),
            Self::MissingFrame(name) => write!(
                f,
                "the device tree's interrupt controller lacks its {name} frame; virtualization needs it"
            ),
            Self::NoSystemRegisters => f.write_str(
                "firmware keeps the GICv3 system registers closed to EL2 (ICC_SRE_EL3.Enable must be set)",
            ),
            Self::NoRedistributor(affinity) => write!(
                f,
                "no redistributor in the device tree's regions belongs to the CPU with affinity {affinity:#x}"
            ),
        }
    }
}
