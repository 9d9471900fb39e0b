//! Writes of a guest's kernel to its own page tables, which it has mapped read-only: the fault is served as if the write had been a
//! `mmu_update` (`VMASST_TYPE_writable_pagetables`). Device memory that the domain may only read is served here too.

use xenolith_hal::{GuestVirt, Mfn};

use super::{
    access,
    bounce::flags,
    frame::Frame,
    io,
    machine::ThisCpu,
    memory::{EntryPlace, IoAccess, Rights, TrappedWrite, Written, entry},
    run::Stopped,
    store::{self, Change, Instruction, LONGEST, Store},
};
use crate::X86_64;

const CARRY: u64 = 1;
const ZERO: u64 = 1 << 6;
/// What arithmetic leaves in the flags: carry, parity, adjust, zero, sign, overflow.
const ARITHMETIC: u64 = 0x8d5;

/// Serves a write to a page that is mapped for reading. False: it was none to a page table, and the guest has a page fault.
pub fn serve(cx: &mut Stopped<'_>, address: u64) -> bool {
    let Some(root) = cx.pv.space.kernel().filter(|_| access::is_guest(address)) else {
        return false;
    };
    let hv = cx.hv();
    let this = ThisCpu(cx.cpu);
    let page_tables = this.tables();
    let Some(leaf) = page_tables
        .walk(root, GuestVirt(address))
        .and_then(|place| page_tables.entry(place))
    else {
        return false;
    };
    // Who made it writable since is served by another try.
    if leaf & (entry::PRESENT | entry::WRITABLE) != entry::PRESENT {
        return leaf & entry::PRESENT != 0;
    }
    let mfn = entry::frame(leaf);
    match hv.memory.record(mfn) {
        Some(record) if page_tables.is_l1_table(record) => {}
        Some(record) if record.state().owner().is_some() => return false,
        _ => return device(cx, mfn, address),
    }
    let rights = page_tables.own_rights(cx.vcpu.domain());
    let offset = address as usize & 0xfff;
    if let Ok(bytes) = access::read_word(cx.frame().rip)
        && let Some((length, value)) = store::quick(bytes, cx.frame())
        && offset.is_multiple_of(8)
    {
        let place = EntryPlace {
            table: mfn,
            slot: offset / 8,
        };
        let written = page_tables.write_whole(place, value, &rights, &cx.pv.space);
        if written {
            passed(cx.frame(), length);
        }
        return written;
    }
    slowly(cx, mfn, offset, &rights)
}

/// The registers are as after an instruction of this length.
#[inline(always)]
fn passed(frame: &mut Frame, length: u64) {
    frame.rip = frame.rip.wrapping_add(length);
    // It is not to be single-stepped a second time.
    frame.rflags &= !flags::RESUME;
}

/// Any other instruction that wrote a page table.
#[inline(never)]
fn slowly(cx: &mut Stopped<'_>, mfn: Mfn, offset: usize, rights: &Rights<'_, X86_64>) -> bool {
    let this = ThisCpu(cx.cpu);
    let page_tables = this.tables();
    let Some(instruction) = instruction(cx) else {
        return false;
    };
    let size = usize::from(instruction.size);
    // Another CPU may change the entry between reading and writing: then once more.
    loop {
        let Some(word) = page_tables.read_trapped(mfn, offset / 8) else {
            return false;
        };
        let old = part(word, offset % 8, size);
        let Some(outcome) = Outcome::of(&instruction, old, cx.frame().rax) else {
            break finish(cx, &instruction, old);
        };
        let write = TrappedWrite {
            table: mfn,
            offset,
            value: outcome,
            size,
            expected: match instruction.store {
                Store::Write(_) => None,
                _ => Some(old),
            },
        };
        match page_tables.write_trapped(write, rights, &cx.pv.space) {
            Written::Yes => break finish(cx, &instruction, old),
            Written::Differs(_) => {}
            Written::NotATable | Written::Refused(_) => return false,
        }
    }
    true
}

/// The instruction that wrote.
fn instruction(cx: &mut Stopped<'_>) -> Option<Instruction> {
    let mut bytes = [0; LONGEST];
    let bytes = fetch(cx.frame().rip, &mut bytes)?;
    store::decode(bytes, cx.frame())
}

