//! The architecture's part of a vCPU and of a domain.

use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32};

use xenolith_hal::{
    MAX_CPUS,
    sync::{Mutex, Rank},
};

use super::{
    context::VsContext,
    fp::FpContext,
    interrupts::Waiting,
    regs::{self, GuestRegs},
    vuart::VUart,
};
use crate::{domain_build::Places, vplic::VPlic};

/// Registers and interrupts of one vCPU.
///
/// The cells are touched only by the CPU that runs the vCPU, or by whoever holds it off every CPU (it is down or
/// paused and the core says that it is on none).
pub struct ArchVcpu {
    regs: UnsafeCell<GuestRegs>,
    context: UnsafeCell<VsContext>,
    fp: UnsafeCell<FpContext>,
    /// Its number in its domain, and its hart number.
    pub index: usize,
    /// Interrupts on their way to it.
    pub waiting: Waiting,
    /// The hypercall being served lets the guest take interrupts when it goes on.
    pub take_interrupts: AtomicBool,
    /// One more than the CPU that it was loaded on last.
    pub last_cpu: AtomicU16,
}

// SAFETY: the cells follow the rule stated at the type; everything else is atomic.
unsafe impl Sync for ArchVcpu {}

impl ArchVcpu {
    /// vCPU `index`, not started.
    pub fn new(index: usize) -> Self {
        Self {
            regs: UnsafeCell::new(GuestRegs::default()),
            context: UnsafeCell::new(VsContext::default()),
            fp: UnsafeCell::new(FpContext::default()),
            index,
            waiting: Waiting::new(),
            take_interrupts: AtomicBool::new(false),
            last_cpu: AtomicU16::new(0),
        }
    }

    /// Puts the registers to what a hart starts with, at an address and with a value in a1 (SBI, "Hart State Management").
    ///
    /// # Safety
    /// The vCPU is on no CPU and nobody else touches its registers during the call.
    pub unsafe fn reset(&self, entry: u64, a1: u64) {
        // SAFETY: the caller holds the vCPU alone.
        unsafe {
            *self.regs.get() = GuestRegs::started(entry, self.index as u64, a1);
            *self.context.get() = VsContext::started();
            *self.fp.get() = FpContext::default();
        }
        self.waiting.reset();
    }

    /// Writes the registers of the last exit for a person to read.
    pub fn dump_registers(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let regs = self.regs.get().cast_const();
        // SAFETY: volatile reads of plain words inside the cell: another CPU may write them meanwhile, then the values
        // are old or new ones. No reference is made, and the pointers stay inside the structure.
        let (pc, status, x) = unsafe {
            let words = (&raw const (*regs).x).cast::<u64>();
            let x: [u64; 32] = core::array::from_fn(|n| words.add(n).read_volatile());
            (
                (&raw const (*regs).pc).read_volatile(),
                (&raw const (*regs).sstatus).read_volatile(),
                x,
            )
        };
        regs::print(out, self.index, (pc, status, &x))
    }

    /// The registers, for the world switch.
    #[inline(always)]
    pub fn regs_ptr(&self) -> *mut GuestRegs {
        self.regs.get()
    }

    /// The VS-mode context, for load and save.
    #[inline(always)]
    pub fn context_ptr(&self) -> *mut VsContext {
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
    /// Where it sees what is emulated.
    pub places: Places,
    /// Its interrupt controller.
    pub plic: Mutex<VPlic>,
    /// Its emulated UART, where it has one.
    pub uart: Option<Mutex<VUart>>,
    /// Held while a vCPU is being started.
    pub starting: Mutex<()>,
    /// The source of its first vCPU's events; the next vCPUs have the next ones.
    pub event_source: u32,
    /// vCPUs that may have got an event of another one's since anybody looked, a bit each.
    pub raised_elsewhere: AtomicU32,
    /// One more than the vCPU of the domain that each CPU loaded last.
    pub last_loaded: [AtomicU16; MAX_CPUS],
    /// What `time` of the guest is ahead of the machine's (`htimedelta`), in ticks.
    pub time_delta: u64,
    /// Whether interrupts of the machine's devices go to it.
    pub has_devices: bool,
}

impl ArchDomain {
    /// A domain's part.
    pub fn new(vcpus: usize, places: Places, time_delta: u64, has_devices: bool) -> Self {
        let uart = places.uart.map(|_| VUart::default());
        Self {
            places,
            plic: Mutex::new(Rank::Interrupts, VPlic::new(vcpus, places.sources)),
            uart: uart.map(|uart| Mutex::new(Rank::Vcpu, uart)),
            starting: Mutex::new(Rank::Domain, ()),
            event_source: places.events,
            raised_elsewhere: AtomicU32::new(0),
            last_loaded: [const { AtomicU16::new(0) }; MAX_CPUS],
            time_delta,
            has_devices,
        }
    }
}
