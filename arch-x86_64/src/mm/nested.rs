//! Second-level tables as domains have them, and making changed ones known to the CPUs.

use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use xenolith_arch_common::second_level::SecondLevel;
use xenolith_hal::{Gfn, Mfn};

use super::{
    hardware::{Hardware, Tlb},
    second_level::Npt,
};
use crate::{
    apic,
    cpu::{percpu, shootdown},
};

/// Nested tables of a domain.
pub type Nested = SecondLevel<Npt, Hardware<Flushes>>;

/// How often cached translations of a domain were made unusable. A vCPU that was last entered at another count gets an
/// identifier of its CPU's translations that nothing is cached under.
#[derive(Default)]
pub struct Flushes(AtomicU64);

impl Flushes {
    /// The count.
    #[inline(always)]
    pub fn count(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

impl Tlb for Flushes {
    fn flush(&self, root: Mfn, _: Range<Gfn>) {
        self.0.fetch_add(1, SeqCst);
        shootdown::expel(percpu::cpu_id(), root, apic::kick);
    }
}
