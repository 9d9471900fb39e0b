//! `XENPF_microcode_update`. The emulators' CPUs take no microcode: a load of what fits is an error of the machine. A CPU before
//! family 0x10 of AMD's has nothing to load.

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::{self, NON_CANONICAL, UNMAPPED};
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::xen::errno::{EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM};

use super::platform::{ask, pair};
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("microcode.bad_calls", bad_calls),
    ("microcode.containers", containers),
    ("microcode.patches", patches),
];

const UPDATE: u32 = 35;
const EIO: i64 = -5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    Amd,
    Intel,
    None,
}

fn signature() -> u32 {
    arch::regs::cpuid(1, 0).eax
}

fn maker() -> Maker {
    const INTEL: u32 = u32::from_le_bytes(*b"Genu");
    match arch::regs::cpuid(0, 0).ebx {
        INTEL => Maker::Intel,
        _ if signature() >> 8 & 0xf == 0xf && signature() >> 20 & 0xff != 0 => Maker::Amd,
        _ => Maker::None,
    }
}

/// The answer that is expected of a CPU that can be loaded.
fn expected(wanted: i64) -> i64 {
    match maker() {
        Maker::None => EINVAL,
        _ => wanted,
    }
}

fn update(at: u64, length: u32) -> i64 {
    ask(UPDATE, &[at, pair(length, 0)]).0
}

fn bad_calls() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    answers.take("nothing", update(page.address(), 0), expected(ENOENT));
    answers.take(
        "nothing nowhere",
        update(NON_CANONICAL, 0),
        expected(ENOENT),
    );
    for at in [UNMAPPED, NON_CANONICAL] {
        answers.take(
            format_args!("a blob at {at:#x}"),
            update(at, 64),
            expected(EFAULT),
        );
    }
    for length in [1, 3, 4, 8, 48, PAGE as u32] {
        answers.take(
            format_args!("{length} zeros"),
            update(page.address(), length),
            EINVAL,
        );
    }
    answers.take("4 GiB", update(page.address(), u32::MAX), expected(ENOMEM));
    page.fill(0xff);
    answers.take("ones", update(page.address(), 4096), EINVAL);
    answers.end()
}

/// A file being written.
struct Blob {
    page: Page,
    len: u64,
}

impl Blob {
    fn new() -> Self {
        Self {
            page: Page::take(),
            len: 0,
        }
    }

    fn put<T: Copy>(&mut self, value: T) {
        self.page.write(self.len, value);
        self.len += size_of::<T>() as u64;
    }

    fn short_of(mut self, bytes: u64) -> Self {
        self.len -= bytes;
        self
    }

    fn and(mut self, word: u32) -> Self {
        self.put(word);
        self
    }

    /// AMD's: the table of which CPUs are alike: signatures and what patches call them.
    fn table(self, entries: &[(u32, u16)]) -> Self {
        let mut blob = self.and(AMD).and(0).and(16 * entries.len() as u32);
        for (signature, name) in entries {
            blob.put(*signature);
            blob.put([0_u32; 2]);
            blob.put(*name);
            blob.put(0_u16);
        }
        blob
    }

    /// AMD's: a patch of so many bytes.
    fn patch(self, name: u16, revision: u32, bytes: u32) -> Self {
        let mut blob = self.and(1).and(bytes);
        let start = blob.len;
        // Date, revision, data's kind and length, flag, checksum.
        blob.put(0x0101_2020_u32);
        blob.put(revision);
        blob.put(0x8000_u32);
        blob.put(0_u32);
        // The bridges' numbers, then what the CPU is called.
        blob.put([0_u32; 2]);
        blob.put(name);
        blob.len = start + u64::from(bytes);
        blob
    }

    fn intel(mut self, patch: Intel) -> Self {
        let start = self.len;
        for word in patch.words() {
            self.put(word);
        }
        self.len = start + u64::from(patch.total());
        self
    }

    fn ask(&self) -> i64 {
        update(self.page.address(), self.len as u32)
    }
}

const AMD: u32 = 0x0041_4d44;
const NAME: u16 = 0x1234;
/// No CPU is so.
const STRANGE: u32 = 0x0012_3456;
/// A patch of a usual size.
const USUAL: u32 = 2048;
const NEW: u32 = 0x7f00_0000;

/// Intel's patch: the words of its header, all data zeros.
#[derive(Clone, Copy)]
struct Intel {
    versions: (u32, u32),
    revision: u32,
    signature: u32,
    platforms: u32,
    /// Bytes of data and of all.
    sizes: (u32, u32),
    checksum: u32,
}

impl Intel {
    fn of_revision(revision: u32) -> Self {
        Self {
            versions: (1, 1),
            revision,
            signature: signature(),
            platforms: 0xff,
            sizes: (1024 - 48, 1024),
            checksum: 0,
        }
    }

    fn total(&self) -> u32 {
        match self.sizes {
            (0, _) => USUAL,
            (_, total) => total,
        }
    }

    fn words(&self) -> [u32; 9] {
        let mut words = [
            self.versions.0,
            self.revision,
            0x0101_2020,
            self.signature,
            0,
            self.versions.1,
            self.platforms,
            self.sizes.0,
            self.sizes.1,
        ];
        let sum = words
            .iter()
            .fold(self.checksum, |sum, word| sum.wrapping_add(*word));
        words[4] = sum.wrapping_neg();
        words
    }
}

