//! Our test guests, as dom0 on Xenolith and on Debian's Xen: both must answer alike. In Bochs, for Intel's VMX, only
//! Xenolith runs; its answers are held against those of Xen in QEMU.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::bochs;
use crate::emulator::Emulator;
use crate::guest::{self, Kind, On, PARAVIRTUAL_RUNS, Run};
use crate::results::{self, Outcome, Results};
use crate::verbs::build::{self, Built};
use crate::verbs::test::{Case, differences};

/// The board that PV guests run on.
const PV_BOARD: &str = "qemu-q35";

/// How often Xen is asked at most.
const REFERENCE_RUNS: usize = 3;

/// A guest and how it is run.
struct Plan {
    guest: &'static str,
    /// Stands behind the board's name where a guest runs twice.
    variant: &'static str,
    on: Where,
    cpus: u32,
    words: &'static str,
    /// Words for the hypervisor, whichever it is.
    both_words: &'static str,
    /// Words for Xenolith.
    xen_words: &'static str,
    /// Another CPU model for Xenolith.
    cpu: Option<&'static str>,
    limit: u64,
}

/// Which machines run a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Everywhere,
    /// Only x86-64 has it so, with each vendor's extensions.
    OnX86,
    /// Only RISC-V has it so.
    OnRiscv,
    /// Only Intel's extensions, in Bochs, have it so.
    OnVmx,
    /// It needs a CPU model of QEMU's.
    InQemu,
}

impl Where {
    fn includes(self, arch: Arch, emulator: Emulator) -> bool {
        match self {
            Self::Everywhere => true,
            Self::OnX86 => arch == Arch::X86_64,
            Self::OnRiscv => arch == Arch::Riscv64,
            Self::OnVmx => emulator == Emulator::Bochs,
            Self::InQemu => arch == Arch::X86_64 && emulator == Emulator::Qemu,
        }
    }
}

/// The guests that test; those that measure belong to `bench`.
const PLANS: &[Plan] = &[
    Plan {
        guest: "guest-abi",
        variant: "",
        on: Where::Everywhere,
        cpus: 1,
        words: "",
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 120,
    },
    // Four levels of second-stage tables.
    Plan {
        guest: "guest-abi",
        variant: "/sv48x4",
        on: Where::OnRiscv,
        cpus: 1,
        words: "",
        both_words: "",
        xen_words: "sv48x4",
        cpu: None,
        limit: 120,
    },
    Plan {
        guest: "guest-traps",
        variant: "",
        on: Where::Everywhere,
        cpus: 1,
        words: "",
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 120,
    },
    as_dom0("guest-abi"),
    as_dom0("guest-traps"),
    // The guest leaves its APIC in memory where it could have an x2APIC, which Xenolith would lend to Intel's CPUs.
    Plan {
        guest: "guest-traps",
        variant: "/xapic",
        on: Where::OnVmx,
        cpus: 1,
        words: "apic=xapic",
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 120,
    },
    Plan {
        guest: "guest-smp",
        variant: "",
        on: Where::Everywhere,
        cpus: 4,
        words: "",
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 180,
    },
    // CPUs start by `VCPUOP_initialise` instead of INIT and SIPI.
    Plan {
        guest: "guest-smp",
        variant: "/vcpu-op",
        on: Where::OnX86,
        cpus: 4,
        words: "start=vcpu_op",
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 180,
    },
    // The guest's own million of calls takes a minute or more in an emulator.
    Plan {
        guest: "guest-fuzz",
        variant: "",
        on: Where::Everywhere,
        cpus: 1,
        words: "calls=20000",
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 180,
    },
    paravirtual("guest-abi-pv", 1, ""),
    paravirtual("guest-traps-pv", 1, ""),
    paravirtual("guest-smp-pv", 4, ""),
    paravirtual("guest-fuzz-pv", 1, "calls=20000"),
    // A CPU with SYSENTER in long mode, which ends Debian's Xen there: Xen says what it makes of the rest.
    Plan {
        variant: SYSENTER,
        cpu: Some("max,-smap,-xsave,vendor=GenuineIntel"),
        ..paravirtual("guest-fuzz-pv", 1, "only=ways")
    },
    // Three vCPUs share one CPU.
    Plan {
        variant: "/overcommit",
        both_words: "dom0_max_vcpus=3",
        ..paravirtual(
            "guest-smp-pv",
            1,
            "shared=1 only=timer,cpu,runstate,info,ipi.to,ipi.from,event.ipi,debug",
        )
    },
    // Emulated CPUs load no microcode, but some models have a revision and the registers.
    Plan {
        variant: "/microcode-amd",
        on: Where::InQemu,
        cpu: Some("Opteron_G5,-smap,-xsave"),
        ..paravirtual("guest-abi-pv", 2, "only=microcode")
    },
    Plan {
        variant: "/microcode-intel",
        on: Where::InQemu,
        cpu: Some("Skylake-Server-v4,-smap,-xsave"),
        ..paravirtual("guest-abi-pv", 2, "only=microcode")
    },
    isolated("guest-abi-pv", 1, ""),
    isolated("guest-traps-pv", 1, ""),
    isolated("guest-smp-pv", 4, ""),
    isolated("guest-fuzz-pv", 1, "calls=20000"),
];

