//! The GICv3 driver (ARM IHI 0069): distributor with affinity routing, redistributors, CPU interface and list registers
//! in system registers. Physical interrupts are all group 1 of the non-secure state; end of interrupt only drops the
//! priority (`EOImode` 1), so that a guest can be given the deactivation.

use core::{
    ptr::null_mut,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering::Relaxed},
};

use tock_registers::{
    interfaces::{Readable, Writeable},
    registers::ReadWrite,
};
use xenolith_hal::{CpuId, MAX_CPUS};

use super::{
    dist::{DEFAULT_PRIORITY, Distributor, FIRST_SPI, Trigger, with_trigger},
    info::{GicError, GicInfo, MAX_REGIONS, RedistRegion, Version},
    regs::{
        GICD_CTLR, GICR_CTLR, GICR_TYPER, GICR_WAKER, Gicd, Gicr, ICC_CTLR, ICC_SGI1R, ICC_SRE,
        ICH_HCR, ICH_VTR,
    },
    sysreg,
};
use crate::vgic::hw::{CpuInterface, Hardware, MAX_LRS};

/// Bytes from one redistributor to the next: two frames of 64 KiB, four with virtual LPIs.
const STRIDE: usize = 0x2_0000;
const STRIDE_VLPI: usize = 0x4_0000;

/// The `IROUTER` registers, from offset 0x6000 of the distributor.
type Routers = [ReadWrite<u64>; 1020];
const ROUTERS: usize = 0x6000;

/// Byte 3, 2, 1, 0 of the result are affinity levels 3 to 0 of an `MPIDR_EL1` value.
#[must_use]
pub const fn affinity(mpidr: u64) -> u32 {
    (mpidr & 0x00ff_ffff) as u32 | ((mpidr >> 32 & 0xff) as u32) << 24
}

/// The `ICC_SGI1R_EL1` value (without interrupt number) that reaches the CPU with this affinity.
#[must_use]
const fn sgi_target(affinity: u32) -> u64 {
    let [aff0, aff1, aff2, aff3] = affinity.to_le_bytes();
    ICC_SGI1R::TARGETS.val(1 << (aff0 & 15)).value
        | ICC_SGI1R::RANGE.val(aff0 as u64 >> 4).value
        | ICC_SGI1R::AFF1.val(aff1 as u64).value
        | ICC_SGI1R::AFF2.val(aff2 as u64).value
        | ICC_SGI1R::AFF3.val(aff3 as u64).value
}

/// The `IROUTER` value that reaches the CPU with this affinity.
#[must_use]
const fn router(affinity: u32) -> u64 {
    (affinity & 0x00ff_ffff) as u64 | ((affinity >> 24) as u64) << 32
}

/// A machine's GICv3.
pub struct GicV3 {
    dist: Distributor,
    routers: &'static Routers,
    regions: [RedistRegion; MAX_REGIONS],
    redist: [AtomicPtr<Gicr>; MAX_CPUS],
    affinity: [AtomicU64; MAX_CPUS],
    /// What [`sgi_target`] makes of each CPU's affinity.
    sgi_targets: [AtomicU64; MAX_CPUS],
    lrs: AtomicU8,
    active_words: AtomicU8,
}

