//! The general registers of a stopped guest.

/// In the order of their encoding. RSP is in the hardware's block of each backend; RAX is brought here from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "registers are named as they are")]
pub struct GuestRegs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    /// SPEC_CTRL as the guest has it, where the world switch changes that.
    pub spec_ctrl: u32,
}

/// The general registers of a struct by their numbers.
macro_rules! by_number {
    ($registers:ident) => {
        impl $registers {
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
        }
    };
}
pub(crate) use by_number;

by_number!(GuestRegs);

impl GuestRegs {
    /// EDX and EAX as one number, as RDMSR and WRMSR use them.
    #[inline]
    #[must_use]
    pub fn edx_eax(&self) -> u64 {
        self.rdx << 32 | self.rax & 0xffff_ffff
    }

    /// Sets EDX and EAX; the upper halves of both become zero.
    #[inline]
    pub fn set_edx_eax(&mut self, value: u64) {
        self.rax = value & 0xffff_ffff;
        self.rdx = value >> 32;
    }
}
