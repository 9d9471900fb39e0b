//! The architecture's part of a vCPU and of a domain.

use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use xenolith_hal::sync::{Mutex, Rank};

use super::frames::GicFrames;
use super::{
    context::El1Context,
    fp::FpContext,
    regs::{GuestRegs, PSTATE_EL1H_MASKED},
    told::Told,
    vpl011::Vpl011,
};
use crate::vgic::{VgicDomain, VgicVcpu, affinity_of};

/// Registers, timers and interrupts of one vCPU.
///
/// The cells are touched only by the CPU that runs the vCPU, or by whoever holds it off every CPU (it is down or
/// paused and the core says that it is on none).
pub struct ArchVcpu {
    regs: UnsafeCell<GuestRegs>,
    context: UnsafeCell<El1Context>,
    fp: UnsafeCell<FpContext>,
    /// Its number in its domain.
    pub index: usize,
    /// Its affinity value (VMPIDR_EL2).
    pub vmpidr: u64,
    /// Its private interrupts and list registers.
    pub vgic: Arc<VgicVcpu>,
    /// The emulated physical timer: control and deadline in counter ticks.
    pub physical_timer: (AtomicU64, AtomicU64),
    /// The hypercall being served lets the guest take interrupts when it goes on.
    pub take_interrupts: AtomicBool,
}

// SAFETY: the cells follow the rule stated at the type; everything else is atomic or locked.
unsafe impl Sync for ArchVcpu {}

impl ArchVcpu {
    /// vCPU `index`, as after reset.
    pub fn new(index: usize, vgic: Arc<VgicVcpu>) -> Self {
        Self {
            regs: UnsafeCell::new(GuestRegs::default()),
            context: UnsafeCell::new(El1Context::reset()),
            fp: UnsafeCell::new(FpContext::default()),
            index,
            vmpidr: 1 << 31 | u64::from(affinity_of(index)),
            vgic,
            physical_timer: (AtomicU64::new(0), AtomicU64::new(0)),
            take_interrupts: AtomicBool::new(false),
        }
    }

    /// Puts the registers to reset values with a start address and a value in x0.
    ///
    /// # Safety
    /// The vCPU is on no CPU and nobody else touches its registers during the call.
    pub unsafe fn reset(&self, entry: u64, x0: u64) {
        // SAFETY: the caller holds the vCPU alone.
        unsafe {
            *self.regs.get() = GuestRegs {
                pc: entry,
                pstate: PSTATE_EL1H_MASKED,
                ..GuestRegs::default()
            };
            (*self.regs.get()).x[0] = x0;
            *self.context.get() = El1Context::reset();
            *self.fp.get() = FpContext::default();
        }
        self.physical_timer.0.store(0, Relaxed);
    }

    /// Writes the registers of the last exit for a person to read.
    pub fn dump_registers(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        // SAFETY: volatile reads of plain words inside the cell: another CPU may write them meanwhile, then the values
        // are old or new ones. No reference is made.
        let word = |at: *const u64| unsafe { at.read_volatile() };
        let regs = self.regs.get().cast_const();
        // SAFETY: the pointers stay inside the structure.
        let (x, pc, pstate) = unsafe {
            (
                &raw const (*regs).x,
                &raw const (*regs).pc,
                &raw const (*regs).pstate,
            )
        };
        writeln!(
            out,
            "pc {:#018x} pstate {:#x} vmpidr {:#x}",
            word(pc),
            word(pstate),
            self.vmpidr
        )?;
        for n in 0..31usize {
            let end = if n % 4 == 3 || n == 30 { "\n" } else { " " };
            // SAFETY: `n` is below the array's length.
            let at = unsafe { x.cast::<u64>().add(n) };
            write!(out, "x{n:<2} {:#018x}{end}", word(at))?;
        }
        Ok(())
    }

    /// The registers, for the world switch.
    #[inline(always)]
    pub fn regs_ptr(&self) -> *mut GuestRegs {
        self.regs.get()
    }

    /// The EL1 context, for load and save.
    #[inline(always)]
    pub fn context_ptr(&self) -> *mut El1Context {
        self.context.get()
    }

    /// The floating-point context, for load and save.
    #[inline(always)]
    pub fn fp_ptr(&self) -> *mut FpContext {
        self.fp.get()
    }
}

/// The architecture's part of a domain.
pub struct ArchDomain {
    /// The virtual interrupt controller.
    pub vgic: VgicDomain,
    /// Where its registers are in the guest's address space.
    pub frames: GicFrames,
    /// The emulated UART, where the domain has one.
    pub uart: Option<Mutex<Vpl011>>,
    /// Held while a vCPU is being started.
    pub starting: Mutex<()>,
    /// The private interrupt that says "an event channel is pending".
    pub event_ppi: u32,
    /// The private interrupt of the emulated physical timer.
    pub physical_timer_ppi: u32,
    /// What was logged of it already.
    pub told: Told,
    /// What the virtual counter lags behind the physical one, in ticks.
    pub counter_offset: u64,
}

impl ArchDomain {
    /// A domain's part around its interrupt controller.
    pub fn new(vgic: VgicDomain, frames: GicFrames, event_ppi: u32, counter_offset: u64) -> Self {
        Self {
            vgic,
            frames,
            uart: None,
            starting: Mutex::new(Rank::Domain, ()),
            event_ppi,
            physical_timer_ppi: 30,
            told: Told::new(),
            counter_offset,
        }
    }

    /// Gives the domain an emulated UART.
    #[must_use]
    pub fn with_uart(mut self) -> Self {
        self.uart = Some(Mutex::new(Rank::Vcpu, Vpl011::default()));
        self
    }
}
