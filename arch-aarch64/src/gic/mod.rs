//! The physical interrupt controller: one value for the machine, GICv2 or GICv3, chosen at boot.
//!
//! Interrupts are taken with the priority drop and the deactivation apart. What is the hypervisor's own (software
//! interrupts between CPUs, its timer, list-register maintenance) is finished here at once; what stands behind a
//! guest's interrupt stays active until the guest deactivates it through a list register, so it cannot come again
//! before the guest has seen it.
//!
//! Use: [`Gic::new`] on the boot CPU, [`Gic::init_cpu`] on every CPU, then [`Gic::handle_physical`] for each interrupt
//! exit. Paths that need the list registers are compiled per version: see [`with_gic`](crate::with_gic).

mod dist;
pub mod info;
mod owners;
pub mod regs;
pub mod sysreg;
#[cfg(feature = "gicv2")]
pub mod v2;
#[cfg(feature = "gicv3")]
pub mod v3;

pub use dist::Trigger;
pub use info::{GicError, GicInfo, MAX_REGIONS, Ppis, RedistRegion, Version};
pub use owners::Owner;

use owners::Owners;
use xenolith_hal::CpuId;

#[cfg(feature = "gicv2")]
use v2::GicV2;
#[cfg(feature = "gicv3")]
use v3::GicV3;

use crate::vgic::hw::Hardware;

#[cfg(not(any(feature = "gicv2", feature = "gicv3")))]
compile_error!(
    "an image needs the driver of at least one interrupt controller: feature gicv2 or gicv3"
);

/// The driver for this machine's version.
#[allow(clippy::large_enum_variant, reason = "there is one, in a static")]
pub enum Driver {
    /// GICv2.
    #[cfg(feature = "gicv2")]
    V2(GicV2),
    /// GICv3.
    #[cfg(feature = "gicv3")]
    V3(GicV3),
}

/// Calls generic code with the driver of this machine: `with_gic!(gic, |hw| domain.flush(hw, 0, notify))`. The body is
/// compiled once per version that the image has.
#[macro_export]
macro_rules! with_gic {
    ($gic:expr, |$hw:ident| $body:expr) => {
        match &$gic.driver {
            #[cfg(feature = "gicv2")]
            $crate::gic::Driver::V2($hw) => $body,
            #[cfg(feature = "gicv3")]
            $crate::gic::Driver::V3($hw) => $body,
        }
    };
}

/// The software interrupt that makes a CPU look at its pending work.
pub const KICK: u8 = 0;
/// The software interrupt that stops a CPU for good.
pub const STOP: u8 = 1;

/// What a physical interrupt was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing was pending any more, or nobody owns it; it has been dealt with.
    Spurious,
    /// A software interrupt of another CPU; its number is [`KICK`], [`STOP`] or another that was sent.
    Kick(u8),
    /// The hypervisor's own timer. Take its condition away before the next guest entry.
    HypTimer,
    /// The current vCPU's virtual timer: give it to
    /// [`VgicVcpu::timer_fired`](crate::vgic::VgicVcpu::timer_fired). It stays active.
    VirtualTimer,
    /// List registers want to be looked at: call [`VgicVcpu::maintenance`](crate::vgic::VgicVcpu::maintenance).
    Maintenance,
    /// A shared interrupt that the hypervisor claimed for a device of its own, by its number. It is finished already,
    /// so take its condition away before interrupts are taken again.
    Own(u32),
    /// A shared interrupt that belongs to a domain: give it to
    /// [`VgicDomain::physical_spi`](crate::vgic::VgicDomain::physical_spi). It stays active.
    Guest {
        /// Its number, the same physical and virtual.
        intid: u32,
        /// The domain.
        owner: Owner,
    },
}

/// The machine's interrupt controller.
pub struct Gic {
    /// The driver; match on it through [`with_gic`](crate::with_gic).
    pub driver: Driver,
    ppis: Ppis,
    owners: Owners,
}

impl Gic {
    /// Takes the interrupt controller over on the boot CPU: every interrupt off.
    ///
    /// # Safety
    /// The frames in `info` are mapped as device memory for as long as the hypervisor runs, with the lengths that
    /// [`GicInfo`] names, and nobody else drives them.
    #[allow(unsafe_code)]
    pub unsafe fn new(info: &GicInfo) -> Result<Self, GicError> {
        let driver = match info.version {
            #[cfg(feature = "gicv2")]
            // SAFETY: the caller's promise.
            Version::V2 => Driver::V2(unsafe { GicV2::new(info) }?),
            #[cfg(feature = "gicv3")]
            // SAFETY: the caller's promise.
            Version::V3 => Driver::V3(unsafe { GicV3::new(info) }?),
            #[allow(unreachable_patterns)]
            version => return Err(GicError::NotBuilt(version)),
        };
        Ok(Self {
            driver,
            ppis: info.ppis,
            owners: Owners::new(),
        })
    }

    /// The private interrupts that the hypervisor deals with.
    #[must_use]
    pub const fn ppis(&self) -> Ppis {
        self.ppis
    }

