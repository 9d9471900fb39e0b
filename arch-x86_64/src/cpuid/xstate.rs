//! Extended states that XSAVE switches, and leaf 0xd that describes them (Intel SDM, volume 1, chapter 13).
//!
//! Only states that the world switch knows are offered: x87, SSE, AVX and AVX-512.

use super::{Leaf, features::leaf_d1_eax};

/// x87: always on.
pub const X87: u64 = 1 << 0;
/// XMM registers.
pub const SSE: u64 = 1 << 1;
/// Upper halves of YMM registers.
pub const AVX: u64 = 1 << 2;
/// Mask registers, upper halves of ZMM 0 to 15, ZMM 16 to 31.
pub const AVX512: u64 = 0b111 << 5;
const KNOWN: u64 = X87 | SSE | AVX | AVX512;

/// Bytes of the area for x87 and SSE with the header behind it.
const LEGACY: u32 = 576;
const STATES: usize = 8;
/// Leaf 0xd.n, ECX: the state stands at a multiple of 64 in the compacted form.
const ALIGNED: u32 = 1 << 1;

/// What leaf 0xd is made from.
#[derive(Clone, Debug, Default)]
pub struct Xstate {
    /// States that XCR0 may have.
    pub supported: u64,
    features: u32,
    /// Size, offset and alignment by state.
    states: [Leaf; STATES],
}

/// Whether a set of states may stand in XCR0, support aside.
const fn is_consistent(xcr0: u64) -> bool {
    let avx512 = xcr0 & AVX512;
    xcr0 & X87 != 0
        && (xcr0 & AVX == 0 || xcr0 & SSE != 0)
        && (avx512 == 0 || avx512 == AVX512 && xcr0 & AVX != 0)
}

impl Xstate {
    /// From the host's leaf 0xd.
    pub fn from_host(host: &impl Fn(u32, u32) -> Leaf) -> Self {
        let [low, _, _, high] = host(0xd, 0);
        let mut supported = (u64::from(high) << 32 | u64::from(low)) & KNOWN;
        if supported & AVX512 != AVX512 || supported & AVX == 0 {
            supported &= !AVX512;
        }
        if !is_consistent(supported) {
            return Self::default();
        }
        let mut states = [[0; 4]; STATES];
        for (index, state) in states.iter_mut().enumerate().skip(2) {
            if supported & 1 << index != 0 {
                let [size, offset, flags, _] = host(0xd, index as u32);
                *state = [size, offset, flags & ALIGNED, 0];
            }
        }
        Self {
            supported,
            features: host(0xd, 1)[0] & leaf_d1_eax::LISTED,
            states,
        }
    }

    /// Whether XSETBV may set XCR0 to this.
    #[must_use]
    pub const fn is_valid_xcr0(&self, xcr0: u64) -> bool {
        xcr0 & !self.supported == 0 && is_consistent(xcr0)
    }

    fn chosen(&self, set: u64) -> impl Iterator<Item = &Leaf> {
        let states = self.states.iter().enumerate();
        states
            .filter(move |(index, _)| set & 1 << index != 0)
            .map(|(_, state)| state)
    }

    /// Bytes of the standard form for a set of states.
    fn size(&self, set: u64) -> u32 {
        self.chosen(set)
            .map(|state| state[0].saturating_add(state[1]))
            .fold(LEGACY, u32::max)
    }

    /// Bytes of the compacted form.
    fn compacted(&self, set: u64) -> u32 {
        self.chosen(set).fold(LEGACY, |size, state| {
            let start = if state[2] & ALIGNED == 0 {
                size
            } else {
                size.saturating_add(63) & !63
            };
            start.saturating_add(state[0])
        })
    }

    /// A sub-leaf, for a vCPU whose XCR0 is this.
    #[must_use]
    pub fn leaf(&self, subleaf: u32, xcr0: u64) -> Leaf {
        match subleaf {
            0 => [
                self.supported as u32,
                if self.supported == 0 {
                    0
                } else {
                    self.size(xcr0)
                },
                if self.supported == 0 {
                    0
                } else {
                    self.size(self.supported)
                },
                (self.supported >> 32) as u32,
            ],
            1 if self.features & leaf_d1_eax::XSAVEC != 0 => {
                [self.features, self.compacted(xcr0), 0, 0]
            }
            1 => [self.features, 0, 0, 0],
            _ => self
                .states
                .get(subleaf as usize)
                .copied()
                .unwrap_or_default(),
        }
    }
}
