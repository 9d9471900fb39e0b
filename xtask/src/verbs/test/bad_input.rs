//! Boot files and command lines that are wrong: the hypervisor must say in one line what is wrong, and not fault.
//!
//! Each test is one row: what is spoilt, and words of which the line must hold one each. The machine is stopped once the
//! line is there, for what a hypervisor does next is not the same for all of them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::boards::Board;
use crate::console::{Console, Echo};
use crate::device_tree::Tree;
use crate::emulator::{Boot, Files, Machine, Terminal};
use crate::layout::Place;
use crate::prepare::MachineArgs;
use crate::verbs::setup;
use crate::verbs::test::Case;
use crate::{bzimage, paths};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Words that only a fault of the hypervisor itself prints.
const FAULTS: &[&str] = &[
    "hypervisor fault",
    "panicked",
    "Unhandled exception",
    "unexpected exception",
];

struct Row {
    name: &'static str,
    spoil: Spoil,
    /// All in one line, in any case of letters.
    says: &'static [&'static str],
}

enum Spoil {
    /// dom0's kernel becomes these bytes.
    Kernel(fn(Vec<u8>) -> Vec<u8>),
    /// dom0's kernel, packed by zstd, becomes these bytes.
    Zstd(fn(Vec<u8>) -> Vec<u8>),
    /// These words are added to the hypervisor's command line.
    Words(&'static str),
    /// This source text is added to QEMU's device tree, before the modules' nodes.
    Tree(&'static str),
    /// The initrd's node tells this place; given are the kernel's and its own.
    Initrd(fn(Place, Place) -> Place),
    /// There is a third module, which nobody uses; given is the kernel's place. What the modules are is not told, so the
    /// hypervisor looks into them.
    ThirdModule(fn(Place) -> Place),
    /// dom0's initrd becomes these bytes, given what it was; or there is none.
    InitrdFile(fn(&[u8]) -> Result<Option<Vec<u8>>>),
    /// There are no modules at all.
    NoModules,
}

const ROWS: &[Row] = &[
    Row {
        name: "no-kernel",
        spoil: Spoil::NoModules,
        says: &["/chosen names no kernel"],
    },
    Row {
        name: "kernel-of-40-bytes",
        spoil: Spoil::Kernel(|kernel| kernel.into_iter().take(40).collect()),
        says: &["kernel: "],
    },
    Row {
        name: "garbage-kernel",
        spoil: Spoil::Kernel(|_| garbage()),
        says: &["kernel: ", "no arm64 image"],
    },
    Row {
        name: "truncated-gzip-kernel",
        spoil: Spoil::Kernel(|kernel| cut_gzip(&kernel)),
        says: &["kernel: ", "load the"],
    },
    Row {
        name: "garbage-initrd",
        spoil: Spoil::InitrdFile(|_| Ok(Some(garbage()))),
        says: &["dom0's initrd at ", "neither cpio nor a known compression"],
    },
    Row {
        name: "cut-cpio-initrd",
        spoil: Spoil::InitrdFile(|initrd| Ok(Some(half(&unpacked(initrd)?)))),
        says: &[
            "dom0's initrd at ",
            "truncated: the cpio archive",
            "load the whole file",
        ],
    },
    Row {
        name: "cut-gzip-initrd",
        spoil: Spoil::InitrdFile(|initrd| cut_for_sure(initrd).map(Some)),
        says: &[
            "dom0's initrd at ",
            "truncated: the gzip data",
            "load the whole file",
        ],
    },
    Row {
        name: "no-initrd",
        spoil: Spoil::InitrdFile(|_| Ok(None)),
        says: &["dom0 has no initrd and no root=", "load an initrd"],
    },
    Row {
        name: "unknown-word",
        spoil: Spoil::Words("no_such_word=1"),
        says: &["unknown word", "no_such_word"],
    },
    Row {
        name: "value-not-understood",
        spoil: Spoil::Words("dom0_max_vcpus=many"),
        says: &["not understood", "dom0_max_vcpus"],
    },
    Row {
        name: "too-much-dom0-mem",
        spoil: Spoil::Words("dom0_mem=64G"),
        says: &["memory asked for", "lower dom0_mem"],
    },
    Row {
        name: "too-little-dom0-mem",
        spoil: Spoil::Words("dom0_mem=16M"),
        says: &["raise dom0_mem"],
    },
    Row {
        name: "no-gic",
        spoil: Spoil::Tree("/ { /delete-node/ intc@8000000; };"),
        says: &["gic"],
    },
    Row {
        name: "no-timer",
        spoil: Spoil::Tree("/ { /delete-node/ timer; };"),
        says: &["timer"],
    },
    Row {
        name: "overlapping-modules",
        spoil: Spoil::Initrd(|kernel, initrd| Place {
            address: kernel.address + 0x1000,
            ..initrd
        }),
        says: &["overlaps"],
    },
    Row {
        name: "module-outside-memory",
        spoil: Spoil::Initrd(|_, initrd| Place {
            address: 0x10_0000_0000,
            ..initrd
        }),
        says: &["outside ram"],
    },
    Row {
        name: "empty-module",
        spoil: Spoil::Initrd(|_, initrd| Place { size: 0, ..initrd }),
        says: &["size is 0"],
    },
    Row {
        name: "unused-module-outside-memory",
        spoil: Spoil::ThirdModule(|_| Place {
            address: 0x10_0000_0000,
            size: 0x1000,
        }),
        says: &["lies outside ram", "no domain uses it"],
    },
    Row {
        name: "unused-module-over-kernel",
        spoil: Spoil::ThirdModule(|kernel| Place {
            address: kernel.address + 0x1000,
            size: 0x1000,
        }),
        says: &["overlaps", "no domain uses it"],
    },
];

/// Rows for kernels that start by PVH, which come packed as a bzImage.
const PVH_ROWS: &[Row] = &[
    Row {
        name: "garbage-kernel",
        spoil: Spoil::Kernel(|_| garbage()),
        says: &["kernel: ", "not an elf file"],
    },
    Row {
        name: "cut-kernel",
        spoil: Spoil::Kernel(|kernel| half(&kernel)),
        says: &["kernel: ", "truncated", "load the whole file"],
    },
    Row {
        name: "damaged-kernel",
        spoil: Spoil::Kernel(|mut kernel| {
            let middle = kernel.len() / 2;
            if let Some(byte) = kernel.get_mut(middle) {
                *byte ^= 0x55;
            }
            kernel
        }),
        says: &["kernel: ", "damaged"],
    },
    Row {
        name: "kernel-longer-than-it-claims",
        spoil: Spoil::Kernel(|kernel| bzimage::claiming(kernel, 1 << 20)),
        says: &["kernel: ", "unpacks to more than the 1048576 bytes"],
    },
    Row {
        name: "zstd-kernel-longer-than-it-claims",
        spoil: Spoil::Zstd(|kernel| bzimage::claiming(kernel, 1 << 20)),
        says: &["kernel: ", "unpacks to more than the 1048576 bytes"],
    },
    Row {
        name: "kernel-shorter-than-it-claims",
        spoil: Spoil::Kernel(|kernel| bzimage::claiming(kernel, 200_000_000)),
        says: &["kernel: ", "claims 200000000 unpacked bytes and has"],
    },
    Row {
        name: "kernel-larger-than-memory",
        spoil: Spoil::Kernel(|kernel| bzimage::claiming(kernel, 0xffff_f000)),
        says: &["kernel: ", "claims to unpack to 4294963200 bytes"],
    },
    Row {
        name: "kernel-without-note",
        spoil: Spoil::Kernel(|_| elf_without_note()),
        says: &["kernel: ", "no pvh entry"],
    },
];

/// One test per row.
pub(crate) fn cases(board: &'static Board) -> Vec<Case> {
    let case = |row: &'static Row| {
        let name = format!("bad-input/{}", row.name);
        Case::machine(board.arch, name, move || check(board, row))
    };
    ROWS.iter().map(case).collect()
}

/// Rows that have a meaning where modules come by Multiboot.
pub(crate) fn multiboot_cases(board: &'static Board) -> Vec<Case> {
    let rows = ROWS
        .iter()
        .filter(|row| matches!(row.spoil, Spoil::InitrdFile(_)));
    rows.chain(PVH_ROWS)
        .map(|row| {
            let name = format!("bad-input/{}/{}", row.name, board.name);
            Case::machine(board.arch, name, move || check(board, row))
        })
        .collect()
}

fn check(board: &'static Board, row: &Row) -> Result<()> {
    let name = format!("bad-{}-{}", row.name, board.name);
    let machine = spoilt(board, row, &name)?;
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, LIMIT, Echo::Log)?;
    wait_for_line(&mut console, row.says)?;
    if let Spoil::ThirdModule(_) = row.spoil {
        // Nobody needs it: dom0 starts as ever. Its tree gives it no console, so its shell ends, and all with it.
        wait_for_line(&mut console, &["hardware domain 0 ends with reason 0"])?;
        console.wait_for_power_off()?;
    }
    Ok(())
}

