//! Our test guests, as dom0 on Xenolith and on Debian's Xen: both must answer alike.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::boards::{self, Board, Stage};
use crate::guest::{self, On, Run};
use crate::results;
use crate::verbs::build;
use crate::verbs::test::{Case, Needs, differences};

/// A guest and how it is run.
struct Plan {
    guest: &'static str,
    /// Stands behind the board's name where a guest runs twice.
    variant: &'static str,
    /// The only architecture that has it so.
    only: Option<Arch>,
    cpus: u32,
    words: &'static str,
    limit: u64,
}

/// The guests that test; those that measure belong to `bench`.
const PLANS: &[Plan] = &[
    Plan {
        guest: "guest-abi",
        variant: "",
        only: None,
        cpus: 1,
        words: "",
        limit: 120,
    },
    Plan {
        guest: "guest-traps",
        variant: "",
        only: None,
        cpus: 1,
        words: "",
        limit: 120,
    },
    Plan {
        guest: "guest-smp",
        variant: "",
        only: None,
        cpus: 4,
        words: "",
        limit: 180,
    },
    // CPUs start by `VCPUOP_initialise` instead of INIT and SIPI.
    Plan {
        guest: "guest-smp",
        variant: "/vcpu-op",
        only: Some(Arch::X86_64),
        cpus: 4,
        words: "start=vcpu_op",
        limit: 180,
    },
    // The guest's own million of calls takes a minute or more in an emulator.
    Plan {
        guest: "guest-fuzz",
        variant: "",
        only: None,
        cpus: 1,
        words: "calls=20000",
        limit: 180,
    },
];

/// One test per guest and board.
pub(crate) fn cases() -> Vec<Case> {
    let boards = boards::ALL
        .iter()
        .filter(|board| matches!(board.stage, Stage::Dom0));
    boards
        .flat_map(|board| PLANS.iter().map(move |plan| (*board, plan)))
        .filter(|(board, plan)| plan.only.is_none_or(|arch| arch == board.arch))
        .map(|(board, plan)| case(board, plan))
        .collect()
}

fn case(board: &'static Board, plan: &'static Plan) -> Case {
    Case {
        name: format!("guest/{}/{}{}", plan.guest, board.name, plan.variant),
        needs: Needs::Emulator,
        run: Box::new(move || compare(board, plan)),
    }
}

fn compare(board: &'static Board, plan: &Plan) -> Result<()> {
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == plan.guest);
    let guest =
        guest.with_context(|| format!("package xenolith-guests has no program {}", plan.guest))?;
    // Xen on x86-64 waits for a person after dom0 powered off; a restart ends the emulator on both.
    let end = match board.arch {
        Arch::X86_64 => " end=reboot",
        _ => "",
    };
    let words = format!("{}{end}", plan.words);
    let how = Run {
        board,
        cpus: plan.cpus,
        icount: false,
        emulator: None,
        words: words.trim(),
        xen_words: "",
        limit: Duration::from_secs(plan.limit),
    };
    let ours = guest::run(guest, On::Xenolith, &how)?;
    let theirs = guest::run(guest, On::Xen, &how)?;
    let listed = differences::Listed::read();
    let known = |case: &str| listed.holds(&guest.name, board.arch, case);
    let found = results::differences(&ours, &theirs, &known);
    if !found.is_empty() {
        bail!(
            "{} of {} cases differ (mend them, or list them in docs/compatibility.md):\n{}",
            found.len(),
            ours.cases.len(),
            found.join("\n")
        );
    }
    Ok(())
}
