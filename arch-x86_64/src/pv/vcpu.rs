//! What a vCPU of a PV guest has beside its general registers: where its kernel wants to be entered, its address spaces, segments.
//!
//! The cells are touched by the CPU that runs the vCPU, or by whoever holds it off every CPU, as those of
//! [`crate::guest::vcpu::ArchVcpu`].

use alloc::boxed::Box;
use core::{
    cell::{Cell, UnsafeCell},
    mem::offset_of,
    ptr,
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use arrayvec::ArrayVec;
use xenolith_abi::x86_64::{ArchVcpuInfo, VcpuInfo};
use xenolith_hal::{CpuId, Mfn};

use super::{frame::Frame, memory::AddressSpace};

const NO_CPU: u32 = u32::MAX;

/// Pages of descriptors that a guest may have.
pub const DESCRIPTOR_PAGES: usize = 14;

/// Pages of local descriptors that the CPU has used: which, and their frames.
pub type LocalFrames = ArrayVec<(usize, Mfn), 16>;

/// Who runs in ring 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// The guest's kernel.
    Kernel = 0,
    /// A program of its.
    User = 1,
}

/// The beginning of a `vcpu_info`, which the guest reads and writes at any time.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Info {
    /// Not zero: an upcall is pending.
    pub pending: AtomicU8,
    /// Not zero: the guest takes no upcall now.
    pub mask: AtomicU8,
    _pad: [u8; 6],
    selector: AtomicU64,
    /// The address of the last page fault.
    pub cr2: AtomicU64,
}

const _: () = {
    assert!(offset_of!(Info, pending) == offset_of!(VcpuInfo, evtchn_upcall_pending));
    assert!(offset_of!(Info, mask) == offset_of!(VcpuInfo, evtchn_upcall_mask));
    assert!(offset_of!(Info, cr2) == offset_of!(VcpuInfo, arch) + offset_of!(ArchVcpuInfo, cr2));
};

/// Where the kernel is entered for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callback {
    /// Address; 0: it is not.
    pub address: u64,
    /// Event upcalls are masked there.
    pub masks_events: bool,
}

/// The kernel's handler of an exception or interrupt instruction (`trap_info`, `arch-x86/xen.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trap {
    /// Address; 0: none.
    pub address: u64,
    /// Code segment.
    pub selector: u16,
    /// Bits 0 and 1: the least privilege of an instruction that raises it; bit 2: event upcalls are masked.
    pub flags: u8,
}

impl Trap {
    /// Whether event upcalls are masked in the handler.
    #[must_use]
    pub const fn masks_events(self) -> bool {
        self.flags & 1 << 2 != 0
    }

    /// Whether an INT of the guest's kernel or user may get there.
    #[must_use]
    pub const fn admits(self, mode: Mode) -> bool {
        let privilege = match mode {
            Mode::Kernel => 1,
            Mode::User => 3,
        };
        self.flags & 3 >= privilege
    }
}

/// Segment registers and their bases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub struct Segments {
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
    pub fs_base: u64,
    /// While the kernel runs.
    pub gs_base_kernel: u64,
    /// While a program runs.
    pub gs_base_user: u64,
}

/// The events of a vCPU besides its event channels.
#[derive(Debug, Default)]
pub struct Signals {
    nmi: AtomicBool,
}

impl Signals {
    /// A non-maskable interrupt waits from now on.
    pub fn post_nmi(&self) {
        self.nmi.store(true, SeqCst);
    }

    /// Whether one waits.
    #[must_use]
    pub fn nmi_waits(&self) -> bool {
        self.nmi.load(SeqCst)
    }

    /// It is delivered.
    pub fn take_nmi(&self) {
        self.nmi.store(false, SeqCst);
    }
}

/// DR7 after reset.
pub const NO_BREAKPOINTS: u64 = 0x400;

/// See the module.
pub struct PvVcpu {
    /// The registers, while no CPU has them loaded.
    pub frame: UnsafeCell<Frame>,
    /// Registers were given to it: it can be brought up.
    pub has_registers: Cell<bool>,
    /// Who runs.
    pub mode: Cell<Mode>,
    /// The root tables of the kernel and of programs.
    pub space: AddressSpace,
    /// The CPU that has it loaded; [`NO_CPU`] if none.
    loaded_on: AtomicU32,
    /// The kernel's stack when it is entered from a program.
    pub kernel_stack: Cell<u64>,
    /// Its selector.
    pub kernel_stack_selector: Cell<u16>,
    /// For events.
    pub event: Cell<Callback>,
    /// For registers that could not be loaded.
    pub failsafe: Cell<Callback>,
    /// For system calls of 64-bit programs.
    pub syscall: Cell<Callback>,
    /// For system calls of 32-bit programs.
    pub syscall_32: Cell<Callback>,
    /// For SYSENTER.
    pub sysenter: Cell<Callback>,
    /// For non-maskable interrupts.
    pub nmi: Cell<Callback>,
    /// A non-maskable interrupt is being handled.
    pub in_nmi: Cell<bool>,
    /// Handlers of exceptions and interrupt instructions.
    pub traps: Box<[Cell<Trap>; 256]>,
    /// Segments, while no CPU has them loaded; the bases that are not in the CPU otherwise.
    pub segments: Cell<Segments>,
    /// The selectors of DS, ES, FS and GS, when one of them could not be loaded and the kernel was not told yet.
    pub segments_failed: Cell<Option<[u16; 4]>>,
    /// Frames with descriptors.
    pub descriptors: UnsafeCell<ArrayVec<Mfn, DESCRIPTOR_PAGES>>,
    /// How many descriptors there are.
    pub descriptor_count: Cell<u32>,
    /// Local descriptors: where the kernel has them, and how many.
    pub local: Cell<(u64, u32)>,
    /// Pages of local descriptors that the CPU has used, with their frames.
    pub local_frames: UnsafeCell<LocalFrames>,
    /// The privilege that ports ask for, as the guest set it.
    pub iopl: Cell<u8>,
    /// The guest's bitmap of ports that its programs may use: its address in the kernel's space, and how many ports it tells of.
    pub io_bitmap: Cell<(u64, u32)>,
    /// TSC_AUX.
    pub tsc_aux: Cell<u32>,
    /// SPEC_CTRL, as the guest has it.
    pub spec_ctrl: Cell<u32>,
    /// CR0.TS, as the guest has it.
    pub task_switched: Cell<bool>,
    /// CR4, as the guest has it.
    pub cr4: Cell<u64>,
    /// CR2 of the last page fault that the guest was told of.
    pub cr2: Cell<u64>,
    /// Debug registers 0 to 3, 6 and 7.
    pub debug: Cell<[u64; 8]>,
    /// What waits.
    pub signals: Signals,
    /// Something waits that is no event: the short ways do not know of it.
    pub looks: AtomicBool,
    /// Where its `vcpu_info` is; null before it first runs.
    info: AtomicPtr<Info>,
    /// The place of one that has none.
    no_info: Info,
}

