//! Raising shared interrupts: from emulated devices, from events, and from physical interrupts.

use xenolith_hal::CpuId;

use super::{
    VgicDomain,
    dist::{Dist, bit, word},
    hw::Hardware,
    queue::bits,
    vcpu::PRIVATE,
};

impl VgicDomain {
    /// Says that a physical interrupt of the same number stands behind `intid`; before the domain first runs.
    pub fn link_physical(&self, intid: u32) {
        if (PRIVATE..self.lines()).contains(&intid) {
            self.dist.lock().hardware[word(intid)] |= bit(intid);
        }
    }

    /// An edge on `intid`: pending once, however often it is raised before the guest takes it. A private interrupt is
    /// that of vCPU `vcpu`. `notify` hears which vCPU should be woken or made to look.
    pub fn inject(&self, vcpu: usize, intid: u32, mut notify: impl FnMut(usize)) {
        if intid < PRIVATE {
            if let Some(v) = self.vcpus.get(vcpu)
                && v.raise(intid)
            {
                notify(vcpu);
            }
        } else if intid < self.lines() {
            let mut dist = self.dist.lock();
            dist.latch[word(intid)] |= bit(intid);
            self.queue_spi(&mut dist, intid, &mut notify);
        }
    }

    /// Sets the line of an emulated device; the interrupt is pending for as long as it is asserted.
    pub fn set_line(&self, vcpu: usize, intid: u32, asserted: bool, mut notify: impl FnMut(usize)) {
        if intid < PRIVATE {
            if let Some(v) = self.vcpus.get(vcpu)
                && v.set_line(intid, asserted)
            {
                notify(vcpu);
            }
        } else if intid < self.lines() {
            let mut dist = self.dist.lock();
            let now = dist.line[word(intid)] & bit(intid) != 0;
            if now == asserted {
                return;
            }
            dist.line[word(intid)] ^= bit(intid);
            if asserted {
                self.queue_spi(&mut dist, intid, &mut notify);
            } else if dist.latch[word(intid)] & bit(intid) == 0 {
                self.unqueue_spi(&mut dist, intid, &mut notify);
            }
        }
    }

    /// A physical interrupt that belongs to this domain was acknowledged by `cpu`, the executing one, and its priority
    /// dropped. It stays active until the guest deactivates it.
    pub fn physical_spi(&self, intid: u32, cpu: CpuId, mut notify: impl FnMut(usize)) {
        if intid >= self.lines() {
            return;
        }
        let mut dist = self.dist.lock();
        let Some(spi) = dist.spi_mut(intid) else {
            return;
        };
        spi.taken_on = cpu.0;
        dist.latch[word(intid)] |= bit(intid);
        self.queue_spi(&mut dist, intid, &mut notify);
    }

    /// After vCPU `index` moved to another CPU: its physical interrupts come to that one from now on.
    pub(super) fn follow<H: Hardware>(&self, hw: &H, dist: &Dist, index: usize, cpu: CpuId) {
        for n in 1..self.words {
            for b in bits(dist.hardware[n & 31]) {
                let intid = n as u32 * 32 + b;
                if dist
                    .spi(intid)
                    .is_some_and(|spi| usize::from(spi.target) == index)
                {
                    hw.route(intid, cpu);
                }
            }
        }
    }

    /// Takes the physical interrupts away from the domain: off and inactive. No vCPU runs any more.
    pub fn release<H: Hardware>(&self, hw: &H) {
        let mut dist = self.dist.lock();
        for n in 1..self.words {
            for b in bits(core::mem::take(&mut dist.hardware[n & 31])) {
                let intid = n as u32 * 32 + b;
                hw.disable(intid);
                hw.finish_shared(intid);
            }
        }
    }
}
