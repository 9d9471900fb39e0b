//! Where a domain's interrupt controller is in its address space.

use xenolith_hal::GuestPhys;

use crate::vgic::REDIST_SIZE;

/// First byte and length of each part; a length of zero for a part that the version does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GicFrames {
    /// Distributor.
    pub distributor: (u64, u64),
    /// Redistributors, one after the other.
    pub redistributors: (u64, u64),
}

fn inside(part: (u64, u64), gpa: GuestPhys) -> Option<u32> {
    let offset = gpa.0.wrapping_sub(part.0);
    (offset < part.1).then_some(offset as u32)
}

impl GicFrames {
    /// The offset in the distributor, for an address in it.
    #[inline]
    pub fn distributor(&self, gpa: GuestPhys) -> Option<u32> {
        inside(self.distributor, gpa)
    }

    /// The vCPU whose redistributor an address is in, and the offset there.
    #[inline]
    pub fn redistributor(&self, gpa: GuestPhys) -> Option<(usize, u32)> {
        const SIZE: u32 = REDIST_SIZE as u32;
        inside(self.redistributors, gpa).map(|offset| ((offset / SIZE) as usize, offset % SIZE))
    }
}
