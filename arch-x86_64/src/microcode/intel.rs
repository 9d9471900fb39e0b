//! Intel's: patches one behind another, each with a header, data, and sometimes a table of more CPUs that it is for. All of it, and
//! each entry of the table in the place of the header's own CPU, adds up to zero.

use super::{Best, Kind, Malformed, Patch, word};

pub(super) const HEADER: usize = 48;
const TABLE_HEADER: usize = 20;
const ENTRY: usize = 12;
/// Of those that do not say.
const OLD_DATA: usize = 2000;
const OLD_TOTAL: usize = 2048;
const UNIT: usize = 1024;

mod at {
    pub const HEADER_VERSION: usize = 0;
    pub const REVISION: usize = 4;
    pub const SIGNATURE: usize = 12;
    pub const CHECKSUM: usize = 16;
    pub const LOADER_VERSION: usize = 20;
    pub const PLATFORMS: usize = 24;
    pub const DATA_SIZE: usize = 28;
    pub const TOTAL_SIZE: usize = 32;
}

/// Offers every patch that fits.
pub(super) fn read<'a>(file: &'a [u8], kind: &Kind, best: &mut Best<'a>) -> Result<(), Malformed> {
    let mut rest = file;
    while !rest.is_empty() {
        let (bytes, behind) = take(rest).ok_or(Malformed)?;
        let update = Update::check(bytes).ok_or(Malformed)?;
        if update.is_for(kind) {
            best.offer(Patch {
                revision: update.revision,
                bytes,
            });
        }
        rest = behind;
    }
    Ok(())
}

/// The first patch, and what is behind it.
fn take(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let known = word(rest, at::HEADER_VERSION)? == 1 && word(rest, at::LOADER_VERSION)? == 1;
    let total = match word(rest, at::DATA_SIZE)? {
        0 => OLD_TOTAL,
        _ => word(rest, at::TOTAL_SIZE)? as usize,
    };
    let fits = known && total >= HEADER && rest.len() >= HEADER;
    rest.split_at_checked(total).filter(|_| fits)
}

/// One whose sums are right.
struct Update<'a> {
    revision: u32,
    own: (u32, u32),
    table: &'a [u8],
}

impl<'a> Update<'a> {
    fn check(bytes: &'a [u8]) -> Option<Self> {
        let data = match word(bytes, at::DATA_SIZE)? as usize {
            0 => OLD_DATA,
            size => size,
        };
        let (main, table) = bytes.split_at_checked(data.checked_add(HEADER)?)?;
        let own = (word(bytes, at::SIGNATURE)?, word(bytes, at::PLATFORMS)?);
        let checksum = word(bytes, at::CHECKSUM)?;
        let good = bytes.len().is_multiple_of(UNIT) && sum(main)? == 0;
        let entries = match table.is_empty() {
            true => table,
            false => entries(table)?,
        };
        let whole = own.0.wrapping_add(own.1).wrapping_add(checksum);
        let all_add_up = entries
            .chunks_exact(ENTRY)
            .all(|entry| sum(entry) == Some(whole));
        (good && all_add_up).then_some(Self {
            revision: word(bytes, at::REVISION)?,
            own,
            table: entries,
        })
    }

    fn is_for(&self, kind: &Kind) -> bool {
        let fits = |(signature, platforms): (u32, u32)| {
            signature == kind.signature
                && (platforms & kind.platform != 0 || platforms == 0 && kind.platform == 0)
        };
        let others = self.table.chunks_exact(ENTRY);
        let mut others = others.filter_map(|entry| Some((word(entry, 0)?, word(entry, 4)?)));
        fits(self.own) || others.any(fits)
    }
}

/// The entries of a table of more CPUs.
fn entries(table: &[u8]) -> Option<&[u8]> {
    let count = word(table, 0)? as usize;
    let end = count.checked_mul(ENTRY)?.checked_add(TABLE_HEADER)?;
    let table = table.get(..end)?;
    (sum(table)? == 0).then_some(())?;
    table.get(TABLE_HEADER..)
}

fn sum(bytes: &[u8]) -> Option<u32> {
    let (words, rest) = bytes.as_chunks();
    let add = |sum: u32, word: &[u8; 4]| sum.wrapping_add(u32::from_le_bytes(*word));
    rest.is_empty().then(|| words.iter().fold(0, add))
}
