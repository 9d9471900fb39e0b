//! The virtual machine control block: what the CPU reads at VMRUN and writes at an exit (AMD APM, volume 2, appendix B).
//!
//! The CPU accesses it only between VMRUN and the exit; at all other times it is plain memory of the vCPU's owner. Fields
//! that the CPU may keep in its own caches have a [`Clean`] bit: whoever changes one takes its bit away.

use core::cell::Cell;

use bitflags::bitflags;
use tock_registers::registers::InMemoryRegister;

use super::hidden;
use crate::guest::hardware::Segment;

#[allow(missing_docs, reason = "the fields are those of the manual")]
mod fields {
    use tock_registers::register_bitfields;

    register_bitfields! {u64,
        /// Virtual interrupt control, offset 0x60.
        pub VirtualInterrupt [
            TPR OFFSET(0) NUMBITS(8) [],
            REQUEST OFFSET(8) NUMBITS(1) [],
            PRIORITY OFFSET(16) NUMBITS(4) [],
            IGNORE_TPR OFFSET(20) NUMBITS(1) [],
            /// The host's RFLAGS.IF and task priority decide on physical interrupts.
            MASKING OFFSET(24) NUMBITS(1) [],
            VECTOR OFFSET(32) NUMBITS(8) [],
        ],
        /// An event that was being delivered at the exit (offset 0x88), or is to be delivered at VMRUN (0xa8).
        pub EventInfo [
            VECTOR OFFSET(0) NUMBITS(8) [],
            KIND OFFSET(8) NUMBITS(3) [
                External = 0,
                Nmi = 2,
                Exception = 3,
                Software = 4,
            ],
            HAS_ERROR OFFSET(11) NUMBITS(1) [],
            VALID OFFSET(31) NUMBITS(1) [],
            ERROR OFFSET(32) NUMBITS(32) [],
        ],
        /// First information word of a port exit.
        pub IoInfo [
            IN OFFSET(0) NUMBITS(1) [],
            STRING OFFSET(2) NUMBITS(1) [],
            REPEAT OFFSET(3) NUMBITS(1) [],
            SIZE OFFSET(4) NUMBITS(3) [],
            ADDRESS_SIZE OFFSET(7) NUMBITS(3) [],
            SEGMENT OFFSET(10) NUMBITS(3) [],
            PORT OFFSET(16) NUMBITS(16) [],
        ],
    }
}
pub use fields::{EventInfo, IoInfo, VirtualInterrupt};

bitflags! {
    /// What the CPU may take from its caches instead of the control block, offset 0xc0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Clean: u32 {
        /// Intercepts, TSC offset, pause filter.
        const INTERCEPTS = 1 << 0;
        /// Permission maps.
        const PERMISSIONS = 1 << 1;
        /// ASID.
        const ASID = 1 << 2;
        /// Virtual interrupt control.
        const INTERRUPT = 1 << 3;
        /// Nested paging: root, PAT.
        const NESTED = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL = 1 << 5;
        /// DR6, DR7.
        const DEBUG = 1 << 6;
        /// GDT and IDT.
        const TABLES = 1 << 7;
        /// CS, DS, SS, ES, CPL.
        const SEGMENTS = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
        /// Last-branch records.
        const LAST_BRANCH = 1 << 10;
    }

    /// Third word of intercepts, offset 0x0c.
    #[derive(Clone, Copy, Debug)]
    pub struct Intercept1: u32 {
        /// Physical interrupts.
        const INTR = 1 << 0;
        /// Non-maskable interrupts.
        const NMI = 1 << 1;
        /// System management interrupts.
        const SMI = 1 << 2;
        /// INIT.
        const INIT = 1 << 3;
        /// The guest could take a virtual interrupt.
        const VINTR = 1 << 4;
        /// Writes to CR0 that change more than TS and MP.
        const CR0_CHANGE = 1 << 5;
        /// RDPMC.
        const RDPMC = 1 << 15;
        /// CPUID.
        const CPUID = 1 << 18;
        /// IRET.
        const IRET = 1 << 20;
        /// INVD.
        const INVD = 1 << 22;
        /// PAUSE.
        const PAUSE = 1 << 23;
        /// HLT.
        const HLT = 1 << 24;
        /// INVLPGA.
        const INVLPGA = 1 << 26;
        /// IN and OUT, as the permission map says.
        const PORTS = 1 << 27;
        /// RDMSR and WRMSR, as the permission map says.
        const MSRS = 1 << 28;
        /// Task switches.
        const TASK = 1 << 29;
        /// Frozen floating-point errors.
        const FERR_FREEZE = 1 << 30;
        /// Triple faults.
        const SHUTDOWN = 1 << 31;
    }

    /// Fourth word of intercepts, offset 0x10.
    #[derive(Clone, Copy, Debug)]
    pub struct Intercept2: u32 {
        /// VMRUN; must always be intercepted.
        const VMRUN = 1 << 0;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// WBINVD.
        const WBINVD = 1 << 9;
        /// MONITOR.
        const MONITOR = 1 << 10;
        /// MWAIT.
        const MWAIT = 1 << 11;
        /// MWAIT, only where the monitor hardware is armed.
        const MWAIT_ARMED = 1 << 12;
        /// XSETBV.
        const XSETBV = 1 << 13;
    }
}

