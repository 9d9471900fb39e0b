//! The GICv2 driver (ARM IHI 0048B): distributor, memory-mapped CPU interface and hypervisor interface. Interrupts stay in
//! the group where firmware put them; the non-secure view enables them with bit 0 either way. End of interrupt only
//! drops the priority, so that a guest can be given the deactivation.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tock_registers::interfaces::{Readable, Writeable};
use xenolith_hal::{CpuId, MAX_CPUS};

use super::{
    dist::{DEFAULT_PRIORITY, Distributor, FIRST_SPI, Trigger, with_trigger},
    info::{GicError, GicInfo, Version},
    regs::{GICC_CTLR, GICC_IAR, GICD_CTLR, GICD_SGIR, GICH_HCR, GICH_VTR, Gicc, Gicd, Gich},
    sysreg,
};
use crate::vgic::hw::{CpuInterface, Hardware, MAX_LRS};

/// A machine's GICv2.
pub struct GicV2 {
    dist: Distributor,
    cpu: &'static Gicc,
    hypervisor: &'static Gich,
    /// Which bit of a target list is which CPU.
    target: [AtomicU8; MAX_CPUS],
    lrs: AtomicU8,
}

// SAFETY: the frames are device registers, each accessed by single loads and stores; fields that need
// read-modify-write are under the distributor's lock or banked per CPU.
#[allow(unsafe_code)]
unsafe impl Send for GicV2 {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for GicV2 {}

impl GicV2 {
    /// Takes over the distributor: all shared interrupts off.
    ///
    /// # Safety
    /// The frames in `info` are mapped as device memory for as long as the hypervisor runs, with the lengths that
    /// [`GicInfo`] names, and nobody else drives them.
    #[allow(unsafe_code)]
    pub unsafe fn new(info: &GicInfo) -> Result<Self, GicError> {
        for (frame, name) in [
            (info.dist, "distributor"),
            (info.cpu, "CPU interface"),
            (info.hypervisor, "hypervisor interface"),
        ] {
            if frame.is_null() {
                return Err(GicError::MissingFrame(name));
            }
        }
        // SAFETY: the caller promises mappings that stay.
        let (dist, cpu, hypervisor) = unsafe {
            (
                &*info.dist.cast::<Gicd>(),
                &*info.cpu.cast::<Gicc>(),
                &*info.hypervisor.cast::<Gich>(),
            )
        };
        let gic = Self {
            dist: Distributor::new(dist),
            cpu,
            hypervisor,
            target: [const { AtomicU8::new(0) }; MAX_CPUS],
            lrs: AtomicU8::new(4),
        };
        gic.dist.silence();
        dist.CTLR.write(GICD_CTLR::ENABLE_GRP1::SET);
        Ok(gic)
    }

    /// Sets up what belongs to the executing CPU: private interrupts, CPU interface, list registers.
    pub fn init_cpu(&self, cpu: CpuId) -> Result<(), GicError> {
        let dist = self.dist.regs();
        // The target registers of private interrupts read as the CPU itself; a machine with one CPU reads 0.
        let own = dist.ITARGETSR[0].get() as u8;
        if let Some(slot) = self.target.get(cpu.index()) {
            slot.store(if own == 0 { 1 } else { own }, Relaxed);
        }
        dist.ICENABLER[0].set(u32::MAX);
        dist.ICACTIVER[0].set(u32::MAX);
        dist.ICPENDR[0].set(0xffff_0000);
        for priority in &dist.IPRIORITYR[..8] {
            priority.set(DEFAULT_PRIORITY);
        }
        dist.ISENABLER[0].set(0xffff);

        self.cpu.PMR.set(0xff);
        self.cpu.BPR.set(0);
        for active in &self.cpu.APR {
            active.set(0);
        }
        self.cpu
            .CTLR
            .write(GICC_CTLR::ENABLE::SET + GICC_CTLR::EOI_MODE::SET);

        let lrs = (self.hypervisor.VTR.read(GICH_VTR::LIST_REGS) as usize + 1).min(MAX_LRS);
        self.lrs.store(lrs as u8, Relaxed);
        self.hypervisor.HCR.set(0);
        self.hypervisor.VMCR.set(0);
        self.hypervisor.APR.set(0);
        for lr in &self.hypervisor.LR[..lrs] {
            lr.set(0);
        }
        Ok(())
    }

    /// How many interrupt numbers there are, special ones left out.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.dist.lines()
    }

