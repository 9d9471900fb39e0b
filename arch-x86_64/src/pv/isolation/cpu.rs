//! A CPU's copies of roots, and when they are made anew.
//!
//! With process-context identifiers (PCID) the guests' own roots are number 0, the copy for kernels is 1 and the one for programs 2.
//! Loads of CR3 at entry and exit then keep what the CPU has cached; what others want forgotten is noted as a flush of the CPU
//! ([`flush`]), and the copy's number is flushed when it is loaded next.

use core::{
    cell::Cell,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use spin::Once;
use x86_64::registers::control::Cr3;
use xenolith_core::{Domain, Hypervisor, VcpuRef, memory::Place};
use xenolith_hal::{DomId, Mfn, NoMemory, PAGE_SIZE};

use super::root::{self, TableMemory, Tables, Words};
use crate::{
    X86_64,
    cpu::{fault, percpu::PerCpu},
    mm::{
        hyp::{Direct, Hyp},
        pte,
    },
    pv::{
        domain::PvDomain,
        flush,
        frame::Frame,
        gate::{Gate, Guard},
        guard,
        memory::Flush,
        vcpu::Mode,
    },
    speculation::Isolation,
};

/// What was chosen; before that nothing is isolated.
static CHOSEN: Once<Isolation> = Once::new();
/// Copies have numbers of their own in the TLB.
pub static TAGGED: AtomicBool = AtomicBool::new(false);
/// The numbers of the copies.
pub const NUMBERS: [u64; 2] = [1, 2];
/// A load of CR3 that keeps what is cached for its number.
const KEEP: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Says what is done, before other CPUs start.
pub fn choose(chosen: Isolation) {
    CHOSEN.call_once(|| chosen);
    TAGGED.store(chosen.tags, Relaxed);
}

/// What is done.
#[must_use]
pub fn chosen() -> Isolation {
    CHOSEN.get().copied().unwrap_or_default()
}

/// Whether the guests of a domain are isolated.
#[must_use]
pub fn is_for(domain: DomId) -> bool {
    let chosen = chosen();
    match domain {
        DomId(0) => chosen.dom0,
        _ => chosen.domu,
    }
}

/// Tables in RAM and in the image.
struct Machine;

impl TableMemory for Machine {
    fn words(&self, table: Mfn) -> Option<&Words> {
        Direct::words(table)
    }
}

/// A copy of a root.
struct Copy {
    table: Mfn,
    /// Whose it is.
    of: Cell<u64>,
    /// When a root of its domain had changed last before it was made ([`PvDomain::changed`]).
    changes: Cell<u64>,
    /// The CPU's last flush when it was loaded last.
    flush: Cell<u64>,
}

/// What a CPU has for isolated guests.
pub struct Copies {
    copies: [Copy; 2],
    second: Mfn,
}

unsafe extern "C" {
    static _entry_text_start: u8;
    static _entry_text_end: u8;
    static _entry_data_start: u8;
    static _entry_data_end: u8;
}

/// The parts of the image that stay mapped, and how.
fn parts() -> [(Range<u64>, u64); 2] {
    let text = &raw const _entry_text_start as u64..&raw const _entry_text_end as u64;
    let data = &raw const _entry_data_start as u64..&raw const _entry_data_end as u64;
    [(text, pte::TEXT), (data, pte::READ_ONLY)]
}

/// Pages of the image with their entries.
fn pages() -> impl Iterator<Item = (u64, u64)> {
    parts().into_iter().flat_map(|(range, rights)| {
        range
            .step_by(PAGE_SIZE)
            .map(move |at| (at, Hyp::image_phys(at).0 | rights))
    })
}

impl Copies {
    /// Those of a CPU whose window is at `window`; `None` where nothing is isolated.
    pub fn new(hv: &Hypervisor<X86_64>, window: Range<u64>) -> Result<Option<Self>, NoMemory> {
        /// Two roots and four tables.
        const ORDER: u32 = 3;
        let chosen = chosen();
        if !chosen.dom0 && !chosen.domu {
            return Ok(None);
        }
        let first = hv.memory.allocate(ORDER, Place::ANY).ok_or(NoMemory)?;
        Direct::zero(first, ORDER);
        let tables = Tables {
            second: first.plus(2),
            image: first.plus(3),
            pages: first.plus(4),
            windows: first.plus(5),
        };
        let window_pages = Hyp::last_table(window.start).ok_or(NoMemory)?;
        let built = root::build(
            &Machine,
            tables,
            pages(),
            (window.start, window_pages.frame()),
        );
        let copies = [0, 1].map(|index| Copy {
            table: first.plus(index),
            of: Cell::new(0),
            changes: Cell::new(0),
            flush: Cell::new(0),
        });
        if let Some(words) = Direct::words(first) {
            root::copy(words, Hyp::root_entries(), tables.second);
        }
        let [text, data] = parts().map(|(range, _)| range);
        let found = root::shown(&Machine, first).filter(|_| built);
        match found {
            Some(found) if root::is_within(&found, &[text, data, window]) => {
                log::debug!(
                    "isolated guests see {} pages of the hypervisor",
                    found.len()
                );
            }
            _ => {
                log::error!("a root for isolated guests shows more of the hypervisor than it may");
                fault::stop()
            }
        }
        Ok(Some(Self {
            copies,
            second: tables.second,
        }))
    }

    /// The copy for CR3 while the guest runs whose root is `full` now.
    fn load(&self, full: u64, mode: Mode, guard: &mut Guard, clock: u64, changes: u64) -> u64 {
        let [kernel, user] = &self.copies;
        let (copy, number) = match mode {
            Mode::Kernel => (kernel, NUMBERS[0]),
            Mode::User => (user, NUMBERS[1]),
        };
        let fresh = copy.of.get() == full && copy.changes.get() == changes;
        if !fresh {
            let (Some(to), Some(from)) = (
                Direct::words(copy.table),
                Direct::words(Mfn((full & ADDRESS) >> 12)),
            ) else {
                fault::stop()
            };
            root::copy(to, from, self.second);
            copy.of.set(full);
            copy.changes.set(changes);
        }
        let forget = !fresh || copy.flush.get() != clock;
        copy.flush.set(clock);
        let (number, keep) = match TAGGED.load(Relaxed) {
            true => (number, KEEP),
            false => (0, 0),
        };
        guard.root = full;
        guard.entry_root = full | keep;
        guard.copy = copy.table.base().0 | number | keep;
        guard.flushed = clock;
        match forget {
            true => guard.copy & !KEEP,
            false => guard.copy,
        }
    }
}

/// A guest is about to go on whose root is another one than the last time, or may have to be forgotten: what CR3 is to hold.
///
/// # Safety
/// Called by the exit code alone, with the frame of its CPU, for a vCPU that is isolated.
pub unsafe extern "C" fn isolate(frame: *mut Frame) -> u64 {
    let gate = Gate::of(frame);
    // SAFETY: the gate is the executing CPU's, the guest has stopped, and what its head names is good while it is loaded.
    let (cpu, vcpu, pv, guard) = unsafe {
        let head = &raw mut (*gate).head;
        (
            &*(*head).cpu,
            &*(*head).vcpu,
            &*(*head).pv,
            &mut (*head).guard,
        )
    };
    let full = Cr3::read_raw();
    let full = full.0.start_address().as_u64() | u64::from(full.1);
    let copies = cpu.gates.get().and_then(|gates| gates.copies.as_ref());
    let Some(copies) = copies else { fault::stop() };
    let clock = flush::last(cpu.id).load(Relaxed);
    let domain = vcpu.domain().arch.pv.as_ref();
    let changes = domain.map_or(0, PvDomain::changed);
    copies.load(full, pv.mode.get(), guard, clock, changes)
}

/// A vCPU is about to be run: whether it is isolated, and what else is done for it.
pub fn prepare(guard: &mut Guard, vcpu: &VcpuRef<X86_64>) {
    if !guard::is_on() {
        return;
    }
    let isolated = is_for(vcpu.domain().id());
    if guard.isolated != isolated {
        // The next exit looks closer.
        (guard.root, guard.entry_root) = (0, 0);
        guard.isolated = isolated;
    }
}

/// A root of a domain's was made: copies of what was in its frame before are none of it.
#[inline]
pub fn root_made(domain: &Domain<X86_64>) {
    if let Some(pv) = &domain.arch.pv {
        pv.note_change();
    }
}

/// An entry of a root was changed: every CPU that runs its domain looks at the root again before this returns.
pub fn root_changed(cpu: &PerCpu, root: Mfn) {
    let chosen = chosen();
    if chosen.dom0 || chosen.domu {
        copies_are_old(cpu, root);
    }
}

#[cold]
#[inline(never)]
fn copies_are_old(cpu: &PerCpu, root: Mfn) {
    let record = cpu.hv.memory.record(root);
    let owner = record.and_then(|record| record.state().owner());
    let Some(owner) = owner.and_then(|owner| cpu.hv.domains.get(owner)) else {
        return;
    };
    if let Some(pv) = owner.arch.pv.as_ref().filter(|_| is_for(owner.id())) {
        // A CPU that comes to the domain from here on sees the change.
        pv.note_change();
        flush::cpus(cpu, &pv.present.load(), Flush::All);
    }
}