impl PvVcpu {
    /// A vCPU without registers.
    #[must_use]
    pub fn new() -> Self {
        const DEBUG_RESET: [u64; 8] = [0, 0, 0, 0, 0, 0, 0xffff_0ff0, NO_BREAKPOINTS];
        Self {
            frame: UnsafeCell::new(Frame::default()),
            has_registers: Cell::new(false),
            mode: Cell::new(Mode::Kernel),
            space: AddressSpace::new(),
            loaded_on: AtomicU32::new(NO_CPU),
            kernel_stack: Cell::new(0),
            kernel_stack_selector: Cell::new(0),
            event: Cell::default(),
            failsafe: Cell::default(),
            syscall: Cell::default(),
            syscall_32: Cell::default(),
            sysenter: Cell::default(),
            nmi: Cell::default(),
            in_nmi: Cell::new(false),
            traps: Box::new(
                [const {
                    Cell::new(Trap {
                        address: 0,
                        selector: 0,
                        flags: 0,
                    })
                }; 256],
            ),
            segments: Cell::default(),
            segments_failed: Cell::new(None),
            descriptors: UnsafeCell::new(ArrayVec::new()),
            descriptor_count: Cell::new(0),
            local: Cell::default(),
            local_frames: UnsafeCell::new(ArrayVec::new()),
            iopl: Cell::new(0),
            io_bitmap: Cell::default(),
            tsc_aux: Cell::default(),
            spec_ctrl: Cell::default(),
            task_switched: Cell::new(false),
            cr4: Cell::new(0),
            cr2: Cell::new(0),
            debug: Cell::new(DEBUG_RESET),
            signals: Signals::default(),
            looks: AtomicBool::new(false),
            info: AtomicPtr::new(ptr::null_mut()),
            no_info: Info::default(),
        }
    }

    /// Whether its debug registers name a breakpoint.
    #[must_use]
    pub fn has_breakpoints(&self) -> bool {
        let [.., control] = self.debug.get();
        control != NO_BREAKPOINTS
    }

    /// Where the word is that says where its `vcpu_info` is: for assembly.
    pub const INFO: usize = offset_of!(Self, info);

    /// Whether it is known where its `vcpu_info` is.
    #[must_use]
    pub fn has_info(&self) -> bool {
        !self.info.load(Relaxed).is_null()
    }

    /// Says where its `vcpu_info` is; none: nowhere, and what would stand there stays here.
    ///
    /// # Safety
    /// The place stays memory of that kind as long as the vCPU may run.
    pub unsafe fn set_info(&self, info: Option<*const Info>) {
        let info = info.unwrap_or(&raw const self.no_info);
        self.info.store(info.cast_mut(), Relaxed);
    }

    /// Its `vcpu_info`.
    #[inline(always)]
    #[must_use]
    pub fn info(&self) -> &Info {
        let info = self.info.load(Relaxed);
        // SAFETY: `set_info` was told the truth, before the vCPU first ran.
        unsafe { info.as_ref() }.unwrap_or(&self.no_info)
    }

    /// The CPU that has it loaded.
    #[must_use]
    pub fn cpu(&self) -> Option<CpuId> {
        match self.loaded_on.load(SeqCst) {
            NO_CPU => None,
            cpu => Some(CpuId(cpu as u16)),
        }
    }

    /// Notes the CPU that loads it, or that none has it any more.
    pub fn set_cpu(&self, cpu: Option<CpuId>) {
        self.loaded_on
            .store(cpu.map_or(NO_CPU, |cpu| cpu.0.into()), SeqCst);
    }

    /// Where events are told.
    #[inline(always)]
    #[must_use]
    pub fn event_upcall(&self) -> Callback {
        Callback {
            masks_events: true,
            ..self.event.get()
        }
    }

    /// The handler of a vector.
    #[inline(always)]
    #[must_use]
    pub fn trap(&self, vector: u8) -> Trap {
        self.traps[usize::from(vector)].get()
    }
}

impl Default for PvVcpu {
    fn default() -> Self {
        Self::new()
    }
}
