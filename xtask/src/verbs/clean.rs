//! `cargo xtask clean`: removes what xtask made.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use crate::paths;

/// What to remove.
#[derive(Args, Debug)]
pub(crate) struct CleanArgs {
    /// Remove the packages fetched from Debian too (the next run fetches them again)
    #[arg(long)]
    all: bool,
}

/// Removes `target/xenolith` and `target/xtask`, except the fetched packages.
pub(crate) fn run(args: &CleanArgs) -> Result<()> {
    remove(&paths::images())?;
    if args.all {
        return remove(&paths::work());
    }
    let Ok(entries) = fs::read_dir(paths::work()) else {
        return Ok(());
    };
    for entry in entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path() != paths::cache())
    {
        remove(&entry.path())?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))?;
    println!("removed {}", paths::shown(path));
    Ok(())
}
