//! Names of domains, event-channel ports and grants as they stand on the wire.
//!
//! Headers: `xen.h`, `event_channel.h`, `grant_table.h`. Each is a transparent newtype, so that one
//! cannot be passed for another; any value may come from a guest and says nothing about existence.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The name of a domain (`domid_t`).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct DomId(pub u16);

impl DomId {
    /// Names from here on belong to no ordinary domain.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// "The calling domain", where a call allows it.
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of device memory, as a foreign domain of memory calls.
    pub const IO: Self = Self(0x7ff1);
    /// Owner of hypervisor memory that a privileged domain may map.
    pub const XEN: Self = Self(0x7ff2);
    /// Owner of shared copy-on-write pages.
    pub const COW: Self = Self(0x7ff3);
    /// No domain at all.
    pub const INVALID: Self = Self(0x7ff4);
    /// The domain of the idle vCPUs.
    pub const IDLE: Self = Self(0x7fff);
    /// The bits that may be set in a name.
    pub const MASK: u16 = 0x7fff;

    /// Whether an ordinary domain may have this name.
    #[must_use]
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SELF => f.write_str("d[SELF]"),
            Self::IO => f.write_str("d[IO]"),
            Self::XEN => f.write_str("d[XEN]"),
            Self::COW => f.write_str("d[COW]"),
            Self::INVALID => f.write_str("d[INVALID]"),
            Self::IDLE => f.write_str("d[IDLE]"),
            Self(number) => write!(f, "d{number}"),
        }
    }
}

/// An event-channel port of one domain (`evtchn_port_t`). Port 0 is never allocated.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Port(pub u32);

/// An index into the grant table of the domain that grants (`grant_ref_t`).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

/// The name of a live grant mapping, given by the hypervisor to the domain that mapped
/// (`grant_handle_t`).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct GrantHandle(pub u32);

#[cfg(test)]
mod tests {
    use super::DomId;

    #[test]
    fn reserved_names_are_not_ordinary_domains() {
        assert!(DomId(0).is_ordinary() && DomId(0x7fef).is_ordinary());
        for id in [
            DomId::SELF,
            DomId::IO,
            DomId::XEN,
            DomId::IDLE,
            DomId(0x8000),
        ] {
            assert!(!id.is_ordinary());
        }
    }
}
