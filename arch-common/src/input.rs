//! What was typed and waits in an emulated UART.

/// Bytes at most; more are dropped, as a real UART's FIFO would.
const SIZE: usize = 64;

/// A short queue of bytes.
#[derive(Debug)]
pub struct Input {
    bytes: [u8; SIZE],
    head: usize,
    len: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            bytes: [0; SIZE],
            head: 0,
            len: 0,
        }
    }
}

impl Input {
    /// Adds a byte. False when there is no room.
    pub fn put(&mut self, byte: u8) -> bool {
        let at = (self.head + self.len) % SIZE;
        match self.bytes.get_mut(at) {
            Some(place) if self.len < SIZE => {
                *place = byte;
                self.len += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes the first byte; 0 when there is none.
    pub fn take(&mut self) -> u8 {
        if self.len == 0 {
            return 0;
        }
        let byte = self.bytes.get(self.head).copied().unwrap_or(0);
        self.head = (self.head + 1) % SIZE;
        self.len -= 1;
        byte
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_and_what_has_no_room_is_dropped() {
        let mut input = Input::default();
        for round in 0..3 {
            assert_eq!((input.is_empty(), input.take()), (true, 0));
            for byte in 0..SIZE as u8 - round {
                assert!(input.put(byte + round));
            }
            assert_eq!(input.is_full(), round == 0);
            if round == 0 {
                assert!(!input.put(99));
            }
            for byte in 0..SIZE as u8 - round {
                assert_eq!(input.take(), byte + round);
            }
        }
        input.put(1);
        input.clear();
        assert!(input.is_empty());
    }
}
