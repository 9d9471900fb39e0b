//! The images build for every architecture, and are as small as promised.

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::verbs::build;
use crate::verbs::test::Case;

/// Bytes of a flat image at most.
const LARGEST: u64 = 1 << 20;

/// One test per architecture.
pub(crate) fn cases() -> Vec<Case> {
    let case =
        |arch: Arch| Case::build(arch, format!("image/{}", arch.name()), move || check(arch));
    Arch::ALL.map(case).into()
}

fn check(arch: Arch) -> Result<()> {
    let built = build::hypervisor(arch)?;
    let most = LARGEST;
    ensure!(
        built.size <= most,
        "the image has {} bytes, at most {most} are promised",
        built.size
    );
    Ok(())
}
