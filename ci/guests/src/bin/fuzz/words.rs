//! Random words of the kinds that find bugs, with none that would hurt the guest itself.

use core::ops::Range;

use xenolith_guests::arch;
use xenolith_guests::buffer::{PAGE, Page};

const MIB: u64 = 1 << 20;
/// Sacrificial RAM starts this far above the image's end.
const GAP: u64 = 4 * MIB;
const SACRIFICE: u64 = 16 * MIB;
/// A range of frames that begins below the image must not reach it.
const BELOW: u64 = 256 * MIB;
/// Where an image low in memory has plain RAM between here and itself, an array of arguments that begins there could run
/// on into it.
const PLAIN: u64 = MIB;

/// A seeded source of words (xorshift64*).
pub(crate) struct Words {
    state: u64,
    buffers: Page,
    buffer_bytes: u64,
    own_domain: u16,
    live: Range<u64>,
    live_addresses: Range<u64>,
    sacrifice: u64,
}

impl Words {
    pub(crate) fn new(seed: u64, buffers: Page, buffer_pages: u64, own_domain: u16) -> Self {
        let image = arch::image();
        // Small numbers must stay: an image low in memory protects half of the frames below it.
        let live = image.start - BELOW.min(image.start / 2)..image.end + GAP / 2;
        let first = if image.start < BELOW {
            PLAIN
        } else {
            live.start
        };
        let live_addresses = first..live.end;
        #[cfg(pv)]
        let live = super::confine_pv::live();
        Self {
            state: seed | 1,
            buffers,
            buffer_bytes: buffer_pages * PAGE,
            own_domain,
            live_addresses,
            live,
            sacrifice: (image.end + GAP) & !(2 * MIB - 1),
        }
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.random() >> 16) % bound
    }

    /// True once in `n`.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A word that names neither the image as an address or frame, nor does a half of it.
    pub(crate) fn word(&mut self) -> u64 {
        loop {
            let word = match self.below(16) {
                0..=3 => self.below(64),
                4 | 5 => self.pointer(),
                6 | 7 => self.frame(),
                8 => self.frame() * PAGE,
                9 => self.bad_pointer(),
                10 | 11 => u64::from(self.domain()),
                12 => 1 << self.below(64),
                13 => (1 << self.below(64)) - 1,
                14 => self.random() & 0xffff_ffff,
                _ => self.random(),
            };
            if self.is_harmless(word) {
                return word;
            }
        }
    }

    fn is_harmless(&self, word: u64) -> bool {
        [word, word & 0xffff_ffff, word >> 32].iter().all(|&part| {
            let as_frame = part.saturating_mul(PAGE);
            let is_machine_address = !arch::IS_TRANSLATED && self.live.contains(&part);
            !self.live_addresses.contains(&part)
                && !self.live.contains(&as_frame)
                && !is_machine_address
        })
    }

    /// Whether an address below the window of the sacrificial pages is one of RAM.
    pub(crate) fn leads_to_ram(&self, address: u64) -> bool {
        address < self.sacrifice + SACRIFICE
    }

    fn domain(&mut self) -> u16 {
        match self.below(8) {
            0..=2 => 0x7ff0,
            3 | 4 => self.own_domain,
            5 => 0x7ff0 + self.below(6) as u16,
            6 => self.below(4) as u16,
            _ => self.random() as u16,
        }
    }

    /// A frame of the sacrificial range.
    pub(crate) fn frame(&mut self) -> u64 {
        let address = self.sacrifice + self.below(SACRIFICE);
        arch::frame_of(address)
    }

    /// An address in the sacrificial pages: a multiple of 8 mostly, of 4 always. Read at any other, the
    /// bytes of harmless words would make harmful ones.
    pub(crate) fn pointer(&mut self) -> u64 {
        let offset = self.below(self.buffer_bytes);
        let mask = if self.once_in(8) { !3 } else { !7 };
        self.buffers.address() + (offset & mask)
    }

    /// An address that leads nowhere.
    pub(crate) fn bad_pointer(&mut self) -> u64 {
        let end = self.buffers.address() + self.buffer_bytes;
        match self.below(8) {
            0 => arch::UNMAPPED,
            1 => arch::NON_CANONICAL,
            2 => arch::UPPER_HALF,
            3 => u64::MAX - self.below(16),
            4 => arch::UNMAPPED + self.below(PAGE),
            5 => end,
            6 => arch::UPPER_HALF | self.random() % (1 << 40),
            _ => arch::NON_CANONICAL ^ self.random() % (1 << 30),
        }
    }

    /// A pointer to a freshly filled argument, or now and then to old contents, or nowhere.
    pub(crate) fn argument(&mut self) -> u64 {
        if self.once_in(12) {
            return self.bad_pointer();
        }
        let address = self.pointer();
        let end = self.buffers.address() + self.buffer_bytes;
        let start = address & !7;
        for index in 0..8 {
            let at = start + index * 8;
            if at < end {
                let word = self.argument_word();
                arch::write64(at, word);
            }
        }
        address
    }

    /// Half of the words of a struct are two fields of 32 bits, or four of 16.
    fn argument_word(&mut self) -> u64 {
        loop {
            let word = match self.below(4) {
                0 => self.word() & 0xffff_ffff | self.word() << 32,
                1 => {
                    let low = u64::from(self.domain()) | self.below(8) << 16;
                    low | self.word() << 32
                }
                _ => self.word(),
            };
            if self.is_harmless(word) {
                return word;
            }
        }
    }
}
