//! The emulator's command line of one machine: board, boot files, console. QEMU's is here, that of Bochs in `bochs.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::arch::Arch;
use crate::boards::{Board, Modules};
use crate::bochs;
use crate::device_tree::{self, Tree};
use crate::layout::{self, Layout, Sizes};
use crate::{grub, paths, process};

/// The program that plays the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Emulator {
    /// QEMU
    #[default]
    Qemu,
    /// Bochs, which has Intel's VMX
    Bochs,
}

/// A machine's memory of so many MiB is the host's own from the start.
const MOST_RESERVED: u64 = 64 << 10;

/// A machine to be started.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The board that QEMU models.
    pub(crate) board: &'static Board,
    /// What runs it.
    pub(crate) on: Emulator,
    /// Processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory: u64,
    /// Another emulator than the installed one.
    pub(crate) emulator: Option<PathBuf>,
    /// Another processor model than the board's.
    pub(crate) cpu: Option<String>,
    /// Count instructions: one is a nanosecond of the machine's time.
    pub(crate) icount: bool,
    /// With `icount`: record the run in this file, so that QEMU knows the count.
    pub(crate) record: Option<PathBuf>,
    /// What starts it.
    pub(crate) boot: Boot,
    /// On boards with `Modules::Plain`: the kernel is dom0, and not the first domain of the tree, with control.
    pub(crate) has_dom0: bool,
    /// A device tree in place of the machine's own.
    pub(crate) tree: Option<Tree>,
    /// Wait for gdb on this TCP port before the first instruction.
    pub(crate) gdb: Option<u16>,
    /// Further words for QEMU.
    pub(crate) extra: Vec<String>,
    /// Where the loader takes a list of modules: those behind dom0's.
    pub(crate) more_modules: Vec<PathBuf>,
    /// Where GRUB tells of the modules: how.
    pub(crate) grub: grub::Protocol,
}

/// What a machine starts from.
#[derive(Clone, Debug)]
pub(crate) enum Boot {
    /// QEMU loads the files itself.
    Direct(Files),
    /// Firmware and a boot loader read them from an image.
    Image {
        /// QEMU's words for the firmware and for what the image is in.
        words: Vec<String>,
    },
}

/// The files of a direct boot.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Xenolith, or Xen in a reference run.
    pub(crate) hypervisor: PathBuf,
    /// The hypervisor's own command line.
    pub(crate) words: String,
    /// The domains' files.
    pub(crate) dom0: Option<Dom0>,
}

impl Files {
    /// The sizes from which the places in memory follow.
    pub(crate) fn sizes(&self, dom0: &Dom0) -> Result<Sizes> {
        Ok(Sizes {
            hypervisor: hypervisor_room(&self.hypervisor)?,
            kernel: size(&dom0.kernel)?,
            initrd: dom0.initrd.as_deref().map(size).transpose()?,
        })
    }
}

/// dom0's files and command line.
#[derive(Clone, Debug)]
pub(crate) struct Dom0 {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// The initial root.
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub(crate) words: String,
}

/// How the console is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal<'a> {
    /// The user's terminal, in raw mode; Ctrl-] is the escape to QEMU.
    Users {
        /// What the machine says goes here too.
        log: &'a Path,
    },
    /// Plain pipes.
    Pipes,
}

impl Machine {
    /// The board as it is, with nothing special.
    pub(crate) fn new(board: &'static Board, boot: Boot) -> Machine {
        Machine {
            board,
            on: Emulator::Qemu,
            cpus: board.cpus,
            memory: board.memory,
            emulator: None,
            cpu: None,
            icount: false,
            record: None,
            boot,
            has_dom0: false,
            tree: None,
            gdb: None,
            extra: Vec::new(),
            more_modules: Vec::new(),
            grub: grub::Protocol::default(),
        }
    }

    /// The emulator's command line. `name` distinguishes files made for this run from those of another at the same time.
    pub(crate) fn command(&self, terminal: Terminal<'_>, name: &str) -> Result<Command> {
        match self.on {
            Emulator::Qemu => self.qemu(terminal, name),
            Emulator::Bochs => bochs::command(self, terminal, name),
        }
    }

