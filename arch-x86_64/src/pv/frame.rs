//! Registers as the entry code stores them, and what the CPU pushed (AMD APM, volume 2, 8.9.3).
//!
//! A guest in ring 3 that stops leaves one of these in its CPU's gate page; it goes on with what then stands there.

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

    /// Register `number` as instructions encode it.
    #[must_use]
    pub fn get(&self, number: u8) -> u64 {
        match number & 15 {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            4 => self.rsp,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            _ => self.r15,
        }
    }

    /// Sets register `number`.
    pub fn set(&mut self, number: u8, value: u64) {
        let place = match number & 15 {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut self.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        };
        *place = value;
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
