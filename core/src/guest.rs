//! Guest memory as hypercalls see it: typed copies in and out of the calling vCPU's address space.
//!
//! A value is copied in once, then checked, then used; nothing here hands out a reference to guest memory. Structures of 32-bit
//! callers are turned into the usual form on the way in and back on the way out ([`narrow`]); nobody else knows of them.

use xenolith_abi::{
    Wire,
    narrow::{self, Form},
};
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

    /// Whether it is 32-bit code that calls, whose structures have a form of their own.
    #[inline(always)]
    pub fn is_narrow(&self) -> bool {
        H::NARROW_CALLERS && self.hv.hal.is_narrow(&self.vcpu.arch)
    }

    /// The form that `T` has in the caller's memory, if that is not the usual one.
    #[inline(always)]
    fn form<T: Wire>(&self) -> Option<&'static Form> {
        T::NARROW.filter(|_| self.is_narrow())
    }

    #[inline(always)]
    fn form_of<T: Wire>(&self, arch: &H::Vcpu) -> Option<&'static Form> {
        T::NARROW.filter(|_| H::NARROW_CALLERS && self.hv.hal.is_narrow(arch))
    }

    /// How many bytes a `T` has in the caller's memory.
    #[inline(always)]
    pub fn size_of<T: Wire>(&self) -> u64 {
        self.form::<T>().map_or(size_of::<T>(), |form| form.size) as u64
    }

    /// Where in a `T` in the caller's memory the field begins that is at `offset` in the usual form.
    #[inline(always)]
    pub fn offset_in<T: Wire>(&self, offset: usize) -> u64 {
        let form = self.form::<T>();
        form.and_then(|form| form.place(offset)).unwrap_or(offset) as u64
    }

    /// Copies a value in. `EFAULT` when any byte cannot be read.
    #[inline(always)]
    pub fn read<T: Wire + FromBytes + IntoBytes>(&self, from: GuestVirt) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_into(from, &mut value)?;
        Ok(value)
    }

    /// Copies a value to where it stays.
    #[inline(always)]
    pub fn read_into<T: Wire + FromBytes + IntoBytes>(
        &self,
        from: GuestVirt,
        value: &mut T,
    ) -> Result<(), Errno> {
        // Found once for both questions.
        let arch = &self.vcpu.arch;
        match self.form_of::<T>(arch) {
            Some(form) => self.read_narrow(from, form, value.as_mut_bytes()),
            None => self.read_by(arch, from, value.as_mut_bytes()),
        }
    }

    /// Copies a value out. `EFAULT` when any byte cannot be written.
    #[inline(always)]
    pub fn write<T: Wire + IntoBytes + Immutable>(
        &self,
        to: GuestVirt,
        value: &T,
    ) -> Result<(), Errno> {
        let arch = &self.vcpu.arch;
        match self.form_of::<T>(arch) {
            Some(form) => self.write_narrow(to, form, value.as_bytes()),
            None => self.write_by(arch, to, value.as_bytes()),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_narrow(&self, from: GuestVirt, form: &Form, wide: &mut [u8]) -> Result<(), Errno> {
        let mut room = [0; narrow::MOST];
        let bytes = room.get_mut(..form.size).ok_or(Errno::EFAULT)?;
        self.read_bytes(from, bytes)?;
        form.widen(bytes, wide);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn write_narrow(&self, to: GuestVirt, form: &Form, wide: &[u8]) -> Result<(), Errno> {
        let mut room = [0; narrow::MOST];
        let bytes = room.get_mut(..form.size).ok_or(Errno::EFAULT)?;
        form.narrow(wide, bytes);
        self.write_bytes(to, bytes)
    }

    /// Element `index` of an array that starts at `base`.
    #[inline(always)]
    pub fn read_at<T: Wire + FromBytes + IntoBytes>(
        &self,
        base: GuestVirt,
        index: u64,
    ) -> Result<T, Errno> {
        self.read(base.plus(index.wrapping_mul(self.size_of::<T>())))
    }

    /// Writes element `index` of an array that starts at `base`.
    #[inline(always)]
    pub fn write_at<T: Wire + IntoBytes + Immutable>(
        &self,
        base: GuestVirt,
        index: u64,
        value: &T,
    ) -> Result<(), Errno> {
        self.write(base.plus(index.wrapping_mul(self.size_of::<T>())), value)
    }

    /// Copies bytes in.
    #[inline(always)]
    pub fn read_bytes(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Errno> {
        self.read_by(&self.vcpu.arch, from, buf)
    }

    #[inline(always)]
    fn read_by(&self, arch: &H::Vcpu, from: GuestVirt, buf: &mut [u8]) -> Result<(), Errno> {
        self.hv
            .hal
            .copy_from_guest(arch, &self.vcpu.domain().p2m, from, buf)
            .map_err(|_| Errno::EFAULT)
    }

    /// Copies bytes out.
    #[inline(always)]
    pub fn write_bytes(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Errno> {
        self.write_by(&self.vcpu.arch, to, buf)
    }

    #[inline(always)]
    fn write_by(&self, arch: &H::Vcpu, to: GuestVirt, buf: &[u8]) -> Result<(), Errno> {
        self.hv
            .hal
            .copy_to_guest(arch, &self.vcpu.domain().p2m, to, buf)
            .map_err(|_| Errno::EFAULT)
    }
}
