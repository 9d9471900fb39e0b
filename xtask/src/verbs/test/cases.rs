//! The list of tests in the emulator.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::boards::{self, Board, Stage};
use crate::console::{self, Echo};
use crate::emulator::Emulator;
use crate::fetch::Debian;
use crate::prepare::{Dom0Kind, MachineArgs};
use crate::verbs::image::Grub;
use crate::verbs::test::{
    Case, alone, bad_cpu, bad_input, bad_tree, devices, guests, images, machine_checks, narrow,
    neighbours, nmi, pair, ports, pv_kernel,
};
use crate::verbs::{setup, smoke};
use crate::{bzimage, paths};

/// A machine that is well needs a few seconds; this allows for a busy host.
const LIMIT: Duration = Duration::from_secs(120);
/// The same in Bochs.
const BOCHS_LIMIT: Duration = Duration::from_secs(600);

/// Every test beside the host's.
pub(crate) fn all() -> Result<Vec<Case>> {
    let mut cases = images::cases();
    cases.extend(
        boards::ALL
            .iter()
            .map(|board| smoke(board, "", MachineArgs::default())),
    );
    cases.extend(
        boards::ALL
            .iter()
            .filter(|board| starts_from_disk(board))
            .map(|board| {
                smoke(
                    board,
                    "/uboot",
                    MachineArgs {
                        uboot: true,
                        ..MachineArgs::default()
                    },
                )
            }),
    );
    let virt = boards::find(None, Some(Arch::Aarch64))?;
    cases.push(smoke(
        virt,
        "/one-cpu",
        MachineArgs {
            smp: Some(1),
            ..MachineArgs::default()
        },
    ));
    cases.push(smoke(
        virt,
        "/small-memory",
        MachineArgs {
            memory: Some(512),
            ..MachineArgs::default()
        },
    ));
    cases.push(smoke(
        virt,
        "/newest-cpu",
        MachineArgs {
            cpu: Some("max".into()),
            ..MachineArgs::default()
        },
    ));
    let pc = boards::find(None, Some(Arch::X86_64))?;
    cases.extend(
        [("/cd", Grub::Cd), ("/efi-disk", Grub::EfiDisk)].map(|(name, grub)| {
            smoke(
                pc,
                name,
                MachineArgs {
                    grub: Some(grub),
                    ..MachineArgs::default()
                },
            )
        }),
    );
    cases.push(smoke(
        pc,
        "/pv",
        MachineArgs {
            dom0: Some(Dom0Kind::Pv),
            ..MachineArgs::default()
        },
    ));
    cases.push(smoke(
        pc,
        "/pv-isolated",
        MachineArgs {
            dom0: Some(Dom0Kind::Pv),
            smp: Some(4),
            cpu: Some("max".into()),
            xen_append: Some("xpti=1 pcid=1 spec-ctrl=pv".into()),
            ..MachineArgs::default()
        },
    ));
    // Nobody says how dom0 is to run, and the CPU leaves one way.
    cases.push(smoke_as(
        Some(Dom0Kind::Pv),
        pc,
        "/pv-by-default",
        MachineArgs {
            smp: Some(1),
            cpu: Some("max,-smap,-svm".into()),
            ..MachineArgs::default()
        },
    ));
    let riscv = boards::find(None, Some(Arch::Riscv64))?;
    cases.push(smoke(
        riscv,
        "/domain",
        MachineArgs {
            domain: true,
            ..MachineArgs::default()
        },
    ));
    cases.push(large_memory(riscv));
    cases.push(zstd_kernel(pc));
    cases.push(in_bochs(pc));
    cases.extend(guests::cases()?);
    cases.extend(narrow::cases()?);
    cases.extend(neighbours::cases(virt));
    cases.extend(alone::cases());
    cases.extend(bad_input::cases(virt));
    cases.extend(bad_tree::cases());
    let pc = boards::find(None, Some(Arch::X86_64))?;
    cases.extend(bad_input::multiboot_cases(pc));
    cases.extend(bad_cpu::cases(boards::find(Some("qemu-q35"), None)?));
    cases.extend(devices::cases()?);
    cases.extend(neighbours::x86_cases(boards::find(Some("qemu-q35"), None)?));
    cases.extend(neighbours::riscv_cases(riscv));
    cases.extend(pair::cases()?);
    cases.extend(ports::cases()?);
    cases.extend(machine_checks::cases()?);
    cases.extend(nmi::cases()?);
    cases.extend(pv_kernel::cases()?);
    Ok(cases)
}

