//! String instructions of which one operand is emulated memory: MOVS, STOS, LODS, SCAS and CMPS, with and without repeat
//! prefix. The other operand, where there is one, is the guest's own memory, reached with the guest's own rights.
//!
//! A repeated one goes on for as long as it stays in the page that was touched, and a bounded number of times; the guest
//! then comes to the same instruction again, as after an interrupt.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::{
    compare,
    exit::Context,
    hardware::{Hardware, MemoryFault, SegmentName},
    linear,
    mmio::{self, Device},
};

const PAGE: u64 = 0xfff;
/// Elements between two looks at what else there is to do.
const MOST: usize = 64;
const DIRECTION: u64 = 1 << 10;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All of it.
    Finished,
    /// A part; the same instruction goes on.
    Partly,
    /// A part, and a fault was delivered.
    Faulted,
    /// It is no string instruction.
    Other,
}

/// What a string instruction does with each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Move,
    Store,
    Load,
    Scan,
    Compare,
}

/// One run of a string instruction.
struct Run<'i> {
    instruction: &'i Instruction,
    kind: Kind,
    size: usize,
    /// The width of addresses and of the count.
    mask: u64,
    /// The emulated operand: its physical address, and whether it is the one that RDI points to.
    address: u64,
    is_target: bool,
}

enum Step {
    Next,
    Stop,
    Faulted,
}

fn kinds(instruction: &Instruction) -> impl Iterator<Item = OpKind> + '_ {
    [instruction.op0_kind(), instruction.op1_kind()].into_iter()
}

fn width(instruction: &Instruction) -> Option<u64> {
    kinds(instruction).find_map(|kind| match kind {
        OpKind::MemoryESRDI | OpKind::MemorySegRSI => Some(u64::MAX),
        OpKind::MemoryESEDI | OpKind::MemorySegESI => Some(0xffff_ffff),
        OpKind::MemoryESDI | OpKind::MemorySegSI => Some(0xffff),
        _ => None,
    })
}

/// Carries one out. `fault` says which operand was touched first.
pub fn emulate<H: Hardware>(
    cx: &mut Context<'_, H>,
    instruction: &Instruction,
    fault: MemoryFault,
    device: &mut impl Device<H>,
) -> Done {
    let Some(mask) = width(instruction) else {
        return Done::Other;
    };
    let Some((kind, size)) = kind(instruction) else {
        return Done::Other;
    };
    let is_target = match kind {
        Kind::Move => fault.write,
        Kind::Store | Kind::Scan => true,
        Kind::Load => false,
        Kind::Compare => match operand_is_target(cx, instruction, mask, fault.address) {
            Some(is_target) => is_target,
            None => return Done::Other,
        },
    };
    let mut run = Run {
        instruction,
        kind,
        size,
        mask,
        address: fault.address,
        is_target,
    };
    run.all(cx, device)
}

/// The operand of a comparison that is at this physical address: the one whose address in its page is the same. Both may be,
/// then it is the first that the CPU reads, the source.
fn operand_is_target<H: Hardware>(
    cx: &Context<'_, H>,
    instruction: &Instruction,
    mask: u64,
    address: u64,
) -> Option<bool> {
    let same = |pointer: u64| pointer & PAGE == address & PAGE;
    let source = linear_source(cx, instruction, mask);
    let target = linear_target(cx, mask);
    match (same(source), same(target)) {
        (true, _) => Some(false),
        (false, true) => Some(true),
        _ => None,
    }
}