    /// Which version drives the machine; guests get the same.
    #[must_use]
    pub fn version(&self) -> Version {
        match self.driver {
            #[cfg(feature = "gicv2")]
            Driver::V2(_) => Version::V2,
            #[cfg(feature = "gicv3")]
            Driver::V3(_) => Version::V3,
        }
    }

    /// Sets up the executing CPU and lets the hypervisor's own private interrupts through. `mpidr` is the CPU's own
    /// `MPIDR_EL1`.
    pub fn init_cpu(&self, cpu: CpuId, mpidr: u64) -> Result<(), GicError> {
        match &self.driver {
            #[cfg(feature = "gicv2")]
            Driver::V2(gic) => gic.init_cpu(cpu)?,
            #[cfg(feature = "gicv3")]
            Driver::V3(gic) => gic.init_cpu(cpu, mpidr)?,
        }
        let _ = mpidr;
        for intid in [
            self.ppis.hyp_timer,
            self.ppis.virtual_timer,
            self.ppis.maintenance,
        ] {
            with_gic!(self, |gic| gic.enable_private(cpu, intid, Trigger::Level));
        }
        Ok(())
    }

    /// How many interrupt numbers the machine has, private ones counted.
    #[must_use]
    pub fn lines(&self) -> u32 {
        with_gic!(self, |gic| gic.lines())
    }

    /// Sends software interrupt `sgi` to `cpu`. Earlier writes to memory are visible there when it arrives.
    #[inline]
    pub fn send(&self, cpu: CpuId, sgi: u8) {
        with_gic!(self, |gic| gic.send(cpu, sgi));
    }

    /// True when an interrupt waits for this CPU.
    #[inline]
    #[must_use]
    pub fn waits(&self) -> bool {
        with_gic!(self, |gic| gic.waits())
    }

    /// Lets a shared interrupt through for the hypervisor itself (its console); it comes to `cpu`.
    pub fn claim_spi(&self, intid: u32, trigger: Trigger, cpu: CpuId) {
        if !(dist::FIRST_SPI..self.lines()).contains(&intid) {
            return;
        }
        self.owners.set(intid, None);
        with_gic!(self, |gic| {
            gic.disable(intid);
            gic.configure(intid, trigger);
            gic.route(intid, cpu);
            gic.enable(intid);
        });
    }

    /// Gives a shared interrupt to a domain. It is off until the guest enables it; it comes to `cpu`.
    pub fn give_spi(&self, intid: u32, owner: Owner, cpu: CpuId) {
        if !(dist::FIRST_SPI..self.lines()).contains(&intid) {
            return;
        }
        with_gic!(self, |gic| {
            gic.disable(intid);
            gic.finish_shared(intid);
            gic.route(intid, cpu);
        });
        self.owners.set(intid, Some(owner));
    }

    /// Takes a shared interrupt back; it is off afterwards.
    pub fn take_spi(&self, intid: u32) {
        if !(dist::FIRST_SPI..self.lines()).contains(&intid) {
            return;
        }
        self.owners.set(intid, None);
        with_gic!(self, |gic| {
            gic.disable(intid);
            gic.finish_shared(intid);
        });
    }

    /// Takes back everything that a domain owns.
    pub fn take_all(&self, owner: Owner) {
        for intid in dist::FIRST_SPI..self.lines() {
            if self.owners.get(intid) == Some(owner) {
                self.take_spi(intid);
            }
        }
    }

    /// Acknowledges one physical interrupt and tells `serve` what it was. Call it once per interrupt exit: a further
    /// interrupt that waits makes another exit.
    #[inline]
    pub fn handle_physical(&self, serve: impl FnOnce(What)) {
        match &self.driver {
            #[cfg(feature = "gicv2")]
            Driver::V2(gic) => {
                let ack = gic.acknowledge();
                serve(self.classify(
                    GicV2::intid(ack),
                    || gic.drop_priority(ack),
                    || gic.deactivate(ack),
                ));
            }
            #[cfg(feature = "gicv3")]
            Driver::V3(gic) => {
                let ack = gic.acknowledge();
                serve(self.classify(ack, || gic.drop_priority(ack), || gic.deactivate(ack)));
            }
        }
    }

    #[inline(always)]
    fn classify(&self, intid: u32, drop_priority: impl Fn(), deactivate: impl Fn()) -> What {
        if intid == self.ppis.virtual_timer {
            drop_priority();
            return What::VirtualTimer;
        }
        if intid >= dist::SPECIAL {
            return What::Spurious;
        }
        drop_priority();
        if intid >= dist::FIRST_SPI
            && let Some(owner) = self.owners.get(intid)
        {
            return What::Guest { intid, owner };
        }
        deactivate();
        if intid < 16 {
            What::Kick(intid as u8)
        } else if intid == self.ppis.hyp_timer {
            What::HypTimer
        } else if intid == self.ppis.maintenance {
            What::Maintenance
        } else {
            What::Own(intid)
        }
    }
}
