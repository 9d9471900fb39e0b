//! Frames of a guest that the hypervisor writes for it: a word, a cleared page, a copied one. They may be mapped nowhere.

use core::sync::atomic::Ordering::Release;

use xenolith_core::{
    DomId, Errno,
    memory::{Dropped, FrameRecord},
};
use xenolith_hal::{Hal, Mfn, PAGE_SIZE};

use super::{Machine, PageTables};

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Holds a frame of a domain as memory to be written by the hypervisor.
    fn hold_writable(self, mfn: Mfn, owner: DomId) -> Result<&'static FrameRecord, Errno> {
        let record = self.hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
        self.hv
            .get_mapping(record, mfn, owner, true)
            .map_err(|_| Errno::EINVAL)?;
        Ok(record)
    }

    /// Lets go of it. Nothing of this was in a TLB.
    fn drop_writable(self, record: &FrameRecord, mfn: Mfn) {
        match record.put_mapping(true) {
            Dropped::Kept => {}
            dropped => self.hv.frame_dropped(record, mfn, dropped),
        }
    }

    /// Writes a word of a frame that is neither a table nor descriptors.
    #[cold]
    #[inline(never)]
    pub(super) fn write_memory(
        self,
        mfn: Mfn,
        slot: usize,
        value: u64,
        owner: DomId,
    ) -> Result<(), Errno> {
        let record = self.hold_writable(mfn, owner)?;
        if let Some(word) = self.words(mfn).ok().and_then(|words| words.get(slot)) {
            word.store(value, Release);
        }
        self.drop_writable(record, mfn);
        Ok(())
    }

    /// `MMUEXT_CLEAR_PAGE`.
    pub(super) fn clear_page(self, mfn: Mfn, owner: DomId) -> Result<(), Errno> {
        let record = self.hold_writable(mfn, owner)?;
        self.hv.hal.zero_frames(mfn, 0);
        self.drop_writable(record, mfn);
        Ok(())
    }

    /// `MMUEXT_COPY_PAGE`.
    pub(super) fn copy_page(self, to: Mfn, from: Mfn, owner: DomId) -> Result<(), Errno> {
        let source = self.hv.get_frame(from, owner).ok_or(Errno::EINVAL)?;
        let record = self.hold_writable(to, owner)?;
        let copied = self
            .hv
            .hal
            .copy_frame((to, 0), (source.mfn(), 0), PAGE_SIZE);
        self.drop_writable(record, to);
        copied.map_err(|_| Errno::EINVAL)
    }
}
