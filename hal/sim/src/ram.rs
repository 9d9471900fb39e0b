//! RAM as words of atomics, so that threads may race on it as CPUs and guests do.
//!
//! Each frame remembers whether it was written since it was last filled with zeroes, so that a test can ask after every step
//! whether all free memory is blank. The mark is set after the write and taken away before the zeroes: a frame that is
//! not marked holds nothing but zeroes once no access is under way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use xenolith_hal::{AtomicOp, Fault, Mfn, PAGE_SIZE};

const WORDS: usize = PAGE_SIZE / 8;

struct Bank {
    first: Mfn,
    words: Box<[AtomicU64]>,
    written: Box<[AtomicBool]>,
}

/// One frame.
struct Frame<'a> {
    words: &'a [AtomicU64],
    written: &'a AtomicBool,
}

/// The machine's RAM.
pub struct Ram {
    banks: Vec<Bank>,
}

impl Ram {
    pub(crate) fn new(banks: &[(Mfn, u64)]) -> Self {
        let bank = |(first, frames): &(Mfn, u64)| Bank {
            first: *first,
            words: (0..*frames as usize * WORDS)
                .map(|_| AtomicU64::new(0))
                .collect(),
            written: (0..*frames).map(|_| AtomicBool::new(false)).collect(),
        };
        Self {
            banks: banks.iter().map(bank).collect(),
        }
    }

    pub(crate) fn banks(&self) -> Vec<(Mfn, u64)> {
        self.banks
            .iter()
            .map(|bank| (bank.first, bank.written.len() as u64))
            .collect()
    }

    fn frame(&self, mfn: Mfn) -> Result<Frame<'_>, Fault> {
        self.banks
            .iter()
            .find_map(|bank| {
                let index = usize::try_from(mfn.0.checked_sub(bank.first.0)?).ok()?;
                let start = index.checked_mul(WORDS)?;
                Some(Frame {
                    words: bank.words.get(start..start.checked_add(WORDS)?)?,
                    written: bank.written.get(index)?,
                })
            })
            .ok_or(Fault)
    }

    /// The words of one frame. It counts as written from here on.
    pub(crate) fn words(&self, mfn: Mfn) -> Option<&[AtomicU64; WORDS]> {
        let frame = self.frame(mfn).ok()?;
        frame.written.store(true, SeqCst);
        frame.words.try_into().ok()
    }

    /// Copies out of one frame.
    pub fn read(&self, mfn: Mfn, offset: usize, buf: &mut [u8]) -> Result<(), Fault> {
        let frame = self.frame(mfn)?;
        check(offset, buf.len())?;
        for (at, byte) in (offset..).zip(buf) {
            *byte = frame.words[at / 8].load(SeqCst).to_le_bytes()[at % 8];
        }
        Ok(())
    }

    /// Copies into one frame.
    pub fn write(&self, mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault> {
        let frame = self.frame(mfn)?;
        check(offset, buf.len())?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let part = (8 - at % 8).min(rest.len());
            let (now, later) = rest.split_at(part);
            let replace = |old: u64| {
                let mut bytes = old.to_le_bytes();
                bytes[at % 8..at % 8 + part].copy_from_slice(now);
                Some(u64::from_le_bytes(bytes))
            };
            let _ = frame.words[at / 8].fetch_update(SeqCst, SeqCst, replace);
            at += part;
            rest = later;
        }
        frame.written.store(true, SeqCst);
        Ok(())
    }

    /// Fills one frame with zeroes; frames that are not RAM are left out.
    pub fn zero(&self, mfn: Mfn) {
        if let Ok(frame) = self.frame(mfn) {
            frame.written.store(false, SeqCst);
            for word in frame.words {
                word.store(0, SeqCst);
            }
        }
    }

    /// Whether a frame is all zeroes. Quick for frames that nobody wrote.
    pub fn is_zero(&self, mfn: Mfn) -> bool {
        let zero = |frame: &Frame<'_>| frame.words.iter().all(|word| word.load(SeqCst) == 0);
        self.frame(mfn)
            .is_ok_and(|frame| !frame.written.load(SeqCst) || zero(&frame))
    }

    /// An atomic operation on `size` bytes (1, 2, 4 or 8) that are aligned to their size.
    pub(crate) fn atomic(
        &self,
        mfn: Mfn,
        offset: usize,
        size: usize,
        op: AtomicOp<u64>,
    ) -> Result<u64, Fault> {
        let frame = self.frame(mfn)?;
        check(offset, size)?;
        if !offset.is_multiple_of(size) {
            return Err(Fault);
        }
        let shift = offset % 8 * 8;
        let mask = u64::MAX >> (64 - size * 8);
        let part = |word: u64| word >> shift & mask;
        let word = &frame.words[offset / 8];
        if matches!(op, AtomicOp::Load) {
            return Ok(part(word.load(SeqCst)));
        }
        let change = |word: u64| {
            let old = part(word);
            let new = match op {
                AtomicOp::Load => old,
                AtomicOp::Swap(value) => value,
                AtomicOp::Or(bits) => old | bits,
                AtomicOp::And(bits) => old & bits,
                AtomicOp::Cas { old: expected, new } if old == expected => new,
                AtomicOp::Cas { .. } => return None,
            };
            Some(word & !(mask << shift) | (new & mask) << shift)
        };
        let (Ok(old) | Err(old)) = word.fetch_update(SeqCst, SeqCst, change);
        frame.written.store(true, SeqCst);
        Ok(part(old))
    }
}

