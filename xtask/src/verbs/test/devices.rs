//! The machine's devices in dom0's hands: Debian's drivers read a disk's file system and fetch a file by each network card,
//! with interrupts by messages and by lines; and what dom0 must not reach stays out of its reach.
//!
//! Each test is one row. A script in dom0's root does the work and prints what it found, a line each, which is compared here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::console::{Console, Echo};
use crate::emulator::Terminal;
use crate::fetch::Debian;
use crate::prepare::{Dom0Kind, MachineArgs};
use crate::rootfs::{self, Extra};
use crate::verbs::build;
use crate::verbs::test::Case;
use crate::{disk, elf, paths, process};

const LIMIT: Duration = Duration::from_secs(180);

/// Drivers that Debian's riscv64 kernel has not built in.
const RISCV_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "fat",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];
/// Drivers, each behind those that it needs.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "scsi_common",
    "scsi_mod",
    "crct10dif_common",
    "crc-t10dif",
    "crc64",
    "crc64-rocksoft",
    "t10-pi",
    "sd_mod",
    "libata",
    "libahci",
    "ahci",
    "ata_piix",
    "e1000",
    "e1000e",
    "fat",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];

/// The file that is on the disks, and that QEMU's network serves.
const KNOWN: &str = "known";
/// Disks and network cards of each machine.
const DISKS: usize = 2;
const CARDS: usize = 2;

struct Row {
    name: &'static str,
    board: &'static str,
    /// QEMU's words for the first disk and the first network card; the second ones are virtio's on PCI.
    disk: &'static str,
    card: &'static str,
    /// Words for dom0's kernel.
    words: &'static str,
    /// How dom0 runs, where there is a choice.
    dom0: Option<Dom0Kind>,
    /// Who must have interrupted, and by which controller.
    interrupts: &'static [(&'static str, &'static str)],
}

const MESSAGES: &str = "PCI-MSI";
const LINES: &str = "IO-APIC";
/// What Linux calls them when the hypervisor manages them for it.
const PIRQ_MESSAGES: &str = "xen-pirq -msi";
const PIRQ_LINES: &str = "xen-pirq -ioapic-";

/// The PLIC. A device's name stands behind it: with four virtio devices, which is which is the kernel's affair.
const SOURCES: &str = "SiFive PLIC";

const ROWS: &[Row] = &[
    Row {
        name: "qemu-virt-riscv64",
        board: "qemu-virt-riscv64",
        disk: "virtio-blk-device",
        card: "virtio-net-device",
        words: "",
        dom0: None,
        interrupts: &[
            ("virtio0", SOURCES),
            ("virtio1", SOURCES),
            ("virtio2", SOURCES),
            ("virtio3", SOURCES),
        ],
    },
    Row {
        name: "q35/messages",
        board: "qemu-q35",
        disk: "ide-hd,bus=ide.0",
        card: "e1000e",
        words: "",
        dom0: Some(Dom0Kind::Pvh),
        interrupts: &[
            ("ahci", MESSAGES),
            ("virtio0-req", MESSAGES),
            ("virtio1-input", MESSAGES),
            ("eth1", MESSAGES),
        ],
    },
    Row {
        name: "q35/lines",
        board: "qemu-q35",
        disk: "ide-hd,bus=ide.0",
        card: "e1000e",
        words: "pci=nomsi",
        dom0: Some(Dom0Kind::Pvh),
        interrupts: &[
            ("ahci", LINES),
            ("virtio0", LINES),
            ("virtio1", LINES),
            ("eth1", LINES),
        ],
    },
    Row {
        name: "pc/messages-and-lines",
        board: "qemu-pc",
        disk: "ide-hd,bus=ide.0",
        card: "e1000",
        words: "",
        dom0: Some(Dom0Kind::Pvh),
        interrupts: &[
            ("ata_piix", LINES),
            ("eth1", LINES),
            ("virtio0-req", MESSAGES),
            ("virtio1-input", MESSAGES),
        ],
    },
    Row {
        name: "q35/pv",
        board: "qemu-q35",
        disk: "ide-hd,bus=ide.0",
        card: "e1000e",
        words: "",
        dom0: Some(Dom0Kind::Pv),
        interrupts: &[
            ("ahci", PIRQ_MESSAGES),
            ("virtio0-req", PIRQ_MESSAGES),
            ("virtio1-input", PIRQ_MESSAGES),
            ("eth1", PIRQ_MESSAGES),
        ],
    },
    Row {
        name: "pc/pv",
        board: "qemu-pc",
        disk: "ide-hd,bus=ide.0",
        card: "e1000",
        words: "pci=nomsi",
        dom0: Some(Dom0Kind::Pv),
        interrupts: &[
            ("ata_piix", PIRQ_LINES),
            ("eth1", PIRQ_LINES),
            ("virtio0", PIRQ_LINES),
            ("virtio1", PIRQ_LINES),
        ],
    },
];

