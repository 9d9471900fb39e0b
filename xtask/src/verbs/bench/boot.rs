//! How long a boot takes, and how big the image is.
//!
//! To dom0's first instruction: Debian's kernel, its first instructions replaced by a call that powers the machine off.
//! To dom0's user space: Debian's kernel and our root, told to power off as the first thing in user space; the same
//! kernel and root also run on the bare machine, which sets the goal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::boards::Board;
use crate::emulator::{Boot, Dom0, Files, Machine};
use crate::fetch::Debian;
use crate::guest::On;
use crate::verbs::bench::plan::Plan;
use crate::verbs::bench::table::{Goal, Row};
use crate::{icount, paths, rootfs};

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
    let whole = Dom0 {
        kernel: debian.kernel()?,
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
            kernel: powers_off(&whole.kernel)?,
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
    if wanted(IMAGE) {
        let size = |on: On| Some(std::fs::metadata(on.image(board).ok()?).ok()?.len() as i64);
        let ours = if reference { None } else { size(On::Xenolith) };
        let goal = Some(Goal::AtMost(plan.image_bytes));
        rows.push(Row::new(IMAGE, board.arch, "file", "bytes", goal).measured(ours, size(On::Xen)));
    }
    Ok(rows)
}

fn hypervisor(board: &'static Board, on: On, dom0: &Dom0, name: &str) -> Result<u64> {
    let words = format!("{} dom0_mem={MIB}M", board.words);
    let files = Files {
        hypervisor: on.image(board)?,
        words,
        dom0: Some(dom0.clone()),
    };
    icount::until_power_off(
        single(board, files),
        &format!("{name}-{}", on.name()),
        LIMIT,
    )
}

/// The same kernel and root without a hypervisor, at EL1 where they also run as dom0, with dom0's memory.
fn bare(board: &'static Board, dom0: &Dom0) -> Result<u64> {
    let words = dom0.words.replace("console=hvc0", "console=ttyAMA0");
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
    // What is said last about a machine counts.
    machine
        .extra
        .extend(["-machine".into(), "virtualization=off".into()]);
    machine.memory = MIB;
    icount::until_power_off(machine, &format!("{TO_USER_SPACE}-bare"), LIMIT)
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

/// A copy of the kernel that powers the machine off at once: same header, same size, other first instructions.
fn powers_off(kernel: &Path) -> Result<PathBuf> {
    let mut bytes = paths::read(kernel)?;
    put_power_off(&mut bytes)?;
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
