//! The distributor's registers, GICv2 and GICv3. The guest gets the non-secure view: one group, no access to the other.

use super::{
    VgicDomain,
    access::{BadAccess, Bank, Size, halves},
    dist::{NOWHERE, bit, word},
    hw::Hardware,
    queue::bits,
    redistributor::index_of,
    vcpu::{PRIORITY_MASK, PRIVATE},
};
use crate::gic::{Trigger, Version, regs::GICD_TYPER};

/// Implementer Arm, product `X`.
pub(super) const IIDR: u32 = 0x5800_043b;
/// `PIDR2`: architecture revision 3, Arm's JEP106 code.
pub(super) const PIDR2_V3: u32 = 0x3b;
const PIDR2_V2: u32 = 0x2b;

/// `CTLR.ARE_NS`: affinity routing is always on in a GICv3.
const ARE_NS: u32 = 1 << 4;
/// The enable bits of the non-secure view: group 1 with and without affinity routing.
const ENABLES: u32 = 0b11;

/// `IROUTER.Interrupt_Routing_Mode`.
const ANY: u32 = 1 << 31;

impl VgicDomain {
    /// A guest's read of the distributor at `offset`, by vCPU `vcpu`, which this CPU has loaded.
    #[inline]
    pub fn dist_read<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        offset: u32,
        size: Size,
        notify: impl FnMut(usize),
    ) -> Result<u64, BadAccess> {
        size.check_aligned(offset)?;
        if offset < 0x400 {
            size.word()?;
            return Ok(u64::from(self.control_read(hw, vcpu, offset, notify)));
        }
        match offset {
            0x400..=0x7ff => Ok(u64::from(self.priorities(
                vcpu,
                offset - 0x400,
                size.narrow()?,
            ))),
            0x800..=0xbff if self.version == Version::V2 => Ok(u64::from(self.targets(
                vcpu,
                offset - 0x800,
                size.narrow()?,
            ))),
            0x6000..=0x7fdf if self.version == Version::V3 => {
                halves(self.router((offset - 0x6000) >> 3), offset, size)
            }
            0xf10..=0xf2f if self.version == Version::V2 => {
                Ok(u64::from(self.senders(vcpu, offset & 0xf, size.narrow()?)))
            }
            _ => {
                size.word()?;
                Ok(u64::from(match offset {
                    0xc00..=0xc07 if self.version == Version::V3 => 0,
                    0xc00..=0xcff => self.configuration(vcpu, offset - 0xc00),
                    0xfe8 if self.version == Version::V2 => PIDR2_V2,
                    0xffe8 if self.version == Version::V3 => PIDR2_V3,
                    _ => 0,
                }))
            }
        }
    }

    /// Control, type, and the banks of one bit per interrupt: what guests read most.
    #[inline]
    fn control_read<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        offset: u32,
        notify: impl FnMut(usize),
    ) -> u32 {
        match offset {
            0x000 => self.dist.lock().ctlr,
            0x004 => self.typer(),
            0x008 => IIDR,
            0x100..=0x3ff => {
                let Some((bank, n)) = Bank::at(offset) else {
                    return 0;
                };
                if n == 0 && self.version == Version::V3 {
                    return 0;
                }
                self.bank_read(hw, vcpu, vcpu, bank, n, notify)
            }
            _ => 0,
        }
    }

    /// A guest's write; the counterpart of [`VgicDomain::dist_read`].
    #[inline]
    pub fn dist_write<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        offset: u32,
        size: Size,
        value: u64,
        notify: impl FnMut(usize),
    ) -> Result<(), BadAccess> {
        size.check_aligned(offset)?;
        match offset {
            0x400..=0x7ff => {
                self.set_priorities(vcpu, offset - 0x400, size.narrow()?, value as u32);
            }
            0x800..=0xbff if self.version == Version::V2 => {
                self.set_targets(hw, offset - 0x800, size.narrow()?, value as u32, notify);
            }
            0x6000..=0x7fdf if self.version == Version::V3 => {
                let now = self.router((offset - 0x6000) >> 3);
                let next = match size {
                    Size::Double => value,
                    Size::Word if offset & 4 == 0 => now & !0xffff_ffff | value & 0xffff_ffff,
                    Size::Word => now & 0xffff_ffff | value << 32,
                    _ => return Err(BadAccess),
                };
                self.set_router(hw, (offset - 0x6000) >> 3, next, notify);
            }
            0xf10..=0xf2f if self.version == Version::V2 => {
                let bytes = size.narrow()?;
                self.set_senders(vcpu, offset, bytes, value as u32);
            }
            // Message-based interrupts are written as half words too.
            0x40..=0x5f if size != Size::Double => {}
            _ => {
                size.word()?;
                self.dist_write_word(hw, vcpu, offset, value as u32, notify);
            }
        }
        Ok(())
    }

    #[inline]
    fn dist_write_word<H: Hardware>(
        &self,
        hw: &H,
        vcpu: usize,
        offset: u32,
        value: u32,
        notify: impl FnMut(usize),
    ) {
        match offset {
            0x000 => self.set_ctlr(value, notify),
            0x100..=0x3ff => {
                if let Some((bank, n)) = Bank::at(offset)
                    && (n != 0 || self.version == Version::V2)
                {
                    self.bank_write(hw, vcpu, vcpu, bank, n, value, notify);
                }
            }
            0xc00..=0xcff if offset >= 0xc08 || self.version == Version::V2 => {
                self.set_configuration(hw, vcpu, offset - 0xc00, value);
            }
            0xf00 if self.version == Version::V2 => self.sgir(vcpu, value, notify),
            _ => {}
        }
    }

    fn typer(&self) -> u32 {
        let lines = GICD_TYPER::IT_LINES.val(self.words as u32 - 1);
        match self.version {
            Version::V2 => (lines + GICD_TYPER::CPUS.val(self.vcpus.len() as u32 - 1)).value,
            Version::V3 => (lines + GICD_TYPER::ID_BITS.val(9) + GICD_TYPER::NO_1_OF_N::SET).value,
        }
    }

    fn set_ctlr(&self, value: u32, mut notify: impl FnMut(usize)) {
        let (enables, fixed) = match self.version {
            Version::V2 => (value & 1, 0),
            Version::V3 => (value & ENABLES, ARE_NS),
        };
        let forward = if enables != 0 { u32::MAX } else { 0 };
        let mut dist = self.dist.lock();
        dist.ctlr = enables | fixed;
        for (index, v) in self.vcpus.iter().enumerate() {
            let mut state = v.state.lock();
            if state.forward == forward {
                continue;
            }
            state.forward = forward;
            state.set_direct();
            let look = forward != 0 && !state.queue.is_empty();
            if look {
                v.set_dirty(true);
            }
            drop(state);
            if look {
                notify(index);
            }
        }
    }

    /// Four (or one) priorities from interrupt number `first`.
    pub(super) fn priorities(&self, owner: usize, first: u32, bytes: u32) -> u32 {
        if first < PRIVATE {
            let Some(v) = self.vcpus.get(owner) else {
                return 0;
            };
            let state = v.state.lock();
            return gather(first, bytes, |intid| state.priority[intid as usize & 31]);
        }
        let dist = self.dist.lock();
        gather(first, bytes, |intid| {
            dist.spi(intid).map_or(0, |spi| spi.priority)
        })
    }

    /// Priorities count from the next time that an interrupt goes into a list register.
    pub(super) fn set_priorities(&self, owner: usize, first: u32, bytes: u32, value: u32) {
        if first < PRIVATE {
            if let Some(v) = self.vcpus.get(owner) {
                let mut state = v.state.lock();
                scatter(first, bytes, value, |intid, priority| {
                    state.set_priority(self.version, v.timer(), intid, priority);
                });
            }
            return;
        }
        let mut dist = self.dist.lock();
        scatter(first, bytes, value, |intid, priority| {
            if let Some(spi) = dist.spi_mut(intid) {
                spi.priority = priority & PRIORITY_MASK;
            }
        });
    }

    /// `ICFGR` at byte offset `offset`: two bits for each of sixteen interrupts.
    pub(super) fn configuration(&self, owner: usize, offset: u32) -> u32 {
        let first = (offset & !3) * 4;
        let edge = if first < PRIVATE {
            self.vcpus.get(owner).map_or(0, |v| v.state.lock().edge)
        } else if first < self.lines() {
            self.dist.lock().edge[word(first)]
        } else {
            0
        };
        spread(edge >> (first & 31) & 0xffff)
    }

    pub(super) fn set_configuration<H: Hardware>(
        &self,
        hw: &H,
        owner: usize,
        offset: u32,
        value: u32,
    ) {
        let first = (offset & !3) * 4;
        let edges = squeeze(value) << (first & 31);
        let mask = 0xffff << (first & 31);
        if first < 16 {
            return;
        }
        if first < PRIVATE {
            if let Some(v) = self.vcpus.get(owner) {
                let mut state = v.state.lock();
                state.edge = state.edge & !mask | edges;
            }
            return;
        }
        if first >= self.lines() {
            return;
        }
        let mut dist = self.dist.lock();
        let n = word(first);
        let changed = (dist.edge[n] ^ edges) & mask;
        dist.edge[n] ^= changed;
        for b in bits(changed & dist.hardware[n] & !dist.enabled[n]) {
            let intid = n as u32 * 32 + b;
            let trigger = if edges & bit(intid) != 0 {
                Trigger::Edge
            } else {
                Trigger::Level
            };
            hw.configure(intid, trigger);
        }
    }

    fn router(&self, intid: u32) -> u64 {
        let dist = self.dist.lock();
        let route = dist.spi(intid).map_or(0, |spi| spi.route);
        u64::from(route)
    }

    fn set_router<H: Hardware>(&self, hw: &H, intid: u32, value: u64, notify: impl FnMut(usize)) {
        // Affinity 3 is always zero here; its bits are not kept, and neither are bits between the fields.
        let route = value as u32 & (ANY | 0x00ff_ffff);
        let target = if route & ANY != 0 {
            Some(0)
        } else if value >> 32 & 0xff != 0 {
            None
        } else {
            index_of(route)
        };
        self.retarget(hw, intid, route, target, notify);
    }

    fn targets(&self, vcpu: usize, first: u32, bytes: u32) -> u32 {
        if first < PRIVATE {
            // Private interrupts name the reader.
            return gather(first, bytes, |_| 1 << (vcpu & 7));
        }
        let dist = self.dist.lock();
        gather(first, bytes, |intid| {
            dist.spi(intid).map_or(0, |spi| spi.route as u8)
        })
    }

    fn set_targets<H: Hardware>(
        &self,
        hw: &H,
        first: u32,
        bytes: u32,
        value: u32,
        mut notify: impl FnMut(usize),
    ) {
        let present = (1u32 << self.vcpus.len().min(8)) - 1;
        scatter(first, bytes, value, |intid, targets| {
            let route = u32::from(targets) & present;
            let target = (route != 0).then(|| route.trailing_zeros() as usize);
            self.retarget(hw, intid, route, target, &mut notify);
        });
    }

    /// Sends a shared interrupt elsewhere. One that is in a list register already stays there.
    fn retarget<H: Hardware>(
        &self,
        hw: &H,
        intid: u32,
        route: u32,
        target: Option<usize>,
        mut notify: impl FnMut(usize),
    ) {
        let target = target.filter(|index| *index < self.vcpus.len());
        let mut dist = self.dist.lock();
        let Some(spi) = dist.spi_mut(intid) else {
            return;
        };
        spi.route = route;
        let next = target.map_or(NOWHERE, |index| index as u16);
        if spi.target == next {
            return;
        }
        let (resident, holder) = (spi.resident(), usize::from(spi.holder));
        spi.target = next;
        if let Some(v) = target.and_then(|index| self.vcpus.get(index))
            && dist.hardware[word(intid)] & bit(intid) != 0
        {
            let cpu = v.state.lock().cpu;
            hw.route(intid, cpu);
        }
        if !resident {
            if let Some(v) = self.vcpus.get(holder) {
                v.state.lock().queue.remove(intid);
            }
            self.queue_spi(&mut dist, intid, &mut notify);
        }
    }

    /// `CPENDSGIR` and `SPENDSGIR`: who sent the software interrupts that wait.
    fn senders(&self, vcpu: usize, first: u32, bytes: u32) -> u32 {
        let Some(v) = self.vcpus.get(vcpu) else {
            return 0;
        };
        let state = v.state.lock();
        gather(first, bytes, |sgi| state.senders[sgi as usize & 15])
    }

    fn set_senders(&self, vcpu: usize, offset: u32, bytes: u32, value: u32) {
        let Some(v) = self.vcpus.get(vcpu) else {
            return;
        };
        scatter(offset & 0xf, bytes, value, |sgi, senders| {
            if offset >= 0xf20 {
                for sender in bits(u32::from(senders)) {
                    let _ = v.raise_from(sgi, sender as u8);
                }
            } else {
                v.cancel_senders(sgi, senders);
            }
        });
    }
}

/// Bytes of consecutive interrupts, the first in the lowest byte.
fn gather(first: u32, bytes: u32, get: impl Fn(u32) -> u8) -> u32 {
    (0..bytes).fold(0, |word, n| word | u32::from(get(first + n)) << (n * 8))
}

fn scatter(first: u32, bytes: u32, value: u32, mut set: impl FnMut(u32, u8)) {
    for n in 0..bytes {
        set(first + n, (value >> (n * 8)) as u8);
    }
}

/// Bit n of the lower half becomes bit 2n + 1.
fn spread(half: u32) -> u32 {
    bits(half).fold(0, |word, b| word | 2 << (b * 2))
}

/// The inverse of [`spread`]; even bits are not looked at.
fn squeeze(word: u32) -> u32 {
    (0..16).fold(0, |half, b| half | (word >> (b * 2 + 1) & 1) << b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_bits_survive_a_round_trip() {
        for half in [0, 1, 0x8000, 0xa5c3, 0xffff] {
            assert_eq!(squeeze(spread(half)), half);
            assert_eq!(spread(half) & 0x5555_5555, 0);
        }
    }
}