fn containers() -> Outcome {
    match maker() {
        Maker::Intel => files_of_intel(),
        _ => containers_of_amd(),
    }
}

fn containers_of_amd() -> Outcome {
    let mut answers = Answers::default();
    let own = [(signature(), NAME), (0, 0)];
    let other = [(STRANGE, NAME), (0, 0)];
    let new = Blob::new;
    for (what, blob, wanted) in [
        ("a magic number alone", new().and(AMD), EINVAL),
        ("a table cut short", new().table(&own).short_of(1), EINVAL),
        ("an empty table", new().table(&[]), EINVAL),
        ("a table without an end", new().table(&own[..1]), EINVAL),
        ("a table alone", new().table(&own), ENOENT),
        ("a table of others", new().table(&other), ENOENT),
        (
            "a patch of others",
            new().table(&other).patch(NAME, NEW, USUAL),
            ENOENT,
        ),
        (
            "a patch of another name",
            new().table(&own).patch(NAME + 1, NEW, USUAL),
            ENOENT,
        ),
        (
            "a patch of 63 bytes",
            new().table(&own).patch(NAME, NEW, 63),
            EINVAL,
        ),
        (
            "a patch without a table",
            new().and(AMD).patch(NAME, NEW, USUAL),
            EINVAL,
        ),
        ("two tables", new().table(&other).table(&own), EINVAL),
        (
            "two containers of others",
            new().table(&other).patch(NAME, NEW, 64).table(&other),
            ENOENT,
        ),
        (
            "a patch cut short",
            new().table(&own).patch(NAME, NEW, USUAL).short_of(1),
            EINVAL,
        ),
        (
            "garbage behind a patch of others",
            new().table(&own).patch(NAME + 1, NEW, USUAL).and(u32::MAX),
            EINVAL,
        ),
    ] {
        answers.take(what, blob.ask(), expected(wanted));
    }
    answers.end()
}

fn files_of_intel() -> Outcome {
    let mut answers = Answers::default();
    let new = Intel::of_revision(NEW);
    for (what, patch, wanted) in [
        (
            "of another CPU",
            Intel {
                signature: STRANGE,
                ..new
            },
            ENOENT,
        ),
        (
            "of another platform",
            Intel {
                platforms: 0x80,
                ..new
            },
            ENOENT,
        ),
        (
            "of no platform",
            Intel {
                platforms: 0,
                ..new
            },
            ENOENT,
        ),
        ("with a bad sum", Intel { checksum: 1, ..new }, EINVAL),
        (
            "of header 2",
            Intel {
                versions: (2, 1),
                ..new
            },
            EINVAL,
        ),
        (
            "of loader 2",
            Intel {
                versions: (1, 2),
                ..new
            },
            EINVAL,
        ),
        (
            "of an odd size",
            Intel {
                sizes: (512, 1000),
                ..new
            },
            EINVAL,
        ),
        (
            "with too much data",
            Intel {
                sizes: (2000, 1024),
                ..new
            },
            EINVAL,
        ),
        (
            "with a table of no room",
            Intel {
                sizes: (1024 - 48 - 16, 1024),
                ..new
            },
            EINVAL,
        ),
        (
            "of another CPU, of the size of old",
            Intel {
                sizes: (0, 0),
                signature: STRANGE,
                ..new
            },
            ENOENT,
        ),
    ] {
        answers.take(
            format_args!("a patch {what}"),
            Blob::new().intel(patch).ask(),
            wanted,
        );
    }
    let other = Intel {
        signature: STRANGE,
        ..new
    };
    for (what, blob, wanted) in [
        (
            "a patch cut short",
            Blob::new().intel(new).short_of(1),
            EINVAL,
        ),
        (
            "two of others",
            Blob::new().intel(other).intel(other),
            ENOENT,
        ),
        (
            "garbage behind one of others",
            Blob::new().intel(other).and(u32::MAX),
            EINVAL,
        ),
    ] {
        answers.take(what, blob.ask(), wanted);
    }
    answers.end()
}

/// What fits: the file that has one of a revision, with garbage behind it or not.
fn fitting(revision: u32) -> Blob {
    match maker() {
        Maker::Intel => Blob::new().intel(Intel::of_revision(revision)),
        _ => Blob::new()
            .table(&[(signature(), NAME), (0, 0)])
            .patch(NAME, revision, USUAL),
    }
}

fn patches() -> Outcome {
    let mut answers = Answers::default();
    // What emulators say of their CPUs, or less. AMD's may be loaded again.
    let (present, again) = match maker() {
        Maker::Intel => (0, EEXIST),
        _ => (0x0100_0065, 0),
    };
    for (what, revision, wanted) in [
        ("of revision 0", 0, EEXIST),
        ("of the CPU's revision, or an older one", present, again),
        ("of a newer one", NEW, EIO),
    ] {
        answers.take(
            format_args!("a patch {what}"),
            fitting(revision).ask(),
            expected(wanted),
        );
    }
    answers.take(
        "a newer one before garbage",
        fitting(NEW).and(u32::MAX).ask(),
        expected(EIO),
    );
    answers.end()
}
