//! Machines without a domain: each way of starting them leads as far as can be and to a clean end, and a machine that cannot
//! be used is refused in one line.
//!
//! The plain start of each board is among the smoke tests.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::console::{Console, Echo};
use crate::emulator::{Boot, Machine, Terminal};
use crate::paths;
use crate::prepare::MachineArgs;
use crate::verbs::build;
use crate::verbs::test::Case;

const LIMIT: Duration = Duration::from_secs(60);

struct Row {
    name: &'static str,
    arch: Arch,
    change: Change,
    /// Texts on the console, in this order.
    says: &'static [&'static str],
    /// Whether the machine powers itself off then.
    ends: bool,
}

/// What is different from the board's own start.
enum Change {
    /// Processors and MiB of memory.
    Size(u32, u64),
    /// Another processor model.
    Cpu(&'static str),
    /// QEMU takes a Multiboot 1 header before a PVH note: the image goes without the header.
    PvhOnly,
}

const ROWS: &[Row] = &[
    Row {
        name: "riscv64-without-a-kernel-is-refused",
        arch: Arch::Riscv64,
        change: Change::Size(8, 64),
        says: &[
            " on RISC-V, ",
            "RAM 0x80000000-0x83ffffff, 64 MiB",
            "/chosen names no kernel: ",
            "start-up ends here",
        ],
        ends: true,
    },
    Row {
        name: "riscv64-without-h-is-refused",
        arch: Arch::Riscv64,
        change: Change::Cpu("rv64,h=false"),
        says: &["no H extension", "start-up ends here"],
        ends: true,
    },
    Row {
        name: "x86_64-boots-to-all-cpus-by-pvh",
        arch: Arch::X86_64,
        change: Change::PvhOnly,
        says: &[
            " on x86-64, PVH\n",
            "RAM 0x100000-",
            " 4 CPUs, ",
            "no dom0: ",
        ],
        ends: true,
    },
    Row {
        name: "x86_64-boots-to-all-cpus-by-multiboot-1",
        arch: Arch::X86_64,
        change: Change::Size(8, 5120),
        says: &[
            " on x86-64, Multiboot 1\n",
            "RAM 0x100000000-",
            " 8 CPUs, ",
            "no dom0: ",
        ],
        ends: true,
    },
    Row {
        name: "x86_64-newest-cpu",
        arch: Arch::X86_64,
        change: Change::Cpu("max"),
        says: &[" 4 CPUs, ", "no dom0: "],
        ends: true,
    },
    Row {
        name: "x86_64-without-no-execute-is-refused",
        arch: Arch::X86_64,
        change: Change::Cpu("qemu64,-nx"),
        says: &["needs a 64-bit CPU with no-execute pages"],
        ends: false,
    },
];

/// One test per row.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let case = |row: &'static Row| {
        let board = boards::find(None, Some(row.arch))?;
        let name = format!("ports/{}", row.name);
        Ok(Case::machine(row.arch, name, move || check(board, row)))
    };
    ROWS.iter().map(case).collect()
}

fn check(board: &'static Board, row: &Row) -> Result<()> {
    let name = format!("ports-{}", row.name);
    let mut qemu = changed(board, row, &name)?.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, LIMIT, Echo::Log)?;
    for text in row.says {
        console.wait_for(text)?;
    }
    if row.ends {
        console.wait_for_power_off()?;
    }
    Ok(())
}

fn changed(board: &'static Board, row: &Row, name: &str) -> Result<Machine> {
    let mut files = MachineArgs::default().hypervisor_alone(board)?;
    if let Change::PvhOnly = row.change {
        let mut image = paths::read(&build::hypervisor(row.arch)?.elf)?;
        hide_multiboot1(&mut image).context("the image has no Multiboot 1 header")?;
        files.hypervisor = paths::work().join(format!("{name}.elf"));
        paths::write(&files.hypervisor, &image)?;
    }
    let mut machine = Machine::new(board, Boot::Direct(files));
    match row.change {
        Change::Size(cpus, memory) => {
            machine.cpus = cpus;
            machine.memory = memory;
        }
        Change::Cpu(model) => machine.cpu = Some(model.to_string()),
        Change::PvhOnly => {}
    }
    Ok(machine)
}

/// Spoils the magic number of the header, which stands in the first 8 KiB, aligned to four bytes.
fn hide_multiboot1(image: &mut [u8]) -> Option<()> {
    const MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();
    let head = image.get_mut(..8192)?;
    head.chunks_exact_mut(4)
        .find(|word| *word == MAGIC)?
        .fill(0);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_aligned_header_near_the_start_is_hidden() {
        let mut image = vec![1; 9000];
        assert_eq!(hide_multiboot1(&mut image), None);
        image[4096..4100].copy_from_slice(&0x1bad_b002_u32.to_le_bytes());
        assert_eq!(hide_multiboot1(&mut image), Some(()));
        assert_eq!(image[4096..4100], [0; 4]);
        assert_eq!(hide_multiboot1(&mut image), None);
    }
}
