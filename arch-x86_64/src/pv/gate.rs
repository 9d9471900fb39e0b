//! What each CPU keeps at a fixed address for guests in ring 3: descriptor tables in a row with the guest's own, the task state,
//! and the page where a guest that stops leaves its registers.
//!
//! | from the CPU's place on | what |
//! |---|---|
//! | 0 | 14 pages: the guest's descriptors |
//! | 0xe000 | the hypervisor's page of descriptors |
//! | 0x10000 | 16 pages: the guest's local descriptors |
//! | 0x20000 | the [`Gate`] |
//! | 0x30000 | stacks for what no mask holds back, each with an unmapped page below |
//!
//! Each CPU's place has a table of the last level of its own, which isolated guests keep mapped ([`super::isolation`]).
//!
//! The CPU notes in a guest's descriptor that it was used, so the pages are writable; for the CPU alone. What is in them was
//! checked when their frame got its type.

use core::{
    cell::{Cell, UnsafeCell},
    mem::offset_of,
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use x86_64::structures::tss::TaskStateSegment;
use xenolith_arch_common::Access;
use xenolith_core::{Hypervisor, VcpuRef, memory::Place};
use xenolith_hal::{CpuId, Mfn, NoMemory, PAGE_SIZE};

use super::{flush, frame::Frame, guard, isolation::cpu::Copies, vcpu::PvVcpu};
use crate::{
    X86_64,
    cpu::{
        descriptors::{self, FIRST, STACK_BYTES, STACKS},
        percpu::PerCpu,
    },
    mm::{
        hyp::{Direct, Hyp},
        pte,
    },
};

/// From one CPU's place to the next one's.
pub const STRIDE: u64 = 0x20_0000;
/// Pages of descriptors that a guest may have.
pub const GUEST_PAGES: usize = 14;
/// Pages of local descriptors.
pub const LOCAL_PAGES: usize = 16;
const LOCAL: u64 = 0x1_0000;
const GATE: u64 = 0x2_0000;
const GATE_PAGES: u64 = 2;
const STACKS_AT: u64 = 0x3_0000;
const STACK_STRIDE: u64 = 0x4000;
const PADDING: usize = GATE_PAGES as usize * PAGE_SIZE
    - size_of::<Frame>()
    - size_of::<TaskStateSegment>()
    - size_of::<Head>();

/// What the first instructions behind a guest need. All but the failure is there as long as a guest may run.
#[repr(C)]
pub struct Head {
    /// The hypervisor's stack.
    pub own_rsp: u64,
    /// The CPU.
    pub cpu: *const PerCpu,
    /// Its work flags.
    pub work: *const AtomicU32,
    /// The vCPU whose registers the frame has.
    pub vcpu: *const VcpuRef<X86_64>,
    /// Its PV part.
    pub pv: *const PvVcpu,
    /// Why a guest could not be returned to: vector, error code.
    pub failed: [u64; 2],
    /// What is done beside.
    pub guard: Guard,
}

/// What entry and exit do beside, where [`super::guard`] is in use. All zero: nothing.
#[repr(C)]
pub struct Guard {
    /// The guest is isolated: it runs on a copy of its root.
    pub isolated: bool,
    /// VERW before the guest.
    pub verw: bool,
    /// The return stack is filled behind it.
    pub returns: bool,
    /// A selector for VERW, which looks at it and forgets it: the null selector.
    pub selector: u16,
    /// CR3 for which the next two hold; 0: for none.
    pub root: u64,
    /// CR3 at the next entry, or 0: it stays as it is.
    pub entry_root: u64,
    /// CR3 at the next exit, if nothing was forgotten since [`Self::flushed`].
    pub copy: u64,
    /// The CPU's last flush ([`super::flush::last`]).
    pub flushes: *const AtomicU64,
    /// What it was when [`Self::copy`] was loaded.
    pub flushed: u64,
}

/// The registers of a stopped guest, and what the first instructions behind it need.
///
/// Below the frame is room: an exception of the instruction that returns to a guest is taken there.
#[repr(C, align(4096))]
pub struct Gate {
    /// What is at hand at once.
    pub head: Head,
    task: TaskStateSegment,
    _room: [u8; PADDING],
    /// The guest's registers.
    pub frame: Frame,
}

const _: () = assert!(size_of::<Gate>() == GATE_PAGES as usize * PAGE_SIZE);

impl Gate {
    /// The gate whose frame this is.
    #[inline(always)]
    #[must_use]
    pub const fn of(frame: *mut Frame) -> *mut Self {
        frame.wrapping_byte_sub(offset_of!(Self, frame)).cast()
    }
}

unsafe extern "C" {
    /// Where the gates' places begin (`targets/x86_64.ld`); what is there is the gate of CPU 0.
    static pv_gates: UnsafeCell<u8>;
}

fn place(cpu: CpuId) -> u64 {
    &raw const pv_gates as u64 - GATE + cpu.index() as u64 * STRIDE
}

/// A CPU's own places.
pub struct Gates {
    gate: *mut Gate,
    /// Entries of the pages with the guest's descriptors.
    guest: &'static [AtomicU64],
    /// Entries of the pages with local descriptors.
    local: &'static [AtomicU64],
    /// So many of the former may be filled, from the first on.
    guest_filled: Cell<usize>,
    /// Some of the latter may be filled.
    local_filled: Cell<bool>,
    place: u64,
    /// For isolated guests, where there may be some.
    pub copies: Option<Copies>,
}

impl Gates {
    /// Makes those of the executing CPU, and moves it to them. `None` without memory.
    pub fn install(hv: &Hypervisor<X86_64>, cpu: CpuId) -> Result<Self, NoMemory> {
        const ORDER: u32 = 2;
        let frames = hv.memory.allocate(ORDER, Place::ANY).ok_or(NoMemory)?;
        Direct::zero(frames, ORDER);
        let place = place(cpu);
        let page = PAGE_SIZE as u64;
        Hyp::map(place + u64::from(FIRST), frames.base(), page, Access::Ram)?;
        Hyp::map(
            place + GATE,
            frames.plus(1).base(),
            GATE_PAGES * page,
            Access::Ram,
        )?;
        let stacks = Self::stacks(hv, place)?;
        let gate = (place + GATE) as *mut Gate;
        // SAFETY: the pages were just mapped for this CPU alone, and stay; nobody else knows of them.
        unsafe {
            let task = &raw mut (*gate).task;
            let top = place + GATE + size_of::<Gate>() as u64;
            descriptors::move_to(
                cpu,
                (place + u64::from(FIRST)) as *mut descriptors::Page,
                task,
                top,
                stacks,
            );
            (*gate).head.guard.flushes = flush::last(cpu);
            guard::fill(&mut (*gate).head.guard);
        }
        Ok(Self {
            gate,
            guest: Hyp::page_slots(place, GUEST_PAGES)?,
            local: Hyp::page_slots(place + LOCAL, LOCAL_PAGES)?,
            guest_filled: Cell::new(GUEST_PAGES),
            local_filled: Cell::new(true),
            place,
            copies: Copies::new(hv, place..place + STRIDE)?,
        })
    }

    /// Maps the stacks of a CPU's task state, and gives their ends.
    fn stacks(hv: &Hypervisor<X86_64>, place: u64) -> Result<[u64; STACKS], NoMemory> {
        let each = STACK_BYTES.trailing_zeros() - PAGE_SIZE.trailing_zeros();
        let mut tops = [0; STACKS];
        for (top, index) in tops.iter_mut().zip(0u64..) {
            let frames = hv.memory.allocate(each, Place::ANY).ok_or(NoMemory)?;
            let bottom = place + STACKS_AT + index * STACK_STRIDE + PAGE_SIZE as u64;
            Hyp::map(bottom, frames.base(), STACK_BYTES as u64, Access::Ram)?;
            *top = bottom + STACK_BYTES as u64;
        }
        Ok(tops)
    }

    /// The gate, for the CPU whose it is.
    #[inline(always)]
    #[must_use]
    pub fn gate(&self) -> *mut Gate {
        self.gate
    }

    /// The end of the gate: the stack of entries from ring 3.
    #[must_use]
    pub fn top(&self) -> u64 {
        self.place + GATE + size_of::<Gate>() as u64
    }

    /// Where the guest's local descriptors are for the CPU.
    #[must_use]
    pub fn local_range(&self) -> core::ops::Range<u64> {
        let start = self.place + LOCAL;
        start..start + (LOCAL_PAGES * PAGE_SIZE) as u64
    }

    /// Where a guest's descriptors are, for the CPU whose it is.
    #[must_use]
    pub fn guest_range(&self) -> core::ops::Range<u64> {
        self.place..self.place + (GUEST_PAGES * PAGE_SIZE) as u64
    }

    /// Puts frames into the pages of the guest's descriptors; what was there goes.
    #[inline(always)]
    pub fn map_guest(&self, frames: &[Mfn]) {
        let filled = self.guest_filled.replace(frames.len());
        if filled | frames.len() != 0 {
            self.map(self.guest, self.place, frames, filled);
        }
    }

    /// One page of local descriptors.
    pub fn map_local(&self, page: usize, frame: Mfn) {
        if let Some(slot) = self.local.get(page) {
            self.local_filled.set(true);
            slot.store(pte::DATA | frame.base().0, Relaxed);
        }
    }

    /// No page of local descriptors is mapped any more.
    #[inline(always)]
    pub fn forget_local(&self) {
        if self.local_filled.replace(false) {
            self.map(self.local, self.place + LOCAL, &[], LOCAL_PAGES);
        }
    }

    /// Fills slots with these frames, and empties the others of those that may be filled.
    #[inline(never)]
    fn map(&self, slots: &[AtomicU64], at: u64, frames: &[Mfn], filled: usize) {
        let count = filled.max(frames.len());
        for (index, slot) in slots.iter().enumerate().take(count) {
            let entry = frames
                .get(index)
                .map_or(0, |frame| pte::DATA | frame.base().0);
            // Pages of local descriptors are mapped in any order: none may be passed over.
            let old = slot.load(Relaxed);
            if old != entry {
                slot.store(entry, Relaxed);
                if old != 0 {
                    flush::page(at + (index * PAGE_SIZE) as u64);
                }
            }
        }
    }

    /// The hypervisor's page of descriptors.
    #[must_use]
    pub fn own_descriptors(&self) -> *mut descriptors::Page {
        ptr::with_exposed_provenance_mut((self.place + u64::from(FIRST)) as usize)
    }
}