    /// Lets a private interrupt of the executing CPU through.
    pub fn enable_private(&self, _cpu: CpuId, intid: u32, trigger: Trigger) {
        let dist = self.dist.regs();
        let bit = 1 << (intid & 31);
        dist.ICENABLER[0].set(bit);
        dist.ICFGR[1].set(with_trigger(dist.ICFGR[1].get(), intid, trigger));
        dist.ISENABLER[0].set(bit);
    }

    /// Sends software interrupt `sgi` to `cpu`.
    #[inline]
    pub fn send(&self, cpu: CpuId, sgi: u8) {
        let Some(target) = self.target.get(cpu.index()) else {
            return;
        };
        sysreg::dsb_ishst();
        self.dist.regs().SGIR.write(
            GICD_SGIR::TARGETS.val(u32::from(target.load(Relaxed)))
                + GICD_SGIR::INTID.val(u32::from(sgi)),
        );
    }

    /// Acknowledges the highest-priority pending interrupt. The value holds the sender of a software interrupt and
    /// must be given back whole to [`GicV2::drop_priority`] and [`GicV2::deactivate`].
    #[inline]
    pub fn acknowledge(&self) -> u32 {
        self.cpu.IAR.get()
    }

    /// The interrupt number in an acknowledged value.
    #[inline]
    #[must_use]
    pub fn intid(ack: u32) -> u32 {
        GICC_IAR::INTID.read(ack)
    }

    /// True when an interrupt waits for this CPU.
    #[inline]
    pub fn waits(&self) -> bool {
        self.cpu.HPPIR.read(GICC_IAR::INTID) < super::dist::SPECIAL
    }

    /// Drops the running priority; the interrupt stays active.
    #[inline]
    pub fn drop_priority(&self, ack: u32) {
        self.cpu.EOIR.set(ack);
    }

    /// Deactivates an interrupt that this CPU acknowledged.
    #[inline]
    pub fn deactivate(&self, ack: u32) {
        self.cpu.DIR.set(ack);
    }
}

impl Hardware for GicV2 {
    const VERSION: Version = Version::V2;

    #[inline(always)]
    fn lr_count(&self) -> usize {
        usize::from(self.lrs.load(Relaxed))
    }

    #[inline(always)]
    fn lr(&self, n: usize) -> u64 {
        u64::from(self.hypervisor.LR[n & (MAX_LRS - 1)].get())
    }

    #[inline(always)]
    fn set_lr(&self, n: usize, value: u64) {
        self.hypervisor.LR[n & (MAX_LRS - 1)].set(value as u32);
    }

    #[inline(always)]
    fn empty_lrs(&self) -> u32 {
        self.hypervisor.ELRSR[0].get()
    }

    fn set_underflow(&self, on: bool) {
        self.hypervisor.HCR.set(hcr(on));
    }

    #[inline(always)]
    fn vmcr(&self) -> u64 {
        u64::from(self.hypervisor.VMCR.get())
    }

    fn save_interface(&self, to: &mut CpuInterface) {
        to.vmcr = u64::from(self.hypervisor.VMCR.get());
        to.ap0r[0] = self.hypervisor.APR.get();
        self.hypervisor.HCR.set(0);
    }

    fn load_interface(&self, from: &CpuInterface, underflow: bool) {
        self.hypervisor.VMCR.set(from.vmcr as u32);
        self.hypervisor.APR.set(from.ap0r[0]);
        self.hypervisor.HCR.set(hcr(underflow));
    }

    fn enable(&self, intid: u32) {
        self.dist.enable(intid);
    }

    fn disable(&self, intid: u32) {
        self.dist.disable(intid);
    }

    fn configure(&self, intid: u32, trigger: Trigger) {
        self.dist.configure(intid, trigger);
    }

    fn set_pending(&self, intid: u32) {
        self.dist.set_pending(intid);
    }

    fn route(&self, intid: u32, cpu: CpuId) {
        if intid >= FIRST_SPI
            && let Some(target) = self.target.get(cpu.index())
        {
            self.dist.target(intid, target.load(Relaxed));
        }
    }

    fn finish_private(&self, intid: u32) {
        self.cpu.DIR.set(intid);
    }

    fn finish_shared(&self, intid: u32) {
        self.dist.clear_active(intid);
    }

    fn set_active(&self, _cpu: CpuId, intid: u32) {
        self.dist.set_active(intid);
        sysreg::dsb_sy();
    }
}

const fn hcr(underflow: bool) -> u32 {
    if underflow {
        GICH_HCR::EN::SET.value | GICH_HCR::UIE::SET.value
    } else {
        GICH_HCR::EN::SET.value
    }
}
