//! Where a vCPU's `vcpu_info` stands: in the shared info until the guest registers its own place (`vcpu.h`).
//!
//! The place is one word, because every event reads it. It is set once and stays until the domain ends, with a reference
//! on the frame. Events that race with the move write to the old place; so after the move everything is marked pending,
//! and the guest looks at every word once too often rather than once too seldom.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};

use xenolith_abi::{Errno, shared_info::SharedInfoLayout};
use xenolith_hal::{
    AtomicOp::{Or, Swap},
    Gfn, Hal, HostPhys, Mfn, PAGE_SIZE,
};

use crate::{Domain, Hypervisor, Vcpu, VcpuRef};

/// Where a `vcpu_info` stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoArea {
    /// The frame.
    pub mfn: Mfn,
    /// Byte offset inside the frame, a multiple of 8.
    pub offset: usize,
}

/// The registered place of a `vcpu_info`, as a host-physical address.
pub struct InfoPlace(AtomicU64);

const NOWHERE: u64 = u64::MAX;

impl InfoPlace {
    /// Nothing registered.
    pub const fn new() -> Self {
        Self(AtomicU64::new(NOWHERE))
    }

    /// The registered place.
    #[inline]
    pub fn get(&self) -> Option<InfoArea> {
        let address = self.0.load(Acquire);
        (address != NOWHERE).then(|| InfoArea {
            mfn: HostPhys(address).frame(),
            offset: HostPhys(address).offset(),
        })
    }

    /// Registers a place; `false` when one is registered already.
    pub(super) fn register(&self, area: InfoArea) -> bool {
        let address = area.mfn.base().0 | area.offset as u64;
        self.0
            .compare_exchange(NOWHERE, address, AcqRel, Acquire)
            .is_ok()
    }

    pub(super) fn take(&self) -> Option<InfoArea> {
        let area = self.get();
        self.0.store(NOWHERE, Release);
        area
    }
}

impl Default for InfoPlace {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal> Domain<H> {
    /// Where the `vcpu_info` of one of its vCPUs stands; `None` when its number has no place in the shared info and
    /// the guest registered none.
    #[inline]
    pub fn info_area(&self, vcpu: &Vcpu<H>) -> Option<InfoArea> {
        vcpu.info.get().or_else(|| self.first_info_area(vcpu))
    }

    fn first_info_area(&self, vcpu: &Vcpu<H>) -> Option<InfoArea> {
        Some(InfoArea {
            mfn: self.shared_info,
            offset: self.first_info_offset(vcpu)?,
        })
    }

    /// Where the `vcpu_info` is that a vCPU has in the shared info.
    #[inline]
    fn first_info_offset(&self, vcpu: &Vcpu<H>) -> Option<usize> {
        const fn alike(a: &SharedInfoLayout, b: &SharedInfoLayout) -> bool {
            a.vcpu_info == b.vcpu_info
                && a.vcpu_info_stride == b.vcpu_info_stride
                && a.vcpu_info_count == b.vcpu_info_count
        }
        // Nothing is looked at where all forms have it in one place.
        let layout = match const {
            (!H::PV || alike(&H::SHARED_INFO, &H::PV_SHARED_INFO))
                && (!H::NARROW_CALLERS || alike(&H::SHARED_INFO, &H::NARROW_SHARED_INFO))
        } {
            true => const { &H::SHARED_INFO },
            false => self.info_layout(),
        };
        layout.vcpu_info_offset(vcpu.id.0.into())
    }

