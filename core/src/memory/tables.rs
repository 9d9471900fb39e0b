//! Table frames for a domain's second-level translation, charged to the domain.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_hal::{Hal, Mfn, NoMemory, Order, TableFrames};

use super::{Charge, DomainMemory, Memory, Place};

/// Gives table frames to the p2m of one domain and takes them back. Made anew for each call; holds nothing.
pub struct DomainTables<'a, H: Hal> {
    hal: &'a H,
    memory: &'a Memory,
    account: &'a DomainMemory,
}

impl<'a, H: Hal> DomainTables<'a, H> {
    /// Frames out of `memory` on the account of a domain.
    pub fn new(hal: &'a H, memory: &'a Memory, account: &'a DomainMemory) -> Self {
        Self {
            hal,
            memory,
            account,
        }
    }
}

impl<H: Hal> TableFrames for DomainTables<'_, H> {
    fn allocate(&self) -> Result<Mfn, NoMemory> {
        self.allocate_block(0)
    }

    fn allocate_block(&self, order: Order) -> Result<Mfn, NoMemory> {
        let frames = 1_u64.checked_shl(order).ok_or(NoMemory)?;
        self.account.charge(Charge::Hypervisor, frames)?;
        let Some(mfn) = self.memory.allocate(order, Place::ANY) else {
            self.account.uncharge(Charge::Hypervisor, frames);
            return Err(NoMemory);
        };
        self.account.tables.fetch_add(frames, Relaxed);
        self.hal.zero_frames(mfn, order);
        Ok(mfn)
    }

    fn free(&self, mfn: Mfn) {
        self.memory.free(mfn, 0);
        self.account.tables.fetch_sub(1, Relaxed);
        self.account.uncharge(Charge::Hypervisor, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::rig::Rig;

    #[test]
    fn a_table_counts_while_it_is_there() {
        let rig = Rig::new();
        let [_, domain] = &rig.domains[..] else {
            panic!("two domains")
        };
        let tables = rig.hv.tables(domain);
        let counted = || domain.memory.tables.load(Relaxed);
        let before = counted();
        let mfn = tables.allocate().unwrap();
        assert_eq!(counted(), before + 1);
        tables.free(mfn);
        assert_eq!(counted(), before);
    }
}
