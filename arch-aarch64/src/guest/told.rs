//! What was logged of a domain already. Each oddity is told once for a domain and only so many in all, so that a guest that
//! does nothing else cannot fill the log. Nothing here waits: several vCPUs may ask at the same time.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::esr::SysReg;

/// As many different oddities of one domain are told.
const MOST: usize = 32;

/// What a guest did that may interest whoever reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// It used a register that does not exist for guests.
    Register(SysReg),
    /// It used breakpoints or watchpoints, which do nothing.
    Breakpoints,
    /// It made an exception of a class that nothing serves.
    Class(u64),
    /// It fetched an instruction from where nothing is.
    Fetch,
}

impl Oddity {
    /// A number that is not 0 and differs for each.
    const fn key(self) -> u32 {
        match self {
            Self::Register(reg) => 1 << 31 | reg.0,
            Self::Class(class) => 1 << 30 | class as u32,
            Self::Breakpoints => 1,
            Self::Fetch => 2,
        }
    }
}

/// Of one domain.
pub struct Told([AtomicU32; MOST]);

impl Told {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; MOST])
    }

    /// Whether this is the first time and is to be logged.
    pub fn first(&self, oddity: Oddity) -> bool {
        let key = oddity.key();
        for slot in &self.0 {
            match slot.compare_exchange(0, key, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(told) if told == key => return false,
                Err(_) => {}
            }
        }
        false
    }
}

impl Default for Told {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PMCR_EL0: SysReg = SysReg::new(3, 3, 9, 12, 0);
    const DBGBVR5_EL1: SysReg = SysReg::new(2, 0, 0, 5, 4);

    #[test]
    fn each_register_is_told_once_for_a_domain() {
        let (one, other) = (Told::new(), Told::new());
        assert!(one.first(Oddity::Register(PMCR_EL0)));
        assert!(one.first(Oddity::Register(DBGBVR5_EL1)));
        assert!(one.first(Oddity::Breakpoints) && one.first(Oddity::Class(3)));
        for _ in 0..100 {
            assert!(!one.first(Oddity::Register(PMCR_EL0)));
            assert!(!one.first(Oddity::Register(DBGBVR5_EL1)));
            assert!(!one.first(Oddity::Breakpoints) && !one.first(Oddity::Class(3)));
        }
        assert!(other.first(Oddity::Register(PMCR_EL0)));
    }

    #[test]
    fn a_guest_that_tries_every_register_is_told_of_so_often_and_no_more() {
        let told = Told::new();
        let all = (0..16).flat_map(|crn| (0..16).map(move |crm| SysReg::new(3, 3, crn, crm, 0)));
        let lines = all.filter(|reg| told.first(Oddity::Register(*reg))).count();
        assert_eq!(lines, MOST);
        assert!(!told.first(Oddity::Fetch));
    }

    #[test]
    fn of_vcpus_that_do_the_same_at_once_one_is_told() {
        let told = Told::new();
        let firsts: usize = std::thread::scope(|scope| {
            let tries = [(); 4].map(|()| scope.spawn(|| told.first(Oddity::Register(PMCR_EL0))));
            tries
                .map(|t| usize::from(t.join().expect("no panic")))
                .iter()
                .sum()
        });
        assert_eq!(firsts, 1);
    }
}