    /// Where the `vcpu_info` of one of its vCPUs stands, as a frame of RAM and the offset in it.
    #[inline(always)]
    pub(super) fn info_frame(&self, hal: &H, vcpu: &Vcpu<H>) -> Option<(H::Frame, usize)> {
        match vcpu.info.get() {
            Some(area) => Some((hal.frame(area.mfn)?, area.offset)),
            None => Some((self.shared_frame?, self.first_info_offset(vcpu)?)),
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Moves a vCPU's `vcpu_info` into its domain's own memory. The caller has checked that the vCPU is the one that
    /// asks, or is down.
    ///
    /// `ENXIO` when the place does not fit in its frame or is not aligned, `EINVAL` when one is registered already and
    /// when the frame is not the domain's own writable memory.
    pub fn register_vcpu_info(
        &self,
        vcpu: &VcpuRef<H>,
        gfn: Gfn,
        offset: u32,
    ) -> Result<(), Errno> {
        let layout = H::SHARED_INFO.vcpu;
        let offset = offset as usize;
        if offset > PAGE_SIZE - layout.size || !offset.is_multiple_of(8) {
            return Err(Errno::ENXIO);
        }
        if vcpu.info.get().is_some() {
            return Err(Errno::EINVAL);
        }
        let domain = vcpu.domain();
        let frame = self.pin_own(domain, gfn).ok_or(Errno::EINVAL)?;
        let mfn = frame.mfn();
        let area = InfoArea { mfn, offset };
        self.copy_info(domain, domain.info_area(vcpu), area, layout.size)?;
        if !vcpu.info.register(area) {
            return Err(Errno::EINVAL);
        }
        frame.keep();
        self.hal.info_moved(&vcpu.arch, mfn, offset);
        self.mark_everything(vcpu, area);
        Ok(())
    }

    /// Lets go of the places that the guest registered. The domain ends: none of its vCPUs runs.
    pub fn forget_vcpu_infos(&self, domain: &Domain<H>) {
        for area in domain.vcpus.iter().filter_map(|vcpu| vcpu.info.take()) {
            self.put_writable(area.mfn);
        }
    }

    fn copy_info(
        &self,
        domain: &Domain<H>,
        from: Option<InfoArea>,
        to: InfoArea,
        len: usize,
    ) -> Result<(), Errno> {
        let copied = match from {
            Some(from) => self
                .hal
                .copy_frame((to.mfn, to.offset), (from.mfn, from.offset), len),
            None => self.clear_info(domain, to, len),
        };
        copied.map_err(|_| Errno::EINVAL)
    }

    /// A fresh `vcpu_info`: all zero, upcalls masked where the guest can unmask them.
    fn clear_info(
        &self,
        domain: &Domain<H>,
        at: InfoArea,
        len: usize,
    ) -> Result<(), xenolith_hal::Fault> {
        for word in (0..len).step_by(8) {
            self.hal.atomic64(at.mfn, at.offset + word, Swap(0))?;
        }
        if domain.has_upcall_mask() {
            self.set_upcall_mask(at, 1)?;
        }
        Ok(())
    }

    fn set_upcall_mask(&self, at: InfoArea, mask: u8) -> Result<(), xenolith_hal::Fault> {
        let byte = at.offset + H::SHARED_INFO.vcpu.evtchn_upcall_mask;
        self.hal.atomic8(at.mfn, byte, Swap(mask)).map(drop)
    }

    /// Every vCPU of a new domain starts with events masked, where its guest can unmask them.
    pub(crate) fn mask_upcalls(&self, domain: &Domain<H>) {
        if domain.has_upcall_mask() {
            for area in domain
                .vcpus
                .iter()
                .filter_map(|vcpu| domain.info_area(vcpu))
            {
                // The page is the hypervisor's own memory: it is there.
                let _ = self.set_upcall_mask(area, 1);
            }
        }
    }

    /// Lets the guest of a vCPU be told of events again, where a byte masks them.
    #[inline]
    pub(crate) fn unmask_upcalls(&self, vcpu: &VcpuRef<H>) {
        if let Some((frame, offset)) = vcpu.domain().info_frame(&self.hal, vcpu) {
            let byte = offset + H::SHARED_INFO.vcpu.evtchn_upcall_mask;
            self.hal.word8(frame, byte, Swap(0));
        }
    }

    fn mark_everything(&self, vcpu: &VcpuRef<H>, area: InfoArea) {
        let layout = vcpu.domain().info_layout().vcpu;
        let selector = area.offset + layout.evtchn_pending_sel;
        if vcpu.domain().is_narrow() {
            let _ = self.hal.atomic32(area.mfn, selector, Or(u32::MAX));
        } else {
            let _ = self.hal.atomic64(area.mfn, selector, Or(u64::MAX));
        }
        let upcall = area.offset + layout.evtchn_upcall_pending;
        let _ = self.hal.atomic8(area.mfn, upcall, Or(1));
        self.hal.raise_upcall(&vcpu.domain().arch, &vcpu.arch);
        self.notify(vcpu);
    }
}
