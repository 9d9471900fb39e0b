//! The three machine architectures and what differs between them for building and running.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::paths;

/// A machine architecture that Xenolith is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// ARMv8 with EL2
    Aarch64,
    /// RISC-V with the H extension
    Riscv64,
    /// x86-64
    #[value(name = "x86_64")]
    X86_64,
}

impl Arch {
    /// All of them, in the order of the help text.
    pub(crate) const ALL: [Arch; 3] = [Arch::Aarch64, Arch::Riscv64, Arch::X86_64];

    /// The one that is meant where neither an architecture nor a board is named.
    pub(crate) const DEFAULT: Arch = Arch::X86_64;

    /// The name on the command line, in file names and in Rust's target names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::Riscv64 => "riscv64",
            Arch::X86_64 => "x86_64",
        }
    }

    /// The package of the bootable image.
    pub(crate) fn image_package(self) -> &'static str {
        match self {
            Arch::Aarch64 => "xenolith-arm64",
            Arch::Riscv64 => "xenolith-riscv64",
            Arch::X86_64 => "xenolith-x86_64",
        }
    }

    /// The name of the Rust target that the image is built for: a file `targets/NAME.json`.
    pub(crate) fn image_target(self) -> String {
        format!("{}-xenolith", self.name())
    }

    /// The Rust target of the test guests, where there are any for this architecture yet.
    pub(crate) fn guest_target(self) -> Option<String> {
        let name = format!("{}-guest", self.name());
        paths::root()
            .join(format!("targets/{name}.json"))
            .exists()
            .then_some(name)
    }

    /// Debian's name of the architecture.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Arch::Aarch64 => "arm64",
            Arch::Riscv64 => "riscv64",
            Arch::X86_64 => "amd64",
        }
    }

    /// The emulator of this architecture.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Arch::Aarch64 => "qemu-system-aarch64",
            Arch::Riscv64 => "qemu-system-riscv64",
            Arch::X86_64 => "qemu-system-x86_64",
        }
    }

    /// What gdb calls the architecture.
    pub(crate) fn gdb(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::Riscv64 => "riscv:rv64",
            Arch::X86_64 => "i386:x86-64",
        }
    }

    /// The folder of this architecture's built images.
    pub(crate) fn images(self) -> PathBuf {
        paths::images().join(self.name())
    }
}
