use alloc::{string::ToString, vec, vec::Vec};
use proptest::prelude::*;

use super::*;
use crate::boot::elf::{
    fuzz_elf,
    tests::{Part, note, with_notes},
};

const BASE: u64 = 0xffff_ffff_8000_0000;

/// A note as a test gives it: its number and content.
type Note = (ElfNote, Vec<u8>);

fn address(note: ElfNote, at: u64) -> Note {
    (note, at.to_le_bytes().to_vec())
}

/// The notes of Debian's Linux 6.1, at other addresses; PVH's is among them.
fn linux() -> Vec<Note> {
    let one = || 1u32.to_le_bytes().to_vec();
    vec![
        (ElfNote::GuestOs, b"linux\0".to_vec()),
        (ElfNote::GuestVersion, b"2.6\0".to_vec()),
        (ElfNote::XenVersion, b"xen-3.0\0".to_vec()),
        address(ElfNote::VirtBase, BASE),
        address(ElfNote::InitP2m, 0x80_0000_0000),
        address(ElfNote::Entry, BASE + 0x20_1040),
        (
            ElfNote::Features,
            b"!writable_page_tables|pae_pgdir_above_4gb\0".to_vec(),
        ),
        (ElfNote::SupportedFeatures, 0x8801u32.to_le_bytes().to_vec()),
        (ElfNote::PaeMode, b"yes\0".to_vec()),
        (ElfNote::Loader, b"generic\0".to_vec()),
        (
            ElfNote::L1MfnValid,
            [1u64.to_le_bytes(), 1u64.to_le_bytes()].concat(),
        ),
        (ElfNote::SuspendCancel, one()),
        (ElfNote::ModStartPfn, one()),
        address(ElfNote::HvStartLow, 0xffff_8000_0000_0000),
        address(ElfNote::Phys32Entry, 0x10_0850),
    ]
}

/// Two segments; the headers' virtual address of the second is 0, as that of Linux's per-CPU data.
fn parts() -> Vec<Part> {
    vec![
        (0x10_0000, 0x8000, vec![1; 0x7123]),
        (0x20_0000, 0x3000, vec![2; 0x2001]),
    ]
}

fn file(parts: &[Part], notes: &[Note]) -> Vec<u8> {
    let notes: Vec<_> = notes.iter().map(|(id, c)| note(*id as u32, c)).collect();
    with_notes(parts, 0x10_0000, &notes)
}

/// The answer for Linux's notes with one in another's place, or more.
fn answer(other: Note) -> Result<(), PvError> {
    let mut notes = linux();
    notes.retain(|(id, _)| *id != other.0);
    notes.push(other);
    let file = file(&parts(), &notes);
    PvKernel::new(&Elf::parse(&file).unwrap()).map(|_| ())
}

#[test]
fn linux_tells_all_that_its_start_needs() {
    let file = file(&parts(), &linux());
    let elf = Elf::parse(&file).unwrap();
    assert!(
        elf.is_pv() && elf.pvh_entry() == Ok(0x10_0850),
        "it is both"
    );
    let kernel = PvKernel::new(&elf).unwrap();
    assert_eq!(
        (kernel.start, kernel.end),
        (BASE + 0x10_0000, BASE + 0x20_3000)
    );
    assert_eq!(kernel.segments[0].virt, BASE + 0x10_0000);
    assert_eq!(kernel.segments[1].virt, BASE + 0x20_0000);
    assert_eq!(kernel.segments[1].bytes, [2; 0x2001]);
    assert_eq!(kernel.virt_base, BASE);
    assert_eq!(kernel.entry, BASE + 0x20_1040);
    assert_eq!(kernel.hypercall_page, None);
    assert_eq!(kernel.init_p2m, Some(0x80_0000_0000));
    assert!(kernel.mod_start_pfn && kernel.suspend_cancel);
    assert_eq!(kernel.required, Features::WRITABLE_PAGE_TABLES);
    let known = Features(0x8801) | Features::PAE_PGDIR_ABOVE_4GB;
    assert_eq!(kernel.supported, Some(known));
    assert!(!kernel.refuses_dom0());
    assert_eq!(kernel.l1_mfn_valid, [L1MfnValid { mask: 1, value: 1 }]);
    assert_eq!(kernel.guest_os, "linux");
}

