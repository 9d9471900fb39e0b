//! What must hold between two steps. The expected numbers are counted anew from what the domains hold, by other ways than
//! the hypervisor counts them.

mod events;
mod frames;
mod grants;
mod sched;

use crate::machine::Machine;

impl Machine {
    /// The cheap checks, after every step.
    pub fn check_step(&self) {
        self.check_cpus();
        self.check_waits();
        self.check_accounts();
    }

    /// All that can be checked at any time.
    pub fn check_everything(&self) {
        self.check_places();
        self.check_events();
        let pinned = self.check_grants();
        self.check_frames(&pinned);
    }
}