/// Waits for a line that holds all of these words, in any case of letters.
pub(super) fn wait_for_line(console: &mut Console, says: &[&str]) -> Result<()> {
    loop {
        let line = console.wait_for("\n")?;
        if let Some(fault) = FAULTS.iter().find(|fault| line.contains(**fault)) {
            bail!("the hypervisor faulted (\"{fault}\")\n{}", console.tail());
        }
        let line = line.to_lowercase();
        if says.iter().all(|word| line.contains(word)) {
            return Ok(());
        }
    }
}

fn spoilt(board: &'static Board, row: &Row, name: &str) -> Result<Machine> {
    let mut files: Files = MachineArgs::default().files(board)?;
    let mut tree = None;
    match &row.spoil {
        Spoil::Kernel(spoil) => {
            if let Some(dom0) = &mut files.dom0 {
                dom0.kernel = written(name, &spoil(paths::read(&dom0.kernel)?))?;
            }
        }
        Spoil::Zstd(spoil) => {
            setup::ensure_these(&["xz", "zstd"])?;
            if let Some(dom0) = &mut files.dom0 {
                let output = paths::work().join(format!("{name}.zstd"));
                let packed = bzimage::packed_by_zstd(&dom0.kernel, &output)?;
                dom0.kernel = written(name, &spoil(paths::read(&packed)?))?;
            }
        }
        Spoil::Words(words) => files.words = format!("{} {words}", files.words),
        Spoil::InitrdFile(spoil) => {
            if let Some(dom0) = &mut files.dom0
                && let Some(initrd) = &dom0.initrd
            {
                let spoilt = spoil(&paths::read(initrd)?)?;
                dom0.initrd = spoilt.map(|bytes| written(name, &bytes)).transpose()?;
            }
        }
        Spoil::Tree(text) => tree = Some((*text, String::new())),
        Spoil::Initrd(moved) => tree = Some(("", initrd_elsewhere(board, &files, *moved)?)),
        Spoil::ThirdModule(place) => tree = Some(("", third_module(board, &files, *place)?)),
        Spoil::NoModules => files.dom0 = None,
    }
    let mut machine = Machine::new(board, Boot::Direct(files));
    if let Some((added, amendments)) = tree {
        let own = machine.own_tree(name)?.machine;
        machine.tree = Some(Tree {
            machine: format!("{own}\n{added}\n"),
            amendments,
        });
    }
    Ok(machine)
}

