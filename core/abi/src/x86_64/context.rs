//! The registers of a PV vCPU as they go over the wire.
//!
//! Headers: `arch-x86/xen.h` (`vcpu_guest_context`, the argument of [`crate::vcpu::VcpuOp::Initialise`] for PV guests,
//! `trap_info`), `arch-x86/xen-x86_64.h` (`cpu_user_regs`, `iret_context`, the flat selectors).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Selector of flat 64-bit code in ring 3, kernel's and programs' alike.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Selector of flat 32-bit code in ring 3.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// Selector of flat data in ring 3.
pub const FLAT_RING3_DS32: u16 = 0xe02b;
/// Data of 64-bit code: the null selector.
pub const FLAT_RING3_DS64: u16 = 0;
/// Stack of 64-bit code.
pub const FLAT_RING3_SS64: u16 = 0xe02b;

/// Entries of a GDT that are the guest's; the hypervisor's follow.
pub const FIRST_RESERVED_GDT_ENTRY: u64 = 14 * 512;

/// First address of the machine-to-physical table, and of all that is the hypervisor's.
pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// Where the room for that table ends.
pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
/// Where the hypervisor's addresses end.
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;

/// General registers (`cpu_user_regs`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub struct CpuUserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Private to the hypervisor.
    pub error_code: u32,
    /// Private to the hypervisor.
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u16,
    #[doc(hidden)]
    pub _pad0: u16,
    /// The event mask of the vCPU when it was interrupted.
    pub saved_upcall_mask: u8,
    #[doc(hidden)]
    pub _pad1: [u8; 3],
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    #[doc(hidden)]
    pub _pad2: [u16; 3],
    pub es: u16,
    #[doc(hidden)]
    pub _pad3: [u16; 3],
    pub ds: u16,
    #[doc(hidden)]
    pub _pad4: [u16; 3],
    pub fs: u16,
    #[doc(hidden)]
    pub _pad5: [u16; 3],
    pub gs: u16,
    #[doc(hidden)]
    pub _pad6: [u16; 3],
}

/// What a kernel does with one exception (`trap_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrapInfo {
    /// The exception's number.
    pub vector: u8,
    /// Bits 0 and 1: from which level INT may raise it; bit 2: events are masked in the handler.
    pub flags: u8,
    /// The handler's code selector.
    pub cs: u16,
    #[doc(hidden)]
    pub _pad: u32,
    /// The handler's address; 0 ends a table.
    pub address: u64,
}

impl TrapInfo {
    /// The level from which INT may raise it.
    #[must_use]
    pub const fn level(&self) -> u8 {
        self.flags & 3
    }

    /// Whether events are masked when the handler starts.
    #[must_use]
    pub const fn masks_events(&self) -> bool {
        self.flags & 4 != 0
    }
}

wire_flags! {
    /// Flags of [`VcpuGuestContext`] (`VGCF_*`).
    pub struct ContextFlags: u64 {
        /// The floating-point registers are given.
        const I387_VALID = 1 << 0;
        /// It starts in its kernel.
        const IN_KERNEL = 1 << 2;
        /// The failsafe handler starts with events masked.
        const FAILSAFE_DISABLES_EVENTS = 1 << 3;
        /// The handler of system calls starts with events masked.
        const SYSCALL_DISABLES_EVENTS = 1 << 4;
        /// It is up.
        const ONLINE = 1 << 5;
    }
}

/// Everything that a PV vCPU starts with (`vcpu_guest_context`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuGuestContext {
    /// Floating-point registers in the form of FXSAVE.
    pub fpu_ctxt: [u8; 512],
    /// What of it is given.
    pub flags: ContextFlags,
    /// General registers.
    pub user_regs: CpuUserRegs,
    /// One handler for each exception.
    pub trap_ctxt: [TrapInfo; 256],
    /// Virtual address of the local descriptor table.
    pub ldt_base: u64,
    /// Its descriptors.
    pub ldt_ents: u64,
    /// Machine frames of the global descriptor table.
    pub gdt_frames: [u64; 16],
    /// Its descriptors.
    pub gdt_ents: u64,
    /// Stack segment of the kernel.
    pub kernel_ss: u64,
    /// Stack pointer of the kernel.
    pub kernel_sp: u64,
    /// CR0 to CR7; CR3 is the kernel's root and CR1 that of programs, each a frame shifted.
    pub ctrlreg: [u64; 8],
    /// DR0 to DR7.
    pub debugreg: [u64; 8],
    /// Where events go.
    pub event_callback_eip: u64,
    /// Where faults on the way back into the guest go.
    pub failsafe_callback_eip: u64,
    /// Where system calls go.
    pub syscall_callback_eip: u64,
    /// Assists that the domain asks for, as bits.
    pub vm_assist: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base of the kernel.
    pub gs_base_kernel: u64,
    /// GS base of programs.
    pub gs_base_user: u64,
}

/// What the hypercall `iret` finds on the kernel's stack, from the stack pointer up (`iret_context`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub struct IretContext {
    pub rax: u64,
    pub r11: u64,
    pub rcx: u64,
    /// [`IretContext::IN_SYSCALL`] or nothing.
    pub flags: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl IretContext {
    /// The return is from a system call: R11, RCX, CS and SS do not count (`VGCF_in_syscall`).
    pub const IN_SYSCALL: u64 = 1 << 8;
}
