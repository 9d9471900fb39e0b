//! How long a boot takes, and how big the image is.
//!
//! To dom0's first instruction: a kernel that does nothing but power the machine off. On ARM it is Debian's with its first
//! instructions replaced; on x86-64 a small one of its own, so that no unpacking is counted.
//! To dom0's user space: Debian's kernel and our root, told to power off as the first thing in user space; the same
//! kernel and root also run on the bare machine, which sets the goal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::boards::Board;
use crate::emulator::{Boot, Dom0, Files, Machine};
use crate::fetch::Debian;
use crate::guest::{Kind, On};
use crate::icount::{self, Count};
use crate::verbs::bench::plan::Plan;
use crate::verbs::bench::table::{Goal, Row};
use crate::{bzimage, paths, rootfs};

const LIMIT: Duration = Duration::from_secs(240);
const TO_DOM0: &str = "boot_to_dom0_entry";
const TO_USER_SPACE: &str = "boot_to_user_space";
const IMAGE: &str = "image_size";

/// Memory of dom0, and of the bare machine beside it: a kernel's start takes longer with more.
const MIB: u64 = 1024;

/// Measures those that are wanted.
pub(crate) fn rows(
    board: &'static Board,
    plan: &Plan,
    reference: bool,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<Row>> {
    let debian = Debian::fetch(board.arch)?;
    let packed = debian.kernel()?;
    let whole = Dom0 {
        kernel: match board.arch {
            Arch::X86_64 => bzimage::unpacked(&packed, &paths::work().join("bench-kernel.elf"))?,
            _ => packed,
        },
        initrd: Some(rootfs::dom0(board.arch.name(), &debian.busybox())?),
        words: "console=hvc0 xtask.poweroff".into(),
    };
    let row = |name: &str, mode: &str, dom0: &Dom0, goal: Goal| {
        let count = |on: On| {
            let skipped = reference && on == On::Xenolith;
            (!skipped).then(|| shown(hypervisor(board, on, dom0, name)))?
        };
        Row::new(name, board.arch, mode, "instructions", Some(goal))
            .measured(count(On::Xenolith), count(On::Xen))
    };
    let mut rows = Vec::new();
    if let Some(most) = plan.entry_to_dom0
        && wanted(TO_DOM0)
    {
        let stub = Dom0 {
            kernel: powers_off(board.arch, &whole.kernel)?,
            ..whole.clone()
        };
        let goal = Goal::AtMost(most);
        rows.push(row(TO_DOM0, "dom0", &stub, goal));
    }
    if let Some(most) = plan.user_space_over_bare
        && wanted(TO_USER_SPACE)
    {
        let goal = Goal::OfBare(most);
        let both = row(TO_USER_SPACE, "bare", &whole, goal);
        rows.push(both.beside_bare(shown(bare(board, &whole))));
    }
    if let Some(most) = plan.pv_user_space_of_xen
        && wanted(TO_USER_SPACE)
    {
        let count = |on: On| {
            let skipped = reference && on == On::Xenolith;
            (!skipped).then(|| shown(paravirtual(board, on, &whole)))?
        };
        let goal = Some(Goal::OfXen(most));
        rows.push(
            Row::new(TO_USER_SPACE, board.arch, "pv", "instructions", goal)
                .measured(count(On::Xenolith), count(On::Xen)),
        );
    }
    if wanted(IMAGE) {
        let size = |on: On| Some(std::fs::metadata(on.image(board).ok()?).ok()?.len() as i64);
        let ours = if reference { None } else { size(On::Xenolith) };
        let goal = Some(Goal::AtMost(plan.image_bytes));
        rows.push(Row::new(IMAGE, board.arch, "file", "bytes", goal).measured(ours, size(On::Xen)));
    }
    Ok(rows)
}

/// The same kernel as PV dom0, with the time that it sleeps.
fn paravirtual(board: &'static Board, on: On, dom0: &Dom0) -> Result<u64> {
    let mut machine = under(board, on, dom0, Kind::Paravirtual)?;
    machine.cpu = Kind::Paravirtual.cpu();
    let name = format!("{TO_USER_SPACE}-{}-pv-{}", board.name, on.name());
    icount::until_power_off(machine, &name, Count::ExecutedAndAsleep, LIMIT)
}

fn hypervisor(board: &'static Board, on: On, dom0: &Dom0, name: &str) -> Result<u64> {
    let machine = under(board, on, dom0, Kind::Hardware)?;
    let name = format!("{name}-{}-{}", board.name, on.name());
    icount::until_power_off(machine, &name, Count::Executed, LIMIT)
}

fn under(board: &'static Board, on: On, dom0: &Dom0, kind: Kind) -> Result<Machine> {
    let words = format!("{} dom0_mem={MIB}M {}", board.words, on.kind(board, kind));
    let files = Files {
        hypervisor: on.image(board)?,
        words: words.trim().to_string(),
        dom0: Some(dom0.clone()),
    };
    Ok(single(board, files))
}

/// The same kernel and root without a hypervisor, with dom0's memory; on ARM at EL1 where they also run as dom0.
fn bare(board: &'static Board, dom0: &Dom0) -> Result<u64> {
    let console = match board.arch {
        Arch::X86_64 => "console=ttyS0",
        _ => "console=ttyAMA0",
    };
    let words = dom0.words.replace("console=hvc0", console);
    let mut machine = single(
        board,
        Files {
            hypervisor: dom0.kernel.clone(),
            words,
            dom0: None,
        },
    );
    let initrd = dom0
        .initrd
        .as_ref()
        .map(|initrd| ["-initrd".to_string(), initrd.display().to_string()]);
    machine.extra.extend(initrd.into_iter().flatten());
    if board.arch == Arch::Aarch64 {
        // What is said last about a machine counts.
        machine
            .extra
            .extend(["-machine".into(), "virtualization=off".into()]);
    }
    machine.memory = MIB;
    icount::until_power_off(
        machine,
        &format!("{TO_USER_SPACE}-bare"),
        Count::Executed,
        LIMIT,
    )
}

fn single(board: &'static Board, files: Files) -> Machine {
    let mut machine = Machine::new(board, Boot::Direct(files));
    machine.cpus = 1;
    machine
}

fn shown(count: Result<u64>) -> Option<i64> {
    match count {
        Ok(count) => i64::try_from(count).ok(),
        Err(error) => {
            eprintln!("not measured: {error:#}");
            None
        }
    }
}

/// A kernel that powers the machine off at once. On ARM a copy of `kernel`: same header, same size, other first
/// instructions.
fn powers_off(arch: Arch, kernel: &Path) -> Result<PathBuf> {
    let bytes = match arch {
        Arch::X86_64 => pvh_power_off(),
        _ => {
            let mut bytes = paths::read(kernel)?;
            put_power_off(&mut bytes)?;
            bytes
        }
    };
    let path = paths::work().join("powers-off.kernel");
    paths::write(&path, &bytes)?;
    Ok(path)
}

/// Linux's "Booting AArch64 Linux" gives the header's 64 bytes: the first word is executed, at 56 stands the magic
/// number. PSCI SYSTEM_OFF is function 0x8400_0008.
fn put_power_off(kernel: &mut [u8]) -> Result<()> {
    const HEADER: usize = 64;
    const BRANCH_BEHIND_HEADER: u32 = 0x1400_0010;
    const POWER_OFF: [u32; 4] = [
        0x5280_0100, // mov w0, #0x8
        0x72b0_8000, // movk w0, #0x8400, lsl #16
        0xd400_0002, // hvc #0
        0x1400_0000, // b .
    ];
    ensure!(
        kernel.get(56..60) == Some(b"ARM\x64".as_slice()),
        "Debian's kernel is no plain arm64 Image"
    );
    let words = std::iter::once((0, BRANCH_BEHIND_HEADER)).chain(
        POWER_OFF
            .iter()
            .enumerate()
            .map(|(n, word)| (HEADER + 4 * n, *word)),
    );
    for (at, word) in words {
        let Some(place) = kernel.get_mut(at..at + 4) else {
            anyhow::bail!("Debian's kernel is too short")
        };
        place.copy_from_slice(&word.to_le_bytes());
    }
    Ok(())
}

/// A PVH kernel (ELF note `XEN_ELFNOTE_PHYS32_ENTRY`, `xen/elfnote.h`) that asks QEMU's power management for state S5.
fn pvh_power_off() -> Vec<u8> {
    const ENTRY: u32 = 0x20_0000;
    const CODE: [u8; 14] = [
        0x66, 0xba, 0x04, 0x06, // mov $0x604, %dx: PM1a control, where SeaBIOS puts it
        0x66, 0xb8, 0x00, 0x20, // mov $0x2000, %ax: sleep, type 0
        0x66, 0xef, // out %ax, (%dx)
        0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt; again
    ];
    const PHYS32_ENTRY: u32 = 18;
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE: u64 = HEADERS;
    const NOTE_BYTES: u64 = 20;
    const CODE_AT: u64 = 0x1000;
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    let half = |value: u16| value.to_le_bytes().to_vec();
    let word = |value: u32| value.to_le_bytes().to_vec();
    let long = |value: u64| value.to_le_bytes().to_vec();
    let segment = |kind: u32, flags: u32, offset: u64, address: u64, size: u64| {
        let fields = [offset, address, address, size, size, 4];
        let fields = fields.into_iter().flat_map(u64::to_le_bytes);
        [word(kind), word(flags), fields.collect()].concat()
    };
    let mut file = [
        b"\x7fELF\x02\x01\x01".to_vec(),
        vec![0; 9],
        [EXECUTABLE, X86_64].into_iter().flat_map(half).collect(),
        word(1),
        [ENTRY.into(), 64, 0].into_iter().flat_map(long).collect(),
        word(0),
        [64, 56, 2, 64, 0, 0].into_iter().flat_map(half).collect(),
        segment(1, 7, CODE_AT, ENTRY.into(), CODE.len() as u64),
        segment(4, 4, NOTE, 0, NOTE_BYTES),
        [4, 4, PHYS32_ENTRY].into_iter().flat_map(word).collect(),
        b"Xen\0".to_vec(),
        word(ENTRY),
    ]
    .concat();
    file.resize(CODE_AT as usize, 0);
    file.extend(CODE);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_stays_and_the_first_instruction_leads_behind_it() {
        let mut kernel = vec![0xaa; 128];
        kernel[56..60].copy_from_slice(b"ARM\x64");
        put_power_off(&mut kernel).unwrap();
        assert_eq!(kernel[..4], 0x1400_0010_u32.to_le_bytes());
        assert_eq!(kernel[4..56], [0xaa; 52]);
        assert_eq!(kernel[64..68], 0x5280_0100_u32.to_le_bytes());
        assert_eq!(kernel[80..], [0xaa; 48]);
        assert!(put_power_off(&mut [0; 128]).is_err());
    }
}
