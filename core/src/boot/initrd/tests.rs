use super::*;
use crate::boot::{decompress::tests as packers, gzip::tests::pack};
use alloc::{format, string::ToString, vec::Vec};
use proptest::prelude::*;

fn entry(out: &mut Vec<u8>, name: &str, content: &[u8]) {
    let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
    let fields = [
        1,
        0o100_644,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0,
    ];
    out.extend(b"070701");
    fields
        .iter()
        .for_each(|field| out.extend(format!("{field:08x}").bytes()));
    out.extend(name.bytes());
    out.push(0);
    pad(out);
    out.extend(content);
    pad(out);
}

/// An archive of files with these contents.
fn archive(contents: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, content) in contents.iter().enumerate() {
        entry(&mut out, &format!("file{index}"), content);
    }
    entry(&mut out, "TRAILER!!!", b"");
    out
}

fn small() -> Vec<u8> {
    archive(&[b"#!/bin/sh\n".to_vec(), Vec::new(), (0..=255).collect()])
}

fn packed() -> [Vec<u8>; 4] {
    let plain = small();
    [
        pack(&plain),
        packers::zstd(&plain),
        packers::lz4(&plain),
        packers::xz(&plain),
    ]
}

#[test]
fn whole_ramdisks_of_every_kind_raise_no_doubt() {
    assert_eq!(check(&small()), Ok(()));
    for file in packed() {
        assert_eq!(check(&file), Ok(()), "{:x?}", &file[..4]);
    }
    for start in [
        &b"BZh91AY&SY"[..],
        &[0x5d, 0, 0, 0x80],
        b"\x89LZO\0\r\n\x1a\n",
        b"hsqs",
        b"-rom1fs-",
    ] {
        let mut file = start.to_vec();
        file.resize(4096, 0x55);
        assert_eq!(check(&file), Ok(()), "{start:x?}");
    }
    let mut ext = alloc::vec![0; 8192];
    ext[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
    assert_eq!(check(&ext), Ok(()));
}

#[test]
fn an_archive_that_holds_a_file_systems_mark_is_an_archive() {
    const MARK: usize = 1024 + 16;
    let mut file = archive(&[alloc::vec![0; 2000]]);
    file[MARK..MARK + 2].copy_from_slice(&[0x7f, 0x13]);
    assert_eq!(check(&file), Ok(()));
    assert_eq!(check(&file[..1800]), Err(Doubt::Cut("cpio archive", 0)));
}

#[test]
fn parts_one_behind_the_other_are_walked_with_zeroes_between_them() {
    for second in packed().into_iter().chain([small()]) {
        for zeroes in [0, 4, 512] {
            let mut file = small();
            file.resize(file.len() + zeroes, 0);
            file.extend(&second);
            assert_eq!(check(&file), Ok(()));
        }
    }
    let [_, zstd, lz4, _] = packed();
    for first in [zstd, lz4] {
        let mut file = first;
        let at = file.len();
        file.extend(small());
        assert_eq!(check(&file), Ok(()));
        file.truncate(file.len() - 50);
        assert!(check(&file).is_err(), "cut after {at}");
    }
}

#[test]
fn what_is_behind_a_whole_archive_must_be_something_too() {
    let mut file = small();
    file.resize(file.len().next_multiple_of(512), 0);
    let at = file.len();
    file.extend(b"garbage!");
    assert_eq!(check(&file), Err(Doubt::Unknown(at, *b"garb")));
}

#[test]
fn an_appended_boot_configuration_is_no_part() {
    for mut file in packed().into_iter().chain([small()]) {
        let data = b"kernel.loglevel = 7\0";
        file.extend(data);
        file.extend((data.len() as u32).to_le_bytes());
        file.extend([7; 4]);
        file.extend(b"#BOOTCONFIG\n");
        assert_eq!(check(&file), Ok(()));
    }
}

#[test]
fn each_doubt_is_one_line_that_says_what_to_do() {
    let told = |file: &[u8]| check(file).unwrap_err().to_string();
    assert!(told(b"").contains("empty; check that its file was loaded"));
    assert!(told(b"\x9eP\x01\x02 nothing known").contains(
        "neither cpio nor a known compression (9e 50 01 02 at offset 0x0); check the file"
    ));
    assert!(told(&[0; 100]).contains("neither cpio"));
    assert!(
        told(b"\x27\x05\x19\x56rest").contains("mkimage, which Linux does not take; give the file")
    );
    assert!(told(b"070707").contains("cpio -H newc"));
    assert!(told(&small()[..300]).contains("truncated: the cpio archive at offset 0x0"));
    assert!(told(&small()[..300]).contains("load the whole file"));
    assert!(!told(&small()[..300]).contains('\n'));
}

#[test]
fn a_length_that_gzip_data_cannot_have_means_that_it_is_cut() {
    let mut file = pack(&small());
    let at = file.len() - 4;
    for length in [3u32, 0xffff_fffc] {
        file[at..].copy_from_slice(&length.to_le_bytes());
        assert_eq!(check(&file), Err(Doubt::Cut("gzip data", 0)));
    }
    assert_eq!(check(&file[..17]), Err(Doubt::Cut("gzip data", 0)));
    // Padding behind the end is not read as a length.
    let mut file = pack(&small());
    file.resize(file.len().next_multiple_of(512), 0);
    assert_eq!(check(&file), Ok(()));
}

#[test]
fn words_that_name_a_root_are_known() {
    for line in [
        "console=hvc0 root=/dev/vda1 ro",
        "root=LABEL=x",
        "rdinit=/bin/sh",
    ] {
        assert!(names_root(line), "{line}");
    }
    for line in ["", "console=hvc0", "xroot=/dev/vda", "rootwait"] {
        assert!(!names_root(line), "{line}");
    }
}

#[test]
fn a_domain_without_any_root_is_told_of_and_one_with_a_good_ramdisk_is_not() {
    let at = PhysRange::between(0x4b00_0000, 0x4b00_1000);
    assert_eq!(warning("dom0", Some((at, &small())), ""), None);
    assert_eq!(warning("dom0", None, "root=/dev/vda"), None);
    let text = warning("dom0", None, "console=hvc0").unwrap();
    assert!(text.contains("no initrd and no root="), "{text}");
    let text = warning("dom0", Some((at, b"garbage")), "root=/dev/vda").unwrap();
    assert!(
        text.starts_with("dom0's initrd at 0x4b000000-0x4b000fff: neither"),
        "{text}"
    );
}

fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6)
}

