//! Copies between pages named by reference or by frame.

use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::{SELF, grant, own_domain};
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};
use grant::{Copy, Side, entry, gnt, op};

pub(crate) const CASES: &[Case] = &[
    ("grant_copy.reference_to_frame", reference_to_frame),
    ("grant_copy.frame_to_reference", frame_to_reference),
    ("grant_copy.reference_to_reference", both_references),
    ("grant_copy.frame_to_frame", frame_to_frame),
    ("grant_copy.touches_only_its_bytes", only_its_bytes),
    ("grant_copy.lengths_and_offsets", lengths),
    ("grant_copy.to_a_read_only_grant", to_read_only),
    ("grant_copy.bad_references", bad_references),
    ("grant_copy.each_has_its_own_status", statuses),
];

const SOURCE: u32 = 50;
const TARGET: u32 = 51;
const SOURCE_IS_REFERENCE: u16 = 1;
const TARGET_IS_REFERENCE: u16 = 2;

struct Pages {
    source: Page,
    target: Page,
}

/// Two granted pages with known contents.
fn pages() -> Pages {
    grant::table();
    let pages = Pages {
        source: Page::take(),
        target: Page::take(),
    };
    pages.source.fill(0x5a);
    pages.target.fill(0);
    grant::grant(SOURCE, own_domain(), pages.source.frame(), entry::READ_ONLY);
    grant::grant(TARGET, own_domain(), pages.target.frame(), 0);
    pages
}

fn side(place: u64, domain: u16, offset: u16) -> Side {
    Side {
        place,
        domain,
        offset,
    }
}

fn by_reference(reference: u32, offset: u16) -> Side {
    side(u64::from(reference), own_domain(), offset)
}

fn by_frame(page: Page, offset: u16) -> Side {
    side(page.frame(), SELF, offset)
}

fn copy(source: Side, target: Side, length: u16, flags: u16) -> (i64, i16) {
    let mut copy = Copy {
        source,
        target,
        length,
        flags,
        status: 77,
    };
    (grant::one(op::COPY, &mut copy), copy.status)
}

fn done(pages: &Pages, result: (i64, i16)) -> Outcome {
    expect!(result, (0, gnt::OKAY));
    expect!(pages.target.read::<u64>(0), 0x5a5a_5a5a_5a5a_5a5a);
    expect!(pages.target.read::<u64>(4088), 0x5a5a_5a5a_5a5a_5a5a);
    expect!(
        grant::flags_of(SOURCE) & (entry::READING | entry::WRITING),
        0,
        "pins that stay"
    );
    expect!(
        grant::flags_of(TARGET) & (entry::READING | entry::WRITING),
        0,
        "pins that stay"
    );
    Ok(())
}

fn reference_to_frame() -> Outcome {
    let pages = pages();
    let result = copy(
        by_reference(SOURCE, 0),
        by_frame(pages.target, 0),
        4096,
        SOURCE_IS_REFERENCE,
    );
    done(&pages, result)
}

fn frame_to_reference() -> Outcome {
    let pages = pages();
    let result = copy(
        by_frame(pages.source, 0),
        by_reference(TARGET, 0),
        4096,
        TARGET_IS_REFERENCE,
    );
    done(&pages, result)
}

fn both_references() -> Outcome {
    let pages = pages();
    let flags = SOURCE_IS_REFERENCE | TARGET_IS_REFERENCE;
    let result = copy(
        by_reference(SOURCE, 0),
        by_reference(TARGET, 0),
        4096,
        flags,
    );
    done(&pages, result)
}

fn frame_to_frame() -> Outcome {
    let pages = pages();
    let result = copy(
        by_frame(pages.source, 0),
        by_frame(pages.target, 0),
        4096,
        0,
    );
    done(&pages, result)
}

