//! The architecture's part of a vCPU and of a domain.

use core::{
    cell::{Cell, UnsafeCell},
    fmt,
    sync::atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use alloc::{boxed::Box, vec::Vec};

use xenolith_hal::{
    CpuId, E820Entry, HostPhys,
    sync::{Mutex, Rank},
};

use super::{fpu::FpuContext, pci::Pci, regs::GuestRegs, start::Start};
use crate::{
    cpuid::Policy,
    irq::pirqs::Pirqs,
    mm::{guest_access::TranslationCache, hardware::Ram},
    msr::{MsrPolicy, MsrState},
    pv::{domain::PvDomain, vcpu::PvVcpu},
    svm::vcpu::SvmVcpu,
    timer,
    vioapic::VIoApic,
    vlapic::{ApicPage, VLapic},
    vmx::vcpu::VmxVcpu,
};

/// What a vCPU keeps for the backend that the machine has.
pub enum HwVcpu {
    /// AMD.
    Svm(SvmVcpu),
    /// Intel.
    Vmx(VmxVcpu),
    /// Neither: a PV guest.
    Pv(Box<PvVcpu>),
}

impl HwVcpu {
    fn apic_page(&self) -> Option<&ApicPage> {
        match self {
            HwVcpu::Svm(_) | HwVcpu::Pv(_) => None,
            HwVcpu::Vmx(vmx) => vmx.apic_page(),
        }
    }
}

/// Registers and interrupts of one vCPU.
///
/// The cells are touched only by the CPU that runs the vCPU, or by whoever holds it off every CPU (it is down or
/// paused and the core says that it is on none).
pub struct ArchVcpu {
    regs: UnsafeCell<GuestRegs>,
    fpu: UnsafeCell<FpuContext>,
    /// The backend's part.
    pub hw: HwVcpu,
    /// Its number in its domain.
    pub index: usize,
    /// The guest was not yet told of an event, as far as is known without looking.
    pub upcall: AtomicBool,
    /// The vector for events of this vCPU alone; 0: the domain's.
    pub upcall_vector: AtomicU8,
    /// Where its time information was written.
    pub time_place: AtomicU64,
    /// How far ahead the counter was for which it was written.
    pub time_distance: AtomicI64,
    /// An exit was asked for when the guest can take an interrupt.
    pub window: Cell<bool>,
    /// The hypercall that it makes comes from 32-bit code.
    pub narrow: Cell<bool>,
    /// The local APIC.
    pub lapic: VLapic,
    /// Registers that a hypercall gave it to start with.
    pub start: Mutex<Option<Start>>,
    debug: Cell<[u64; 4]>,
    translations: UnsafeCell<TranslationCache<Ram>>,
    msrs: UnsafeCell<MsrState>,
}

// SAFETY: the cells follow the rule stated at the type, and so do those of the backend's part; everything else is atomic.
unsafe impl Sync for ArchVcpu {}

impl ArchVcpu {
    /// vCPU `index`, as after reset.
    #[must_use]
    pub fn new(index: usize, hw: HwVcpu, fpu: FpuContext) -> Self {
        Self {
            regs: UnsafeCell::new(GuestRegs::default()),
            fpu: UnsafeCell::new(fpu),
            hw,
            index,
            upcall: AtomicBool::new(false),
            upcall_vector: AtomicU8::new(0),
            time_place: AtomicU64::new(u64::MAX),
            time_distance: AtomicI64::new(0),
            window: Cell::new(false),
            narrow: Cell::new(false),
            lapic: VLapic::new(index as u32 * 2),
            start: Mutex::new(Rank::Vcpu, None),
            debug: Cell::new([0; 4]),
            translations: UnsafeCell::new(TranslationCache::new()),
            msrs: UnsafeCell::new(MsrState::default()),
        }
    }

    /// The interrupt that its local APIC would let through, while it is stopped.
    #[must_use]
    pub fn deliverable(&self) -> Option<u8> {
        match self.hw.apic_page() {
            Some(page) if self.lapic.is_lent() => self.lapic.deliverable_with(page),
            _ => self.lapic.deliverable(),
        }
    }

    /// What it has as a vCPU of a PV guest.
    #[inline(always)]
    #[must_use]
    pub fn pv(&self) -> Option<&PvVcpu> {
        match &self.hw {
            HwVcpu::Pv(pv) => Some(pv),
            _ => None,
        }
    }

    /// Its CPU looks what waits for it, and is no event, before it goes on in the guest.
    pub fn look_before_entry(&self) {
        match self.pv() {
            Some(pv) => pv.looks.store(true, SeqCst),
            None => self.upcall.store(true, SeqCst),
        }
    }

    /// The general registers, for the world switch.
    #[inline(always)]
    pub fn regs_ptr(&self) -> *mut GuestRegs {
        self.regs.get()
    }

    /// What it wrote to MSRs that are modelled.
    #[inline(always)]
    pub fn msrs_ptr(&self) -> *mut MsrState {
        self.msrs.get()
    }

    /// Where its last copies went.
    #[inline(always)]
    pub fn translations_ptr(&self) -> *mut TranslationCache<Ram> {
        self.translations.get()
    }

    /// The floating-point context, for load and save.
    #[inline(always)]
    pub fn fpu_ptr(&self) -> *mut FpuContext {
        self.fpu.get()
    }

    /// Stores the breakpoint addresses, which nothing else switches.
    pub fn debug_save(&self) {
        let mut kept = [0; 4];
        // SAFETY: reading debug registers changes nothing.
        unsafe {
            core::arch::asm!("mov {}, dr0", out(reg) kept[0], options(nomem, nostack, preserves_flags));
            core::arch::asm!("mov {}, dr1", out(reg) kept[1], options(nomem, nostack, preserves_flags));
            core::arch::asm!("mov {}, dr2", out(reg) kept[2], options(nomem, nostack, preserves_flags));
            core::arch::asm!("mov {}, dr3", out(reg) kept[3], options(nomem, nostack, preserves_flags));
        }
        self.debug.set(kept);
    }

    /// Loads the breakpoint addresses. They mean nothing to the hypervisor: the CPU clears DR7 at each exit.
    pub fn debug_load(&self) {
        let [a, b, c, d] = self.debug.get();
        // SAFETY: no breakpoint is on while the hypervisor runs.
        unsafe {
            core::arch::asm!("mov dr0, {}", in(reg) a, options(nomem, nostack, preserves_flags));
            core::arch::asm!("mov dr1, {}", in(reg) b, options(nomem, nostack, preserves_flags));
            core::arch::asm!("mov dr2, {}", in(reg) c, options(nomem, nostack, preserves_flags));
            core::arch::asm!("mov dr3, {}", in(reg) d, options(nomem, nostack, preserves_flags));
        }
    }

    /// Writes the registers of the last exit for a person to read.
    pub fn dump_registers(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        if let Some(pv) = self.pv() {
            // SAFETY: as below.
            return unsafe { pv.frame.get().cast_const().read_volatile() }.dump(out);
        }
        // SAFETY: a volatile read of plain words: another CPU may write them meanwhile, then the values are old or new
        // ones. No reference is made.
        let regs = unsafe { self.regs.get().cast_const().read_volatile() };
        for number in 0..16u8 {
            let end = if number % 4 == 3 { "\n" } else { " " };
            write!(
                out,
                "{:<3} {:#018x}{end}",
                NAMES[usize::from(number)],
                regs.get(number)
            )?;
        }
        Ok(())
    }
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// The architecture's part of a domain.
pub struct ArchDomain {
    /// How the guest wants to be told of events (`HVM_PARAM_CALLBACK_IRQ`): a vector, or 0.
    pub callback_vector: AtomicU8,
    /// Added to the time-stamp counter.
    pub tsc_offset: u64,
    /// The port permission map, where the domain has its own.
    pub ports: Option<HostPhys>,
    /// The domain owns the machine's devices.
    pub owns_devices: bool,
    /// The functions of PCI, for the domain that owns the devices.
    pub pci: Option<Pci>,
    /// The numbers of its device interrupts, for a PV domain that owns the devices.
    pub pirqs: Option<Pirqs>,
    /// Its memory map in the E820 form of the BIOS, for `memory_op`.
    pub memory_map: Vec<E820Entry>,
    /// What CPUID says.
    pub policy: Policy,
    /// What MSRs say.
    pub msrs: MsrPolicy,
    /// What it has as a PV domain.
    pub pv: Option<PvDomain>,
    /// The emulated IOAPIC.
    pub ioapic: Option<Mutex<VIoApic>>,
}

impl ArchDomain {
    /// What a CPU's own time-stamp counter needs to be added so that the guest reads the same on all CPUs.
    #[must_use]
    pub fn tsc_offset_on(&self, cpu: CpuId) -> u64 {
        self.tsc_offset.wrapping_sub(timer::ahead(cpu) as u64)
    }

    /// `HVM_PARAM_CALLBACK_IRQ`: only a vector (type 2, `hvm/params.h`) interrupts; the lines of a PCI device or an ISA
    /// interrupt belong to machines with emulated devices.
    pub fn set_callback(&self, via: u64) {
        const VECTOR: u64 = 2;
        const FIRST: u8 = 16;
        let vector = match (via >> 56, via as u8) {
            (VECTOR, vector) if vector >= FIRST => vector,
            _ => 0,
        };
        self.callback_vector.store(vector, Relaxed);
    }

    /// Whether an event vector is set.
    #[inline]
    pub fn callback(&self) -> Option<u8> {
        let vector = self.callback_vector.load(Relaxed);
        (vector != 0).then_some(vector)
    }
}