// SAFETY: the frames are device registers, each accessed by single loads and stores; fields that need
// read-modify-write are under the distributor's lock or written only by the CPU that they belong to.
#[allow(unsafe_code)]
unsafe impl Send for GicV3 {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for GicV3 {}

impl GicV3 {
    /// Takes over the distributor: all shared interrupts off, affinity routing on.
    ///
    /// # Safety
    /// The frames in `info` are mapped as device memory for as long as the hypervisor runs, with the lengths that
    /// [`GicInfo`] names, and nobody else drives them.
    #[allow(unsafe_code)]
    pub unsafe fn new(info: &GicInfo) -> Result<Self, GicError> {
        if info.dist.is_null() {
            return Err(GicError::MissingFrame("distributor"));
        }
        if info.redist.iter().all(|region| region.base.is_null()) {
            return Err(GicError::MissingFrame("redistributor"));
        }
        // SAFETY: the caller promises a mapping of 64 KiB that stays.
        let (regs, routers) = unsafe {
            (
                &*info.dist.cast::<Gicd>(),
                &*info.dist.add(ROUTERS).cast::<Routers>(),
            )
        };
        let gic = Self {
            dist: Distributor::new(regs),
            routers,
            regions: info.redist,
            redist: [const { AtomicPtr::new(null_mut()) }; MAX_CPUS],
            affinity: [const { AtomicU64::new(0) }; MAX_CPUS],
            sgi_targets: [const { AtomicU64::new(0) }; MAX_CPUS],
            lrs: AtomicU8::new(4),
            active_words: AtomicU8::new(1),
        };
        gic.dist.silence();
        for n in 1..gic.dist.lines().div_ceil(32) as usize {
            regs.IGROUPR[n].set(u32::MAX);
        }
        regs.CTLR.write(
            GICD_CTLR::ARE_NS::SET + GICD_CTLR::ENABLE_GRP1A::SET + GICD_CTLR::ENABLE_GRP1::SET,
        );
        gic.dist.settle();
        Ok(gic)
    }

    /// Sets up what belongs to the executing CPU: its redistributor, its CPU interface, its list registers.
    pub fn init_cpu(&self, cpu: CpuId, mpidr: u64) -> Result<(), GicError> {
        let affinity = affinity(mpidr);
        let redist = self
            .find_redist(affinity)
            .ok_or(GicError::NoRedistributor(affinity))?;
        if let (Some(slot), Some(own), Some(target)) = (
            self.redist.get(cpu.index()),
            self.affinity.get(cpu.index()),
            self.sgi_targets.get(cpu.index()),
        ) {
            slot.store(core::ptr::from_ref(redist).cast_mut(), Relaxed);
            own.store(u64::from(affinity), Relaxed);
            target.store(sgi_target(affinity), Relaxed);
        }
        wake(redist);
        redist.ICENABLER0.set(u32::MAX);
        redist.ICACTIVER0.set(u32::MAX);
        redist.ICPENDR0.set(u32::MAX);
        redist.IGROUPR0.set(u32::MAX);
        for priority in &redist.IPRIORITYR {
            priority.set(DEFAULT_PRIORITY);
        }
        redist.ISENABLER0.set(0xffff);
        settle(redist);

        sysreg::set_icc_sre_el2(
            (ICC_SRE::SRE::SET + ICC_SRE::DFB::SET + ICC_SRE::DIB::SET + ICC_SRE::ENABLE::SET)
                .value,
        );
        sysreg::isb();
        // A guest's CPU interface is the one in system registers too; where EL1 may choose, it finds that chosen.
        sysreg::set_icc_sre_el1((ICC_SRE::SRE::SET + ICC_SRE::DFB::SET + ICC_SRE::DIB::SET).value);
        if cfg!(target_arch = "aarch64") && !ICC_SRE::SRE.is_set(sysreg::icc_sre_el2()) {
            return Err(GicError::NoSystemRegisters);
        }
        sysreg::set_icc_pmr(0xff);
        sysreg::set_icc_bpr1(0);
        sysreg::set_icc_ctlr(ICC_CTLR::EOI_MODE::SET.value);
        sysreg::set_icc_igrpen1(1);

        let vtr = sysreg::ich_vtr();
        let lrs = (ICH_VTR::LIST_REGS.read(vtr) as usize + 1).min(MAX_LRS);
        self.lrs.store(lrs as u8, Relaxed);
        // Preemption bits 5, 6, 7 need 1, 2, 4 words of active priorities; the field holds one less.
        let words = 1 << (ICH_VTR::PRE_BITS.read(vtr).clamp(4, 6) - 4);
        self.active_words.store(words, Relaxed);
        sysreg::set_ich_hcr(0);
        sysreg::set_ich_vmcr(0);
        for n in 0..lrs {
            sysreg::set_ich_lr(n, 0);
        }
        for n in 0..usize::from(words) {
            sysreg::set_ich_ap0r(n, 0);
            sysreg::set_ich_ap1r(n, 0);
        }
        sysreg::isb();
        Ok(())
    }

