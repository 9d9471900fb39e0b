//! The instructions that a PV guest uses in ring 3 as if it were ring 0, read from their bytes (Intel SDM, volume 2; AMD64 APM,
//! volume 3).
//!
//! Only what is done for guests is known here; everything else is the guest's exception. A guest that changes its code while
//! it is read only misleads itself: the bytes are read once.

/// The longest instruction.
pub const LONGEST: usize = 15;

/// Bytes of a forced CPUID: the prefix `XEN_EMULATE_PREFIX` (`arch-x86/xen.h`), then the instruction.
pub const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];

/// Where an instruction has the number of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// In itself.
    Is(u8),
    /// In DX.
    Dx,
}

/// An access of a port from or to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringAccess {
    /// Bytes of an element.
    pub size: u8,
    /// INS.
    pub input: bool,
    /// Goes on until the count is zero.
    pub repeats: bool,
    /// Addresses and count have 32 bits.
    pub short_address: bool,
    /// The segment of an OUTS with a base.
    pub segment: Segment,
}

/// Whose base counts in 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Nobody's.
    Flat,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// What an instruction asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// CPUID.
    Cpuid,
    /// RDTSC.
    ReadTsc,
    /// RDTSCP.
    ReadTscAux,
    /// XSETBV.
    SetXcr,
    /// CLTS.
    ClearTaskSwitched,
    /// WBINVD, WBNOINVD.
    FlushCaches,
    /// CLI or STI.
    InterruptFlag,
    /// INVLPG: its memory operand is for another decoder.
    FlushPage,
    /// A move from a control register.
    ReadControl {
        /// Its number.
        control: u8,
        /// The general register's.
        general: u8,
    },
    /// A move to a control register.
    WriteControl {
        /// Its number.
        control: u8,
        /// The general register's.
        general: u8,
    },
    /// A move from a debug register.
    ReadDebug {
        /// Its number.
        debug: u8,
        /// The general register's.
        general: u8,
    },
    /// A move to a debug register.
    WriteDebug {
        /// Its number.
        debug: u8,
        /// The general register's.
        general: u8,
    },
    /// IN to the accumulator.
    In {
        /// Where.
        port: Port,
        /// Bytes.
        size: u8,
    },
    /// OUT from it.
    Out {
        /// Where.
        port: Port,
        /// Bytes.
        size: u8,
    },
    /// INS, OUTS.
    Strings(StringAccess),
    /// An instruction of VMX or SVM, which this guest's CPU does not have. The machine's has it and finds the privilege wanting.
    VirtualMachines,
}

/// Which code the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 64-bit.
    Long,
    /// 32-bit.
    Short,
}

/// Where code behind a segment descriptor is, at an instruction pointer, and which it is. `None` for code of 16 bits.
#[must_use]
pub const fn place(descriptor: u64, rip: u64) -> Option<(u64, Code)> {
    const LONG: u64 = 1 << 53;
    const BIG: u64 = 1 << 54;
    if descriptor & LONG != 0 {
        return Some((rip, Code::Long));
    }
    if descriptor & BIG == 0 {
        return None;
    }
    let base = descriptor >> 16 & 0xff_ffff | descriptor >> 56 << 24;
    Some((rip.wrapping_add(base) & 0xffff_ffff, Code::Short))
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand: bool,
    address: bool,
    repeat: bool,
    lock: bool,
    segment: Option<Segment>,
    rex: u8,
}

const REX_W: u8 = 1 << 3;
const REX_R: u8 = 1 << 2;
const REX_B: u8 = 1;

/// What the bytes at an instruction pointer ask for, and how many of them are the instruction. `None`: nothing that is done here.
#[inline(always)]
#[must_use]
pub fn decode(bytes: &[u8], code: Code) -> Option<(Operation, u8)> {
    // Most have no prefix.
    match bytes {
        [0x0f, 0x32, ..] => Some((Operation::ReadMsr, 2)),
        [0x0f, 0x30, ..] => Some((Operation::WriteMsr, 2)),
        [0x0f, 0x20, operands, ..] if code == Code::Long => {
            let (control, general) = registers(*operands, 0);
            Some((Operation::ReadControl { control, general }, 3))
        }
        [0x0f, 0x22, operands, ..] if code == Code::Long => {
            let (control, general) = registers(*operands, 0);
            Some((Operation::WriteControl { control, general }, 3))
        }
        [0xec, ..] => Some((
            Operation::In {
                port: Port::Dx,
                size: 1,
            },
            1,
        )),
        [0xee, ..] => Some((
            Operation::Out {
                port: Port::Dx,
                size: 1,
            },
            1,
        )),
        _ => with_prefixes(bytes, code),
    }
}

/// Register numbers of a move to or from a control or debug register, which has no memory form.
#[inline(always)]
const fn registers(operands: u8, rex: u8) -> (u8, u8) {
    let special = operands >> 3 & 7 | if rex & REX_R != 0 { 8 } else { 0 };
    let general = operands & 7 | if rex & REX_B != 0 { 8 } else { 0 };
    (special, general)
}