/// One test per row, and that of the memory.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for row in ROWS {
        let board = boards::find(Some(row.board), None)?;
        let name = format!("devices/{}", row.name);
        cases.push(Case::machine(board.arch, name, move || check(board, row)));
    }
    let q35 = boards::find(Some("qemu-q35"), None)?;
    cases.push(Case::machine(q35.arch, "devices/q35/reach", move || {
        reach(q35)
    }));
    Ok(cases)
}

/// The hypervisor's memory, RAM that dom0 was not given, and addresses of nothing read as all ones, and stay so when they are
/// written; a device's memory above all RAM is dom0's.
fn reach(board: &'static Board) -> Result<()> {
    const FREE_RAM: u64 = 0x3000_0000;
    const NOTHING: u64 = 0x5000_0000;
    const BESIDE_THE_IOAPIC: u64 = 0xfec1_0000;
    let mut machine = machine(board, "", Some(Dom0Kind::Pvh))?;
    let image = elf::flatten(&paths::read(&build::hypervisor(board.arch)?.elf)?)?.start;
    let addresses = [image, image + 0x1000, FREE_RAM, NOTHING, BESIDE_THE_IOAPIC];
    machine.extra = [
        "-object",
        "memory-backend-ram,id=far,size=4G,share=on",
        "-device",
        "ivshmem-plain,memdev=far",
    ]
    .map(str::to_string)
    .to_vec();
    let name = "devices-q35-reach";
    let mut qemu = machine.command(Terminal::Pipes, name)?;
    let mut console = Console::start(&mut qemu, name, LIMIT, Echo::Log)?;
    console.wait_for(rootfs::PROMPT)?;
    let list = addresses.map(|address| format!(" {address:#x}")).concat();
    console.send(&format!("sh /modules/reach{list}\n"))?;
    let said = console.wait_for("devices: end")?;
    for address in addresses {
        let line = format!("devices: at {address:#x} 0xFFFFFFFF 0xFFFFFFFF");
        ensure!(said.contains(&line), "no \"{line}\"\n{}", console.tail());
    }
    let own = said
        .lines()
        .find_map(|line| line.split_once("devices: own 0x"));
    let own = own.and_then(|(_, own)| own.trim().split_once(' '));
    let (address, value) = own.context("the device with 4 GiB was not found")?;
    ensure!(
        u64::from_str_radix(address, 16)? >= 1 << 32 && value == "0x12345678",
        "the device's memory at 0x{address} says {value}"
    );
    off(&mut console)
}

fn off(console: &mut Console) -> Result<()> {
    console.send("exit\n")?;
    console.wait_for("Power down")?;
    console.wait_for_power_off()
}

fn check(board: &'static Board, row: &Row) -> Result<()> {
    let name = format!("devices-{}", row.name.replace('/', "-"));
    let known = known_file(&name)?;
    let image = paths::work().join(format!("{name}.img"));
    disk::write(&image, &[(KNOWN, known.clone())])?;
    let mut machine = machine(board, row.words, row.dom0)?;
    machine.extra = hardware(row, &image, &known);
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, LIMIT, Echo::Log)?;
    console.wait_for(rootfs::PROMPT)?;
    console.send(&format!("sh /modules/check {}\n", DISKS + CARDS))?;
    let said = console.wait_for("devices: end")?;
    compare(&said, &sum(&known)?, row.interrupts).with_context(|| console.tail())?;
    off(&mut console)
}

