//! The time of day, as guests find it in their shared info: seconds and nanoseconds since 1970 at system time zero.
//!
//! Header: `xen.h` (`wc_version`, `wc_sec`, `wc_nsec`, `wc_sec_hi`). The version is odd while the rest changes. Setting
//! the time is rare, so one lock orders all writers.

use xenolith_hal::{
    AtomicOp, Fault, Hal, Nanos,
    sync::{Mutex, Rank},
};

use crate::{Domain, Hypervisor};

const SECOND: u64 = 1_000_000_000;

/// The time of day at system time zero.
pub struct Wallclock(Mutex<Option<Nanos>>);

impl Wallclock {
    /// As the machine's own clock says.
    pub const fn new() -> Self {
        Self(Mutex::new(Rank::DomainTable, None))
    }
}

impl Default for Wallclock {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal> Hypervisor<H> {
    /// The time of day at system time zero, since 1970; zero when nobody knows.
    pub fn wallclock(&self) -> Nanos {
        let set = *self.wallclock.0.lock();
        set.unwrap_or_else(|| self.hal.boot_wallclock())
    }

    /// Sets it and tells every domain.
    pub fn set_wallclock(&self, at_boot: Nanos) {
        let mut set = self.wallclock.0.lock();
        *set = Some(at_boot);
        self.domains
            .for_each(|domain| self.tell_wallclock(domain, at_boot));
    }

    /// Writes it into the shared info of a domain that was just made.
    pub fn update_wallclock(&self, domain: &Domain<H>) {
        let set = self.wallclock.0.lock();
        let at_boot = set.unwrap_or_else(|| self.hal.boot_wallclock());
        self.tell_wallclock(domain, at_boot);
    }

    fn tell_wallclock(&self, domain: &Domain<H>, at_boot: Nanos) {
        let (page, layout) = (domain.shared_info, domain.info_layout());
        let swap = |offset, value| self.hal.atomic32(page, offset, AtomicOp::Swap(value));
        let tell = || -> Result<(), Fault> {
            let version = self.hal.atomic32(page, layout.wc_version, AtomicOp::Load)? | 1;
            swap(layout.wc_version, version)?;
            let seconds = at_boot.0 / SECOND;
            swap(layout.wc_sec, seconds as u32)?;
            swap(layout.wc_sec_hi, (seconds >> 32) as u32)?;
            swap(layout.wc_nsec, (at_boot.0 % SECOND) as u32)?;
            swap(layout.wc_version, version.wrapping_add(1))?;
            Ok(())
        };
        // A domain whose page is gone does not look at the time any more.
        let _ = tell();
    }
}
