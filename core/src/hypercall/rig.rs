//! What the tests of hypercalls stand on: a privileged domain 0, an ordinary domain 1, and memory for arguments.

use alloc::vec::Vec;

use xenolith_abi::Nr;
use xenolith_hal::GuestVirt;
use xenolith_sim::Sim;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Outcome, dispatch};
use crate::{
    DomainRef, Errno, Hypervisor, VcpuId, VcpuRef, domain::DomainConfig, guest::Caller, testing,
};

/// Guest address of the first of 15 writable pages.
pub(crate) const PAGE: u64 = 0x1000;
/// The last of them.
pub(crate) const LAST_PAGE: u64 = 0xf000;
/// Guest address with nothing behind it.
pub(crate) const NOWHERE: u64 = 0x100_0000;

pub(crate) struct Rig {
    pub(crate) hv: Hypervisor<Sim>,
    pub(crate) domains: Vec<DomainRef<Sim>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let hv = testing::hypervisor(&Sim::small());
        let domains = (0..2)
            .map(|id| {
                let config = DomainConfig {
                    direct_map: id == 0,
                    ..testing::config(id)
                };
                testing::domain_with(&hv, config, 16)
            })
            .collect();
        Self { hv, domains }
    }

    pub(crate) fn vcpu(&self, domain: u16) -> VcpuRef<Sim> {
        VcpuRef::new(&self.domains[usize::from(domain)], VcpuId(0)).unwrap()
    }

    /// Makes a hypercall once.
    pub(crate) fn raw(&self, from: u16, nr: u64, args: [u64; 5]) -> Outcome {
        let (hv, vcpu) = (&self.hv, &self.vcpu(from));
        dispatch(Caller { hv, vcpu }, nr, args)
    }

    /// Makes a hypercall, again and again while it has more to do.
    pub(crate) fn call(&self, from: u16, nr: Nr, mut args: [u64; 5]) -> Result<i64, Errno> {
        loop {
            match self.raw(from, nr.number(), args) {
                Outcome::Done(result) => {
                    return Errno::from_result(result as isize).map_or(Ok(result), Err);
                }
                Outcome::Again(next) => args = next,
            }
        }
    }

    /// Makes a hypercall that takes only a pointer.
    pub(crate) fn call_on<T: IntoBytes + Immutable>(
        &self,
        from: u16,
        nr: Nr,
        arg: &T,
    ) -> Result<i64, Errno> {
        self.hv_write(from, PAGE, arg);
        self.call(from, nr, [PAGE, 0, 0, 0, 0])
    }

    /// Writes to a guest's memory.
    pub(crate) fn hv_write<T: IntoBytes + Immutable>(&self, domain: u16, to: u64, value: &T) {
        let (hv, vcpu) = (&self.hv, &self.vcpu(domain));
        Caller { hv, vcpu }
            .write_bytes(GuestVirt(to), value.as_bytes())
            .unwrap();
    }

    /// Reads from a guest's memory.
    pub(crate) fn hv_read<T: FromBytes + IntoBytes>(&self, domain: u16, from: u64) -> T {
        let (hv, vcpu) = (&self.hv, &self.vcpu(domain));
        let mut value = T::new_zeroed();
        Caller { hv, vcpu }
            .read_bytes(GuestVirt(from), value.as_mut_bytes())
            .unwrap();
        value
    }
}
