//! What page tables need of the machine. On hardware the backend implements it, in tests the simulated machine.

use xenolith_core::{Domain, Errno, VcpuRef, guest::Caller};
use xenolith_hal::{CpuMask, GuestVirt, Hal, Mfn};
use zerocopy::IntoBytes;

use super::{AddressSpace, Words};

/// How a domain may map a frame that has no record: registers of devices, tables of the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoAccess {
    /// Not at all.
    Refused,
    /// For reading; an entry that allows writing loses that.
    ReadOnly,
    /// As it likes.
    ReadWrite,
}

/// What to flush from a TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Every translation of guests, global ones too.
    All,
    /// Translations of this address.
    Page(GuestVirt),
}

/// The machine under the page tables.
pub trait Machine<H: Hal> {
    /// The roots of a vCPU and what its hypercalls left undone.
    fn address_space<'a>(&'a self, vcpu: &'a VcpuRef<H>) -> &'a AddressSpace;

    /// Reads words of the caller's memory.
    #[inline(always)]
    fn read_words<const N: usize>(
        &self,
        caller: Caller<'_, H>,
        at: GuestVirt,
    ) -> Result<[u64; N], Errno> {
        let mut words = [0; N];
        caller.read_bytes(at, words.as_mut_bytes())?;
        Ok(words)
    }

    /// Writes a count into the caller's memory.
    #[inline(always)]
    fn write_count(&self, caller: Caller<'_, H>, at: GuestVirt, count: u32) -> Result<(), Errno> {
        caller.write(at, &count)
    }

    /// How a domain may map a frame that is no RAM of a domain's. RAM that is allowed here must stay the machine's for ever:
    /// nothing is counted for such mappings.
    fn io(&self, domain: &Domain<H>, mfn: Mfn) -> IoAccess;

    /// Bits of an entry's address that no physical address of the machine has: the CPU faults on such entries.
    fn no_address(&self) -> u64 {
        0
    }

    /// Whether a frame is the hypervisor's, for ever, and there for privileged domains to read (as `DOMID_XEN`'s).
    fn shows(&self, mfn: Mfn) -> bool {
        let _ = mfn;
        false
    }

    /// A kernel of a domain is about to use a root: it sees the machine-to-physical table there, unless the domain wants to
    /// see to that itself (`VMASST_TYPE_m2p_strict`: then roots are made with it).
    fn kernel_uses(&self, domain: &Domain<H>, root: &Words) {
        let _ = (domain, root);
    }

    /// Programs are about to use a root: with `m2p_strict` they see nothing of the table there.
    fn user_uses(&self, domain: &Domain<H>, root: &Words) {
        let _ = (domain, root);
    }

    /// Whether a domain may choose cache attributes, and flush caches: it has devices.
    fn may_set_cache(&self, domain: &Domain<H>) -> bool;

    /// Writes the hypervisor's slots (256 to 271) of a table that becomes a root of a domain's.
    fn fill_root(&self, domain: &Domain<H>, root: Mfn, words: &Words);

    /// Tables of a domain are about to lead to frames of a third one's, which neither of them has a grant for: a domain that
    /// controls both wants that.
    fn mixes_domains(&self) {}

    /// An entry of a root changed, which may be loaded on CPUs. For machines that run guests on copies of roots.
    fn root_changed(&self, root: Mfn, slot: usize) {
        let _ = (root, slot);
    }

    /// The vCPU, whose kernel runs on this CPU, has a root for it, which may be the one that it had: loads it, which flushes
    /// what is not global.
    fn load_root(&self, vcpu: &VcpuRef<H>, root: Mfn);

    /// The CPUs that may have translations of a vCPU in their TLBs. Numbers that the domain does not have are empty.
    fn cpus_of(&self, domain: &Domain<H>, vcpu: usize) -> CpuMask;

    /// The same of all vCPUs of a domain.
    fn cpus_of_all(&self, domain: &Domain<H>) -> CpuMask;

    /// Flushes this CPU.
    fn flush_here(&self, what: Flush);

    /// Flushes CPUs; returns when they have.
    fn flush(&self, cpus: &CpuMask, what: Flush);

    /// Flushes every CPU that may have translations of a domain.
    #[inline]
    fn flush_domain(&self, domain: &Domain<H>, what: Flush) {
        let cpus = self.cpus_of_all(domain);
        if !cpus.is_empty() {
            self.flush(&cpus, what);
        }
    }

    /// Writes back and empties the caches of this CPU, or of all.
    fn flush_caches(&self, everywhere: bool);

    /// The vCPU's LDT is `entries` descriptors at an address that is page-aligned and the guest's.
    fn set_ldt(&self, vcpu: &VcpuRef<H>, base: GuestVirt, entries: u32) -> Result<(), Errno>;
}