#[test]
fn a_kernel_of_one_note_lies_at_its_physical_addresses() {
    let notes = [address(ElfNote::Entry, 0x10_0000)];
    let file = file(&parts(), &notes);
    let kernel = PvKernel::new(&Elf::parse(&file).unwrap()).unwrap();
    assert_eq!((kernel.virt_base, kernel.start), (0, 0x10_0000));
    assert_eq!(kernel.init_p2m, None);
    assert!(!kernel.mod_start_pfn && !kernel.suspend_cancel);
    assert_eq!((kernel.supported, kernel.guest_os), (None, ""));
    assert!(!kernel.refuses_dom0(), "it did not say");
}

#[test]
fn physical_addresses_may_count_from_anywhere() {
    let mut notes = linux();
    notes.push(address(ElfNote::PaddrOffset, BASE));
    let parts: Vec<Part> = parts()
        .into_iter()
        .map(|(at, size, bytes)| (at + BASE, size, bytes))
        .collect();
    let file = file(&parts, &notes);
    let kernel = PvKernel::new(&Elf::parse(&file).unwrap()).unwrap();
    assert_eq!(
        (kernel.start, kernel.end),
        (BASE + 0x10_0000, BASE + 0x20_3000)
    );
}

#[test]
fn the_hypercall_page_is_a_page_of_the_kernel() {
    let page = |at| answer(address(ElfNote::HypercallPage, at));
    assert_eq!(page(BASE + 0x10_1000), Ok(()));
    assert_eq!(page(BASE + 0x20_2000), Ok(()), "its last page");
    let aligned = PvError::Unaligned("HYPERCALL_PAGE", BASE + 0x10_1010);
    assert_eq!(page(BASE + 0x10_1010), Err(aligned));
    for outside in [BASE, BASE + 0x10_8000, BASE + 0x20_3000, 0, !0xfff] {
        let error = PvError::Outside("HYPERCALL_PAGE", outside);
        assert_eq!(page(outside), Err(error));
    }
}

#[test]
fn a_kernel_that_is_no_pv_kernel_is_named() {
    let refusal = |notes: &[Note]| {
        let file = file(&parts(), notes);
        let error = PvKernel::new(&Elf::parse(&file).unwrap()).unwrap_err();
        error.to_string()
    };
    assert!(refusal(&[address(ElfNote::Phys32Entry, 0x10_0000)]).contains("CONFIG_XEN_PV"));
    let mut narrow = file(&parts(), &linux());
    narrow[18] = 3;
    let error = PvKernel::new(&Elf::parse(&narrow).unwrap()).unwrap_err();
    assert_eq!(error, PvError::NotWide);
    let mut notes = linux();
    notes.retain(|(id, _)| *id != ElfNote::SupportedFeatures);
    notes.push((ElfNote::SupportedFeatures, 1u32.to_le_bytes().to_vec()));
    let file = file(&parts(), &notes);
    assert!(
        PvKernel::new(&Elf::parse(&file).unwrap())
            .unwrap()
            .refuses_dom0()
    );
}

#[test]
fn bad_addresses_are_refused() {
    let outside = |at| Err(PvError::Outside("ENTRY", at));
    for at in [0, BASE, BASE + 0x20_3000, u64::MAX] {
        assert_eq!(answer(address(ElfNote::Entry, at)), outside(at));
    }
    let base = |at| answer(address(ElfNote::VirtBase, at)).unwrap_err();
    assert_eq!(base(BASE + 8), PvError::Unaligned("VIRT_BASE", BASE + 8));
    // In the hypervisor's own addresses, in none, and beyond all.
    for at in [
        0xffff_8100_0000_0000,
        0x8000_0000_0000,
        0xffff_ffff_fff0_0000,
    ] {
        assert!(matches!(base(at), PvError::Place(..)), "{at:#x}");
    }
    // It would reach into the hypervisor's from below.
    assert!(matches!(base(0x7fff_ffff_0000), PvError::Place(..)));
    let below = answer(address(ElfNote::PaddrOffset, 0x18_0000));
    assert!(matches!(below, Err(PvError::Place(..))), "below its base");
    let list = |at| answer(address(ElfNote::InitP2m, at)).unwrap_err();
    assert_eq!(list(8), PvError::Unaligned("INIT_P2M", 8));
    for at in [BASE, BASE + 0x10_0000, 0xffff_8000_0000_0000, 1 << 60] {
        assert_eq!(list(at), PvError::List(at));
    }
    let hole = 0xffff_8000_0000_1000;
    assert_eq!(
        answer(address(ElfNote::HvStartLow, hole)),
        Err(PvError::Hole(hole))
    );
}

