//! The microcode of each CPU (Intel SDM, volume 3, 10.11; AMD's patch level and patch loader registers): its revision, which
//! is told at the start, and loading a newer one on all of them.
//!
//! Threads of a core share it, so no CPU does anything else while one loads: all come together, load by turns, and part when the
//! last one has.

use core::{
    hint::spin_loop,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use x86_64::registers::model_specific::Msr;
use xenolith_core::{Errno, Hypervisor, memory::Place};
use xenolith_hal::{CpuId, CpuMask, MAX_CPUS, Mfn, Order, PAGE_SIZE, sync::relax};

use super::{
    cpuid::cpuid,
    errand::{self, Errand, write_back_caches},
    guarded,
    percpu::{PerCpu, cpu_id},
};
use crate::{
    X86_64,
    cpuid::Vendor,
    microcode::{Kind, Patch},
    mm::hyp::Direct,
};

/// Intel: the revision is in the upper half. AMD: in the lower one.
const REVISION: u32 = 0x8b;

static REVISIONS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Reads the executing CPU's revision.
fn revision(vendor: Vendor) -> u32 {
    // SAFETY: the register is on every CPU with long mode of both makers.
    unsafe {
        let mut register = Msr::new(REVISION);
        match vendor {
            Vendor::Intel => {
                // CPUID renews what was emptied before.
                register.write(0);
                let _ = cpuid(1, 0);
                (register.read() >> 32) as u32
            }
            Vendor::Amd => register.read() as u32,
        }
    }
}

/// Remembers the executing CPU's revision.
pub fn note(cpu: CpuId) {
    let revision = revision(Vendor::of(cpuid(0, 0).ebx));
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

/// Which patches are for the executing CPU; all are of one kind.
pub fn kind() -> Kind {
    const PLATFORM: u32 = 0x17;
    let vendor = Vendor::of(cpuid(0, 0).ebx);
    let platform = match vendor {
        Vendor::Intel => guarded::read(PLATFORM).map_or(0, |id| 1 << (id >> 50 & 7)),
        Vendor::Amd => 0,
    };
    Kind {
        vendor,
        signature: cpuid(1, 0).eax,
        platform,
    }
}

/// What all CPUs are about to load.
struct Ready {
    /// Where the CPU finds it, in the hypervisor's addresses.
    address: AtomicU64,
    revision: AtomicU32,
    /// How many CPUs come together.
    cpus: AtomicU32,
    come: AtomicU32,
    done: AtomicU32,
    failed: AtomicU32,
    turn: AtomicBool,
}

static READY: Ready = Ready {
    address: AtomicU64::new(0),
    revision: AtomicU32::new(0),
    cpus: AtomicU32::new(0),
    come: AtomicU32::new(0),
    done: AtomicU32::new(0),
    failed: AtomicU32::new(0),
    turn: AtomicBool::new(false),
};

/// One file at a time.
static LOADING: AtomicBool = AtomicBool::new(false);

/// Loads a patch on every CPU. `EEXIST` where the CPU has a newer one, or this one and that is enough; `EIO` where a CPU does not
/// have it then.
pub fn load(hv: &Hypervisor<X86_64>, kind: &Kind, patch: &Patch<'_>) -> Result<(), Errno> {
    let cpu = PerCpu::try_current().ok_or(Errno::EINVAL)?;
    while LOADING.swap(true, SeqCst) {
        relax();
    }
    let done = load_alone(hv, cpu, kind, patch);
    LOADING.store(false, SeqCst);
    done
}

/// AMD's CPUs may load what they have: of some, only one thread of a core does by itself.
const fn is_wanted(vendor: Vendor, present: u32, offered: u32) -> bool {
    match vendor {
        Vendor::Intel => offered > present,
        Vendor::Amd => offered >= present,
    }
}

fn load_alone(
    hv: &Hypervisor<X86_64>,
    cpu: &PerCpu,
    kind: &Kind,
    patch: &Patch<'_>,
) -> Result<(), Errno> {
    // The CPU that is furthest behind decides: not all may have taken an earlier one.
    let cpus = hv.sched.online_cpus();
    let known = cpus.iter().filter_map(|cpu| REVISIONS.get(cpu.index()));
    let old = known.map(|revision| revision.load(Relaxed)).min();
    let (old, new) = (old.unwrap_or(0), patch.revision);
    if !is_wanted(kind.vendor, old, new) {
        log::info!("microcode: revision {old:#x} is in the CPU, and {new:#x} is not newer");
        return Err(Errno::EEXIST);
    }
    // Whole frames in a row, as AMD's loader wants it.
    let pages = patch.bytes.len().div_ceil(PAGE_SIZE).next_power_of_two();
    let order = pages.ilog2() as Order;
    let first = hv.memory.allocate(order, Place::ANY).ok_or(Errno::ENOMEM)?;
    let written = write(first, patch.bytes);
    let failed = written.map(|()| {
        let address = Direct::address(first.base()) + kind.start() as u64;
        READY.address.store(address, SeqCst);
        READY.revision.store(new, SeqCst);
        let cpus = hv.sched.online_cpus().len();
        READY.cpus.store(cpus as u32, SeqCst);
        for count in [&READY.come, &READY.done, &READY.failed] {
            count.store(0, SeqCst);
        }
        errand::everywhere(cpu, Errand::LoadMicrocode);
        READY.failed.load(SeqCst)
    });
    hv.memory.free(first, order);
    match failed? {
        0 => {
            log::info!("microcode: all CPUs go on with revision {new:#x}, {old:#x} before");
            Ok(())
        }
        count => {
            log::error!("microcode: {count} CPUs did not take revision {new:#x}");
            Err(Errno::EIO)
        }
    }
}

fn write(first: Mfn, bytes: &[u8]) -> Result<(), Errno> {
    for (frame, part) in (first.0..).map(Mfn).zip(bytes.chunks(PAGE_SIZE)) {
        Direct::write(frame, 0, part).map_err(|_| Errno::ENOMEM)?;
    }
    Ok(())
}

/// The executing CPU's part: every other one is on its way here. Called for [`Errand::LoadMicrocode`].
pub fn load_together() {
    let cpus = READY.cpus.load(SeqCst);
    READY.come.fetch_add(1, SeqCst);
    while READY.come.load(SeqCst) < cpus {
        spin_loop();
    }
    while READY.turn.swap(true, SeqCst) {
        spin_loop();
    }
    if !has_after_load() {
        READY.failed.fetch_add(1, SeqCst);
    }
    note(cpu_id());
    READY.turn.store(false, SeqCst);
    READY.done.fetch_add(1, SeqCst);
    while READY.done.load(SeqCst) < cpus {
        spin_loop();
    }
}

/// Loads, unless a thread of the same core did; whether the CPU then has the revision.
fn has_after_load() -> bool {
    const INTEL: u32 = 0x79;
    const AMD: u32 = 0xc001_0020;
    let vendor = Vendor::of(cpuid(0, 0).ebx);
    let wanted = READY.revision.load(SeqCst);
    if is_wanted(vendor, revision(vendor), wanted) {
        let trigger = match vendor {
            Vendor::Intel => INTEL,
            Vendor::Amd => AMD,
        };
        // Some CPUs of Intel's lose what their caches hold otherwise.
        write_back_caches();
        // What counts is the revision afterwards: a thread of the same core may have loaded it.
        // SAFETY: the address is that of a whole patch for this CPU, which checks that it is genuine.
        let _ = unsafe { guarded::write(trigger, READY.address.load(SeqCst)) };
    }
    revision(vendor) == wanted
}
