//! The redistributor frames of GICv3 (`RD_base` and `SGI_base`, 64 KiB each), without LPIs.

use super::{
    VgicDomain,
    access::{BadAccess, Bank, Size, halves},
    hw::Hardware,
};
use crate::gic::regs::{GICR_TYPER, GICR_WAKER};

/// Bytes from one vCPU's redistributor to the next.
pub const REDIST_SIZE: u64 = 0x2_0000;

const SGI_BASE: u32 = 0x1_0000;

/// The affinity of a vCPU, level 0 in the lowest byte: sixteen vCPUs to a cluster, as a software interrupt's target list
/// reaches sixteen. The guest's `MPIDR_EL1` must agree.
#[must_use]
pub const fn affinity_of(index: usize) -> u32 {
    let index = index as u32;
    (index & 15) | (index >> 4) << 8
}

/// The vCPU that an affinity names.
pub(super) const fn index_of(affinity: u32) -> Option<usize> {
    if affinity & 0xf0 != 0 {
        return None;
    }
    Some(((affinity >> 8) << 4 | affinity & 15) as usize)
}

impl VgicDomain {
    /// A guest's read at `offset` of vCPU `owner`'s redistributor, by vCPU `vcpu`, which this CPU has loaded.
    pub fn redist_read<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        owner: usize,
        offset: u32,
        size: Size,
        notify: impl FnMut(usize),
    ) -> Result<u64, BadAccess> {
        size.check_aligned(offset)?;
        if owner >= self.vcpus.len() {
            return Ok(0);
        }
        if offset >= SGI_BASE {
            return self.private_read(hw, vcpu, owner, offset - SGI_BASE, size, notify);
        }
        if matches!(offset, 0x08..=0x0f | 0x70..=0x7f) {
            let value = if offset < 0x10 {
                self.redist_typer(owner)
            } else {
                0
            };
            return halves(value, offset, size);
        }
        size.word()?;
        Ok(u64::from(match offset {
            0x0004 => super::distributor::IIDR,
            0x0014 => self.waker(owner),
            0xffe8 => super::distributor::PIDR2_V3,
            _ => 0,
        }))
    }

    /// A guest's write; the counterpart of [`VgicDomain::redist_read`].
    #[allow(clippy::too_many_arguments, reason = "an access has that many parts")]
    pub fn redist_write<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        owner: usize,
        offset: u32,
        size: Size,
        value: u64,
        notify: impl FnMut(usize),
    ) -> Result<(), BadAccess> {
        size.check_aligned(offset)?;
        if owner >= self.vcpus.len() {
            return Ok(());
        }
        if offset >= SGI_BASE {
            return self.private_write(hw, vcpu, owner, offset - SGI_BASE, size, value, notify);
        }
        if matches!(offset, 0x08..=0x0f | 0x40..=0x4f | 0x70..=0x7f | 0xa0..=0xbf) {
            return Ok(());
        }
        size.word()?;
        if offset == 0x14
            && let Some(v) = self.vcpus.get(owner)
        {
            v.state.lock().asleep = GICR_WAKER::PROCESSOR_SLEEP.is_set(value as u32);
        }
        Ok(())
    }

    fn waker(&self, owner: usize) -> u32 {
        let asleep = self.vcpus.get(owner).is_some_and(|v| v.state.lock().asleep);
        if asleep {
            GICR_WAKER::PROCESSOR_SLEEP::SET.value | GICR_WAKER::CHILDREN_ASLEEP::SET.value
        } else {
            0
        }
    }

    fn redist_typer(&self, owner: usize) -> u64 {
        let last = owner + 1 == self.vcpus.len();
        GICR_TYPER::AFFINITY
            .val(u64::from(affinity_of(owner)))
            .value
            | GICR_TYPER::PROCESSOR.val(owner as u64).value
            | GICR_TYPER::LAST.val(u64::from(last)).value
    }

    fn private_read<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        owner: usize,
        offset: u32,
        size: Size,
        notify: impl FnMut(usize),
    ) -> Result<u64, BadAccess> {
        if let 0x400..=0x41f = offset {
            return Ok(u64::from(self.priorities(
                owner,
                offset - 0x400,
                size.narrow()?,
            )));
        }
        size.word()?;
        Ok(u64::from(match offset {
            0xc00 | 0xc04 => self.configuration(owner, offset & 4),
            _ => match Bank::at(offset) {
                Some((bank, 0)) => self.bank_read(hw, vcpu, owner, bank, 0, notify),
                _ => 0,
            },
        }))
    }

    #[allow(clippy::too_many_arguments, reason = "an access has that many parts")]
    fn private_write<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        owner: usize,
        offset: u32,
        size: Size,
        value: u64,
        notify: impl FnMut(usize),
    ) -> Result<(), BadAccess> {
        if let 0x400..=0x41f = offset {
            self.set_priorities(owner, offset - 0x400, size.narrow()?, value as u32);
            return Ok(());
        }
        size.word()?;
        match offset {
            0xc00 | 0xc04 => self.set_configuration(hw, owner, offset & 4, value as u32),
            _ => {
                if let Some((bank, 0)) = Bank::at(offset) {
                    self.bank_write(hw, vcpu, owner, bank, 0, value as u32, notify);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vcpu_is_found_by_its_own_affinity() {
        for index in 0..4096 {
            assert_eq!(index_of(affinity_of(index)), Some(index));
        }
        assert_eq!(index_of(0x10), None, "affinity 0 stays below sixteen");
    }
}
