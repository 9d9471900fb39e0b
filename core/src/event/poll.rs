//! What `sched_poll` needs of event channels.
//!
//! A vCPU that polls announces itself, then asks [`Hypervisor::any_pending`], then blocks. A sender sets the bit first
//! and looks for pollers after, so at least one of both sees the other.

use xenolith_abi::{Errno, Port};
use xenolith_hal::Hal;

use crate::{DomainRef, Hypervisor};

impl<H: Hal> Hypervisor<H> {
    /// Whether any of the ports is pending. `EINVAL` at the first number that no port of the domain can have.
    pub fn any_pending(
        &self,
        domain: &DomainRef<H>,
        ports: impl IntoIterator<Item = Port>,
    ) -> Result<bool, Errno> {
        let backend = domain.events.backend();
        for port in ports {
            if port.0 >= backend.ports(domain) {
                return Err(Errno::EINVAL);
            }
            if backend.is_pending(&self.hal, domain, port) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
