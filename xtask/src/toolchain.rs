//! Finds a Rust toolchain that can build for bare metal, which needs the source of the standard library.
//!
//! Two ways: a rustup toolchain that has the component `rust-src`, or Debian's packages `rustc-web`, `cargo-web` and
//! `rust-web-src`. Both are stable compilers; `RUSTC_BOOTSTRAP` opens `-Zbuild-std` and custom targets to them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{paths, process};

/// Debian's packages that make the second way.
pub(crate) const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "lld"];

/// Environment of rustup and of the cargo that runs xtask, which must not leak into another toolchain.
const FOREIGN_ENVIRONMENT: &[&str] = &[
    "RUSTUP_TOOLCHAIN",
    "RUSTUP_TOOLCHAIN_SOURCE",
    "CARGO",
    "RUSTC",
    "RUSTDOC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_MANIFEST_DIR",
    "LD_LIBRARY_PATH",
];

/// A toolchain that can build `core` and `alloc` for our own targets.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// Where it was found, for messages.
    pub(crate) origin: &'static str,
    cargo: PathBuf,
    rustc: PathBuf,
    /// The linker, where it is not the `ld.lld` that the target files name.
    linker: Option<PathBuf>,
    /// The driver of clippy of the same version, where it is installed.
    clippy: Option<PathBuf>,
}

impl Toolchain {
    /// Finds one, or says exactly what to install.
    pub(crate) fn find() -> Result<Toolchain> {
        if let Some(found) = rustup().or_else(debian) {
            return Ok(found);
        }
        bail!(
            "no Rust toolchain here can build for bare metal. Either\n\
             - as root on Debian 12: `cargo xtask setup`, which installs {}\n\
             - with rustup: `rustup component add rust-src`",
            DEBIAN_PACKAGES.join(" ")
        );
    }

    /// Whether it is Debian's, so that Debian's packages of the same version belong to it.
    pub(crate) fn is_debian(&self) -> bool {
        self.rustc.starts_with("/usr/bin")
    }

    /// A cargo command of this toolchain for `target`, a file name in `targets/` without its ending.
    pub(crate) fn cargo(&self, verb: &str, target: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        for name in FOREIGN_ENVIRONMENT {
            command.env_remove(name);
        }
        command
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(paths::root());
        command
            .arg(verb)
            .arg("--target")
            .arg(format!("targets/{target}.json"));
        command.arg("--target-dir").arg(self.output_folder());
        command.args([
            "-Zbuild-std=core,alloc,compiler_builtins",
            "-Zbuild-std-features=compiler-builtins-mem",
            "-Zjson-target-spec",
        ]);
        if let Some(linker) = &self.linker {
            command.arg("--config").arg(format!(
                "target.{target}.linker={:?}",
                linker.display().to_string()
            ));
        }
        command
    }

    /// The same command run by clippy, if this toolchain has it.
    pub(crate) fn clippy(&self, target: &str) -> Option<Command> {
        let driver = self.clippy.as_ref()?;
        let mut command = self.cargo("check", target);
        command.env("RUSTC_WORKSPACE_WRAPPER", driver);
        // What `cargo clippy -- -D warnings` hands to the driver: the words, each with this mark behind it.
        command.env(
            "CLIPPY_ARGS",
            ["-D", "warnings", ""].join("__CLIPPY_HACKERY__"),
        );
        Some(command)
    }

    /// Where this toolchain's build products go: apart from the host's, so that neither waits for the other.
    pub(crate) fn output_folder(&self) -> PathBuf {
        paths::images().join("cargo")
    }
}

/// The rustup toolchain in use, if it has the library source and a linker.
fn rustup() -> Option<Toolchain> {
    let sysroot = process::output(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(paths::root()),
    )
    .ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    if !sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .exists()
        || !sysroot.join("bin/cargo").exists()
    {
        return None;
    }
    let version = process::output(Command::new(sysroot.join("bin/rustc")).arg("-vV")).ok()?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))?;
    let bundled = sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
    let linker = bundled.exists().then_some(bundled);
    if linker.is_none() && !process::exists("ld.lld") {
        return None;
    }
    Some(Toolchain {
        origin: "rustup with rust-src",
        cargo: sysroot.join("bin/cargo"),
        rustc: sysroot.join("bin/rustc"),
        linker,
        clippy: present(&sysroot.join("bin/clippy-driver")),
    })
}

/// Debian's compiler and library source.
fn debian() -> Option<Toolchain> {
    let library = Path::new("/usr/lib/rustlib/src/rust/library/core/src/lib.rs");
    let (cargo, rustc) = (
        present(Path::new("/usr/bin/cargo"))?,
        present(Path::new("/usr/bin/rustc"))?,
    );
    let complete = library.exists() && process::exists("ld.lld");
    complete.then(|| Toolchain {
        origin: "Debian's rustc-web",
        cargo,
        rustc,
        linker: None,
        clippy: present(Path::new("/usr/bin/clippy-driver")),
    })
}

fn present(path: &Path) -> Option<PathBuf> {
    path.exists().then(|| path.to_path_buf())
}
