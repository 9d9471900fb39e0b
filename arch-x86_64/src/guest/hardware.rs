//! What SVM and VMX have in common, seen from a stopped guest: why it stopped, its state, what to deliver to it.
//!
//! The code that serves exits is generic over [`Hardware`]; nothing here is decided at run time per exit.

use crate::{msr::Register, vlapic::VLapic};

/// Why a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// VMCALL or VMMCALL.
    Hypercall,
    /// Nothing of the guest's: a physical interrupt, already taken.
    Interrupt,
    /// The guest can take an interrupt that was waiting.
    InterruptWindow,
    /// The guest has ended the interrupt with this vector, at an APIC that the CPU has.
    EndOfInterrupt(u8),
    /// Through such an APIC it has sent itself a vector that there is not.
    IllegalVectorToSelf,
    /// An access that the second-level tables do not allow.
    Memory(MemoryFault),
    /// CPUID.
    Cpuid,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// IN, OUT, INS or OUTS.
    Port(PortAccess),
    /// HLT.
    Halt,
    /// PAUSE, in a loop of them.
    Pause,
    /// A move to a control register, CLTS or LMSW, where the CPU says which.
    ControlRegister(Option<ControlAccess>),
    /// XSETBV.
    SetXcr,
    /// INVD or WBINVD.
    FlushCaches,
    /// RDPMC.
    ReadCounter,
    /// An exception that is intercepted.
    Exception {
        /// Which.
        vector: u8,
        /// Its error code, where it has one.
        error: u32,
    },
    /// An instruction that this guest's CPU does not have.
    Undefined,
    /// A task switch by hardware.
    TaskSwitch,
    /// A triple fault.
    Shutdown,
    /// The state cannot be run, or an exit that nothing asked for; the CPU's own number for it.
    Failed(u64),
}

/// What an instruction does with a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlAccess {
    /// A move to it.
    Write {
        /// Its number.
        register: u8,
        /// The general register's.
        general: u8,
    },
    /// A move from it.
    Read {
        /// Its number.
        register: u8,
        /// The general register's.
        general: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with this value.
    Lmsw(u16),
}

/// An access that the second-level tables stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// Guest-physical address.
    pub address: u64,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The page was mapped, but not for this.
    pub present: bool,
    /// The access was made by the walk through the guest's own tables.
    pub walk: bool,
}

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// First port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a repeat prefix.
    pub repeat: bool,
    /// Address of the next instruction, where the CPU says it.
    pub next: Option<u64>,
}

/// What can be delivered to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// An exception.
    Exception {
        /// Which.
        vector: u8,
        /// Its error code, where it has one.
        error: Option<u32>,
    },
}

impl Event {
    /// An undefined instruction.
    pub const UNDEFINED: Self = Self::Exception {
        vector: 6,
        error: None,
    };
    /// A general protection fault, error code 0.
    pub const PROTECTION: Self = Self::Exception {
        vector: 13,
        error: Some(0),
    };
}

/// Segment registers, in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub enum SegmentName {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// A segment register with its hidden part, laid out as a VMCB holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Type, S, DPL, P in bits 0 to 7; AVL, L, D, G in bits 8 to 11.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// A stopped vCPU's state in a backend's hands.
pub trait Hardware {
    /// The guest can lower its task priority without an exit. A window that is set with a class then opens only below it.
    const LOWERS_TPR_UNSEEN: bool;

    /// Why it stopped.
    fn exit(&self) -> Exit;
    /// Length of the instruction that was intercepted, where the CPU tells.
    fn instruction_length(&self) -> Option<u64>;

    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Sets it.
    fn set_rip(&mut self, value: u64);
    /// Stack pointer.
    fn rsp(&self) -> u64;
    /// Sets it.
    fn set_rsp(&mut self, value: u64);
    /// Flags.
    fn rflags(&self) -> u64;
    /// Sets them.
    fn set_rflags(&mut self, value: u64);
    /// CR0 as the guest sees it.
    fn cr0(&self) -> u64;
    /// CR2.
    fn set_cr2(&mut self, value: u64);
    /// CR3.
    fn cr3(&self) -> u64;
    /// CR4 as the guest sees it.
    fn cr4(&self) -> u64;
    /// EFER as the guest sees it.
    fn efer(&self) -> u64;
    /// Sets CR0; a change of paging brings EFER.LMA along. CD and NW are kept for the guest to read; its caches stay on, as
    /// far as the backend can tell the CPU so.
    fn set_cr0(&mut self, value: u64);
    /// Sets CR3.
    fn set_cr3(&mut self, value: u64);
    /// Sets CR4.
    fn set_cr4(&mut self, value: u64);
    /// The page directory pointers of a guest that begins PAE paging, where the CPU wants to be told.
    fn set_page_directory_pointers(&mut self, _: [u64; 4]) {}
    /// Sets EFER.
    fn set_efer(&mut self, value: u64);
    /// What the CPU cached of the guest's own translations is dropped at the next entry.
    fn flush(&mut self);
    /// Privilege level.
    fn cpl(&self) -> u8;
    /// A segment register.
    fn segment(&self, name: SegmentName) -> Segment;
    /// Sets one.
    fn set_segment(&mut self, name: SegmentName, value: Segment);
    /// Sets the task register.
    fn set_task_register(&mut self, value: Segment);
    /// Whether the guest runs 64-bit code.
    #[inline]
    fn is_64_bit(&self) -> bool {
        const LONG_CODE: u16 = 1 << 9;
        const LMA: u64 = 1 << 10;
        self.efer() & LMA != 0 && self.segment(SegmentName::Cs).attributes & LONG_CODE != 0
    }
    /// Puts the vCPU into the state after INIT, with descriptor tables and system registers as at reset.
    fn reset(&mut self);
    /// A register that has an MSR number.
    fn register(&self, which: Register) -> u64;
    /// Sets one.
    fn set_register(&mut self, which: Register, value: u64);

    /// The guest's instruction was skipped: what shadowed interrupts ends with it.
    fn end_shadow(&mut self);
    /// Whether an external interrupt can be delivered at the next entry.
    fn interruptible(&self) -> bool;
    /// Whether an event will be delivered at the next entry already.
    fn delivers(&self) -> bool;
    /// Delivers an event at the next entry.
    fn inject(&mut self, event: Event);
    /// The event whose delivery the exit interrupted, for delivery anew.
    fn take_interrupted(&mut self) -> Option<Event>;
    /// Asks for [`Exit::InterruptWindow`] when the guest can take an interrupt of this priority class, or no more.
    fn set_window(&mut self, class: Option<u8>);
    /// CR8, as the guest left it.
    fn cr8(&self) -> u8;
    /// Sets what the guest reads from CR8.
    fn set_cr8(&mut self, class: u8);

    /// Makes the model of the local APIC hold all that the CPU kept of it while the guest ran.
    #[inline]
    fn sync(&mut self, lapic: &VLapic) {
        let class = self.cr8();
        if class != lapic.tpr() {
            lapic.set_tpr(class);
        }
    }
    /// Whether the CPU delivers this APIC's interrupts by itself once it has it.
    #[inline(always)]
    fn takes(&self, _: &VLapic) -> bool {
        false
    }
    /// Just before an entry: lends the local APIC to the CPU, where that can be; or, where the CPU has it, what is requested
    /// since.
    #[inline(always)]
    fn lend(&mut self, _: &VLapic, _requested: bool) {}
}