/// A machine whose root has the drivers and the scripts.
///
/// A paravirtual dom0 gets a CPU without virtualization.
fn machine(
    board: &'static Board,
    words: &str,
    dom0: Option<Dom0Kind>,
) -> Result<crate::emulator::Machine> {
    let debian = Debian::fetch(board.arch)?;
    let (modules, cpus) = match board.arch {
        Arch::Riscv64 => (RISCV_MODULES, board.cpus),
        _ => (MODULES, 2),
    };
    let mut order = String::new();
    let mut extra = Vec::new();
    for module in modules {
        let file = format!("{module}.ko");
        order += &format!("{file}\n");
        let content = paths::read(&debian.module(&file)?)?;
        extra.push(Extra::new(&format!("modules/{file}"), content));
    }
    let scripts = [
        ("order", order.as_str()),
        ("check", include_str!("devices.sh")),
        ("lease", include_str!("lease.sh")),
        ("reach", include_str!("reach.sh")),
    ];
    extra.extend(
        scripts.map(|(name, text)| Extra::new(&format!("modules/{name}"), text.as_bytes().into())),
    );
    let root = rootfs::with(board.arch.name(), &debian.busybox(), "modules", &extra)?;
    let args = MachineArgs {
        board: Some(board.name.to_string()),
        initrd: Some(root),
        smp: Some(cpus),
        memory: Some(1024),
        dom0,
        cpu: matches!(dom0, Some(Dom0Kind::Pv)).then(|| "qemu64".to_string()),
        append: Some(words.to_string()),
        ..MachineArgs::default()
    };
    args.machine(None)
}

/// QEMU's words: two disks with the same content, two network cards, each in a network of its own.
fn hardware(row: &Row, image: &Path, known: &Path) -> Vec<String> {
    let image = image.display();
    let served = known.parent().unwrap_or(known).display();
    let disk = |id| format!("if=none,id={id},format=raw,snapshot=on,file={image}");
    let network = |id, number| format!("user,id={id},net=10.0.{number}.0/24,tftp={served}");
    // The boot ROM of a card on PCI would only look for something to boot.
    let card = |kind: &str, id| match kind.ends_with("-device") {
        true => format!("{kind},netdev={id}"),
        false => format!("{kind},netdev={id},romfile="),
    };
    let words = [
        ("-drive", disk("d0")),
        ("-drive", disk("d1")),
        ("-netdev", network("n0", 2)),
        ("-netdev", network("n1", 3)),
        ("-device", format!("{},drive=d0", row.disk)),
        ("-device", "virtio-blk-pci,drive=d1".into()),
        ("-device", card(row.card, "n0")),
        ("-device", card("virtio-net-pci", "n1")),
    ];
    words
        .into_iter()
        .flat_map(|(option, value)| [option.to_string(), value])
        .collect()
}

/// A file of 300,000 bytes, the same each time, in a folder of its own.
fn known_file(test: &str) -> Result<PathBuf> {
    let file = paths::work().join(format!("{test}-served")).join(KNOWN);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(300_000)
    .collect();
    paths::write(&file, &bytes)?;
    Ok(file)
}

fn sum(file: &Path) -> Result<String> {
    let said = process::output(std::process::Command::new("md5sum").arg(file))?;
    let sum = said.split_whitespace().next();
    Ok(sum.context("md5sum says nothing")?.to_string())
}

/// Looks at what the script printed.
fn compare(said: &str, sum: &str, interrupts: &[(&str, &str)]) -> Result<()> {
    let lines = || {
        said.lines()
            .filter_map(|line| line.trim().strip_prefix("devices: "))
    };
    for (kind, count) in [("disk ", DISKS), ("card ", CARDS)] {
        let right = lines().filter(|line| line.starts_with(kind) && line.contains(sum));
        ensure!(
            right.count() == count,
            "not every {kind}of {count} gave the file of sum {sum}"
        );
    }
    for (who, how) in interrupts {
        let count = |line: &str| {
            let words = line.split_whitespace().skip(2);
            words
                .map_while(|word| word.parse::<u64>().ok())
                .sum::<u64>()
        };
        let is_it = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            line.contains(who) && words.join(" ").contains(how)
        };
        ensure!(
            lines().any(|line| is_it(line) && count(line) > 0),
            "no interrupt of {who} came by {how}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "devices: disk sda abc  -\r\ndevices: disk vda abc  -\r\ndevices: card eth0 abc  -\r\n\
        devices: card eth1 abc  -\r\ndevices: interrupt  35:    8   PCI-MSI 512000-edge      ahci[0000:00:1f.2]\r\n\
        devices: interrupt  30:    0   PCI-MSI 32768-edge      virtio0-config\r\n";

    #[test]
    fn the_file_must_come_from_every_disk_and_card() {
        compare(SAID, "abc", &[("ahci", MESSAGES)]).unwrap();
        assert!(compare(SAID, "abd", &[]).is_err());
        assert!(compare(&SAID.replace("eth1 abc", "eth1 "), "abc", &[]).is_err());
    }

    #[test]
    fn a_device_that_never_interrupted_is_named() {
        assert!(compare(SAID, "abc", &[("ahci", LINES)]).is_err());
        let error = compare(SAID, "abc", &[("virtio0", MESSAGES)]).unwrap_err();
        assert!(error.to_string().contains("virtio0"));
    }
}
