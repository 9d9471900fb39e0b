//! The machine under the page tables of PV guests.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_abi::vm_assist::Assist;
use xenolith_core::{Domain, Errno, VcpuRef, guest::Caller};
use xenolith_hal::{CpuMask, GuestVirt, Mfn};
use zerocopy::IntoBytes;

use super::{
    access, descriptors, flush, io,
    isolation::cpu as isolation,
    memory::{AddressSpace, Flush, IoAccess, Machine, PageTables, Words},
    switch,
    vcpu::{Mode, PvVcpu},
};
use crate::{
    X86_64,
    cpu::{
        errand::{self, Errand},
        percpu::PerCpu,
    },
    machine,
    mm::{hyp::Hyp, layout::ROOT_SLOTS, machine_to_phys},
};

/// The executing CPU, as page tables see it.
pub struct ThisCpu(pub &'static PerCpu);

impl ThisCpu {
    /// The executing CPU.
    #[inline(always)]
    #[must_use]
    pub fn of() -> Option<Self> {
        PerCpu::try_current().map(Self)
    }

    /// The page tables of all PV guests.
    #[inline(always)]
    #[must_use]
    pub fn tables(&self) -> PageTables<'_, X86_64, Self> {
        PageTables {
            hv: self.0.hv,
            machine: self,
        }
    }
}

/// Puts the machine-to-physical table into a root that was made without it, if its domain does not want that otherwise.
#[cold]
#[inline(never)]
fn show_frames(domain: &Domain<X86_64>, word: &AtomicU64) {
    if !domain.assists(Assist::M2pStrict)
        && let Some(own) = Hyp::root_entries().get(machine_to_phys::SLOT)
    {
        word.store(own.load(Relaxed), Relaxed);
        isolation::root_made(domain);
    }
}

/// Of vCPUs that are none of a PV guest's: never asked for.
static NOT_PV: AddressSpace = AddressSpace::new();

impl Machine<X86_64> for ThisCpu {
    #[inline(always)]
    fn address_space<'a>(&'a self, vcpu: &'a VcpuRef<X86_64>) -> &'a AddressSpace {
        vcpu.arch.pv().map_or(&NOT_PV, |pv| &pv.space)
    }

    #[inline(always)]
    fn read_words<const N: usize>(
        &self,
        _: Caller<'_, X86_64>,
        at: GuestVirt,
    ) -> Result<[u64; N], Errno> {
        let mut words = [0; N];
        let read = if let Ok(pair) = <&mut [u64; 2]>::try_from(&mut words[..]) {
            access::read_2(at.0).map(|read| *pair = read)
        } else if let Ok(triple) = <&mut [u64; 3]>::try_from(&mut words[..]) {
            access::read_3(at.0).map(|read| *triple = read)
        } else {
            access::read(at.0, words.as_mut_bytes())
        };
        read.map(|()| words).map_err(|_| Errno::EFAULT)
    }

    #[inline(always)]
    fn write_count(&self, _: Caller<'_, X86_64>, at: GuestVirt, count: u32) -> Result<(), Errno> {
        access::write_half(at.0, count).map_err(|_| Errno::EFAULT)
    }

    fn io(&self, domain: &Domain<X86_64>, mfn: Mfn) -> IoAccess {
        io::access(domain, mfn)
    }

    #[inline(always)]
    fn no_address(&self) -> u64 {
        machine::no_address()
    }

    #[inline(always)]
    fn may_set_cache(&self, domain: &Domain<X86_64>) -> bool {
        domain.arch.owns_devices
    }

    fn shows(&self, mfn: Mfn) -> bool {
        machine_to_phys::has(mfn)
    }

    #[inline(always)]
    fn kernel_uses(&self, domain: &Domain<X86_64>, root: &Words) {
        if let Some(word) = root.get(machine_to_phys::SLOT)
            && word.load(Relaxed) == 0
        {
            show_frames(domain, word);
        }
    }

    fn user_uses(&self, domain: &Domain<X86_64>, root: &Words) {
        if let Some(word) = root.get(machine_to_phys::SLOT)
            && domain.assists(Assist::M2pStrict)
        {
            word.store(0, Relaxed);
            isolation::root_made(domain);
        }
    }

    fn fill_root(&self, domain: &Domain<X86_64>, _: Mfn, words: &Words) {
        let own = Hyp::root_entries();
        for (word, own) in words
            .iter()
            .zip(own)
            .skip(ROOT_SLOTS.start)
            .take(ROOT_SLOTS.len())
        {
            word.store(own.load(Relaxed), Relaxed);
        }
        // Programs may never see it.
        if !domain.assists(Assist::M2pStrict)
            && let Some(word) = words.get(machine_to_phys::SLOT)
        {
            word.store(0, Relaxed);
        }
        isolation::root_made(domain);
    }

    fn root_changed(&self, root: Mfn, _: usize) {
        isolation::root_changed(self.0, root);
    }

    #[cold]
    fn mixes_domains(&self) {
        flush::note_mixed();
    }

    #[inline(always)]
    fn load_root(&self, _: &VcpuRef<X86_64>, root: Mfn) {
        flush::with_root_load(|| switch::load_root(root));
    }

    fn cpus_of(&self, domain: &Domain<X86_64>, vcpu: usize) -> CpuMask {
        let Some(vcpu) = domain.vcpus.get(vcpu) else {
            return CpuMask::EMPTY;
        };
        match vcpu.arch.pv().and_then(PvVcpu::cpu) {
            Some(cpu) => CpuMask::only(cpu),
            None => CpuMask::EMPTY,
        }
    }

    fn cpus_of_all(&self, domain: &Domain<X86_64>) -> CpuMask {
        flush::present(domain)
    }

    #[inline(always)]
    fn flush_here(&self, what: Flush) {
        match what {
            Flush::All => flush::local(),
            Flush::Page(address) => flush::page(address.0),
        }
    }

    fn flush(&self, cpus: &CpuMask, what: Flush) {
        if *cpus == CpuMask::only(self.0.id) {
            return self.flush_here(what);
        }
        flush::cpus(self.0, cpus, what);
    }

    #[inline]
    fn flush_domain(&self, domain: &Domain<X86_64>, what: Flush) {
        match &domain.arch.pv {
            Some(pv) if pv.present.is_only(self.0.id) => self.flush_here(what),
            _ => self.flush(&self.cpus_of_all(domain), what),
        }
    }

    fn flush_caches(&self, everywhere: bool) {
        match everywhere {
            true => errand::everywhere(self.0, Errand::WriteBackCaches),
            false => errand::write_back_caches(),
        }
    }

    fn set_ldt(&self, vcpu: &VcpuRef<X86_64>, base: GuestVirt, entries: u32) -> Result<(), Errno> {
        let pv = vcpu.arch.pv().ok_or(Errno::EINVAL)?;
        descriptors::set_local(pv, base.0, entries)
    }
}

impl PvVcpu {
    /// The root table of who runs.
    #[inline(always)]
    #[must_use]
    pub fn root(&self) -> Option<Mfn> {
        match self.mode.get() {
            Mode::Kernel => self.space.kernel(),
            Mode::User => self.space.user(),
        }
    }
}