/// A tree in which the initrd's node, still of the same name, tells another place.
fn initrd_elsewhere(
    board: &'static Board,
    files: &Files,
    moved: fn(Place, Place) -> Place,
) -> Result<String> {
    let (kernel, initrd) = modules(board, files)?;
    Ok(format!(
        "/ {{ chosen {{ module@{:x} {{ {} }}; }}; }};\n",
        initrd.address,
        reg(moved(kernel, initrd))
    ))
}

/// A tree with three modules in their order, of which only the order tells what they are.
fn third_module(board: &'static Board, files: &Files, place: fn(Place) -> Place) -> Result<String> {
    let (kernel, initrd) = modules(board, files)?;
    let mut text = String::new();
    for old in [kernel, initrd] {
        text += &format!("/delete-node/ module@{:x}; ", old.address);
    }
    for (number, at) in [kernel, initrd, place(kernel)].into_iter().enumerate() {
        let reg = reg(at);
        text += &format!("file@{number} {{ compatible = \"multiboot,module\"; {reg} }}; ");
    }
    Ok(format!("/ {{ chosen {{ {text} }}; }};\n"))
}

/// Where the kernel and the initrd are loaded.
fn modules(board: &'static Board, files: &Files) -> Result<(Place, Place)> {
    let machine = Machine::new(board, Boot::Direct(files.clone()));
    let Some(layout) = machine.layout()? else {
        bail!("there are no modules")
    };
    let Some(initrd) = layout.initrd else {
        bail!("there is no initrd")
    };
    Ok((layout.kernel, initrd))
}