const fn paravirtual(guest: &'static str, cpus: u32, words: &'static str) -> Plan {
    Plan {
        guest,
        variant: "",
        on: Where::OnX86,
        cpus,
        words,
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 180,
    }
}

/// With memory 1:1 and all devices of the machine.
const fn as_dom0(guest: &'static str) -> Plan {
    Plan {
        guest,
        variant: guest::AS_DOM0,
        on: Where::OnRiscv,
        cpus: 1,
        words: "",
        both_words: "",
        xen_words: "",
        cpu: None,
        limit: 120,
    }
}

/// The variant with another vendor's CPU.
const SYSENTER: &str = "/sysenter";

/// The variant of [`isolated`].
const ISOLATED: &str = "/isolated";

/// With all that keeps a PV guest from the hypervisor's memory, on a CPU with SMEP and SMAP.
const fn isolated(guest: &'static str, cpus: u32, words: &'static str) -> Plan {
    Plan {
        variant: ISOLATED,
        xen_words: "xpti=1 pcid=1 spec-ctrl=pv",
        cpu: Some("max,-xsave"),
        ..paravirtual(guest, cpus, words)
    }
}

/// One test per guest and board, and per guest in Bochs.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let in_qemu = boards::ALL
        .iter()
        .flat_map(|board| PLANS.iter().map(move |plan| (*board, plan)))
        .filter(|(board, plan)| plan.on.includes(board.arch, Emulator::Qemu))
        .filter(|(board, plan)| match Kind::of(plan.guest) {
            Kind::Hardware => true,
            // One board shows it: what surrounds such a guest is the hypervisor's.
            Kind::Paravirtual => PARAVIRTUAL_RUNS && board.name == PV_BOARD,
        })
        .map(|(board, plan)| case(board, Emulator::Qemu, plan));
    let pc = boards::find(None, Some(Arch::X86_64))?;
    let in_bochs = PLANS
        .iter()
        .filter(|plan| plan.on.includes(pc.arch, Emulator::Bochs))
        // Its CPU is one whose PV guests are isolated by default, and has SYSENTER.
        .filter(|plan| ![ISOLATED, SYSENTER].contains(&plan.variant))
        .map(|plan| case(pc, Emulator::Bochs, plan));
    Ok(in_qemu.chain(in_bochs).collect())
}

fn case(board: &'static Board, emulator: Emulator, plan: &'static Plan) -> Case {
    let machine = match emulator {
        Emulator::Qemu => board.name,
        Emulator::Bochs => "bochs",
    };
    let name = format!("guest/{}/{machine}{}", plan.guest, plan.variant);
    Case::machine(board.arch, name, move || compare(board, emulator, plan))
}