fn only_its_bytes() -> Outcome {
    let pages = pages();
    let result = copy(
        by_reference(SOURCE, 5),
        by_frame(pages.target, 101),
        3,
        SOURCE_IS_REFERENCE,
    );
    expect!(result, (0, gnt::OKAY));
    for offset in 0..4096 {
        let wanted = if (101..104).contains(&offset) {
            0x5a
        } else {
            0
        };
        expect!(pages.target.read::<u8>(offset), wanted, "byte {offset}");
    }
    Ok(())
}

fn lengths() -> Outcome {
    let pages = pages();
    let at = |from: u16, to: u16, length: u16| {
        copy(
            by_reference(SOURCE, from),
            by_frame(pages.target, to),
            length,
            SOURCE_IS_REFERENCE,
        )
    };
    expect!(at(0, 0, 0), (0, gnt::OKAY), "no bytes");
    expect!(at(4095, 4095, 1), (0, gnt::OKAY), "the last byte");
    for (from, to, length) in [
        (1, 0, 4096),
        (0, 1, 4096),
        (4095, 0, 2),
        (0, 0, 4097),
        (0, 0, 65535),
    ] {
        expect!(
            at(from, to, length),
            (0, gnt::BAD_COPY_ARG),
            "{from} {to} {length}"
        );
    }
    value(
        "grant_copy.offset_4096_length_0",
        i64::from(at(4096, 0, 0).1),
    );
    Ok(())
}

fn to_read_only() -> Outcome {
    let pages = pages();
    grant::grant(TARGET, own_domain(), pages.target.frame(), entry::READ_ONLY);
    let result = copy(
        by_frame(pages.source, 0),
        by_reference(TARGET, 0),
        8,
        TARGET_IS_REFERENCE,
    );
    expect!(result, (0, gnt::GENERAL_ERROR));
    expect!(pages.target.read::<u64>(0), 0);
    Ok(())
}

fn bad_references() -> Outcome {
    let pages = pages();
    let target = by_frame(pages.target, 0);
    grant::revoke(SOURCE);
    for (reference, wanted) in [
        (SOURCE, gnt::GENERAL_ERROR),
        (0x7fff_ffff, gnt::BAD_GNTREF),
        (u32::MAX, gnt::BAD_GNTREF),
    ] {
        let result = copy(by_reference(reference, 0), target, 8, SOURCE_IS_REFERENCE);
        expect!(result, (0, wanted), "reference {reference:#x}");
    }
    let nobody = side(u64::from(SOURCE), 1234, 0);
    expect!(
        copy(nobody, target, 8, SOURCE_IS_REFERENCE),
        (0, gnt::BAD_DOMAIN),
        "nobody's"
    );
    let nowhere = side(0xfff_ffff, SELF, 0);
    let (errno, status) = copy(nowhere, target, 8, 0);
    expect!(errno, 0);
    value("grant_copy.from_no_memory", i64::from(status));
    let foreign = side(pages.source.frame(), 1234, 0);
    value(
        "grant_copy.frame_of_nobody",
        i64::from(copy(foreign, target, 8, 0).1),
    );
    let own_by_number = side(pages.source.frame(), own_domain(), 0);
    value(
        "grant_copy.own_frame_by_number",
        i64::from(copy(own_by_number, target, 8, 0).1),
    );
    Ok(())
}

fn statuses() -> Outcome {
    let pages = pages();
    let good = Copy {
        source: by_reference(SOURCE, 0),
        target: by_frame(pages.target, 0),
        length: 16,
        flags: SOURCE_IS_REFERENCE,
        status: 77,
    };
    let mut copies = [good; 5];
    copies[1].source.place = 0x7fff_ffff;
    copies[3].length = 5000;
    copies[4].target.offset = 4080;
    expect!(grant::many(op::COPY, &mut copies), 0);
    let got = copies.map(|copy| copy.status);
    expect!(
        got,
        [
            gnt::OKAY,
            gnt::BAD_GNTREF,
            gnt::OKAY,
            gnt::BAD_COPY_ARG,
            gnt::OKAY
        ]
    );
    ensure!(
        pages.target.read::<u8>(4095) == 0x5a,
        "the last copy was not done"
    );
    Ok(())
}
