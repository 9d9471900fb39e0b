//! A disk image with one FAT partition, as boot firmware of boards reads it from an SD card.
//!
//! The partition table is written here (the classic one in the first sector); the file system by mtools, which works on
//! a file at an offset and so needs no rights.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{paths, process};

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
/// The partition starts at 1 MiB, as partitioning tools place it.
pub(crate) const START: u64 = 1 << 20;
/// The smallest partition: below 33 MiB it could not be FAT32, which every firmware reads.
const SMALLEST: u64 = 64 << 20;
const FAT32_WITH_LBA: u8 = 0x0c;
const BOOTABLE: u8 = 0x80;

/// Writes an image that holds `files` under these names.
pub(crate) fn write(output: &Path, files: &[(impl AsRef<str>, PathBuf)]) -> Result<()> {
    let mut content = 0;
    for (_, file) in files {
        content += std::fs::metadata(file)
            .with_context(|| format!("cannot read {}", file.display()))?
            .len();
    }
    let size = partition_size(content);
    if let Some(folder) = output.parent() {
        paths::make_dir(folder)?;
    }
    let mut image =
        File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    image.write_all(&partition_table(START / SECTOR, size / SECTOR))?;
    image.set_len(START + size)?;
    image.seek(SeekFrom::Start(0))?;
    drop(image);
    let partition = format!("{}@@{START}", output.display());
    let sectors = (size / SECTOR).to_string();
    mtools(Command::new("mformat").args([
        "-i", &partition, "-F", "-T", &sectors, "-h", "64", "-s", "32", "-v", "XENOLITH", "::",
    ]))?;
    for folder in folders(files) {
        mtools(Command::new("mmd").args(["-i", &partition, &format!("::{folder}")]))?;
    }
    for (name, file) in files {
        mtools(
            Command::new("mcopy")
                .args(["-i", &partition])
                .arg(file)
                .arg(format!("::{}", name.as_ref())),
        )?;
    }
    Ok(())
}

fn mtools(command: &mut Command) -> Result<()> {
    // mtools doubts geometries that no drive has; nothing here depends on them.
    process::output(command.env("MTOOLS_SKIP_CHECK", "1")).map(drop)
}

/// The folders that the names lie in, each behind the one that it lies in.
fn folders(files: &[(impl AsRef<str>, PathBuf)]) -> BTreeSet<&str> {
    fn above(name: &str) -> impl Iterator<Item = &str> {
        name.match_indices('/')
            .filter_map(move |(at, _)| name.get(..at))
    }
    let names = files.iter().map(|(name, _)| name.as_ref());
    names.flat_map(above).collect()
}

/// The content and a quarter more, in whole MiB.
fn partition_size(content: u64) -> u64 {
    (content + content / 4)
        .next_multiple_of(1 << 20)
        .max(SMALLEST)
}

/// The first sector: one bootable partition.
fn partition_table(first: u64, sectors: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    // An address by cylinder and head at its limit says "use the sector numbers instead".
    let no_geometry = [0xfe, 0xff, 0xff];
    let mut entry = vec![BOOTABLE];
    entry.extend(no_geometry);
    entry.push(FAT32_WITH_LBA);
    entry.extend(no_geometry);
    entry.extend((first as u32).to_le_bytes());
    entry.extend((sectors as u32).to_le_bytes());
    sector[446..462].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_table_names_one_bootable_partition() {
        let table = partition_table(2048, 131_072);
        assert_eq!(table[446], 0x80);
        assert_eq!(table[450], 0x0c);
        assert_eq!(table[454..458], 2048_u32.to_le_bytes());
        assert_eq!(table[458..462], 131_072_u32.to_le_bytes());
        assert_eq!(table[510..], [0x55, 0xaa]);
    }

    #[test]
    fn every_folder_of_a_name_is_made_once_and_after_the_one_around_it() {
        let file = |name| (name, PathBuf::new());
        let files = [
            file("boot/grub/a"),
            file("b"),
            file("boot/c"),
            file("EFI/d"),
        ];
        let found = folders(&files);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["EFI", "boot", "boot/grub"]
        );
    }

    #[test]
    fn a_partition_holds_its_content_with_room_to_spare() {
        assert_eq!(partition_size(1), SMALLEST);
        assert!(partition_size(100 << 20) >= 120 << 20);
        assert_eq!(partition_size(100_000_001) % (1 << 20), 0);
    }
}
