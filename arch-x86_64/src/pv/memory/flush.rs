//! Flushes that a guest asks for: which CPUs they are for.

use xenolith_core::{Errno, guest::Caller};
use xenolith_hal::{CpuMask, GuestVirt, Hal};

use super::{Flush, Machine, PageTables};

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// The CPUs that may have translations of the vCPUs in a bitmap of the caller's.
    pub(super) fn cpus_in(
        self,
        caller: Caller<'_, H>,
        bitmap: GuestVirt,
    ) -> Result<CpuMask, Errno> {
        let domain = caller.domain();
        let mut cpus = CpuMask::EMPTY;
        for (first, index) in (0..domain.vcpus.len()).step_by(64).zip(0..) {
            let mut word: u64 = caller.read_at(bitmap, index)?;
            while word != 0 {
                let vcpu = first + word.trailing_zeros() as usize;
                word &= word - 1;
                if vcpu < domain.vcpus.len() {
                    for cpu in self.machine.cpus_of(domain, vcpu).iter() {
                        cpus.insert(cpu);
                    }
                }
            }
        }
        Ok(cpus)
    }

    /// The same for a request of `mmuext_op`: `EINVAL` when the bitmap cannot be read.
    pub(super) fn cpus_named(
        self,
        caller: Caller<'_, H>,
        bitmap: GuestVirt,
    ) -> Result<CpuMask, Errno> {
        self.cpus_in(caller, bitmap).map_err(|_| Errno::EINVAL)
    }

    /// Flushes what vCPUs in such a bitmap may have.
    pub(super) fn flush_some(
        self,
        caller: Caller<'_, H>,
        bitmap: GuestVirt,
        what: Flush,
    ) -> Result<(), Errno> {
        let cpus = self.cpus_named(caller, bitmap)?;
        self.flush_cpus(&cpus, what);
        Ok(())
    }

    /// Flushes what any vCPU of the caller may have.
    #[inline]
    pub(super) fn flush_all(self, caller: Caller<'_, H>, what: Flush) {
        self.machine.flush_domain(caller.domain(), what);
    }

    #[inline]
    pub(super) fn flush_cpus(self, cpus: &CpuMask, what: Flush) {
        if !cpus.is_empty() {
            self.machine.flush(cpus, what);
        }
    }
}
