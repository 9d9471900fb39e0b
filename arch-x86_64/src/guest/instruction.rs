//! The instruction at which a guest stopped: its length, and its operands where the CPU does not say them.
//!
//! Where the CPU tells the length, nothing is fetched. Else the bytes are fetched through the guest's own tables and must
//! be what the exit says: a guest that changes its code meanwhile only misleads itself.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::{
    exit::Context,
    hardware::{Event, Hardware, SegmentName},
    linear,
};

/// The longest instruction.
pub const LONGEST: usize = 15;

/// Instructions that are intercepted and carry no operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// VMCALL or VMMCALL.
    Hypercall,
    /// CPUID.
    Cpuid,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// Any other.
    Other,
}

impl Kind {
    /// Whether `code`, behind all prefixes, is this instruction, and how many bytes it has.
    #[inline(always)]
    fn length(self, code: &[u8]) -> Option<usize> {
        Some(match (self, code) {
            (Self::Hypercall, [0x0f, 0x01, 0xd9 | 0xc1, ..]) => 3,
            (Self::Cpuid, [0x0f, 0xa2, ..])
            | (Self::ReadMsr, [0x0f, 0x32, ..])
            | (Self::WriteMsr, [0x0f, 0x30, ..]) => 2,
            (Self::Other, [0xf4, ..]) => 1,                     // HLT
            (Self::Other, [0x90, ..]) => 1,                     // PAUSE, behind its prefix
            (Self::Other, [0x0f, 0x08 | 0x09 | 0x33, ..]) => 2, // INVD, WBINVD, RDPMC
            (Self::Other, [0x0f, 0x01, 0xd1, ..]) => 3,         // XSETBV
            _ => return None,
        })
    }
}

/// Whether the guest runs 64-bit code.
#[inline]
pub fn is_64_bit<H: Hardware>(hw: &H) -> bool {
    hw.is_64_bit()
}

/// Length of code that begins with prefixes.
fn length_of(kind: Kind, bytes: &[u8], long: bool) -> Option<u64> {
    let is_prefix = |byte: u8| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        ) || (long && byte & 0xf0 == 0x40)
    };
    let prefixes = bytes.iter().take_while(|byte| is_prefix(**byte)).count();
    let code = bytes.get(prefixes..)?;
    let length = prefixes + kind.length(code)?;
    (length <= LONGEST).then_some(length as u64)
}

/// Length of the intercepted instruction. `None`: an exception was raised instead, or the guest changed its code.
#[inline]
pub fn length<H: Hardware>(cx: &mut Context<'_, H>, kind: Kind) -> Option<u64> {
    match cx.hw.instruction_length() {
        Some(length) => Some(length),
        None => fetched_length(cx, kind),
    }
}

#[inline(always)]
fn fetched_length<H: Hardware>(cx: &mut Context<'_, H>, kind: Kind) -> Option<u64> {
    // Hardly anybody puts prefixes before such an instruction.
    if let Some(opcode) = linear::fetch_opcode(cx, address(cx))
        && let Some(length) = kind.length(&opcode)
    {
        return Some(length as u64);
    }
    prefixed_length(cx, kind)
}

#[cold]
#[inline(never)]
fn prefixed_length<H: Hardware>(cx: &mut Context<'_, H>, kind: Kind) -> Option<u64> {
    let mut bytes = [0; LONGEST];
    let got = fetch(cx, &mut bytes)?;
    let length = length_of(kind, bytes.get(..got)?, is_64_bit(cx.hw));
    if length.is_none() {
        cx.raise(Event::UNDEFINED);
    }
    length
}

/// Goes on behind the intercepted instruction; false when an exception was raised instead.
pub fn skip<H: Hardware>(cx: &mut Context<'_, H>) -> bool {
    let length = length(cx, Kind::Other);
    if let Some(length) = length {
        cx.skip(length);
    }
    length.is_some()
}

/// The linear address of the instruction pointer.
#[inline]
fn address<H: Hardware>(cx: &Context<'_, H>) -> u64 {
    let rip = cx.hw.rip();
    if is_64_bit(cx.hw) {
        return rip;
    }
    rip.wrapping_add(cx.hw.segment(SegmentName::Cs).base) & 0xffff_ffff
}

/// The bytes at the instruction pointer, as many as can be fetched. `None`: not one, and the fault was delivered.
pub fn fetch<H: Hardware>(cx: &mut Context<'_, H>, bytes: &mut [u8; LONGEST]) -> Option<usize> {
    let at = address(cx);
    linear::fetch(cx, at, bytes)
}

/// The whole instruction, decoded. `None`: an exception was raised instead, which is `unknown` for instructions that the
/// decoder has no part for: what does not exist, and what works on vectors.
pub fn decode<H: Hardware>(cx: &mut Context<'_, H>, unknown: Event) -> Option<Instruction> {
    const DEFAULT_32: u16 = 1 << 10;
    let mut bytes = [0; LONGEST];
    let got = fetch(cx, &mut bytes)?;
    let bits = match (
        is_64_bit(cx.hw),
        cx.hw.segment(SegmentName::Cs).attributes & DEFAULT_32,
    ) {
        (true, _) => 64,
        (false, 0) => 16,
        _ => 32,
    };
    let bytes = bytes.get(..got)?;
    let instruction = Decoder::with_ip(bits, bytes, cx.hw.rip(), DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        cx.raise(unknown);
        return None;
    }
    Some(instruction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_count_to_the_length() {
        assert_eq!(
            length_of(Kind::Hypercall, &[0x0f, 0x01, 0xd9], true),
            Some(3)
        );
        assert_eq!(
            length_of(Kind::Hypercall, &[0x0f, 0x01, 0xc1, 0xc3], true),
            Some(3)
        );
        assert_eq!(
            length_of(Kind::Cpuid, &[0x66, 0x48, 0x0f, 0xa2], true),
            Some(4)
        );
        assert_eq!(length_of(Kind::Cpuid, &[0x48, 0x0f, 0xa2], false), None);
        assert_eq!(length_of(Kind::Other, &[0xf3, 0x90], true), Some(2));
        assert_eq!(length_of(Kind::Other, &[0x66; 15], true), None);
        assert_eq!(length_of(Kind::Other, &[], true), None);
    }

    #[test]
    fn other_code_than_the_exit_says_is_no_such_instruction() {
        assert_eq!(length_of(Kind::Hypercall, &[0x0f, 0xa2], true), None);
        assert_eq!(length_of(Kind::ReadMsr, &[0x0f, 0x30], true), None);
    }
}
