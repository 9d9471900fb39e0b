//! The images build for every architecture, and are as small as promised.

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::verbs::build;
use crate::verbs::test::{Case, Needs};

/// Bytes of a flat image at most. On x86-64 there are three ways to run guests in it, each with hypercalls compiled for it.
const fn largest(arch: Arch) -> u64 {
    const MIB: u64 = 1 << 20;
    match arch {
        Arch::X86_64 => MIB + MIB / 4,
        Arch::Aarch64 | Arch::Riscv64 => MIB,
    }
}

/// One test per architecture.
pub(crate) fn cases() -> Vec<Case> {
    let case = |arch: Arch| Case {
        name: format!("image/{}", arch.name()),
        needs: Needs::Toolchains,
        run: Box::new(move || check(arch)),
    };
    Arch::ALL.map(case).into()
}

fn check(arch: Arch) -> Result<()> {
    let built = build::hypervisor(arch)?;
    let most = largest(arch);
    ensure!(
        built.size <= most,
        "the image has {} bytes, at most {most} are promised",
        built.size
    );
    Ok(())
}
