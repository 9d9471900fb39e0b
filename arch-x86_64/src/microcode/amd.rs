//! AMD's: containers one behind another. Each begins with a magic number and the table of what patches call which CPU; its patches
//! follow.

use super::{Best, Kind, Malformed, Patch, half, word};

const MAGIC: u32 = 0x0041_4d44;
const TABLE: u32 = 0;
const PATCH: u32 = 1;
const ENTRY: usize = 16;
/// The header of a patch.
const SMALLEST: usize = 64;
/// No CPU has larger ones.
const LARGEST: usize = 32 << 10;

mod at {
    /// In a patch.
    pub const REVISION: usize = 4;
    pub const NAME: usize = 24;
    /// In an entry of the table.
    pub const ENTRY_NAME: usize = 12;
}

/// Offers every patch that fits.
pub(super) fn read<'a>(file: &'a [u8], kind: &Kind, best: &mut Best<'a>) -> Result<(), Malformed> {
    let mut rest = file;
    while !rest.is_empty() {
        rest = container(rest, kind, best).ok_or(Malformed)?;
    }
    Ok(())
}

/// Reads one, and gives what is behind it.
fn container<'a>(file: &'a [u8], kind: &Kind, best: &mut Best<'a>) -> Option<&'a [u8]> {
    let (table, mut rest) = section(after_magic(file)?, TABLE)?;
    let name = name_of(table, kind.signature)?;
    while !rest.is_empty() {
        let (patch, behind) = section(rest, PATCH)?;
        if !(SMALLEST..=LARGEST).contains(&patch.len()) {
            return None;
        }
        if name.is_some() && half(patch, at::NAME) == name {
            best.offer(Patch {
                revision: word(patch, at::REVISION)?,
                bytes: patch,
            });
        }
        rest = behind;
        if after_magic(rest).is_some() {
            break;
        }
    }
    Some(rest)
}

fn after_magic(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(&MAGIC.to_le_bytes())
}

/// What a section of this kind holds, and what is behind it.
fn section(bytes: &[u8], kind: u32) -> Option<(&[u8], &[u8])> {
    let len = word(bytes, 4)? as usize;
    let content = bytes.get(8..)?;
    (word(bytes, 0)? == kind).then_some(())?;
    content.split_at_checked(len)
}

/// What patches call CPUs with a signature; the outer `None` is a bad table. An entry of zeros ends it.
fn name_of(table: &[u8], signature: u32) -> Option<Option<u16>> {
    let (entries, rest) = table.as_chunks::<ENTRY>();
    let ended = |entry: &[u8; ENTRY]| word(entry, 0) == Some(0);
    let end = entries.iter().position(ended)?;
    let mut listed = entries.iter().take(end);
    let own = listed.find(|entry| word(*entry, 0) == Some(signature));
    rest.is_empty()
        .then(|| own.and_then(|entry| half(entry, at::ENTRY_NAME)))
}
