//! Who may do what to whom, as values that only the check can make.

use xenolith_hal::Hal;

use crate::{DomId, DomainRef, Errno, guest::Caller};

/// The caller may control the machine and every domain.
#[derive(Clone, Copy, Debug)]
pub struct Privilege(());

impl Privilege {
    /// `EPERM` unless the calling domain is privileged.
    pub fn of<H: Hal>(caller: Caller<'_, H>) -> Result<Self, Errno> {
        if caller.domain().config.privileged {
            Ok(Self(()))
        } else {
            Err(Errno::EPERM)
        }
    }
}

/// The caller may act for this domain.
pub struct Control<H: Hal> {
    domain: DomainRef<H>,
    own: bool,
}

impl<H: Hal> Control<H> {
    /// Control over the domain with this name: itself, or any domain for a privileged caller.
    ///
    /// `ESRCH` when there is no such domain, `EPERM` when it is none of the caller's business.
    pub fn over(caller: Caller<'_, H>, id: DomId) -> Result<Self, Errno> {
        let own = caller.domain();
        if id == DomId::SELF || id == own.id() {
            return Ok(Self {
                domain: own.clone(),
                own: true,
            });
        }
        let domain = caller.hv.domains.get(id).ok_or(Errno::ESRCH)?;
        Privilege::of(caller)?;
        Ok(Self { domain, own: false })
    }

    /// The domain.
    pub fn domain(&self) -> &DomainRef<H> {
        &self.domain
    }

    /// Whether it is the caller itself.
    pub fn is_own(&self) -> bool {
        self.own
    }
}
