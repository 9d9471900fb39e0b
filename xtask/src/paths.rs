//! Where things live: the workspace root and the folders that xtask writes to.
//!
//! Everything that xtask makes is under `target/`: built images in `target/xenolith`, downloads, roots, logs and
//! results in `target/xtask`. Nothing is written elsewhere in the tree.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace root: the folder above this crate, or the one named by `XTASK_ROOT`.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// Built images: `target/xenolith`.
pub(crate) fn images() -> PathBuf {
    root().join("target/xenolith")
}

/// Downloads, roots, logs, results: `target/xtask`.
pub(crate) fn work() -> PathBuf {
    root().join("target/xtask")
}

/// Packages fetched from Debian, kept by `clean` unless `--all` is given.
pub(crate) fn cache() -> PathBuf {
    work().join("cache")
}

/// Console logs, one per emulator run.
pub(crate) fn logs() -> PathBuf {
    work().join("logs")
}

/// `path` relative to the workspace root where it is inside it: shorter to read in messages.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Makes a folder and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Reads a whole file, naming it in the error.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a whole file, naming it in the error. A half-written file never keeps the final name.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.part", std::process::id()));
    let partial = PathBuf::from(partial);
    fs::write(&partial, bytes).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}
