//! What every CPU has to do for one of them, while it waits.
//!
//! A CPU that is asked does it where it looks at its work, or while it waits itself, for a lock or for others
//! ([`xenolith_hal::sync::relax`]): so who asks may hold no lock that others wait for in another way, and an errand takes none.

use core::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Relaxed, SeqCst},
};

use xenolith_hal::{CpuId, MAX_CPUS, sync::relax};

use super::{
    microcode,
    percpu::{PerCpu, cpu_id},
};
use crate::{apic, pv::flush::WORK};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Errand {
    /// To write its caches back.
    WriteBackCaches,
    /// To load the microcode that lies ready, together with all others.
    LoadMicrocode,
}

impl Errand {
    fn carry_out(self) {
        match self {
            Self::WriteBackCaches => write_back_caches(),
            Self::LoadMicrocode => microcode::load_together(),
        }
    }
}

/// One at a time.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Which.
static WHICH: AtomicU8 = AtomicU8::new(0);
/// Who has not done it yet.
static ASKED: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

fn asked(cpu: CpuId) -> &'static AtomicBool {
    &ASKED[cpu.index() % MAX_CPUS]
}

/// The executing CPU writes its caches back.
pub fn write_back_caches() {
    // SAFETY: nothing that memory says changes.
    unsafe { core::arch::asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// Has every CPU do an errand, this one too, and waits until all have.
pub fn everywhere(cpu: &PerCpu, errand: Errand) {
    while TAKEN.swap(true, SeqCst) {
        relax();
    }
    WHICH.store(errand as u8, SeqCst);
    let online = cpu.hv.sched.online_cpus();
    let others = || online.iter().filter(|other| *other != cpu.id);
    for other in others() {
        asked(other).store(true, SeqCst);
        cpu.hv.sched.work(other).fetch_or(WORK, SeqCst);
        apic::kick(other);
    }
    errand.carry_out();
    for other in others() {
        while asked(other).load(SeqCst) {
            relax();
        }
    }
    TAKEN.store(false, SeqCst);
}

/// Does what the executing CPU is asked for.
#[cold]
pub fn serve() {
    let asked = asked(cpu_id());
    if asked.load(SeqCst) {
        let errand = match WHICH.load(Relaxed) == Errand::LoadMicrocode as u8 {
            true => Errand::LoadMicrocode,
            false => Errand::WriteBackCaches,
        };
        errand.carry_out();
        asked.store(false, SeqCst);
    }
}