fn check(offset: usize, len: usize) -> Result<(), Fault> {
    match offset.checked_add(len) {
        Some(end) if end <= PAGE_SIZE => Ok(()),
        _ => Err(Fault),
    }
}

pub(crate) fn widen<T: Into<u64>>(op: AtomicOp<T>) -> AtomicOp<u64> {
    match op {
        AtomicOp::Load => AtomicOp::Load,
        AtomicOp::Swap(value) => AtomicOp::Swap(value.into()),
        AtomicOp::Or(bits) => AtomicOp::Or(bits.into()),
        AtomicOp::And(bits) => AtomicOp::And(bits.into()),
        AtomicOp::Cas { old, new } => AtomicOp::Cas {
            old: old.into(),
            new: new.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_atomic_touches_only_its_bytes() {
        let ram = Ram::new(&[(Mfn(1), 1)]);
        ram.write(Mfn(1), 0, &[0xff; 16]).unwrap();
        assert_eq!(ram.atomic(Mfn(1), 2, 2, AtomicOp::Swap(0x1234)), Ok(0xffff));
        assert_eq!(
            ram.atomic(Mfn(1), 0, 8, AtomicOp::Load),
            Ok(0xffff_ffff_1234_ffff)
        );
        let cas = AtomicOp::Cas {
            old: 0x1234,
            new: 7,
        };
        assert_eq!(ram.atomic(Mfn(1), 2, 2, cas), Ok(0x1234));
        assert_eq!(ram.atomic(Mfn(1), 2, 2, cas), Ok(7));
        assert_eq!(ram.atomic(Mfn(1), 2, 4, AtomicOp::Load), Err(Fault));
    }

    #[test]
    fn a_frame_is_zero_until_anything_writes_it_and_after_it_is_cleared() {
        let ram = Ram::new(&[(Mfn(1), 2)]);
        assert!(ram.is_zero(Mfn(1)));
        ram.write(Mfn(1), 4095, &[1]).unwrap();
        assert!(!ram.is_zero(Mfn(1)) && ram.is_zero(Mfn(2)));
        ram.zero(Mfn(1));
        assert!(ram.is_zero(Mfn(1)));
        ram.atomic(Mfn(1), 8, 8, AtomicOp::Or(1)).unwrap();
        assert!(!ram.is_zero(Mfn(1)));
        ram.atomic(Mfn(1), 8, 8, AtomicOp::And(0)).unwrap();
        assert!(ram.is_zero(Mfn(1)), "written, but zero again");
        assert!(!ram.is_zero(Mfn(3)), "not RAM");
    }

    #[test]
    fn access_outside_a_frame_or_outside_ram_faults() {
        let ram = Ram::new(&[(Mfn(1), 2)]);
        assert_eq!(ram.write(Mfn(1), 4095, &[1, 2]), Err(Fault));
        assert_eq!(ram.read(Mfn(3), 0, &mut [0]), Err(Fault));
        assert_eq!(ram.read(Mfn(0), 0, &mut [0]), Err(Fault));
        assert_eq!(ram.write(Mfn(2), 4091, &[1, 2, 3, 4, 5]), Ok(()));
        let mut buf = [0; 5];
        ram.read(Mfn(2), 4091, &mut buf).unwrap();
        assert_eq!(buf, [1, 2, 3, 4, 5]);
    }
}