fn starts_from_disk(board: &Board) -> bool {
    matches!(board.stage, Stage::Dom0)
        && board
            .uboot
            .as_ref()
            .is_some_and(|uboot| uboot.firmware.is_some())
}

fn smoke(board: &'static Board, variant: &str, args: MachineArgs) -> Case {
    smoke_as(args.dom0, board, variant, args)
}

/// A smoke test whose dom0 is of this kind, whether the arguments say so or not.
fn smoke_as(
    kind: Option<Dom0Kind>,
    board: &'static Board,
    variant: &str,
    mut args: MachineArgs,
) -> Case {
    args.board = Some(board.name.to_string());
    let log = format!("smoke-{}{}", board.name, variant.replace('/', "-"));
    let run = move || smoke::check(&args.machine(None)?, kind, &log, LIMIT, Echo::Log);
    Case::machine(board.arch, format!("smoke/{}{variant}", board.name), run)
}

/// More memory than Sv39 holds, so the hypervisor's own tables are Sv48; and the guest's have four levels too.
fn large_memory(board: &'static Board) -> Case {
    let args = MachineArgs {
        memory: Some(160 << 10),
        xen_append: Some("sv48x4".into()),
        ..MachineArgs::default()
    };
    let log = "smoke-qemu-virt-riscv64-large-memory";
    let run = move || {
        let machine = args.machine(Some(board.arch))?;
        smoke::check(&machine, None, log, LIMIT, Echo::Log)?;
        let said = std::fs::read_to_string(console::log_path(log))?;
        for line in [
            "own page tables: Sv48",
            "163840 MiB of RAM, 50-bit guest addresses",
        ] {
            ensure!(said.contains(line), "it did not say \"{line}\"");
        }
        Ok(())
    };
    Case::machine(
        board.arch,
        format!("smoke/{}/large-memory", board.name),
        run,
    )
}

/// dom0's kernel packed as many distributions have it, and Debian has not.
fn zstd_kernel(board: &'static Board) -> Case {
    let run = move || {
        setup::ensure_these(&["xz", "zstd"])?;
        let kernel = Debian::fetch(board.arch)?.kernel()?;
        let output = paths::work().join("zstd-kernel");
        let args = MachineArgs {
            kernel: Some(bzimage::packed_by_zstd(&kernel, &output)?),
            ..MachineArgs::default()
        };
        let machine = args.machine(Some(board.arch))?;
        smoke::check(&machine, None, "smoke-zstd-kernel", LIMIT, Echo::Log)
    };
    Case::machine(board.arch, format!("smoke/{}/zstd-kernel", board.name), run)
}

/// dom0 on a machine with Intel's VMX. Its APIC is not lent: when an interrupt of the machine's comes, as with each character
/// that is typed, Bochs delivers a virtual one that waits, whether the guest has interrupts on or not, and Linux ends in a
/// lock that it holds.
fn in_bochs(board: &'static Board) -> Case {
    let args = MachineArgs {
        emulator: Emulator::Bochs,
        smp: Some(1),
        xen_append: Some("apicv=no".into()),
        ..MachineArgs::default()
    };
    let run = move || {
        let machine = args.machine(Some(board.arch))?;
        smoke::check(&machine, None, "smoke-bochs", BOCHS_LIMIT, Echo::Log)
    };
    Case::machine(board.arch, "smoke/bochs", run)
}
