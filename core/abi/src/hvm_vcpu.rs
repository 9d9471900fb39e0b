//! The first registers of a vCPU in hardware virtualization.
//!
//! Header: `hvm/hvm_vcpu.h`, the argument of [`crate::vcpu::VcpuOp::Initialise`] on x86.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// Which form [`VcpuHvmContext::cpu_regs`] has.
    pub enum VcpuHvmMode: u32, unknown is EINVAL {
        /// [`VcpuHvmX86_32`].
        Bits32 = 0,
        /// [`VcpuHvmX86_64`].
        Bits64 = 1,
    }
}

/// Registers for a start in real, protected or compatibility mode (`vcpu_hvm_x86_32`). `_ar` is type, S, DPL and P in bits 0
/// to 7; AVL, L, D and G in bits 8 to 11.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub struct VcpuHvmX86_32 {
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub esp: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub eip: u32,
    pub eflags: u32,
    pub cr0: u32,
    pub cr3: u32,
    pub cr4: u32,
    pub pad1: u32,
    pub efer: u64,
    pub cs_base: u32,
    pub ds_base: u32,
    pub ss_base: u32,
    pub es_base: u32,
    pub tr_base: u32,
    pub cs_limit: u32,
    pub ds_limit: u32,
    pub ss_limit: u32,
    pub es_limit: u32,
    pub tr_limit: u32,
    pub cs_ar: u16,
    pub ds_ar: u16,
    pub ss_ar: u16,
    pub es_ar: u16,
    pub tr_ar: u16,
    pub pad2: [u16; 3],
}

/// Registers for a start in long mode, with flat segments (`vcpu_hvm_x86_64`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub struct VcpuHvmX86_64 {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// `vcpu_hvm_context`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct VcpuHvmContext {
    /// In: [`VcpuHvmMode`].
    pub mode: u32,
    /// Not looked at.
    pub pad: u32,
    /// In: the registers in the form that `mode` says.
    pub cpu_regs: [u8; size_of::<VcpuHvmX86_32>()],
}