    /// How many interrupt numbers there are, special ones left out.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.dist.lines()
    }

    /// Lets a private interrupt of `cpu` through.
    pub fn enable_private(&self, cpu: CpuId, intid: u32, trigger: Trigger) {
        let Some(redist) = self.redist(cpu) else {
            return;
        };
        let bit = 1 << (intid & 31);
        redist.ICENABLER0.set(bit);
        settle(redist);
        let [_, ppis] = &redist.ICFGR;
        ppis.set(with_trigger(ppis.get(), intid, trigger));
        redist.ISENABLER0.set(bit);
    }

    /// Sends software interrupt `sgi` to `cpu`.
    #[inline]
    pub fn send(&self, cpu: CpuId, sgi: u8) {
        let Some(target) = self.sgi_targets.get(cpu.index()) else {
            return;
        };
        sysreg::dsb_ishst();
        sysreg::set_icc_sgi1r(target.load(Relaxed) | ICC_SGI1R::INTID.val(u64::from(sgi)).value);
        sysreg::isb();
    }

    /// Acknowledges the highest-priority pending interrupt; 1020 and above are special numbers.
    #[inline]
    pub fn acknowledge(&self) -> u32 {
        sysreg::icc_iar1() as u32 & 0xff_ffff
    }

    /// True when an interrupt waits for this CPU.
    #[inline]
    pub fn waits(&self) -> bool {
        sysreg::icc_hppir1() as u32 & 0xff_ffff < super::dist::SPECIAL
    }

    /// Drops the running priority; the interrupt stays active.
    #[inline]
    pub fn drop_priority(&self, ack: u32) {
        sysreg::set_icc_eoir1(u64::from(ack));
    }

    /// Deactivates an interrupt that this CPU acknowledged.
    #[inline]
    pub fn deactivate(&self, ack: u32) {
        sysreg::set_icc_dir(u64::from(ack));
        sysreg::isb();
    }

    fn redist(&self, cpu: CpuId) -> Option<&'static Gicr> {
        let at = self.redist.get(cpu.index())?.load(Relaxed);
        // SAFETY: either null or stored by `init_cpu` from a reference that lives for ever.
        #[allow(unsafe_code)]
        unsafe {
            at.as_ref()
        }
    }

    /// Walks the regions for the redistributor of a CPU.
    fn find_redist(&self, affinity: u32) -> Option<&'static Gicr> {
        for region in self.regions.iter().filter(|r| !r.base.is_null()) {
            let mut offset = 0;
            while offset + STRIDE <= region.len {
                // SAFETY: `new`'s caller promises the mapping, and the frames lie inside it.
                #[allow(unsafe_code)]
                let redist = unsafe { &*region.base.add(offset).cast::<Gicr>() };
                let typer = redist.TYPER.get();
                if GICR_TYPER::AFFINITY.read(typer) == u64::from(affinity) {
                    return Some(redist);
                }
                if GICR_TYPER::LAST.is_set(typer) {
                    break;
                }
                offset += if GICR_TYPER::VLPIS.is_set(typer) {
                    STRIDE_VLPI
                } else {
                    STRIDE
                };
            }
        }
        None
    }
}

fn wake(redist: &Gicr) {
    let sleep = redist.WAKER.get() & !GICR_WAKER::PROCESSOR_SLEEP::SET.value;
    redist.WAKER.set(sleep);
    for _ in 0..1_000_000 {
        if !redist.WAKER.is_set(GICR_WAKER::CHILDREN_ASLEEP) {
            return;
        }
        core::hint::spin_loop();
    }
}

