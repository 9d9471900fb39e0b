//! Files of microcode: which patch in one is for this CPU. Intel's are those of the SDM, volume 3, 10.11; AMD's are containers with a
//! table that says which CPUs are alike. Loading what was found is `cpu::microcode`.
//!
//! A file comes from a domain: nothing in it is believed before it is looked at. Whether a patch is genuine the CPU itself finds out.

mod amd;
mod intel;
#[cfg(test)]
mod tests;

use crate::cpuid::Vendor;

/// Which patches fit a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Who made it.
    pub vendor: Vendor,
    /// EAX of leaf 1.
    pub signature: u32,
    /// Intel: the one bit of the kind of socket.
    pub platform: u32,
}

impl Kind {
    /// Whether such CPUs load patches as they are described here: AMD's do from family 0x10 on.
    #[must_use]
    pub const fn can_load(&self) -> bool {
        const BEYOND: u32 = 0xff << 20;
        match self.vendor {
            Vendor::Intel => true,
            Vendor::Amd => self.signature >> 8 & 0xf == 0xf && self.signature & BEYOND != 0,
        }
    }

    /// How far into a patch the address points that the CPU is given.
    #[must_use]
    pub const fn start(&self) -> usize {
        match self.vendor {
            Vendor::Intel => intel::HEADER,
            Vendor::Amd => 0,
        }
    }
}

/// A patch that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch<'a> {
    /// What the CPU says it has when the patch is loaded.
    pub revision: u32,
    /// The whole of it.
    pub bytes: &'a [u8],
}

/// The file is not what it should be, from some place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The newest patch for a CPU in a file. What stands before a malformed part counts.
pub fn find<'a>(file: &'a [u8], kind: &Kind) -> Result<Option<Patch<'a>>, Malformed> {
    let mut best = Best(None);
    let read = match kind.vendor {
        Vendor::Intel => intel::read(file, kind, &mut best),
        Vendor::Amd => amd::read(file, kind, &mut best),
    };
    match (best.0, read) {
        (None, Err(malformed)) => Err(malformed),
        (best, _) => Ok(best),
    }
}

/// The newest so far.
struct Best<'a>(Option<Patch<'a>>);

impl<'a> Best<'a> {
    fn offer(&mut self, patch: Patch<'a>) {
        if self.0.is_none_or(|best| best.revision < patch.revision) {
            self.0 = Some(patch);
        }
    }
}

/// A little-endian word at a byte.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// Half of one.
fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}