proptest! {
    #[test]
    fn every_whole_archive_is_well_and_every_cut_one_is_not(files in contents(), cut in any::<prop::sample::Index>()) {
        let whole = archive(&files);
        prop_assert_eq!(check(&whole), Ok(()));
        // The last bytes are padding of the trailer's name.
        let cut = cut.index(whole.len() - 3);
        prop_assert!(check(&whole[..cut]).is_err(), "cut at {} of {}", cut, whole.len());
    }

    #[test]
    fn every_cut_of_walked_compressions_is_noticed(files in contents(), cut in any::<prop::sample::Index>()) {
        let plain = archive(&files);
        let zstd = packers::zstd(&plain);
        let cut_at = cut.index(zstd.len());
        prop_assert!(check(&zstd[..cut_at]).is_err(), "zstd cut at {} of {}", cut_at, zstd.len());
        let lz4 = packers::lz4(&plain);
        // Between two blocks nobody can tell.
        let cut_at = 5 + cut.index(lz4.len() - 5);
        prop_assert!(check(&lz4[..cut_at]).is_err(), "lz4 cut at {} of {}", cut_at, lz4.len());
    }

    #[test]
    fn damaged_ramdisks_are_survived(
        which in 0usize..5, at in any::<prop::sample::Index>(), bytes in any::<[u8; 8]>(), cut in any::<prop::sample::Index>()
    ) {
        let mut files = packed().to_vec();
        files.push(small());
        let mut file = files.swap_remove(which);
        let at = at.index(file.len());
        for (to, from) in file.iter_mut().skip(at).zip(bytes) {
            *to = from;
        }
        file.truncate(cut.index(file.len() + 1));
        if let Err(doubt) = check(&file) {
            prop_assert!(!doubt.to_string().is_empty());
        }
    }

    #[test]
    fn any_bytes_are_survived(mut file in proptest::collection::vec(any::<u8>(), 0..2000), start in 0usize..8) {
        let starts: [&[u8]; 8] =
            [b"", b"070701", &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], &[0x02, 0x21, 0x4c, 0x18], b"BZh", &[0x50, 0x2a, 0x4d, 0x18], b"070702"];
        for (to, from) in file.iter_mut().zip(starts[start]) {
            *to = *from;
        }
        let _ = check(&file);
    }
}
