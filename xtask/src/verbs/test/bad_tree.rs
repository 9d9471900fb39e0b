//! Device trees that are none: the hypervisor says so on the board's own UART and powers the machine off.
//!
//! QEMU passes a good tree or none, so a program of three instructions stands where the hypervisor would be started: it
//! puts another address in x0 and goes on to the hypervisor, which was loaded elsewhere.

use anyhow::Result;

use crate::arch::Arch;
use crate::boards::{self, Board, Stage};
use crate::console::{Console, Echo};
use crate::emulator::{self, Boot, Files, Machine, Terminal};
use crate::prepare::MachineArgs;
use crate::verbs::test::{
    Case,
    bad_input::{LIMIT, garbage, wait_for_line},
};
use crate::{device_tree, paths};

struct Row {
    name: &'static str,
    blob: Blob,
    /// All in one line, in lower case.
    says: &'static [&'static str],
}

/// What x0 leads to.
enum Blob {
    /// These bytes, made of the machine's own tree.
    Bytes(fn(Vec<u8>) -> Vec<u8>),
    /// This address, where nothing was loaded.
    Address(u64),
}

const ROWS: &[Row] = &[
    Row {
        name: "garbage-device-tree",
        blob: Blob::Bytes(|_| garbage()),
        says: &["device tree: starts with 0x", "check the address"],
    },
    Row {
        name: "cut-device-tree",
        blob: Blob::Bytes(|tree| tree.get(..tree.len() / 2).unwrap_or_default().to_vec()),
        says: &["device tree: ", "load it again"],
    },
    Row {
        name: "no-device-tree",
        blob: Blob::Address(0),
        says: &["device tree: none was given"],
    },
    Row {
        name: "device-tree-at-an-odd-address",
        blob: Blob::Address(0x4800_0004),
        says: &["device tree: x0 is 0x48000004", "check the address"],
    },
    Row {
        name: "device-tree-outside-memory",
        blob: Blob::Address(0x60_0000_0000),
        says: &["device tree: x0 is 0x6000000000", "check the address"],
    },
    Row {
        name: "device-tree-beyond-any-address",
        blob: Blob::Address(0xdead_beef_dead_bee8),
        says: &["device tree: x0 is 0xdeadbeefdeadbee8", "check the address"],
    },
];

/// Every row on the first board; on the others that what they have for a console is found.
pub(crate) fn cases() -> Vec<Case> {
    let mut boards = boards::ALL
        .iter()
        .filter(|board| board.arch == Arch::Aarch64 && matches!(board.stage, Stage::Dom0));
    let first = boards.next().into_iter().flat_map(|board| {
        ROWS.iter()
            .map(move |row| case(board, row, format!("bad-input/{}", row.name)))
    });
    let others = boards.flat_map(|board| {
        let name = |row: &Row| format!("bad-input/{}/{}", row.name, board.name);
        ROWS.iter()
            .take(1)
            .map(move |row| case(board, row, name(row)))
    });
    first.chain(others).collect()
}

fn case(board: &'static Board, row: &'static Row, name: String) -> Case {
    Case::machine(board.arch, name, move || check(board, row))
}

fn check(board: &'static Board, row: &Row) -> Result<()> {
    let name = format!("bad-{}-{}", row.name, board.name);
    let machine = machine(board, row, &name)?;
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, LIMIT, Echo::Log)?;
    wait_for_line(&mut console, row.says)?;
    console.wait_for_power_off()
}

/// Where Xenolith goes, counted from the start of memory.
const HYPERVISOR: u64 = 256 << 20;
const TREE: u64 = 384 << 20;

fn machine(board: &'static Board, row: &Row, name: &str) -> Result<Machine> {
    let files = MachineArgs::default().hypervisor_alone(board)?;
    let hypervisor = board.memory_start + HYPERVISOR;
    let mut extra = vec![emulator::loader(hypervisor, &files.hypervisor)];
    let x0 = match row.blob {
        Blob::Address(address) => address,
        Blob::Bytes(spoil) => {
            let own = Machine::new(board, Boot::Direct(files.clone())).own_tree(name)?;
            let good = paths::work().join(format!("{name}-good.dtb"));
            device_tree::compile(&own.machine, &good)?;
            let spoilt = paths::work().join(format!("{name}-spoilt.dtb"));
            paths::write(&spoilt, &spoil(paths::read(&good)?))?;
            let address = board.memory_start + TREE;
            extra.push(emulator::loader(address, &spoilt));
            address
        }
    };
    let stub = paths::work().join(format!("{name}-stub.bin"));
    paths::write(&stub, &detour(x0, hypervisor))?;
    let files = Files {
        hypervisor: stub,
        words: String::new(),
        dom0: None,
    };
    let mut machine = Machine::new(board, Boot::Direct(files));
    let words = extra.into_iter().flat_map(|word| ["-device".into(), word]);
    machine.extra = words.collect();
    Ok(machine)
}

/// A bootable `Image` that goes on to `entry` with `x0`.
fn detour(x0: u64, entry: u64) -> Vec<u8> {
    const HEADER: usize = 64;
    const BRANCH_BEHIND_HEADER: u32 = 0x1400_0010;
    const CODE: [u32; 4] = [
        0x5800_0080, // ldr x0, 16 bytes on
        0x5800_00a1, // ldr x1, 20 bytes on
        0xd61f_0020, // br x1
        0xd503_201f, // nop
    ];
    let mut image = BRANCH_BEHIND_HEADER.to_le_bytes().to_vec();
    image.resize(16, 0);
    image.extend(0x1000u64.to_le_bytes()); // image_size
    image.extend(0xau64.to_le_bytes()); // flags, as Xenolith's
    image.resize(56, 0);
    image.extend(b"ARM\x64");
    image.resize(HEADER, 0);
    image.extend(CODE.iter().flat_map(|word| word.to_le_bytes()));
    image.extend(x0.to_le_bytes());
    image.extend(entry.to_le_bytes());
    image
}