/// The control area. Names follow the manual.
#[repr(C)]
pub struct Control {
    /// Reads of CR0 to CR15 (low half) and writes (high half).
    pub cr: u32,
    /// The same of debug registers.
    pub dr: u32,
    /// Exceptions by vector.
    pub exceptions: u32,
    /// Further intercepts.
    pub intercept1: Intercept1,
    /// Further intercepts.
    pub intercept2: Intercept2,
    _r014: [u32; 10],
    /// Pause filter: threshold and count.
    pub pause_filter: [u16; 2],
    /// Physical address of the port permission map.
    pub iopm: u64,
    /// Physical address of the MSR permission map.
    pub msrpm: u64,
    /// Added to the time-stamp counter.
    pub tsc_offset: u64,
    /// Address space identifier.
    pub asid: u32,
    /// What VMRUN flushes: 0 nothing, 1 everything, 3 this identifier.
    pub tlb_control: u32,
    /// Virtual interrupts.
    pub interrupt: InMemoryRegister<u64, VirtualInterrupt::Register>,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    /// Why the guest stopped.
    pub exit_code: u64,
    /// More of that.
    pub exit_info1: u64,
    /// More of that.
    pub exit_info2: u64,
    /// What was being delivered.
    pub exit_int_info: InMemoryRegister<u64, EventInfo::Register>,
    /// Bit 0: nested paging.
    pub nested: u64,
    _r098: [u64; 2],
    /// What is to be delivered.
    pub event_inject: InMemoryRegister<u64, EventInfo::Register>,
    /// Physical address of the nested page table.
    pub nested_cr3: u64,
    /// Bit 0: last-branch records are switched with the guest.
    pub lbr: u64,
    /// What the CPU may take from its caches.
    pub clean: Clean,
    _r0c4: u32,
    /// Address of the next instruction, where the CPU says it.
    pub next_rip: u64,
    /// How many bytes of the instruction the CPU gives, where it gives them.
    pub fetched: u8,
    /// Those bytes.
    pub instruction: [u8; 15],
    _r0e0: [u8; 0x3e0 - 0xe0],
    /// Where FS and its like are; the CPU leaves this place to the host.
    pub hidden: hidden::Place,
    _r3e8: [u8; 0x400 - 0x3e8],
}

/// The state save area. Cells are what VMSAVE writes.
#[repr(C)]
pub struct Save {
    /// ES, CS, SS, DS.
    pub segments: [Segment; 4],
    /// FS, GS.
    pub data_segments: [Cell<Segment>; 2],
    /// Global descriptor table.
    pub gdtr: Segment,
    /// Local descriptor table.
    pub ldtr: Cell<Segment>,
    /// Interrupt descriptor table.
    pub idtr: Segment,
    /// Task register.
    pub tr: Cell<Segment>,
    _r0a0: [u8; 0x2b],
    /// Privilege level.
    pub cpl: u8,
    _r0cc: u32,
    /// Extended features, SVM on.
    pub efer: u64,
    _r0d8: [u64; 14],
    /// Control register.
    pub cr4: u64,
    /// Control register.
    pub cr3: u64,
    /// Control register.
    pub cr0: u64,
    /// Debug control.
    pub dr7: u64,
    /// Debug status.
    pub dr6: u64,
    /// Flags.
    pub rflags: u64,
    /// Instruction pointer.
    pub rip: u64,
    _r180: [u64; 11],
    /// Stack pointer.
    pub rsp: u64,
    _r1e0: [u64; 3],
    /// The one general register that is switched with the block.
    pub rax: u64,
    /// SYSCALL target selectors.
    pub star: Cell<u64>,
    /// SYSCALL target, 64-bit.
    pub lstar: Cell<u64>,
    /// SYSCALL target, compatibility mode.
    pub cstar: Cell<u64>,
    /// Flags that SYSCALL clears.
    pub sfmask: Cell<u64>,
    /// What SWAPGS swaps in.
    pub kernel_gs_base: Cell<u64>,
    /// SYSENTER code selector.
    pub sysenter_cs: Cell<u64>,
    /// SYSENTER stack pointer.
    pub sysenter_esp: Cell<u64>,
    /// SYSENTER target.
    pub sysenter_eip: Cell<u64>,
    /// Page-fault address.
    pub cr2: u64,
    _r248: [u64; 4],
    /// Page attribute table.
    pub pat: u64,
    /// Debug control of last-branch records.
    pub debug_control: u64,
    _r278: [u8; 0x1000 - 0x678],
}

/// The whole block, one page.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What the CPU is told.
    pub control: Control,
    /// The guest's state.
    pub save: Save,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Control, iopm) == 0x40);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, interrupt) == 0x60);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, nested) == 0x90);
    assert!(offset_of!(Control, event_inject) == 0xa8);
    assert!(offset_of!(Control, nested_cr3) == 0xb0);
    assert!(offset_of!(Control, clean) == 0xc0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Control, instruction) == 0xd1);
    assert!(offset_of!(Control, hidden) == 0x3e0);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Save, data_segments) == 0x40);
    assert!(offset_of!(Save, tr) == 0x90);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, cr0) == 0x158);
    assert!(offset_of!(Save, rflags) == 0x170);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, star) == 0x200);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, pat) == 0x268);
};