/// What a string instruction does, and the bytes of its elements. By its code: a table of what instructions are called would
/// be large.
fn kind(instruction: &Instruction) -> Option<(Kind, usize)> {
    Some(match instruction.code() {
        Code::Movsb_m8_m8 => (Kind::Move, 1),
        Code::Movsw_m16_m16 => (Kind::Move, 2),
        Code::Movsd_m32_m32 => (Kind::Move, 4),
        Code::Movsq_m64_m64 => (Kind::Move, 8),
        Code::Stosb_m8_AL => (Kind::Store, 1),
        Code::Stosw_m16_AX => (Kind::Store, 2),
        Code::Stosd_m32_EAX => (Kind::Store, 4),
        Code::Stosq_m64_RAX => (Kind::Store, 8),
        Code::Lodsb_AL_m8 => (Kind::Load, 1),
        Code::Lodsw_AX_m16 => (Kind::Load, 2),
        Code::Lodsd_EAX_m32 => (Kind::Load, 4),
        Code::Lodsq_RAX_m64 => (Kind::Load, 8),
        Code::Scasb_AL_m8 => (Kind::Scan, 1),
        Code::Scasw_AX_m16 => (Kind::Scan, 2),
        Code::Scasd_EAX_m32 => (Kind::Scan, 4),
        Code::Scasq_RAX_m64 => (Kind::Scan, 8),
        Code::Cmpsb_m8_m8 => (Kind::Compare, 1),
        Code::Cmpsw_m16_m16 => (Kind::Compare, 2),
        Code::Cmpsd_m32_m32 => (Kind::Compare, 4),
        Code::Cmpsq_m64_m64 => (Kind::Compare, 8),
        _ => return None,
    })
}

fn base<H: Hardware>(cx: &Context<'_, H>, segment: Register) -> u64 {
    let name = match segment {
        Register::FS => SegmentName::Fs,
        Register::GS => SegmentName::Gs,
        // In 64-bit code the others begin at 0.
        _ if cx.hw.is_64_bit() => return 0,
        Register::ES => SegmentName::Es,
        Register::CS => SegmentName::Cs,
        Register::SS => SegmentName::Ss,
        _ => SegmentName::Ds,
    };
    cx.hw.segment(name).base
}

fn linear_at<H: Hardware>(cx: &Context<'_, H>, segment: Register, offset: u64) -> u64 {
    let address = base(cx, segment).wrapping_add(offset);
    if cx.hw.is_64_bit() {
        address
    } else {
        address & 0xffff_ffff
    }
}

fn linear_source<H: Hardware>(cx: &Context<'_, H>, instruction: &Instruction, mask: u64) -> u64 {
    linear_at(cx, instruction.memory_segment(), cx.regs.rsi & mask)
}

fn linear_target<H: Hardware>(cx: &Context<'_, H>, mask: u64) -> u64 {
    linear_at(cx, Register::ES, cx.regs.rdi & mask)
}

/// A register of which the lower part is counted with; 32 bits clear the upper half.
fn advanced(old: u64, by: u64, mask: u64) -> u64 {
    let new = old.wrapping_add(by) & mask;
    if mask == 0xffff {
        old & !mask | new
    } else {
        new
    }
}

