//! A machine in Bochs, which has Intel's VMX where QEMU has not: a CD that GRUB starts from, and the command line.
//!
//! Bochs wants a terminal for its serial line, so `script` gives it one and passes on what is said and typed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::emulator::{Boot, Files, Machine};
use crate::{paths, process};

/// Its CPU model: the newest of Intel's servers that it has.
const MODEL: &str = "corei7_skylake_x";
/// More CPUs than this get numbers that Xen's own rules do not allow.
pub(crate) const MOST_CPUS: u32 = 2;
/// Memory in MiB; more takes Bochs longer to start than the rest does.
pub(crate) const MEMORY: u64 = 768;
/// The console line, and the words that spare dom0 minutes of testing its ciphers.
pub(crate) const DOM0_WORDS: &str = "cryptomgr.notests";

/// The command that runs the machine with its console on plain pipes.
pub(crate) fn command(machine: &Machine, name: &str) -> Result<Command> {
    if machine.cpus == 0 || machine.cpus > MOST_CPUS {
        bail!("Bochs has 1 to {MOST_CPUS} CPUs here, not {}", machine.cpus);
    }
    let Boot::Direct(files) = &machine.boot else {
        bail!("Bochs starts from a CD that is made for each run: leave --uboot out");
    };
    let folder = paths::work().join(format!("bochs-{name}"));
    let place = |file: &str| folder.join(file);
    let disc = place("boot.iso");
    disc_image(files, &place("cd"), &disc)?;
    let settings = settings(machine, &disc, &place("bochs.log"));
    paths::write(&place("bochsrc"), settings.as_bytes())?;
    // Debian's Bochs has a debugger, which is told to go on.
    paths::write(&place("go"), b"c\n")?;
    // It calls the end of the machine a failure; what the machine said tells more.
    let bochs = format!(
        "bochs -q -f '{}' -rc '{}' >'{}' 2>&1 </dev/null; true",
        place("bochsrc").display(),
        place("go").display(),
        place("output").display(),
    );
    let mut command = Command::new("script");
    command.args(["-q", "-f", "-e", "-c", &bochs, "/dev/null"]);
    Ok(command)
}

fn settings(machine: &Machine, disc: &Path, log: &Path) -> String {
    let model = machine.cpu.as_deref().unwrap_or(MODEL);
    let (cpus, memory) = (machine.cpus, machine.memory);
    [
        format!("cpu: model={model}, count={cpus}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1"),
        format!("memory: guest={memory}, host={memory}"),
        "romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot".into(),
        "vgaromimage: file=/usr/share/vgabios/vgabios.bin".into(),
        "display_library: rfb, options=\"timeout=0\"".into(),
        "clock: sync=none".into(),
        "sound: driver=dummy".into(),
        format!("ata0-master: type=cdrom, path=\"{}\", status=inserted", disc.display()),
        "boot: cdrom".into(),
        "com1: enabled=1, mode=term, dev=/dev/tty".into(),
        format!("log: \"{}\"", log.display()),
        "panic: action=fatal".into(),
        String::new(),
    ]
    .join("\n")
}

/// Makes a CD with GRUB, the hypervisor and dom0's files.
fn disc_image(files: &Files, folder: &Path, disc: &Path) -> Result<()> {
    let boot = folder.join("boot");
    paths::make_dir(&boot.join("grub"))?;
    let copy = |file: &Path, name: &str| {
        std::fs::copy(file, boot.join(name))
            .with_context(|| format!("cannot copy {}", paths::shown(file)))
    };
    copy(&files.hypervisor, "hypervisor")?;
    let mut menu = format!(
        "set timeout=0\nmenuentry x {{\nmultiboot2 /boot/hypervisor {}\n",
        files.words
    );
    if let Some(dom0) = &files.dom0 {
        copy(&dom0.kernel, "kernel")?;
        menu += &format!("module2 /boot/kernel {}\n", dom0.words);
        if let Some(initrd) = &dom0.initrd {
            copy(initrd, "initrd")?;
            menu += "module2 /boot/initrd\n";
        }
    }
    menu += "}\n";
    paths::write(&boot.join("grub/grub.cfg"), menu.as_bytes())?;
    process::output(Command::new("grub-mkrescue").arg("-o").args([disc, folder])).map(drop)
}
