//! A physical CPU with SVM: whether it can be used, switching it on, what each CPU keeps.

use core::{arch::x86_64::CpuidResult, cell::Cell};

use spin::Once;
use x86_64::registers::model_specific::Msr;
use xenolith_core::{Hypervisor, memory::Place};
use xenolith_hal::{HostPhys, Mfn};

use super::{
    asid::Asids,
    hidden,
    maps::{self, MSR_MAP_BYTES, PORT_MAP_BYTES},
};
use crate::{
    X86_64,
    cpu::{
        cpuid::cpuid,
        vectors::{self, Stacks},
    },
    mm::hyp::Direct,
    permission,
};

const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// What the CPU offers beyond the beginnings (CPUID 8000_000A, EDX).
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Identifiers, the host's among them.
    pub asids: u32,
    /// The control block tells where the next instruction is.
    pub next_rip: bool,
    /// The control block says what the CPU may take from its caches.
    pub clean_bits: bool,
    /// The control block has the bytes of the instruction.
    pub decode_assists: bool,
    /// PAUSE is counted.
    pub pause_filter: bool,
}

fn leaf(number: u32) -> CpuidResult {
    cpuid(number, 0)
}

/// Whether the CPU has SVM at all.
#[must_use]
pub fn exists() -> bool {
    leaf(0x8000_0000).eax >= 0x8000_000a && leaf(0x8000_0001).ecx & 1 << 2 != 0
}

/// Whether this CPU can run guests by SVM; the error says what is missing.
pub fn detect() -> Result<Features, &'static str> {
    if !exists() {
        return Err("the CPU has no SVM");
    }
    // SAFETY: the register exists where SVM does.
    permission::svm(unsafe { Msr::new(permission::VM_CR).read() })?;
    let svm = leaf(0x8000_000a);
    if svm.edx & 1 == 0 {
        return Err("SVM has no nested paging on this CPU");
    }
    if svm.ebx < 2 {
        return Err("SVM has no address space identifiers on this CPU");
    }
    Ok(Features {
        asids: svm.ebx,
        next_rip: svm.edx & 1 << 3 != 0,
        clean_bits: svm.edx & 1 << 5 != 0,
        decode_assists: svm.edx & 1 << 7 != 0,
        pause_filter: svm.edx & 1 << 10 != 0,
    })
}

/// What one CPU keeps for SVM.
pub struct SvmCpu {
    /// Address space identifiers.
    pub asids: Asids,
    /// Where VMSAVE put this CPU's own segments.
    host: HostPhys,
    /// Task register and the like are a guest's.
    lent: Cell<bool>,
}

impl SvmCpu {
    /// A guest's task register is about to be loaded.
    pub(super) fn lend(&self) {
        if !self.lent.replace(true) {
            vectors::install(Stacks::Present);
        }
    }

    /// No guest's state is in the CPU any more: it takes its own task register and interrupt stacks back.
    pub(super) fn take_back(&self) {
        if self.lent.replace(false) {
            // SAFETY: `start` stored the CPU's own state there; the guest's was given back.
            unsafe { hidden::load(self.host) }
            vectors::install(Stacks::Own);
        }
    }
}

/// Permission maps that most domains share.
pub struct Maps {
    /// Every port exits.
    pub ports: HostPhys,
    /// Every MSR exits but the guest's own.
    pub msrs: HostPhys,
}

static MAPS: Once<Maps> = Once::new();

/// The shared permission maps; the first call makes them.
pub fn shared_maps(hv: &Hypervisor<X86_64>) -> Option<&'static Maps> {
    if let Some(maps) = MAPS.get() {
        return Some(maps);
    }
    let ports = port_map(hv, &[0..=u16::MAX])?;
    let msrs = hv.memory.allocate(1, Place::ANY)?;
    const { assert!(MSR_MAP_BYTES == 2 << 12) };
    for (page, bytes) in (0..).zip(maps::msr_map().chunks(1 << 12)) {
        Direct::write(msrs.plus(page), 0, bytes).ok()?;
    }
    let msrs = msrs.base();
    Some(MAPS.call_once(|| Maps { ports, msrs }))
}

/// A port map of a domain's own, where only some ports exit.
pub fn port_map(
    hv: &Hypervisor<X86_64>,
    exits: &[core::ops::RangeInclusive<u16>],
) -> Option<HostPhys> {
    const { assert!(PORT_MAP_BYTES <= 4 << 12) };
    let ports = hv.memory.allocate(2, Place::ANY)?;
    for (page, bytes) in (0..).zip(maps::port_map(exits).chunks(1 << 12)) {
        Direct::write(ports.plus(page), 0, bytes).ok()?;
    }
    Some(ports.base())
}

/// Switches SVM on for the executing CPU.
pub fn start(hv: &Hypervisor<X86_64>, features: &Features) -> Option<SvmCpu> {
    let frames: Mfn = hv.memory.allocate(1, Place::ANY)?;
    Direct::zero(frames, 1);
    let host = frames.plus(1).base();
    // SAFETY: SVM is there and not locked (`detect`). The frame for the host's state is this CPU's and given back to
    // nobody. VMSAVE writes the other frame, in the form of a control block.
    unsafe {
        let efer = Msr::new(EFER).read();
        Msr::new(EFER).write(efer | EFER_SVME);
        Msr::new(VM_HSAVE_PA).write(frames.base().0);
        hidden::store(host);
    }
    Some(SvmCpu {
        asids: Asids::new(features.asids),
        host,
        lent: Cell::new(false),
    })
}