    fn qemu(&self, terminal: Terminal<'_>, name: &str) -> Result<Command> {
        if self.cpus == 0 || self.cpus > self.board.most_cpus {
            bail!(
                "board {} has 1 to {} CPUs, not {}",
                self.board.name,
                self.board.most_cpus,
                self.cpus
            );
        }
        let emulator = self.emulator.as_deref();
        let mut qemu = Command::new(emulator.unwrap_or_else(|| Path::new(self.board.arch.qemu())));
        qemu.args(self.board.qemu).args([
            "-accel",
            if self.icount {
                "tcg"
            } else if self.board.arch == Arch::X86_64 {
                // QEMU 7.2 loses interrupts of a CPU at an exit of SVM if other threads raise them then: it changes the
                // word of pending ones without a lock (`do_vmexit`).
                "tcg,thread=single"
            } else {
                "tcg,thread=multi"
            },
        ]);
        if let Some(cpu) = self.cpu.as_deref().or(self.board.cpu) {
            qemu.args(["-cpu", cpu]);
        }
        qemu.arg("-smp")
            .arg(self.cpus.to_string())
            .arg("-m")
            .arg(self.memory.to_string());
        if self.memory > MOST_RESERVED {
            // More than the host may have: it gives what is touched.
            qemu.args(["-machine", "memory-backend=memory"])
                .arg("-object")
                .arg(format!(
                    "memory-backend-ram,id=memory,size={}M,reserve=off",
                    self.memory
                ));
        }
        qemu.args(["-display", "none", "-nic", "none"]);
        if self.icount {
            let record = self
                .record
                .as_ref()
                .map(|file| format!(",rr=record,rrfile={}", escaped(&file.display().to_string())));
            qemu.arg("-icount")
                .arg(format!("shift=0,sleep=off{}", record.unwrap_or_default()));
        }
        console(&mut qemu, terminal);
        match &self.boot {
            Boot::Direct(files) => self.direct(&mut qemu, files, name)?,
            Boot::Image { words } => drop(qemu.args(words)),
        }
        if let Some(port) = self.gdb {
            qemu.args(["-S", "-gdb"])
                .arg(format!("tcp:127.0.0.1:{port}"));
        }
        qemu.args(&self.extra);
        Ok(qemu)
    }

    /// The machine's device tree as it is without boot modules.
    pub(crate) fn own_tree(&self, name: &str) -> Result<Tree> {
        if let Modules::DeviceTree { file, corrections } = &self.board.modules {
            return Tree::from_kernel_package(self.board.arch, file, corrections);
        }
        let mut bare = self.clone();
        if let Boot::Direct(files) = &mut bare.boot {
            files.dom0 = None;
        }
        let file = paths::work().join(format!("{name}-own.dtb"));
        paths::make_dir(&paths::work())?;
        let mut qemu = bare.command(Terminal::Pipes, name)?;
        let dump = escaped(&file.display().to_string());
        process::output(qemu.arg("-machine").arg(format!("dumpdtb={dump}")))?;
        Ok(Tree {
            machine: device_tree::decompile(&file)?,
            amendments: String::new(),
        })
    }

    /// Where the boot modules go, if there are any.
    pub(crate) fn layout(&self) -> Result<Option<Layout>> {
        match &self.boot {
            Boot::Direct(files) => files
                .dom0
                .as_ref()
                .map(|dom0| self.place(files, dom0))
                .transpose(),
            Boot::Image { .. } => Ok(None),
        }
    }

    /// Behind this address nothing lies that was loaded for the hypervisor or dom0.
    pub(crate) fn modules_end(&self) -> Result<u64> {
        let Boot::Direct(files) = &self.boot else {
            bail!("only a direct boot takes further files");
        };
        if let Some(layout) = self.layout()? {
            return Ok(layout.initrd.unwrap_or(layout.kernel).end());
        }
        let sizes = Sizes {
            hypervisor: hypervisor_room(&files.hypervisor)?,
            kernel: 0,
            initrd: None,
        };
        let layout = layout::place(self.board.memory_start, self.memory << 20, sizes)?;
        Ok(layout.kernel.address)
    }

    fn place(&self, files: &Files, dom0: &Dom0) -> Result<Layout> {
        layout::place(
            self.board.memory_start,
            self.memory << 20,
            files.sizes(dom0)?,
        )
    }

    /// Without dom0: the tree that was made for the machine, if any.
    fn tree_alone(&self, qemu: &mut Command, name: &str) -> Result<()> {
        if let Some(tree) = &self.tree {
            let file = paths::work().join(format!("{name}.dtb"));
            tree.write(None, &file)?;
            qemu.arg("-dtb").arg(&file);
        }
        Ok(())
    }

    fn direct(&self, qemu: &mut Command, files: &Files, name: &str) -> Result<()> {
        qemu.arg("-kernel").arg(&files.hypervisor);
        if !files.words.is_empty() {
            qemu.arg("-append").arg(&files.words);
        }
        let Some(dom0) = &files.dom0 else {
            return self.tree_alone(qemu, name);
        };
        if let Modules::Multiboot = self.board.modules {
            multiboot(qemu, dom0, &self.more_modules);
            return Ok(());
        }
        let layout = self.place(files, dom0)?;
        if matches!(self.board.modules, Modules::Plain) && !self.has_dom0 {
            return self.first_domain(qemu, dom0, &layout, name);
        }
        if let Some(tree) = &self.tree {
            return loaded(qemu, tree, dom0, &layout, name);
        }
        match &self.board.modules {
            Modules::GuestLoader => guest_loader(qemu, dom0, &layout),
            Modules::DeviceTree { .. } | Modules::Plain => {
                loaded(qemu, &self.own_tree(name)?, dom0, &layout, name)?;
            }
            Modules::Multiboot => {}
        }
        Ok(())
    }

