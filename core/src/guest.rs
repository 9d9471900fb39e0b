//! Guest memory as hypercalls see it: typed copies in and out of the calling vCPU's address space.
//!
//! A value is copied in once, then checked, then used; nothing here hands out a reference to guest memory.

use xenolith_hal::{GuestVirt, Hal};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Errno, Hypervisor, VcpuRef};

/// Who makes a hypercall, and the hypervisor that serves it.
pub struct Caller<'a, H: Hal> {
    /// The hypervisor.
    pub hv: &'a Hypervisor<H>,
    /// The vCPU that runs on this CPU.
    pub vcpu: &'a VcpuRef<H>,
}

impl<H: Hal> Clone for Caller<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Hal> Copy for Caller<'_, H> {}

impl<'a, H: Hal> Caller<'a, H> {
    /// The calling domain.
    #[inline(always)]
    pub fn domain(&self) -> &'a crate::DomainRef<H> {
        self.vcpu.domain()
    }

    /// Copies a value in. `EFAULT` when any byte cannot be read.
    #[inline(always)]
    pub fn read<T: FromBytes + IntoBytes>(&self, from: GuestVirt) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a value out. `EFAULT` when any byte cannot be written.
    #[inline(always)]
    pub fn write<T: IntoBytes + Immutable>(&self, to: GuestVirt, value: &T) -> Result<(), Errno> {
        self.write_bytes(to, value.as_bytes())
    }

    /// Element `index` of an array that starts at `base`.
    #[inline(always)]
    pub fn read_at<T: FromBytes + IntoBytes>(
        &self,
        base: GuestVirt,
        index: u64,
    ) -> Result<T, Errno> {
        self.read(base.plus(index.wrapping_mul(size_of::<T>() as u64)))
    }

    /// Writes element `index` of an array that starts at `base`.
    #[inline(always)]
    pub fn write_at<T: IntoBytes + Immutable>(
        &self,
        base: GuestVirt,
        index: u64,
        value: &T,
    ) -> Result<(), Errno> {
        self.write(base.plus(index.wrapping_mul(size_of::<T>() as u64)), value)
    }

    /// Copies bytes in.
    #[inline(always)]
    pub fn read_bytes(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Errno> {
        let domain = self.vcpu.domain();
        self.hv
            .hal
            .copy_from_guest(&self.vcpu.arch, &domain.p2m, from, buf)
            .map_err(|_| Errno::EFAULT)
    }

    /// Copies bytes out.
    #[inline(always)]
    pub fn write_bytes(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Errno> {
        let domain = self.vcpu.domain();
        self.hv
            .hal
            .copy_to_guest(&self.vcpu.arch, &domain.p2m, to, buf)
            .map_err(|_| Errno::EFAULT)
    }
}
