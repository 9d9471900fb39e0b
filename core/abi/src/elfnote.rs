//! Numbers of the ELF notes by which a kernel says how it wants to be started (`elfnote.h`). The notes' name is `Xen`.

/// The name of every note here, without the zero at its end.
pub const NAME: &[u8] = b"Xen";

/// Which note (`XEN_ELFNOTE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ElfNote {
    /// Virtual address where a PV kernel starts.
    Entry = 1,
    /// Virtual address of the page that the hypervisor fills with hypercall stubs.
    HypercallPage = 2,
    /// Virtual address of physical address 0.
    VirtBase = 3,
    /// What the physical addresses in the headers are relative to.
    PaddrOffset = 4,
    /// The version of Xen that the kernel was made for, a text.
    XenVersion = 5,
    /// The name of the system, a text.
    GuestOs = 6,
    /// Its version, a text.
    GuestVersion = 7,
    /// The kind of loader, a text.
    Loader = 8,
    /// Whether PAE is used, a text.
    PaeMode = 9,
    /// Features that are known and needed, a text.
    Features = 10,
    /// Whether the symbol table is to be loaded, a text.
    BsdSymtab = 11,
    /// The lowest virtual address that the hypervisor may have.
    HvStartLow = 12,
    /// Mask and value that tell a valid lowest-level table entry.
    L1MfnValid = 13,
    /// Whether a suspend may be called off.
    SuspendCancel = 14,
    /// Virtual address of the first table from physical to machine frames.
    InitP2m = 15,
    /// Whether the first module may be named by frame.
    ModStartPfn = 16,
    /// Features that are known, as bits.
    SupportedFeatures = 17,
    /// Physical address where a PVH kernel starts, in 32-bit mode.
    Phys32Entry = 18,
}