    /// The kernel as the first domain of the machine's own tree, with half of the memory.
    fn first_domain(
        &self,
        qemu: &mut Command,
        dom0: &Dom0,
        layout: &Layout,
        name: &str,
    ) -> Result<()> {
        let mut tree = match &self.tree {
            Some(tree) => tree.clone(),
            None => self.own_tree(name)?,
        };
        let memory = (self.memory / 2).min(1024);
        let node = device_tree::first_domain(dom0, layout, self.cpus, memory);
        // The first node is the first domain.
        tree.amendments.insert_str(0, &node);
        let file = paths::work().join(format!("{name}.dtb"));
        tree.write(None, &file)?;
        qemu.arg("-dtb").arg(&file);
        load_modules(qemu, dom0, layout);
        Ok(())
    }
}

fn console(qemu: &mut Command, terminal: Terminal<'_>) {
    match terminal {
        // signal=off puts Ctrl-C on the line to the guest; Ctrl-a, QEMU's usual escape, is Xenolith's.
        Terminal::Users { log } => {
            let log = escaped(&log.display().to_string());
            qemu.arg("-chardev")
                .arg(format!("stdio,id=console,mux=on,signal=off,logfile={log}"));
            qemu.args(["-echr", "0x1d", "-mon", "chardev=console,mode=readline"])
        }
        Terminal::Pipes => qemu.args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-monitor",
            "none",
            "-no-reboot",
        ]),
    };
    qemu.args(["-serial", "chardev:console"]);
}

/// The modules by QEMU's own device, which also adds their nodes to the machine's tree.
fn guest_loader(qemu: &mut Command, dom0: &Dom0, layout: &Layout) {
    let words = if dom0.words.is_empty() {
        String::new()
    } else {
        format!(",bootargs={}", escaped(&dom0.words))
    };
    let kernel = escaped(&dom0.kernel.display().to_string());
    qemu.arg("-device").arg(format!(
        "guest-loader,addr={:#x},kernel={kernel}{words}",
        layout.kernel.address
    ));
    if let (Some(place), Some(initrd)) = (layout.initrd, &dom0.initrd) {
        let initrd = escaped(&initrd.display().to_string());
        qemu.arg("-device").arg(format!(
            "guest-loader,addr={:#x},initrd={initrd}",
            place.address
        ));
    }
}

/// The modules as QEMU's Multiboot loader takes them: a list of files, each with its words behind it.
fn multiboot(qemu: &mut Command, dom0: &Dom0, more: &[PathBuf]) {
    let mut list = escaped(format!("{} {}", dom0.kernel.display(), dom0.words).trim());
    for file in dom0.initrd.iter().chain(more) {
        list = format!("{list},{}", escaped(&file.display().to_string()));
    }
    qemu.arg("-initrd").arg(list);
}

/// The modules loaded plainly, and a tree that names them.
fn loaded(qemu: &mut Command, tree: &Tree, dom0: &Dom0, layout: &Layout, name: &str) -> Result<()> {
    let file = paths::work().join(format!("{name}.dtb"));
    tree.write(Some((dom0, layout)), &file)?;
    qemu.arg("-dtb").arg(&file);
    load_modules(qemu, dom0, layout);
    Ok(())
}

fn load_modules(qemu: &mut Command, dom0: &Dom0, layout: &Layout) {
    load(qemu, layout.kernel.address, &dom0.kernel);
    if let (Some(place), Some(initrd)) = (layout.initrd, &dom0.initrd) {
        load(qemu, place.address, initrd);
    }
}

fn load(qemu: &mut Command, address: u64, file: &Path) {
    qemu.args(["-device", &loader(address, file)]);
}

/// QEMU's words for a file that is put in memory as it is.
pub(crate) fn loader(address: u64, file: &Path) -> String {
    format!(
        "loader,addr={address:#x},file={},force-raw=on",
        escaped(&file.display().to_string())
    )
}

/// Room for a hypervisor and the zeroed data behind its image.
fn hypervisor_room(image: &Path) -> Result<u64> {
    Ok(size(image)?.max(4 << 20))
}

/// The length of a file in bytes.
pub(crate) fn size(file: &Path) -> Result<u64> {
    Ok(std::fs::metadata(file)
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", file.display()))?
        .len())
}

/// A value inside a QEMU option list: a comma is written twice.
pub(crate) fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}
