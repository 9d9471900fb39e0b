//! Errata of CPUs that a hypervisor must know of, and hooks for them.
//!
//! A row names the CPUs by their MIDR_EL1 (implementer, part, variant and revision range), as the vendors' errata
//! notices do. Each CPU looks once, when it joins. Most errata of Arm's cores concern EL1 software alone; rows here are
//! those where EL2 is what goes wrong or what can help.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A workaround, as a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Workaround {
    /// A stage 2 fault may be reported where stage 1 would have faulted (Cortex-A57 834220): ask stage 1 again.
    AskStage1 = 1 << 0,
}

struct Row {
    what: &'static str,
    implementer: u32,
    part: u32,
    /// Variant and revision, as `variant << 4 | revision`, first and last affected.
    revisions: (u32, u32),
    workaround: Workaround,
}

const ARM: u32 = 0x41;

static ROWS: &[Row] = &[Row {
    what: "Cortex-A57 erratum 834220",
    implementer: ARM,
    part: 0xd07,
    revisions: (0x00, 0x12),
    workaround: Workaround::AskStage1,
}];

/// Workarounds that some CPU of the machine needs.
static NEEDED: AtomicU32 = AtomicU32::new(0);

fn matching(midr: u64) -> impl Iterator<Item = &'static Row> {
    let (implementer, part) = ((midr >> 24) as u32 & 0xff, (midr >> 4) as u32 & 0xfff);
    let revision = (midr >> 16) as u32 & 0xf0 | midr as u32 & 0xf;
    ROWS.iter().filter(move |row| {
        row.implementer == implementer
            && row.part == part
            && (row.revisions.0..=row.revisions.1).contains(&revision)
    })
}

/// Looks at a CPU by its MIDR_EL1. Gives the names of what is worked around now, and had not been before.
pub fn look(midr: u64) -> impl Iterator<Item = &'static str> {
    let before = NEEDED.load(Relaxed);
    matching(midr).filter_map(move |row| {
        NEEDED.fetch_or(row.workaround as u32, Relaxed);
        (before & row.workaround as u32 == 0).then_some(row.what)
    })
}

/// Whether some CPU needs it.
#[inline(always)]
pub fn needs(workaround: Workaround) -> bool {
    NEEDED.load(Relaxed) & workaround as u32 != 0
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn a_cpu_is_known_by_part_and_revision() {
        let a57_r1p0 = 0x411f_d070;
        let names: Vec<&str> = matching(a57_r1p0).map(|row| row.what).collect();
        assert_eq!(names, ["Cortex-A57 erratum 834220"]);
        let a57_r1p3 = 0x411f_d073;
        assert_eq!(matching(a57_r1p3).count(), 0, "r1p3 has 834220 mended");
        assert_eq!(
            matching(0x410f_d034).count(),
            0,
            "Cortex-A53 needs nothing here"
        );
    }

    #[test]
    fn what_one_cpu_needs_is_told_once_and_done_everywhere() {
        assert_eq!(look(0x411f_d070).count(), 1);
        assert!(needs(Workaround::AskStage1));
        assert_eq!(look(0x411f_d070).count(), 0);
    }
}