#[test]
fn notes_that_are_no_numbers_are_refused() {
    for note in [
        ElfNote::Entry,
        ElfNote::VirtBase,
        ElfNote::PaddrOffset,
        ElfNote::HypercallPage,
        ElfNote::InitP2m,
        ElfNote::HvStartLow,
        ElfNote::SupportedFeatures,
        ElfNote::ModStartPfn,
        ElfNote::SuspendCancel,
        ElfNote::L1MfnValid,
    ] {
        let error = PvError::NoteSize(note as u32, 3);
        assert_eq!(answer((note, vec![1; 3])), Err(error), "{note:?}");
    }
}

#[test]
fn what_was_made_for_others_is_refused() {
    let text = |note, text: &[u8]| answer((note, text.to_vec()));
    assert_eq!(
        text(ElfNote::XenVersion, b"xen-2.0\0"),
        Err(PvError::Version)
    );
    assert_eq!(text(ElfNote::XenVersion, b"xen-3.0"), Ok(()));
    // Linux may have any loader.
    assert_eq!(text(ElfNote::Loader, b"own\0"), Ok(()));
    let own = [
        address(ElfNote::Entry, 0x10_0000),
        (ElfNote::Loader, b"own\0".to_vec()),
    ];
    let file = file(&parts(), &own);
    let error = PvKernel::new(&Elf::parse(&file).unwrap()).unwrap_err();
    assert_eq!(error, PvError::Loader);
}

#[test]
fn only_required_features_that_are_not_offered_are_refused() {
    let features = |text: &[u8]| answer((ElfNote::Features, text.to_vec()));
    assert_eq!(
        features(b"auto_translated_physmap|never_heard_of\0"),
        Ok(())
    );
    for text in [
        &b"!auto_translated_physmap\0"[..],
        b"dom0|!supervisor_mode_kernel\0",
        b"!writable_descriptor_tables\0",
        b"!never_heard_of\0",
        b"!\0",
    ] {
        assert_eq!(features(text), Err(PvError::Feature));
    }
}

#[test]
fn errors_are_one_line_each() {
    for error in [
        PvError::NoEntry,
        PvError::NotWide,
        PvError::NoteSize(1, 3),
        PvError::Version,
        PvError::Loader,
        PvError::Feature,
        PvError::Unaligned("INIT_P2M", 1),
        PvError::Outside("ENTRY", 1),
        PvError::Place(1, 2),
        PvError::List(1),
        PvError::Hole(1),
    ] {
        let line = error.to_string();
        assert!(line.starts_with("kernel: ") && !line.contains('\n'));
    }
}

proptest! {
    #[test]
    fn notes_of_any_content_are_survived(
        at in 0usize..15,
        content in proptest::collection::vec(any::<u8>(), 0..20),
        address in any::<u64>(),
        as_address in any::<bool>(),
    ) {
        let mut notes = linux();
        notes[at].1 = if as_address { address.to_le_bytes().to_vec() } else { content };
        fuzz_elf(&file(&parts(), &notes));
    }

    #[test]
    fn damaged_kernels_are_survived(
        damage in proptest::collection::vec((0usize..0x9a00, any::<u8>()), 1..8),
        header in proptest::collection::vec((0usize..300, any::<u8>()), 0..4),
    ) {
        let mut file = file(&parts(), &linux());
        for (at, value) in damage.into_iter().chain(header) {
            if let Some(byte) = file.get_mut(at) { *byte = value; }
        }
        fuzz_elf(&file);
    }
}
