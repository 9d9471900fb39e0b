//! The ring of lines printed last, which tools read later (`xl dmesg`).
//!
//! A reader names a place in the endless stream of bytes printed since the start; what it missed is gone, and the ring
//! says where what it got begins.

use alloc::vec::Vec;

/// Bytes kept.
pub const SIZE: usize = 16 << 10;

/// The last [`SIZE`] bytes.
#[derive(Debug)]
pub struct Ring {
    bytes: Vec<u8>,
    /// Bytes printed since the start.
    end: u64,
    /// What was printed before is cleared.
    start: u64,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// An empty ring; without memory it stays empty. It takes its memory now, so that printing never allocates.
    pub fn new() -> Self {
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(SIZE).is_ok() {
            bytes.resize(SIZE, 0);
        }
        Self {
            bytes,
            end: 0,
            start: 0,
        }
    }

    /// Adds bytes; the oldest go.
    pub fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.end as usize % SIZE) {
                *place = *byte;
                self.end += 1;
            }
        }
    }

    /// Copies what was printed from place `from` of the stream on, or from the oldest byte kept. Gives the place where
    /// the copy begins and its length.
    pub fn read(&self, from: u64, buffer: &mut [u8]) -> (u64, usize) {
        let oldest = self.start.max(self.end.saturating_sub(SIZE as u64));
        let begin = from.clamp(oldest, self.end);
        let mut count = 0;
        for (at, place) in (begin..self.end).zip(buffer) {
            *place = self.bytes.get(at as usize % SIZE).copied().unwrap_or(0);
            count += 1;
        }
        (begin, count)
    }

    /// Forgets everything printed so far.
    pub fn clear(&mut self) {
        self.start = self.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_is_left_of_what_it_asked_for() {
        let mut ring = Ring::new();
        let mut buffer = [0; 8];
        assert_eq!(ring.read(0, &mut buffer), (0, 0));
        ring.push(b"abcdef");
        assert_eq!(ring.read(2, &mut buffer), (2, 4));
        assert_eq!(&buffer[..4], b"cdef");
        assert_eq!(ring.read(100, &mut buffer), (6, 0));
        ring.push(&[b'x'; SIZE - 3]);
        assert_eq!(ring.read(0, &mut buffer), (3, 8));
        assert_eq!(&buffer, b"defxxxxx");
        ring.clear();
        ring.push(b"new");
        assert_eq!(ring.read(0, &mut buffer), (SIZE as u64 + 3, 3));
    }
}
