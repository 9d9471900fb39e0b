//! Which known bugs the CPU has, by what it says of itself, and what is done about each: one line at the start.
//!
//! A CPU that says nothing of a bug is taken to have it where its maker's older CPUs had (Intel 336996, `ARCH_CAPABILITIES`;
//! AMD's notes on SRSO and TSA).

use super::{Facts, IBRS, Isolation, Plan, capability};
use crate::cpuid::{Vendor, features::ext8_ebx};

/// One bug that the CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bug {
    name: &'static str,
    /// What keeps guests from using it, if anything does.
    answer: Option<&'static str>,
}

/// Most bugs that a CPU has.
const MOST: usize = 8;

/// The bugs of one CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bugs([Option<Bug>; MOST]);

impl Bugs {
    /// The bugs of a CPU on which `plan` is carried out.
    #[must_use]
    pub fn new(cpu: &Facts, plan: &Plan, isolation: &Isolation) -> Self {
        let when = |has: bool, name, done: bool, answer| {
            has.then_some(Bug {
                name,
                answer: done.then_some(answer),
            })
        };
        let spectre = when(
            true,
            "Spectre v2",
            plan.barrier && plan.host & IBRS != 0,
            "IBRS, IBPB",
        );
        Self(match cpu.vendor {
            Vendor::Intel => [
                spectre,
                when(
                    !cpu.has(capability::RDCL_NO),
                    "Meltdown",
                    isolation.dom0 && isolation.domu,
                    "page tables",
                ),
                when(
                    !cpu.has(capability::RDCL_NO),
                    "L1TF",
                    plan.flush || cpu.has(capability::SKIP_L1D_FLUSH),
                    "L1D flush",
                ),
                when(!cpu.has(capability::MDS_NO), "MDS", plan.verw, "VERW"),
                when(
                    cpu.transactions && !cpu.has(capability::TAA_NO),
                    "TAA",
                    plan.verw,
                    "VERW",
                ),
                when(
                    cpu.has(capability::FB_CLEAR) && !cpu.has(capability::FBSDP_NO),
                    "MMIO stale data",
                    plan.verw,
                    "VERW",
                ),
                when(
                    !cpu.has(capability::SSB_NO),
                    "SSB",
                    plan.switch,
                    "guests choose",
                ),
                when(
                    !cpu.has(capability::PAGE_SIZE_CHANGE_SAFE),
                    "iTLB multihit",
                    false,
                    "",
                ),
            ],
            Vendor::Amd => {
                const ZEN: core::ops::RangeInclusive<u32> = 0x17..=0x19;
                const SRSO_NO: u32 = 1 << 29;
                let zen = ZEN.contains(&cpu.family);
                [
                    spectre,
                    when(
                        cpu.amd & ext8_ebx::SSB_NO == 0,
                        "SSB",
                        plan.switch,
                        "guests choose",
                    ),
                    when(zen && cpu.amd_later[0] & SRSO_NO == 0, "SRSO", false, ""),
                    when(cpu.needs_verw(), "TSA", plan.verw, "VERW"),
                    None,
                    None,
                    None,
                    None,
                ]
            }
        })
    }
}

impl core::fmt::Display for Bugs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let bugs = || self.0.iter().flatten();
        let mut comma = "";
        for bug in bugs() {
            if let Some(answer) = bug.answer {
                write!(f, "{comma}{} ({answer})", bug.name)?;
                comma = ", ";
            }
        }
        let mut open = bugs().filter(|bug| bug.answer.is_none());
        if let Some(first) = open.next() {
            let separator = if comma.is_empty() { "" } else { "; " };
            write!(f, "{separator}nothing done against {}", first.name)?;
            for bug in open {
                write!(f, ", {}", bug.name)?;
            }
        } else if comma.is_empty() {
            f.write_str("none known")?;
        }
        Ok(())
    }
}
