//! Registers as the entry code stores them, and what the CPU pushed (AMD APM, volume 2, 8.9.3).
//!
//! A guest in ring 3 that stops leaves one of these in its CPU's gate page; it goes on with what then stands there.

use crate::guest::regs::by_number;

/// Assembly: the general registers to the stack, as [`Frame`] has them.
#[cfg(target_os = "none")]
macro_rules! push_general {
    () => {
        r#"
    pushq   %rax
    pushq   %rbx
    pushq   %rcx
    pushq   %rdx
    pushq   %rsi
    pushq   %rdi
    pushq   %rbp
    pushq   %r8
    pushq   %r9
    pushq   %r10
    pushq   %r11
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
        "#
    };
}
#[cfg(target_os = "none")]
pub(crate) use push_general;

/// Assembly: those that come behind R15, R14 and R13 from the stack.
#[cfg(target_os = "none")]
macro_rules! pop_behind_r13 {
    () => {
        r#"
    popq    %r12
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rbp
    popq    %rdi
    popq    %rsi
    popq    %rdx
    popq    %rcx
    popq    %rbx
    popq    %rax
        "#
    };
}
#[cfg(target_os = "none")]
pub(crate) use pop_behind_r13;

/// In the order of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// Which interrupt or exception, or one of the numbers of [`crate::pv::entry`] above those.
    pub vector: u64,
    /// The exception's error code, or 0.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Frame>() == 22 * 8);

by_number!(Frame);

impl Frame {
    /// Copies one.
    ///
    /// # Safety
    /// Both places are frames, different ones, and nobody else looks at them meanwhile.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub unsafe fn copy(to: *mut Self, from: *const Self) {
        // SAFETY: as the caller says. The direction of string instructions is upwards in the hypervisor.
        unsafe {
            core::arch::asm!(
                "rep movsq",
                inout("ecx") size_of::<Self>() / 8 => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Every register for a person to read.
    pub fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        writeln!(
            out,
            "rip {:#018x} cs {:#06x} rflags {:#x} rsp {:#018x} ss {:#06x}",
            self.rip, self.cs, self.rflags, self.rsp, self.ss
        )?;
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        for (number, name) in (0u8..).zip(NAMES) {
            let end = if number % 4 == 3 { "\n" } else { " " };
            write!(out, "{name:<3} {:#018x}{end}", self.get(number))?;
        }
        Ok(())
    }
}