fn compare(board: &'static Board, emulator: Emulator, plan: &Plan) -> Result<()> {
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
        variant: plan.variant,
        board,
        cpus: plan.cpus,
        icount: false,
        runs_in: Emulator::Qemu,
        emulator: None,
        cpu: None,
        words: words.trim(),
        xen_words: plan.both_words,
        beside: &[],
        limit: Duration::from_secs(plan.limit),
    };
    let xen_words = format!("{} {}", plan.both_words, plan.xen_words);
    let here = match emulator {
        Emulator::Qemu => Run {
            cpu: plan.cpu,
            xen_words: xen_words.trim(),
            ..how
        },
        Emulator::Bochs => Run {
            runs_in: emulator,
            cpus: plan.cpus.min(bochs::MOST_CPUS),
            // Here the machine shall go off.
            words: plan.words,
            limit: how.limit * 2,
            ..how
        },
    };
    let ours = guest::run(guest, On::Xenolith, &here)?;
    if board.arch == Arch::Riscv64 {
        return all_pass(&ours);
    }
    let mut theirs = on_xen(guest, &how)?;
    if board.arch == Arch::X86_64 {
        spoilt_by_qemu(&mut theirs);
    }
    let listed = differences::Listed::read();
    let places: &[&str] = match (board.arch, emulator) {
        (Arch::X86_64, Emulator::Qemu) => &[board.arch.name(), "svm"],
        (Arch::X86_64, Emulator::Bochs) => &[board.arch.name(), "vmx"],
        _ => &[board.arch.name()],
    };
    let known = |case: &str| listed.holds(&guest.name, places, case);
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

/// Where there is no Xen to compare with, each case must hold.
fn all_pass(ours: &Results) -> Result<()> {
    let failed: Vec<&str> = ours
        .cases
        .iter()
        .filter(|(_, outcome)| **outcome != Outcome::Ok)
        .map(|(case, _)| case.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("{} cases failed: {}", failed.len(), failed.join(", "));
    }
    Ok(())
}

/// A case that counts interrupts, some of which QEMU's SVM delivers twice as Xen gives them (docs/assurance.md): Xen passes it
/// in every other run or so. Xenolith must pass.
fn spoilt_by_qemu(theirs: &mut Results) {
    if let Some(outcome) = theirs.cases.get_mut("ipi.ping_pong_1000") {
        *outcome = Outcome::Ok;
    }
}

/// What Xen answers, asked once for each machine and guest.
fn on_xen(guest: &Built, how: &Run) -> Result<Results> {
    static KNOWN: Mutex<BTreeMap<String, Results>> = Mutex::new(BTreeMap::new());
    let key = format!(
        "{} {} {} {} {}",
        guest.name, how.board.name, how.cpus, how.words, how.xen_words
    );
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(results) = known().get(&key) {
        return Ok(results.clone());
    }
    // QEMU's SVM loses interrupts of a guest on Xen, more of them on a busy machine: what passes once is what Xen answers, and a
    // machine that stands still is asked again.
    let runs = match how.board.arch {
        Arch::X86_64 => REFERENCE_RUNS,
        _ => 1,
    };
    let failed = |outcome: &Outcome| *outcome != Outcome::Ok;
    let mut found: Result<Results> = Err(anyhow!("Xen was not asked"));
    for _ in 0..runs {
        match (guest::run(guest, On::Xen, how), &mut found) {
            (Ok(again), Ok(known)) => {
                let passed = again.cases.into_iter();
                known
                    .cases
                    .extend(passed.filter(|(_, outcome)| !failed(outcome)));
            }
            (Err(_), Ok(_)) => {}
            (first, Err(_)) => found = first,
        }
        if found
            .as_ref()
            .is_ok_and(|known| !known.cases.values().any(failed))
        {
            break;
        }
    }
    let results = found?;
    known().insert(key, results.clone());
    Ok(results)
}
