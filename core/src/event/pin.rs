//! Event channels keep references on the frames in which guests put their `vcpu_info`.

use xenolith_abi::Errno;
use xenolith_hal::{Gfn, Hal, Mfn};

use crate::{DomainRef, Hypervisor};

impl<H: Hal> Hypervisor<H> {
    /// Takes a reference on a frame of the domain's own memory. `EINVAL` when it is none.
    pub(super) fn pin_own_frame(&self, domain: &DomainRef<H>, gfn: Gfn) -> Result<Mfn, Errno> {
        let frame = self.pin_own(domain, gfn).ok_or(Errno::EINVAL)?;
        Ok(frame.keep())
    }

    /// Gives the reference back.
    pub(super) fn unpin_own_frame(&self, mfn: Mfn) {
        self.put_frame(mfn);
    }
}
