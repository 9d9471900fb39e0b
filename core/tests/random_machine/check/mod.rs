//! What must hold between two steps. The expected numbers are counted anew from what the domains hold, by other ways than
//! the hypervisor counts them.

mod events;
mod frames;
mod grants;
mod sched;

use crate::machine::Machine;

impl Machine {
    /// All of it.
    pub fn check(&self) {
        self.check_cpus();
        self.check_waits();
        self.check_accounts();
        self.check_places();
        self.check_events();
        let pinned = self.check_grants();
        self.check_frames(&pinned);
        self.check_machine_to_phys();
        self.check_free_memory_is_blank();
    }
}
