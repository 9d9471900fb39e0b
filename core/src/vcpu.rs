//! Virtual CPUs.
//!
//! A vCPU lives inside its domain; whoever needs one for longer holds a [`VcpuRef`], which keeps the domain alive.

use xenolith_hal::Hal;

use crate::{
    Domain, DomainRef,
    event::{InfoPlace, VirqPorts},
    sched::VcpuSched,
    timer::VcpuTimers,
};

/// A vCPU's number inside its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u16);

/// One virtual CPU.
pub struct Vcpu<H: Hal> {
    /// Its number.
    pub id: VcpuId,
    /// The architecture's part: registers and virtual interrupt state.
    pub arch: H::Vcpu,
    /// What the scheduler knows of it.
    pub sched: VcpuSched,
    /// Its timers.
    pub timers: VcpuTimers,
    /// Where its guest put its `vcpu_info`.
    pub info: InfoPlace,
    /// The ports that its virtual interrupts are bound to.
    pub virqs: VirqPorts,
}

impl<H: Hal> Vcpu<H> {
    /// A vCPU that is down.
    pub fn new(id: VcpuId, arch: H::Vcpu) -> Self {
        Self {
            id,
            arch,
            sched: VcpuSched::new(),
            timers: VcpuTimers::new(),
            info: InfoPlace::new(),
            virqs: VirqPorts::new(),
        }
    }
}

/// A vCPU together with the domain that it lives in.
pub struct VcpuRef<H: Hal> {
    domain: DomainRef<H>,
    index: usize,
}

impl<H: Hal> VcpuRef<H> {
    /// The vCPU `id` of a domain; `None` when the domain has no such vCPU.
    pub fn new(domain: &DomainRef<H>, id: VcpuId) -> Option<Self> {
        domain.vcpus.get(usize::from(id.0))?;
        Some(Self {
            domain: domain.clone(),
            index: usize::from(id.0),
        })
    }

    /// Each vCPU of a domain.
    pub fn all(domain: &DomainRef<H>) -> impl Iterator<Item = Self> + '_ {
        (0..domain.vcpus.len()).map(|index| Self {
            domain: domain.clone(),
            index,
        })
    }

    /// Its domain.
    #[inline]
    pub fn domain(&self) -> &DomainRef<H> {
        &self.domain
    }

    /// The vCPU itself.
    #[inline]
    #[allow(
        clippy::indexing_slicing,
        reason = "`new` checked the index and the list never changes"
    )]
    pub fn vcpu(&self) -> &Vcpu<H> {
        let domain: &Domain<H> = &self.domain;
        &domain.vcpus[self.index]
    }
}

impl<H: Hal> Clone for VcpuRef<H> {
    fn clone(&self) -> Self {
        Self {
            domain: self.domain.clone(),
            index: self.index,
        }
    }
}

impl<H: Hal> PartialEq for VcpuRef<H> {
    fn eq(&self, other: &Self) -> bool {
        alloc::sync::Arc::ptr_eq(&self.domain, &other.domain) && self.index == other.index
    }
}

impl<H: Hal> core::ops::Deref for VcpuRef<H> {
    type Target = Vcpu<H>;
    #[inline]
    fn deref(&self) -> &Vcpu<H> {
        self.vcpu()
    }
}
