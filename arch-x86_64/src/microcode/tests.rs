use std::vec::Vec;

use proptest::prelude::*;

use super::{Kind, Malformed, Patch, find};
use crate::cpuid::Vendor;

const INTEL: Kind = Kind {
    vendor: Vendor::Intel,
    signature: 0x0005_0654,
    platform: 1 << 2,
};
const AMD: Kind = Kind {
    vendor: Vendor::Amd,
    signature: 0x0060_0f20,
    platform: 0,
};

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn make_zero(words: &mut [u32], at: usize) {
    words[at] = 0;
    let sum = words
        .iter()
        .fold(0_u32, |sum, word| sum.wrapping_add(*word));
    words[at] = sum.wrapping_neg();
}

/// A patch of 1024 bytes for one CPU, and for those in a table.
fn intel(revision: u32, signature: u32, platforms: u32, more: &[(u32, u32)]) -> Vec<u8> {
    let table = match more.len() {
        0 => 0,
        count => 5 + 3 * count,
    };
    let data = 256 - 12 - table;
    let mut words = [0; 256];
    words[..9].copy_from_slice(&[
        1,
        revision,
        0,
        signature,
        0,
        1,
        platforms,
        data as u32 * 4,
        1024,
    ]);
    words[20] = 0x1234_5678;
    make_zero(&mut words[..12 + data], 4);
    let whole = signature.wrapping_add(platforms).wrapping_add(words[4]);
    if let Some(table) = words.get_mut(12 + data..).filter(|table| !table.is_empty()) {
        table[0] = more.len() as u32;
        for (entry, (signature, platforms)) in table[5..].chunks_mut(3).zip(more) {
            let rest = whole.wrapping_sub(*signature).wrapping_sub(*platforms);
            entry.copy_from_slice(&[*signature, *platforms, rest]);
        }
        make_zero(table, 1);
    }
    bytes_of(&words)
}

fn revision(file: &[u8], kind: &Kind) -> Result<Option<u32>, Malformed> {
    find(file, kind).map(|found| found.map(|patch| patch.revision))
}

#[test]
fn the_newest_of_intels_patches_for_the_cpu_is_found() {
    let other = intel(9, 0x0003_06a9, 4, &[]);
    let elsewhere = intel(8, INTEL.signature, 1 << 3, &[]);
    let old = intel(3, INTEL.signature, 0xff, &[]);
    let new = intel(5, INTEL.signature, 4, &[]);
    let file = [&*other, &new, &old, &elsewhere].concat();
    let wanted = Patch {
        revision: 5,
        bytes: &new,
    };
    assert_eq!(find(&file, &INTEL), Ok(Some(wanted)));
    assert_eq!(find(&[other, elsewhere].concat(), &INTEL), Ok(None));
}

#[test]
fn a_table_names_more_of_intels_cpus() {
    let file = intel(7, 0x0005_0653, 1, &[(0x0005_0652, 4), (INTEL.signature, 4)]);
    assert_eq!(revision(&file, &INTEL), Ok(Some(7)));
    let file = intel(7, 0x0005_0653, 1, &[(INTEL.signature, 2)]);
    assert_eq!(revision(&file, &INTEL), Ok(None));
}

#[test]
fn any_changed_word_of_intels_spoils_a_sum() {
    let file = intel(7, INTEL.signature, 4, &[(0x0005_0652, 4)]);
    for at in (0..file.len()).step_by(4) {
        let mut bad = file.clone();
        bad[at] ^= 1;
        assert_eq!(revision(&bad, &INTEL), Err(Malformed), "at {at}");
    }
}

#[test]
fn what_stands_before_garbage_counts() {
    let mut file = intel(7, INTEL.signature, 4, &[]);
    file.extend([0xff; 3]);
    assert_eq!(revision(&file, &INTEL), Ok(Some(7)));
    assert_eq!(revision(&file[1024..], &INTEL), Err(Malformed));
    assert_eq!(revision(&[], &INTEL), Ok(None));
    assert_eq!(revision(&[], &AMD), Ok(None));
}