fn reg(Place { address, size }: Place) -> String {
    let (high, low) = (address >> 32, address & 0xffff_ffff);
    format!("reg = <{high:#x} {low:#x} 0x0 {size:#x}>;")
}

/// 64 KiB that are nothing at all, the same each time.
pub(super) fn garbage() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(64 << 10).collect()
}

/// A whole ELF64 file for the x86-64 with one segment and nothing in it.
fn elf_without_note() -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    let fields: &[(usize, &[u8])] = &[
        (0, b"\x7fELF\x02\x01\x01"),
        // Executable, x86-64, version 1.
        (16, &[2, 0, 62, 0, 1]),
        // Entry, headers of segments.
        (24, &0x10_0000_u64.to_le_bytes()),
        (32, &[64]),
        (52, &[64, 0, 56, 0, 1]),
        // Loaded from 0x200 to 1 MiB.
        (64, &[1, 0, 0, 0, 7]),
        (72, &0x200_u64.to_le_bytes()),
        (80, &0x10_0000_u64.to_le_bytes()),
        (88, &0x10_0000_u64.to_le_bytes()),
        (96, &0x100_u64.to_le_bytes()),
        (104, &0x100_u64.to_le_bytes()),
    ];
    for (at, bytes) in fields {
        if let Some(field) = file.get_mut(*at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
    file
}

/// What a gzip file holds.
fn unpacked(file: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut plain)?;
    Ok(plain)
}

fn half(file: &[u8]) -> Vec<u8> {
    file.get(..file.len() / 2).unwrap_or_default().to_vec()
}

/// About half of a gzip file, so that its last word is no length of an archive: three cuts of four show in this way.
fn cut_for_sure(file: &[u8]) -> Result<Vec<u8>> {
    let mut cut = half(file);
    while let [.., low, _, _, _] = cut.as_slice() {
        if !low.is_multiple_of(4) {
            return Ok(cut);
        }
        cut.pop();
    }
    bail!("no part of the initrd shows that it is cut")
}

/// The first half of the compressed kernel.
fn cut_gzip(kernel: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(kernel, flate2::Compression::fast());
    // Reading from memory into memory cannot fail.
    let _ = std::io::Read::read_to_end(&mut encoder, &mut packed);
    packed.truncate(packed.len() / 2);
    packed
}

fn written(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = paths::work().join(format!("{name}.bin"));
    paths::write(&path, bytes)?;
    Ok(path)
}
