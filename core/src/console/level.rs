//! Which messages are printed: one threshold for the hypervisor's own, one for what domains cause (`loglvl=`,
//! `guest_loglvl=`).

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use log::{Level, LevelFilter};

/// `log` target of messages that a domain caused.
pub const GUEST: &str = "guest";

/// Both thresholds.
#[derive(Debug)]
pub struct Levels {
    own: AtomicUsize,
    guests: AtomicUsize,
}

impl Levels {
    /// Notices and worse.
    pub const fn new() -> Self {
        Self {
            own: AtomicUsize::new(LevelFilter::Info as usize),
            guests: AtomicUsize::new(LevelFilter::Info as usize),
        }
    }

    /// Sets the threshold of the hypervisor's own messages.
    pub fn set_own(&self, most: LevelFilter) {
        self.own.store(most as usize, Relaxed);
    }

    /// Sets the threshold of messages that domains cause, their own lines included (those count as notices).
    pub fn set_guests(&self, most: LevelFilter) {
        self.guests.store(most as usize, Relaxed);
    }

    /// Whether a message of this `log` target is printed.
    pub fn print(&self, target: &str, level: Level) -> bool {
        let most = if target == GUEST {
            &self.guests
        } else {
            &self.own
        };
        level as usize <= most.load(Relaxed)
    }
}

impl Default for Levels {
    fn default() -> Self {
        Self::new()
    }
}