fn amd_table(entries: &[(u32, u16)]) -> Vec<u8> {
    let mut words = [0x0041_4d44, 0, entries.len() as u32 * 16 + 16].to_vec();
    for (signature, name) in entries {
        words.extend([*signature, 0, 0, u32::from(*name)]);
    }
    words.extend([0; 4]);
    bytes_of(&words)
}

fn amd_patch(name: u16, revision: u32, bytes: usize) -> Vec<u8> {
    let mut words = std::vec![0; bytes / 4 + 2];
    words[..2].copy_from_slice(&[1, bytes as u32]);
    words[3] = revision;
    words[8] = name.into();
    bytes_of(&words)
}

#[test]
fn amds_patch_is_found_by_the_name_that_the_table_gives() {
    let table = amd_table(&[(0x0060_0f12, 0x6012), (AMD.signature, 0x6020)]);
    let (old, new) = (amd_patch(0x6020, 3, 2048), amd_patch(0x6020, 5, 1024));
    let file = [&*table, &old, &amd_patch(0x6012, 9, 64), &new].concat();
    let wanted = Patch {
        revision: 5,
        bytes: &new[8..],
    };
    assert_eq!(find(&file, &AMD), Ok(Some(wanted)));
    let other = Kind {
        signature: 0x0060_0f99,
        ..AMD
    };
    assert_eq!(find(&file, &other), Ok(None));
}

#[test]
fn the_names_of_another_container_say_nothing() {
    let first = [amd_table(&[(AMD.signature, 1)]), amd_patch(2, 9, 64)].concat();
    let second = [amd_table(&[(0x0060_0f12, 2)]), amd_patch(1, 8, 64)].concat();
    let third = [amd_table(&[(AMD.signature, 3)]), amd_patch(3, 7, 64)].concat();
    let file = [first, second, third].concat();
    assert_eq!(revision(&file, &AMD), Ok(Some(7)));
}

#[test]
fn broken_containers_of_amd() {
    let table = amd_table(&[(AMD.signature, 1)]);
    let endless = {
        let mut table = table.clone();
        table.truncate(12 + 16);
        table[8] = 16;
        table
    };
    let cut = |mut file: Vec<u8>| {
        file.pop();
        file
    };
    for (what, file) in [
        ("no magic number", table[4..].to_vec()),
        ("nothing behind it", table[..4].to_vec()),
        ("a table that is cut", cut(table.clone())),
        ("a table without an end", endless),
        (
            "a patch that is cut",
            [&*table, &cut(amd_patch(2, 1, 64))].concat(),
        ),
        ("a small patch", [&*table, &amd_patch(1, 1, 60)].concat()),
        (
            "a huge patch",
            [&*table, &amd_patch(1, 1, 64 << 10)].concat(),
        ),
        ("two tables", [&*table, &table].concat()),
    ] {
        assert_eq!(revision(&file, &AMD), Err(Malformed), "{what}");
    }
}

#[test]
fn amds_old_cpus_load_nothing() {
    assert!(AMD.can_load() && INTEL.can_load());
    let old = Kind {
        signature: 0x0006_0fb1,
        ..AMD
    };
    assert!(!old.can_load());
}

proptest! {
    #[test]
    fn no_file_does_any_harm(
        start in 0_usize..4,
        noise in prop::collection::vec(any::<u8>(), 0..4096),
        changes in prop::collection::vec((0_usize..4096, any::<u8>()), 0..8),
    ) {
        let mut file = match start {
            0 => Vec::new(),
            1 => intel(7, INTEL.signature, 4, &[(0x0005_0652, 4)]),
            2 => amd_table(&[(AMD.signature, 1)]),
            _ => [amd_table(&[(AMD.signature, 1)]), amd_patch(1, 9, 512)].concat(),
        };
        file.extend(noise);
        for (at, value) in changes {
            if let Some(byte) = file.get_mut(at) {
                *byte = value;
            }
        }
        for kind in [INTEL, AMD] {
            if let Ok(Some(patch)) = find(&file, &kind) {
                let range = file.as_ptr_range();
                prop_assert!(range.contains(&patch.bytes.as_ptr()));
            }
        }
    }
}
