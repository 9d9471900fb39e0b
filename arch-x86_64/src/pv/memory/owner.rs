//! Whose frames a request may map, and with what rights.

use xenolith_core::{DomId, Domain, Errno, guest::Caller, hypercall::Privilege};
use xenolith_hal::Hal;

use super::{Machine, PageTables, entry};

/// What leaf entries may lead to.
pub struct Rights<'a, H: Hal> {
    /// Whose frames.
    pub owner: DomId,
    /// Whose rights on devices count.
    pub io: &'a Domain<H>,
    /// Bits that a leaf entry may not have.
    pub refused: u64,
    /// They are frames of a translated domain, whose use is not counted.
    pub untyped: bool,
}

impl<H: Hal> Clone for Rights<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Hal> Copy for Rights<'_, H> {}

/// A domain that a hypercall names.
pub(super) enum Named<H: Hal> {
    /// The caller, by `DOMID_SELF`.
    Own,
    /// Another one.
    Other(xenolith_core::DomainRef<H>),
    /// Nobody's frames: devices.
    Io,
    /// The hypervisor's frames.
    Xen,
}

impl<H: Hal> Named<H> {
    /// `ESRCH` when there is no such domain or it is the caller's own number, which is not another domain's.
    pub(super) fn find(caller: Caller<'_, H>, id: DomId) -> Result<Self, Errno> {
        match id {
            DomId::SELF => Ok(Self::Own),
            _ if id == caller.domain().id() => Err(Errno::ESRCH),
            DomId::IO => Ok(Self::Io),
            DomId::XEN => Ok(Self::Xen),
            _ => caller
                .hv
                .domains
                .get(id)
                .map(Self::Other)
                .ok_or(Errno::ESRCH),
        }
    }

    /// Whether the caller may act on it: itself, or all others for a privileged domain.
    pub(super) fn check(&self, caller: Caller<'_, H>) -> Result<(), Errno> {
        match self {
            Self::Own => Ok(()),
            _ => Privilege::of(caller).map(drop),
        }
    }

    /// Whose frames these are.
    pub(super) fn owner(&self, caller: Caller<'_, H>) -> DomId {
        match self {
            Self::Own => caller.domain().id(),
            Self::Other(domain) => domain.id(),
            Self::Io => DomId::IO,
            Self::Xen => DomId::XEN,
        }
    }

    /// The domain, or the caller for what is no domain's.
    pub(super) fn domain<'a>(&'a self, caller: Caller<'a, H>) -> &'a Domain<H> {
        match self {
            Self::Other(domain) => domain,
            _ => caller.domain(),
        }
    }
}

impl<'a, H: Hal, M: Machine<H>> PageTables<'a, H, M> {
    /// What the tables of `tables` may map when their entries are about frames of `owner`.
    #[inline]
    pub(super) fn rights<'d>(
        self,
        tables: &Domain<H>,
        owner: DomId,
        io: &'d Domain<H>,
    ) -> Rights<'d, H> {
        let refused = match self.machine.may_set_cache(tables) {
            true => self.machine.no_address(),
            false => self.machine.no_address() | entry::CACHE,
        };
        Rights {
            owner,
            io,
            refused,
            untyped: false,
        }
    }

    /// What the tables of `tables` may map when their entries are about another domain, or what is no domain's.
    pub(super) fn foreign_rights<'d>(
        self,
        tables: &Domain<H>,
        named: &'d Named<H>,
        caller: Caller<'d, H>,
    ) -> Rights<'d, H> {
        let untyped = match named {
            Named::Other(domain) => !domain.is_pv(),
            _ => false,
        };
        Rights {
            untyped,
            ..self.rights(tables, named.owner(caller), named.domain(caller))
        }
    }

    /// What a domain's tables may map by themselves.
    #[inline]
    pub fn own_rights<'d>(self, domain: &'d Domain<H>) -> Rights<'d, H> {
        self.rights(domain, domain.id(), domain)
    }
}
