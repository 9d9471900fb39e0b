//! Why a kernel cannot be started as a PV guest, in one line each.

use core::fmt;

/// What is wrong with its notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PvError {
    /// It has no note that gives the PV entry.
    NoEntry,
    /// It is not 64-bit x86 code.
    NotWide,
    /// A note (its number) that is to be a number, or pairs of them, has so many bytes.
    NoteSize(u32, usize),
    /// It was made for another version of Xen's interface.
    Version,
    /// It was made for a loader of its own.
    Loader,
    /// It requires a feature that PV guests are not offered.
    Feature,
    /// An address (the note that has it) that must be that of a page is none.
    Unaligned(&'static str, u64),
    /// An address (the note that has it) that must lie in the kernel does not.
    Outside(&'static str, u64),
    /// Something would lie, from here to there, where a PV guest has no addresses, or where something else is.
    Place(u64, u64),
    /// The list of frames would start where the kernel is, or where a PV guest has no addresses.
    List(u64),
    /// It wants the hypervisor to be above this address.
    Hole(u64),
}

impl fmt::Display for PvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel: ")?;
        match self {
            Self::NoEntry => f.write_str(
                "no PV entry (ELF note 1, ENTRY); build the kernel with PV support (Linux: CONFIG_XEN_PV)",
            ),
            Self::NotWide => f.write_str(
                "it is a 32-bit PV kernel, and PV guests have 64 bits here; give a 64-bit kernel, or start it by PVH",
            ),
            Self::NoteSize(note, size) => write!(
                f,
                "ELF note {note} has {size} bytes, which is no number; build the kernel again"
            ),
            Self::Version => f.write_str(
                "ELF note 5 (XEN_VERSION) is not \"xen-3.0\", the one interface that there is; build the kernel for that",
            ),
            Self::Loader => f.write_str(
                "ELF note 8 (LOADER) is not \"generic\"; build the kernel for the generic loader",
            ),
            Self::Feature => f.write_str(
                "ELF note 10 (FEATURES) requires a feature that PV guests are not offered; build the kernel without it",
            ),
            Self::Unaligned(note, at) => write!(
                f,
                "ELF note {note} gives {at:#x}, which is not the address of a page; link the kernel again"
            ),
            Self::Outside(note, at) => write!(
                f,
                "ELF note {note} gives {at:#x}, which lies in none of the kernel's segments; link the kernel again"
            ),
            Self::Place(start, end) => write!(
                f,
                "it would lie at {start:#x} to {end:#x}, where a PV guest has no room for it; link the kernel elsewhere (VIRT_BASE, PADDR_OFFSET)"
            ),
            Self::List(at) => write!(
                f,
                "ELF note 15 (INIT_P2M) gives {at:#x}, where the kernel is or a PV guest has no addresses; link the kernel again"
            ),
            Self::Hole(at) => write!(
                f,
                "ELF note 12 (HV_START_LOW) wants the addresses below {at:#x} free, and the hypervisor starts at 0xffff800000000000; build the kernel for 64-bit PV"
            ),
        }
    }
}