/// Serves a write to device memory that the domain may only read ([`io`]). False: it is something else.
#[cold]
#[inline(never)]
fn device(cx: &mut Stopped<'_>, mfn: Mfn, address: u64) -> bool {
    let domain = cx.vcpu.domain();
    if io::access(domain, mfn) != IoAccess::ReadOnly {
        return false;
    }
    let Some(instruction) = instruction(cx) else {
        return false;
    };
    let size = usize::from(instruction.size);
    let mut old = [0; 8];
    // A plain write is no reading of a register, which may have effects.
    if !matches!(instruction.store, Store::Write(_)) {
        let Some(bytes) = old.get_mut(..size) else {
            return false;
        };
        if access::read(address, bytes).is_err() {
            return false;
        }
    }
    let old = u64::from_le_bytes(old);
    if let Some(value) = Outcome::of(&instruction, old, cx.frame().rax) {
        let place = mfn.base().0 | address & 0xfff;
        io::write(cx.hv(), domain, (place, size), value);
    }
    finish(cx, &instruction, old);
    true
}

/// As many bytes of the instruction as there are.
fn fetch(rip: u64, bytes: &mut [u8; LONGEST]) -> Option<&[u8]> {
    if access::read(rip, bytes).is_ok() {
        return Some(bytes);
    }
    // Up to the end of its page.
    let here = (0x1000 - (rip & 0xfff) as usize).min(LONGEST);
    let bytes = bytes.get_mut(..here)?;
    access::read(rip, bytes).ok()?;
    Some(bytes)
}

const fn part(word: u64, at: usize, size: usize) -> u64 {
    let word = word >> (at * 8);
    match size {
        8 => word,
        size => word & ((1 << (size * 8)) - 1),
    }
}

struct Outcome;

impl Outcome {
    /// What is written where `old` was; `None` when nothing is.
    fn of(instruction: &Instruction, old: u64, rax: u64) -> Option<u64> {
        let size = usize::from(instruction.size);
        let new = match instruction.store {
            Store::Write(value) | Store::Exchange { value, .. } => value,
            Store::Compare(value) => {
                if part(rax, 0, size) != old {
                    return None;
                }
                value
            }
            Store::Add { value, .. } => old.wrapping_add(value),
            Store::And(value) => old & value,
            Store::Or(value) => old | value,
            Store::Xor(value) => old ^ value,
            Store::Bit { number, change } => match change {
                Change::Set => old | 1 << number,
                Change::Clear => old & !(1 << number),
                Change::Turn => old ^ 1 << number,
            },
        };
        Some(part(new, 0, size))
    }
}

/// Registers and flags as the instruction leaves them.
fn finish(cx: &mut Stopped<'_>, instruction: &Instruction, old: u64) {
    let size = instruction.size;
    let frame = cx.frame();
    passed(frame, instruction.length.into());
    match instruction.store {
        Store::Write(_) => {}
        Store::Exchange { register, .. } => give(frame, register, size, old),
        Store::Compare(_) => {
            let same = part(frame.rax, 0, size.into()) == old;
            let sum = part(frame.rax, 0, size.into()).wrapping_sub(old);
            frame.rflags = frame.rflags & !ARITHMETIC | arithmetic(sum, size);
            if same {
                frame.rflags |= ZERO;
            } else {
                if part(frame.rax, 0, size.into()) < old {
                    frame.rflags |= CARRY;
                }
                give(frame, 0, size, old);
            }
        }
        Store::Add { register, value } => {
            let sum = part(old.wrapping_add(value), 0, size.into());
            let carry = if sum < value { CARRY } else { 0 };
            frame.rflags = frame.rflags & !ARITHMETIC | arithmetic(sum, size) | carry;
            give(frame, register, size, old);
        }
        Store::And(value) => logic(frame, old & value, size),
        Store::Or(value) => logic(frame, old | value, size),
        Store::Xor(value) => logic(frame, old ^ value, size),
        Store::Bit { number, .. } => {
            frame.rflags = frame.rflags & !CARRY | old >> number & 1;
        }
    }
}

fn logic(frame: &mut Frame, value: u64, size: u8) {
    frame.rflags = frame.rflags & !ARITHMETIC | arithmetic(value, size);
}

/// Parity, zero and sign of a result.
const fn arithmetic(value: u64, size: u8) -> u64 {
    const PARITY: u64 = 1 << 2;
    let zero = if value == 0 { ZERO } else { 0 };
    let sign = (value >> (size as u32 * 8 - 1) & 1) << 7;
    let parity = if (value as u8).count_ones().is_multiple_of(2) {
        PARITY
    } else {
        0
    };
    zero | sign | parity
}

/// Writes a register as an instruction of this size does.
fn give(frame: &mut Frame, register: u8, size: u8, value: u64) {
    let old = frame.get(register);
    frame.set(
        register,
        match size {
            8 | 4 => value,
            size => {
                let mask = (1u64 << (size * 8)) - 1;
                old & !mask | value & mask
            }
        },
    );
}
