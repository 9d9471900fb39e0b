//! Finds a Rust toolchain that can build for bare metal, which needs the source of the standard library.
//!
//! Two ways: the toolchain in use, as rustup or the search path names it, if it has the component `rust-src`; or else
//! Debian's packages `rustc-web`, `cargo-web` and `rust-web-src`, whose sysroot is `/usr`. Both are stable compilers;
//! `RUSTC_BOOTSTRAP` opens `-Zbuild-std` and custom targets to them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{paths, process};

/// Debian's packages that make the second way.
pub(crate) const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "lld"];

/// Where Debian's packages install.
const DEBIAN_SYSROOT: &str = "/usr";

/// The oldest Rust 1.x that knows what the manifests and the target files use; `rust-version` in `Cargo.toml`.
const OLDEST_MINOR_RELEASE: u32 = 95;

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
    /// Finds one, or says exactly what is wrong with each that is there and what to install.
    pub(crate) fn find() -> Result<Toolchain> {
        let debian = PathBuf::from(DEBIAN_SYSROOT);
        let in_use = sysroot_in_use().filter(|sysroot| *sysroot != debian);
        let mut refused = String::new();
        for sysroot in in_use.into_iter().chain([debian]) {
            match Toolchain::of(&sysroot) {
                Ok(found) => return Ok(found),
                Err(reason) => refused += &format!("  {}: {reason}\n", sysroot.display()),
            }
        }
        let rustup_name = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or("stable".into());
        bail!(
            "no Rust toolchain here can build for bare metal:\n{refused}Do one of these:\n  \
             as root on Debian 12: `cargo xtask setup`, which installs {}\n  \
             with rustup: `rustup component add rust-src --toolchain {rustup_name}`",
            DEBIAN_PACKAGES.join(" ")
        );
    }

    /// The toolchain of `sysroot`, or what it lacks.
    fn of(sysroot: &Path) -> Result<Toolchain> {
        let rustc = sysroot.join("bin/rustc");
        if !rustc.exists() {
            bail!("no bin/rustc");
        }
        Toolchain::with_version(sysroot, &process::output(Command::new(rustc).arg("-vV"))?)
    }

    /// The toolchain of `sysroot`, whose compiler answers `-vV` with `version`.
    fn with_version(sysroot: &Path, version: &str) -> Result<Toolchain> {
        let program = |name: &str| {
            let path = sysroot.join("bin").join(name);
            path.exists().then_some(path)
        };
        let (Some(rustc), Some(cargo)) = (program("rustc"), program("cargo")) else {
            bail!("rustc without cargo beside it");
        };
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ").unwrap_or("?");
        if minor_release(release).is_none_or(|minor| minor < OLDEST_MINOR_RELEASE) {
            bail!(
                "Rust {release} is too old (1.{OLDEST_MINOR_RELEASE} is the oldest that will do)"
            );
        }
        let library = sysroot.join("lib/rustlib/src/rust/library");
        if !library.join("core/src/lib.rs").exists() {
            bail!("the source of the standard library is missing (component rust-src)");
        }
        let host = field("host: ").unwrap_or("?");
        let bundled = sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
        let linker = bundled.exists().then_some(bundled);
        if linker.is_none() && !process::exists("ld.lld") {
            bail!("no linker: neither its own rust-lld nor ld.lld (Debian's package lld)");
        }
        Ok(Toolchain {
            origin: if sysroot == Path::new(DEBIAN_SYSROOT) {
                "Debian's rustc-web"
            } else {
                "rustup with rust-src"
            },
            cargo,
            rustc,
            linker,
            clippy: program("clippy-driver"),
        })
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
            "-Zbuild-std-features=compiler-builtins-mem,optimize_for_size",
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

/// The sysroot of the `rustc` that the search path names: rustup's proxy names the toolchain in use.
fn sysroot_in_use() -> Option<PathBuf> {
    let mut command = Command::new("rustc");
    command
        .args(["--print", "sysroot"])
        .current_dir(paths::root());
    let sysroot = process::output(&mut command).ok()?;
    Some(PathBuf::from(sysroot.trim()))
}

/// The 95 of `1.95.0` or `1.95.0-nightly`.
fn minor_release(release: &str) -> Option<u32> {
    release.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIBRARY: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";
    const LINKER: &str = "lib/rustlib/here/bin/rust-lld";

    /// What is made of a folder with these files, whose compiler says that it is `release`.
    fn judged(name: &str, release: &str, has: &[&str]) -> Result<Toolchain> {
        let sysroot = std::env::temp_dir().join(format!("xenolith-{}-{name}", std::process::id()));
        for file in [&["bin/cargo", "bin/rustc"], has].concat() {
            let path = sysroot.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let version = format!("rustc {release}\nhost: here\nrelease: {release}\n");
        let found = Toolchain::with_version(&sysroot, &version);
        fs::remove_dir_all(sysroot).unwrap();
        found
    }

    #[test]
    fn a_toolchain_with_library_source_and_linker_is_taken_with_its_own_linker() {
        let found = judged("whole", "1.96.1", &[LIBRARY, LINKER]).unwrap();
        assert!(found.linker.unwrap().ends_with(LINKER));
        assert!(found.clippy.is_none());
    }

    #[test]
    fn what_a_toolchain_lacks_is_named() {
        let why = |name, release, has: &[&str]| judged(name, release, has).unwrap_err().to_string();
        assert!(why("nightly", "1.98.0-nightly", &[LINKER]).contains("component rust-src"));
        assert!(why("old", "1.63.0", &[LIBRARY, LINKER]).contains("1.63.0 is too old (1.95"));
        let nowhere = Toolchain::of(Path::new("/nonexistent")).unwrap_err();
        assert!(nowhere.to_string().contains("no bin/rustc"));
    }
}
