//! PV kernels that are not Linux, made here byte by byte: one of a few KiB that starts, speaks and goes, and such as cannot be
//! started, of which one line says why.

use std::time::Duration;

use anyhow::Result;

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::console::{Console, Echo};
use crate::emulator::{Boot, Dom0, Machine, Terminal};
use crate::paths;
use crate::prepare::MachineArgs;
use crate::verbs::test::Case;
use crate::verbs::test::bad_input::wait_for_line;

const LIMIT: Duration = Duration::from_secs(60);
/// A processor without SVM.
const PROCESSOR: &str = "qemu64";
/// Memory of the machine in MiB.
const MEMORY: u64 = 128;

/// Where the kernel lies, physically and virtually.
const PLACE: u64 = 0x10_0000;
const HYPERCALLS: u64 = PLACE + 0x1000;
const SIZE: u64 = 0x2000;

/// Numbers of the notes (`elfnote.h`).
mod note {
    pub(super) const ENTRY: u32 = 1;
    pub(super) const HYPERCALL_PAGE: u32 = 2;
    pub(super) const VIRT_BASE: u32 = 3;
    pub(super) const XEN_VERSION: u32 = 5;
    pub(super) const LOADER: u32 = 8;
    pub(super) const FEATURES: u32 = 10;
    pub(super) const HV_START_LOW: u32 = 12;
    pub(super) const INIT_P2M: u32 = 15;
    pub(super) const SUPPORTED_FEATURES: u32 = 17;
    pub(super) const PHYS32_ENTRY: u32 = 18;
}

/// A note in another's place, or more: number and content; without content the note is left out.
type Change = (u32, Vec<u8>);

struct Row {
    name: &'static str,
    changes: fn() -> Vec<Change>,
    /// Bytes of the file that are others.
    bytes: &'static [(usize, u8)],
    /// Words for the hypervisor.
    words: &'static str,
    /// All in one line, in small letters.
    says: &'static [&'static str],
}

const WORDS: &str = "dom0=pv dom0_mem=8M";

const ROWS: &[Row] = &[
    Row {
        name: "no-pv-note",
        changes: || vec![(note::ENTRY, vec![]), (note::PHYS32_ENTRY, long(PLACE))],
        bytes: &[],
        words: WORDS,
        says: &["kernel: ", "no pv entry", "config_xen_pv"],
    },
    Row {
        name: "32-bits",
        changes: Vec::new,
        bytes: &[(18, 3)],
        words: WORDS,
        says: &["kernel: ", "32-bit pv kernel"],
    },
    Row {
        name: "entry-outside",
        changes: || vec![(note::ENTRY, long(PLACE + SIZE))],
        bytes: &[],
        words: WORDS,
        says: &[
            "kernel: ",
            "entry gives 0x102000",
            "none of the kernel's segments",
        ],
    },
    Row {
        name: "hypercall-page-outside",
        changes: || vec![(note::HYPERCALL_PAGE, long(PLACE + SIZE))],
        bytes: &[],
        words: WORDS,
        says: &[
            "hypercall_page gives 0x102000",
            "none of the kernel's segments",
        ],
    },
    Row {
        name: "hypercall-page-unaligned",
        changes: || vec![(note::HYPERCALL_PAGE, long(HYPERCALLS + 8))],
        bytes: &[],
        words: WORDS,
        says: &["hypercall_page gives 0x101008", "not the address of a page"],
    },
    Row {
        name: "in-the-hypervisor",
        changes: || vec![(note::VIRT_BASE, long(0xffff_8200_0000_0000))],
        bytes: &[],
        words: WORDS,
        says: &["kernel: ", "0xffff820000100000", "no room for it"],
    },
    Row {
        name: "no-addresses",
        changes: || vec![(note::VIRT_BASE, long(1 << 60))],
        bytes: &[],
        words: WORDS,
        says: &["kernel: ", "no room for it"],
    },
    Row {
        name: "list-over-the-kernel",
        changes: || vec![(note::INIT_P2M, long(PLACE))],
        bytes: &[],
        words: WORDS,
        says: &["(init_p2m) gives 0x100000", "where the kernel is"],
    },
    Row {
        name: "list-over-the-area",
        changes: || vec![(note::INIT_P2M, long(PLACE + SIZE))],
        bytes: &[],
        words: WORDS,
        says: &["its list of frames would lie at 0x102000", "no room for it"],
    },
    Row {
        name: "note-of-three-bytes",
        changes: || vec![(note::VIRT_BASE, vec![1, 2, 3])],
        bytes: &[],
        words: WORDS,
        says: &["elf note 3 has 3 bytes"],
    },
    Row {
        name: "another-interface",
        changes: || vec![(note::XEN_VERSION, b"xen-2.0\0".to_vec())],
        bytes: &[],
        words: WORDS,
        says: &["xen_version", "xen-3.0"],
    },
    Row {
        name: "another-loader",
        changes: || vec![(note::LOADER, b"own\0".to_vec())],
        bytes: &[],
        words: WORDS,
        says: &["(loader) is not \"generic\""],
    },
    Row {
        name: "feature-not-offered",
        changes: || vec![(note::FEATURES, b"!supervisor_mode_kernel\0".to_vec())],
        bytes: &[],
        words: WORDS,
        says: &["(features) requires a feature"],
    },
    Row {
        name: "hole-too-high",
        changes: || vec![(note::HV_START_LOW, long(0xffff_9000_0000_0000))],
        bytes: &[],
        words: WORDS,
        says: &["hv_start_low", "0xffff900000000000"],
    },
    Row {
        name: "not-as-dom0",
        changes: || vec![(note::SUPPORTED_FEATURES, vec![1, 0, 0, 0])],
        bytes: &[],
        words: WORDS,
        says: &["cannot be dom0"],
    },
    Row {
        name: "too-little-memory",
        changes: Vec::new,
        bytes: &[],
        words: "dom0=pv dom0_mem=2M",
        says: &["2 mib of memory do not hold", "which need 4 mib"],
    },
    Row {
        name: "too-much-memory",
        changes: Vec::new,
        bytes: &[],
        words: "dom0=pv dom0_mem=1G",
        says: &["1024 mib of memory asked for", "lower dom0_mem"],
    },
    Row {
        name: "pvh-without-svm",
        changes: Vec::new,
        bytes: &[],
        words: "dom0=pvh",
        says: &["pvh needs a cpu with svm or vmx"],
    },
];

