//! The microcode revision of each CPU, which firmware loaded (Intel SDM, volume 3, 10.11.7; AMD's patch level register).
//! Nothing is loaded here; CPUs that differ are told of, since the machine is taken to be of one kind.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use x86_64::registers::model_specific::Msr;
use xenolith_hal::{CpuId, CpuMask, MAX_CPUS};

use super::cpuid::cpuid;
use crate::cpuid::Vendor;

/// Intel: the revision is in the upper half. AMD: in the lower one.
const REVISION: u32 = 0x8b;

static REVISIONS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Remembers the executing CPU's revision.
pub fn note(cpu: CpuId) {
    // SAFETY: the register is on every CPU with long mode of both makers.
    let revision = unsafe {
        let mut register = Msr::new(REVISION);
        match Vendor::of(cpuid(0, 0).ebx) {
            Vendor::Intel => {
                // CPUID renews what was emptied before.
                register.write(0);
                let _ = cpuid(1, 0);
                (register.read() >> 32) as u32
            }
            Vendor::Amd => register.read() as u32,
        }
    };
    if let Some(place) = REVISIONS.get(cpu.index()) {
        place.store(revision, Relaxed);
    }
}

/// The register with the executing CPU's revision, which [`note`] has renewed.
pub fn register() -> u64 {
    // SAFETY: as in `note`.
    unsafe { Msr::new(REVISION).read() }
}

/// Prints the first CPU's revision, and those of CPUs that differ from it.
pub fn report(cpus: CpuMask) {
    let of = |cpu: CpuId| REVISIONS.get(cpu.index()).map_or(0, |r| r.load(Relaxed));
    let first = of(CpuId(0));
    log::info!("microcode revision {first:#x}");
    for cpu in cpus.iter().filter(|cpu| of(*cpu) != first) {
        let (number, revision) = (cpu.0, of(cpu));
        log::warn!("CPU {number} has another microcode: revision {revision:#x}");
    }
}
