//! `cargo xtask boards`: what there is to run on.

use anyhow::Result;

use crate::arch::Arch;
use crate::boards;

/// Lists the boards, of one architecture if it is given.
pub(crate) fn run(arch: Option<Arch>) -> Result<()> {
    println!(
        "{:18} {:8} {:>4} {:>8}  description",
        "board", "arch", "CPUs", "memory"
    );
    for board in boards::ALL
        .iter()
        .filter(|board| arch.is_none_or(|arch| board.arch == arch))
    {
        let memory = format!("{} MiB", board.memory);
        println!(
            "{:18} {:8} {:>4} {:>8}  {}",
            board.name,
            board.arch.name(),
            board.cpus,
            memory,
            board.summary
        );
    }
    Ok(())
}