fn settle(redist: &Gicr) {
    for _ in 0..1_000_000 {
        if !redist.CTLR.is_set(GICR_CTLR::RWP) {
            return;
        }
        core::hint::spin_loop();
    }
}

impl Hardware for GicV3 {
    const VERSION: Version = Version::V3;

    #[inline(always)]
    fn lr_count(&self) -> usize {
        usize::from(self.lrs.load(Relaxed))
    }

    #[inline(always)]
    fn lr(&self, n: usize) -> u64 {
        sysreg::ich_lr(n)
    }

    #[inline(always)]
    fn set_lr(&self, n: usize, value: u64) {
        sysreg::set_ich_lr(n, value);
    }

    #[inline(always)]
    fn empty_lrs(&self) -> u32 {
        sysreg::ich_elrsr() as u32
    }

    fn set_underflow(&self, on: bool) {
        sysreg::set_ich_hcr(hcr(on));
    }

    #[inline(always)]
    fn vmcr(&self) -> u64 {
        sysreg::ich_vmcr()
    }

    fn save_interface(&self, to: &mut CpuInterface) {
        to.vmcr = sysreg::ich_vmcr();
        for n in 0..usize::from(self.active_words.load(Relaxed)).min(4) {
            to.ap0r[n] = sysreg::ich_ap0r(n) as u32;
            to.ap1r[n] = sysreg::ich_ap1r(n) as u32;
        }
        sysreg::set_ich_hcr(0);
    }

    fn load_interface(&self, from: &CpuInterface, underflow: bool) {
        sysreg::set_ich_vmcr(from.vmcr);
        for n in 0..usize::from(self.active_words.load(Relaxed)).min(4) {
            sysreg::set_ich_ap0r(n, u64::from(from.ap0r[n]));
            sysreg::set_ich_ap1r(n, u64::from(from.ap1r[n]));
        }
        sysreg::set_ich_hcr(hcr(underflow));
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
        let (Some(register), Some(affinity)) = (
            self.routers.get(intid as usize),
            self.affinity.get(cpu.index()),
        ) else {
            return;
        };
        if intid >= FIRST_SPI {
            register.set(router(affinity.load(Relaxed) as u32));
        }
    }

    fn finish_private(&self, intid: u32) {
        sysreg::set_icc_dir(u64::from(intid));
    }

    fn finish_shared(&self, intid: u32) {
        self.dist.clear_active(intid);
    }

    fn set_active(&self, cpu: CpuId, intid: u32) {
        if let Some(redist) = self.redist(cpu) {
            redist.ISACTIVER0.set(1 << (intid & 31));
            sysreg::dsb_sy();
        }
    }
}

const fn hcr(underflow: bool) -> u64 {
    if underflow {
        ICH_HCR::EN::SET.value | ICH_HCR::UIE::SET.value
    } else {
        ICH_HCR::EN::SET.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_is_taken_from_both_halves_of_mpidr() {
        assert_eq!(affinity(0x0000_00ab_8012_3456), 0xab12_3456);
    }

    #[test]
    fn a_cpu_with_a_large_aff0_is_reached_through_the_range_selector() {
        let target = sgi_target(0x0403_0221);
        assert_eq!(ICC_SGI1R::TARGETS.read(target), 1 << 1);
        assert_eq!(ICC_SGI1R::RANGE.read(target), 2);
        assert_eq!(ICC_SGI1R::AFF1.read(target), 2);
        assert_eq!(ICC_SGI1R::AFF2.read(target), 3);
        assert_eq!(ICC_SGI1R::AFF3.read(target), 4);
    }

    #[test]
    fn a_router_holds_aff3_in_its_upper_half() {
        assert_eq!(router(0x0403_0221), 0x0000_0004_0003_0221);
    }
}