/// One test per row, and the kernel that starts.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let board = boards::find(Some("qemu-q35"), Some(Arch::X86_64))?;
    let mut cases: Vec<_> = ROWS
        .iter()
        .map(|row| {
            let name = format!("bad-input/pv-kernel/{}", row.name);
            Case::machine(board.arch, name, move || refused(board, row))
        })
        .collect();
    cases.push(Case::machine(board.arch, "pv-kernel/tiny", move || {
        tiny(board)
    }));
    Ok(cases)
}

fn console(board: &'static Board, name: &str, kernel: &[u8], words: &str) -> Result<Console> {
    let name = format!("pv-kernel-{name}");
    let mut files = MachineArgs::default().hypervisor_alone(board)?;
    let file = paths::work().join(format!("{name}.elf"));
    paths::write(&file, kernel)?;
    files.words = format!("{} {words}", files.words);
    files.dom0 = Some(Dom0 {
        kernel: file,
        initrd: None,
        words: "a word".into(),
    });
    let mut machine = Machine::new(board, Boot::Direct(files));
    machine.cpus = 1;
    machine.memory = MEMORY;
    machine.cpu = Some(PROCESSOR.into());
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    Console::start(&mut qemu, &name, LIMIT, Echo::Log)
}

fn refused(board: &'static Board, row: &Row) -> Result<()> {
    let mut kernel = kernel(&(row.changes)());
    for (at, byte) in row.bytes {
        if let Some(place) = kernel.get_mut(*at) {
            *place = *byte;
        }
    }
    let mut console = console(board, row.name, &kernel, row.words)?;
    wait_for_line(&mut console, row.says)?;
    console.wait_for("start-up ends here").map(drop)
}

/// It says a word through SYSCALL and ends through its hypercall page, and that ends the machine.
fn tiny(board: &'static Board) -> Result<()> {
    let mut console = console(board, "tiny", &kernel(&[]), WORDS)?;
    console.wait_for("here is a PV kernel")?;
    console.wait_for_power_off()
}

fn long(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// `console_io`, then `sched_op` to power off.
fn code() -> Vec<u8> {
    const TEXT: &[u8] = b"here is a PV kernel\n";
    const CONSOLE_IO: u8 = 18;
    const SCHED_OP: u8 = 29;
    const DATA: u64 = 0x100;
    let mut code = Vec::new();
    let relative = |code: &[u8], to: u64| {
        let next = PLACE + code.len() as u64 + 4;
        (to.wrapping_sub(next) as u32).to_le_bytes()
    };
    code.extend([0xbf, 0, 0, 0, 0]); // mov edi, 0: write
    code.extend([0xbe, TEXT.len() as u8, 0, 0, 0]); // mov esi, length
    code.extend([0x48, 0x8d, 0x15]); // lea rdx, [text]
    code.extend(relative(&code, PLACE + DATA + 8));
    code.extend([0xb8, CONSOLE_IO, 0, 0, 0, 0x0f, 0x05]); // mov eax, number; syscall
    code.extend([0xbf, 2, 0, 0, 0]); // mov edi, 2: shutdown
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, [reason]
    code.extend(relative(&code, PLACE + DATA));
    code.push(0xe8); // call
    code.extend(relative(&code, HYPERCALLS + u64::from(SCHED_OP) * 32));
    code.extend([0xeb, 0xfe]); // for ever
    code.resize(DATA as usize + 8, 0); // the reason: 0
    code.extend(TEXT);
    code
}

/// The whole file, with its notes changed.
fn kernel(changes: &[Change]) -> Vec<u8> {
    let mut notes = vec![
        (note::ENTRY, long(PLACE)),
        (note::HYPERCALL_PAGE, long(HYPERCALLS)),
        (note::XEN_VERSION, b"xen-3.0\0".to_vec()),
        (note::LOADER, b"generic\0".to_vec()),
    ];
    notes.retain(|(number, _)| changes.iter().all(|(other, _)| other != number));
    let more = changes.iter().filter(|(_, content)| !content.is_empty());
    notes.extend(more.cloned());
    let mut area = Vec::new();
    for (number, content) in &notes {
        for word in [4, content.len() as u32, *number] {
            area.extend(word.to_le_bytes());
        }
        area.extend(b"Xen\0");
        area.extend(content);
        area.resize(area.len().next_multiple_of(4), 0);
    }
    let code = code();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // Executable, x86-64, version 1; entry, headers of segments.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for field in [PLACE, 64, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend([0; 4]);
    for field in [64_u16, 56, 2, 64, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    const HEADERS: u64 = 64 + 2 * 56;
    let stored = code.len() as u64;
    let (at, length) = (HEADERS + stored, area.len() as u64);
    for (kind, offset, place, stored, size) in [
        (1_u32, HEADERS, PLACE, stored, SIZE),
        (4, at, 0, length, length),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for field in [offset, place, place, stored, size, 4] {
            file.extend(field.to_le_bytes());
        }
    }
    file.extend(code);
    file.extend(area);
    file
}