#[inline(never)]
fn with_prefixes(bytes: &[u8], code: Code) -> Option<(Operation, u8)> {
    let mut prefixes = Prefixes::default();
    let mut at = 0;
    let opcode = loop {
        let byte = *bytes.get(at)?;
        at += 1;
        match byte {
            0x66 => prefixes.operand = true,
            0x67 => prefixes.address = true,
            0xf2 | 0xf3 => prefixes.repeat = true,
            0xf0 => prefixes.lock = true,
            0x64 => prefixes.segment = Some(Segment::Fs),
            0x65 => prefixes.segment = Some(Segment::Gs),
            0x26 | 0x2e | 0x36 | 0x3e => {}
            0x40..=0x4f if code == Code::Long => {
                prefixes.rex = byte;
                continue;
            }
            opcode => break opcode,
        }
        // REX counts only right before the opcode.
        prefixes.rex = 0;
    };
    // What is done here takes no LOCK.
    if prefixes.lock {
        return None;
    }
    let (operation, more) = match opcode {
        0x0f => two_bytes(bytes.get(at..)?, &prefixes, code)?,
        _ => (
            one_byte(opcode, bytes.get(at..)?, &prefixes, code)?,
            opcode_tail(opcode),
        ),
    };
    let length = at + more;
    (length <= LONGEST && length <= bytes.len()).then_some((operation, length as u8))
}

/// Bytes behind an opcode of one byte.
const fn opcode_tail(opcode: u8) -> usize {
    matches!(opcode, 0xe4..=0xe7) as usize
}

fn one_byte(opcode: u8, tail: &[u8], prefixes: &Prefixes, code: Code) -> Option<Operation> {
    const WIDE: u8 = 1;
    let size = match (opcode & WIDE, prefixes.operand && prefixes.rex & REX_W == 0) {
        (0, _) => 1,
        (_, true) => 2,
        (_, false) => 4,
    };
    let immediate = || tail.first().copied().map(Port::Is);
    Some(match opcode {
        0xe4 | 0xe5 => Operation::In {
            port: immediate()?,
            size,
        },
        0xe6 | 0xe7 => Operation::Out {
            port: immediate()?,
            size,
        },
        0xec | 0xed => Operation::In {
            port: Port::Dx,
            size,
        },
        0xee | 0xef => Operation::Out {
            port: Port::Dx,
            size,
        },
        // Segments of 32-bit code may begin anywhere.
        0x6c..=0x6f if code == Code::Long => Operation::Strings(StringAccess {
            size,
            input: opcode < 0x6e,
            repeats: prefixes.repeat,
            short_address: prefixes.address,
            segment: prefixes.segment.unwrap_or(Segment::Flat),
        }),
        0xfa | 0xfb => Operation::InterruptFlag,
        _ => return None,
    })
}

/// An opcode behind 0x0f, and how many bytes follow the 0x0f.
fn two_bytes(tail: &[u8], prefixes: &Prefixes, code: Code) -> Option<(Operation, usize)> {
    let (opcode, tail) = tail.split_first()?;
    let simple = match opcode {
        0x06 => Operation::ClearTaskSwitched,
        0x09 => Operation::FlushCaches,
        0x30 => Operation::WriteMsr,
        0x31 => Operation::ReadTsc,
        0x32 => Operation::ReadMsr,
        0xa2 => Operation::Cpuid,
        0x01 => return group_7(*tail.first()?),
        // VMREAD, VMWRITE; with a prefix they are another's.
        0x78 | 0x79 if !prefixes.operand && !prefixes.repeat => Operation::VirtualMachines,
        0xc7 if is_pointer(*tail.first()?) => Operation::VirtualMachines,
        // INVEPT, INVVPID.
        0x38 if prefixes.operand && matches!(tail.first()?, 0x80 | 0x81) => {
            Operation::VirtualMachines
        }
        // The kernel's alone, whose code is 64-bit.
        0x20..=0x23 if code == Code::Long => {
            let (special, general) = registers(*tail.first()?, prefixes.rex);
            let operation = match opcode {
                0x20 => Operation::ReadControl {
                    control: special,
                    general,
                },
                0x21 => Operation::ReadDebug {
                    debug: special,
                    general,
                },
                0x22 => Operation::WriteControl {
                    control: special,
                    general,
                },
                _ => Operation::WriteDebug {
                    debug: special,
                    general,
                },
            };
            return Some((operation, 2));
        }
        _ => return None,
    };
    Some((simple, 1))
}

/// The operands of other than register form.
const MEMORY_FORMS: u8 = 0xc0;

/// Of opcode 0x0f 0xc7: VMPTRLD, VMCLEAR and VMXON, or VMPTRST.
const fn is_pointer(operands: u8) -> bool {
    operands < MEMORY_FORMS && matches!(operands >> 3 & 7, 6 | 7)
}

/// Opcode 0x0f 0x01.
fn group_7(operands: u8) -> Option<(Operation, usize)> {
    const INVLPG: u8 = 7;
    match operands {
        // VMCALL to VMXOFF; VMRUN to INVLPGA.
        0xc1..=0xc4 | 0xd8..=0xdf => Some((Operation::VirtualMachines, 2)),
        0xd1 => Some((Operation::SetXcr, 2)),
        0xf9 => Some((Operation::ReadTscAux, 2)),
        _ if operands < MEMORY_FORMS && operands >> 3 & 7 == INVLPG => {
            Some((Operation::FlushPage, 2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