impl Run<'_> {
    fn repeats(&self) -> bool {
        self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix()
    }

    fn all<H: Hardware>(&mut self, cx: &mut Context<'_, H>, device: &mut impl Device<H>) -> Done {
        for _ in 0..MOST {
            if self.repeats() && cx.regs.rcx & self.mask == 0 {
                return Done::Finished;
            }
            match self.one(cx, device) {
                Step::Faulted => return Done::Faulted,
                Step::Next if self.repeats() => {}
                Step::Next | Step::Stop => return Done::Finished,
            }
            let back = cx.hw.rflags() & DIRECTION != 0;
            let step = self.size as u64;
            let step = if back { step.wrapping_neg() } else { step };
            let page = self.address & !PAGE;
            self.address = self.address.wrapping_add(step);
            if self.repeats() && cx.regs.rcx & self.mask == 0 {
                return Done::Finished;
            }
            let last = self.address.wrapping_add(self.size as u64 - 1);
            if self.address & !PAGE != page || last & !PAGE != page {
                return Done::Partly;
            }
        }
        Done::Partly
    }

    /// One element, with the registers after it.
    fn one<H: Hardware>(&self, cx: &mut Context<'_, H>, device: &mut impl Device<H>) -> Step {
        let mut stop = false;
        match self.kind {
            Kind::Move if self.is_target => {
                let Some(value) = self.load(cx, linear_source(cx, self.instruction, self.mask))
                else {
                    return Step::Faulted;
                };
                device.write(cx, self.address, self.size, value);
            }
            Kind::Move => {
                let value = device.read(cx, self.address, self.size).to_le_bytes();
                let bytes = value.get(..self.size).unwrap_or_default();
                if !linear::write(cx, linear_target(cx, self.mask), bytes) {
                    return Step::Faulted;
                }
            }
            Kind::Store => {
                let value = cx.regs.rax & mmio::mask(self.size);
                device.write(cx, self.address, self.size, value);
            }
            Kind::Load => {
                let value = device.read(cx, self.address, self.size);
                let mask = mmio::mask(self.size);
                let kept = if self.size < 4 {
                    cx.regs.rax & !mask
                } else {
                    0
                };
                cx.regs.rax = kept | value & mask;
            }
            Kind::Scan | Kind::Compare => match self.compare(cx, device) {
                Some(ended) => stop = ended,
                None => return Step::Faulted,
            },
        }
        self.advance(cx);
        if stop { Step::Stop } else { Step::Next }
    }

    fn load<H: Hardware>(&self, cx: &mut Context<'_, H>, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        linear::read(cx, at, bytes.get_mut(..self.size)?).then(|| u64::from_le_bytes(bytes))
    }

    /// Compares one element; whether the repetition ends with it. `None`: a fault was delivered.
    fn compare<H: Hardware>(
        &self,
        cx: &mut Context<'_, H>,
        device: &mut impl Device<H>,
    ) -> Option<bool> {
        let (a, b) = match (self.kind, self.is_target) {
            (Kind::Scan, _) => {
                let rax = cx.regs.rax;
                (rax, device.read(cx, self.address, self.size))
            }
            (_, true) => {
                let a = self.load(cx, linear_source(cx, self.instruction, self.mask))?;
                (a, device.read(cx, self.address, self.size))
            }
            (_, false) => {
                let b = self.load(cx, linear_target(cx, self.mask))?;
                (device.read(cx, self.address, self.size), b)
            }
        };
        let flags = compare::flags(cx.hw.rflags(), a, b, self.size);
        cx.hw.set_rflags(flags);
        let equal = compare::are_equal(flags);
        Some(equal == self.instruction.has_repne_prefix())
    }

    fn advance<H: Hardware>(&self, cx: &mut Context<'_, H>) {
        let size = self.size as u64;
        let back = cx.hw.rflags() & DIRECTION != 0;
        let by = if back { size.wrapping_neg() } else { size };
        let regs = &mut cx.regs;
        if !matches!(self.kind, Kind::Store | Kind::Scan) {
            regs.rsi = advanced(regs.rsi, by, self.mask);
        }
        if self.kind != Kind::Load {
            regs.rdi = advanced(regs.rdi, by, self.mask);
        }
        if self.repeats() {
            regs.rcx = advanced(regs.rcx, u64::MAX, self.mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_as_wide_as_the_decoder_says() {
        let known = Code::values().filter_map(|code| {
            let mut instruction = Instruction::default();
            instruction.set_code(code);
            let (kind, size) = kind(&instruction)?;
            assert_eq!(instruction.memory_size().size(), size, "{code:?}");
            Some(kind)
        });
        let known: std::vec::Vec<_> = known.collect();
        for kind in [
            Kind::Move,
            Kind::Store,
            Kind::Load,
            Kind::Scan,
            Kind::Compare,
        ] {
            assert_eq!(known.iter().filter(|known| **known == kind).count(), 4);
        }
    }

    extern crate std;
}
