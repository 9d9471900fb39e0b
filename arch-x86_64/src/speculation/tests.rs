use super::*;
use std::{format, string::ToString};

type Cpu = fn(u32, u32) -> Leaf;

/// QEMU's `qemu64,+svm,+npt`, emulated.
fn qemu64(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        0x8000_0000 => [0x8000_000a, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        0x8000_0008 => [0x3028, 0, 3, 0],
        _ => [0; 4],
    }
}

/// An Intel Core of the Skylake family with the microcode of 2020.
fn skylake(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        7 => [0, 0x029c_6fbf, 0, 0x9c00_2400],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        0x8000_0008 => [0x3027, 0, 0, 0],
        _ => [0; 4],
    }
}

/// The same with ARCH_CAPABILITIES, as later CPUs have it.
fn later_intel(leaf: u32, subleaf: u32) -> Leaf {
    let [a, b, c, d] = skylake(leaf, subleaf);
    match leaf {
        7 => [a, b, c, d | 1 << 29],
        _ => [a, b, c, d],
    }
}

/// An AMD Ryzen of the third Zen generation.
fn zen3(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        1 => [0x00a2_0f12, 0, 0, 0],
        7 => [0, 0x219c_97a9, 0x0040_069c, 0x10],
        0x8000_0000 => [0x8000_0023, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        0x8000_0008 => [0x3030, 0x111e_f657, 0x601f, 0x0001_0000],
        0x8000_0021 => [0x4d, 0, 0, 0],
        _ => [0; 4],
    }
}

fn plan_with(cpu: Cpu, capabilities: u64, words: &str) -> Plan {
    let words = if words.is_empty() {
        Words::default()
    } else {
        Words::parse(words).unwrap()
    };
    Plan::new(&Facts::new(cpu, || capabilities), &words)
}

fn plan(cpu: Cpu, words: &str) -> Plan {
    plan_with(cpu, 0, words)
}

#[test]
fn an_emulated_cpu_without_controls_pays_nothing() {
    let plan = plan(qemu64, "");
    assert_eq!(plan, Plan::default());
    assert!(!plan.has_work());
    assert_eq!(plan.to_string(), "nothing is done");
}

#[test]
fn controls_that_the_cpu_lacks_cannot_be_forced() {
    let plan = plan(qemu64, "ibrs,stibp,ssbd,ibpb,l1d-flush,msr-sc");
    assert_eq!(plan, Plan::default());
}

#[test]
fn what_every_cpu_has_can_be_forced() {
    let plan = plan(qemu64, "rsb,verw");
    assert!(plan.returns && plan.verw && !plan.switch && plan.has_work());
}

#[test]
fn a_skylake_needs_all() {
    let plan = plan(skylake, "");
    assert_eq!(
        plan.to_string(),
        "SPEC_CTRL of guests, IBRS, STIBP, IBPB between domains, VERW, L1D flush, return stack filled"
    );
}

#[test]
fn an_intel_that_promises_to_be_safe_is_believed() {
    const SAFE: u64 = capability::RDCL_NO | capability::MDS_NO;
    let plan = plan_with(later_intel, SAFE, "");
    assert!(!plan.verw && !plan.flush && plan.switch && plan.barrier);
    // Promises count only where the register exists.
    assert!(plan_with(skylake, SAFE, "").flush);
    // The stale data of devices is another matter.
    assert!(plan_with(later_intel, SAFE | capability::FB_CLEAR, "").verw);
    let devices_safe = SAFE | capability::FB_CLEAR | capability::FBSDP_NO;
    assert!(!plan_with(later_intel, devices_safe, "").verw);
    // Below another hypervisor that flushes.
    assert!(!plan_with(later_intel, capability::SKIP_L1D_FLUSH, "").flush);
}

#[test]
fn a_zen_3_needs_no_flushes() {
    let plan = plan(zen3, "");
    assert_eq!(
        plan.to_string(),
        "SPEC_CTRL of guests, IBRS, STIBP, IBPB between domains, return stack filled"
    );
}

#[test]
fn an_amd_whose_verw_clears_uses_it_unless_it_is_safe() {
    fn clears(leaf: u32, subleaf: u32) -> Leaf {
        match leaf {
            0x8000_0021 => [0x6d, 0, 0, 0],
            _ => zen3(leaf, subleaf),
        }
    }
    fn safe(leaf: u32, subleaf: u32) -> Leaf {
        match leaf {
            0x8000_0021 => [0x6d, 0, 6, 0],
            _ => zen3(leaf, subleaf),
        }
    }
    assert!(plan(clears, "").verw);
    assert!(!plan(safe, "").verw);
}

#[test]
fn no_switches_all_off_and_later_words_some_on_again() {
    for no in ["no", "off", "0", "false", "disable"] {
        assert_eq!(plan(skylake, no), Plan::default(), "{no}");
    }
    let plan = plan(skylake, "no,ibpb=yes,verw=hvm,rsb=pv");
    assert_eq!(
        plan.to_string(),
        "IBPB between domains, VERW for HVM, return stack filled for PV"
    );
}

#[test]
fn no_xen_leaves_guests_their_controls() {
    let plan = plan(skylake, "no-xen");
    assert_eq!(plan.to_string(), "SPEC_CTRL of guests");
    assert!(plan.guest_barrier);
}

#[test]
fn without_the_register_nothing_of_it_is_used() {
    let plan = plan(zen3, "msr-sc=no");
    assert!(!plan.switch && !plan.guest_barrier && plan.host == 0);
    assert!(plan.returns && plan.barrier);
}

#[test]
fn each_option_has_its_effect() {
    assert_eq!(plan(zen3, "ssbd").host, IBRS | STIBP | SSBD);
    assert_eq!(plan(zen3, "no-ibrs").host, 0);
    assert_eq!(plan(zen3, "ibrs=no,stibp=1").host, STIBP);
    assert!(!plan(skylake, "ibpb=off").barrier);
    assert!(!plan(skylake, "md-clear=no-hvm").verw);
    assert!(plan(skylake, "rsb=no-pv").returns);
    assert!(!plan(skylake, "l1d-flush=false").flush);
    assert_eq!(
        plan(skylake, "hvm=no").to_string(),
        "IBPB between domains, VERW for PV, L1D flush, return stack filled for PV"
    );
    assert_eq!(
        plan(skylake, "no,pv").to_string(),
        "VERW for PV, return stack filled for PV"
    );
}

#[test]
fn words_of_xen_without_a_meaning_here_are_taken() {
    let words = "bti-thunk=lfence,eager-fpu,no-branch-harden,bhb-seq=long,gds-mit=0";
    assert_eq!(plan(skylake, words), plan(skylake, ""));
}

#[test]
fn what_is_not_understood_is_refused() {
    for value in [
        "yes",
        "on",
        "ibrs=maybe",
        "ibrs=hvm",
        "loud",
        "",
        "rsb,,ssbd",
        "no-no-ibrs",
    ] {
        assert_eq!(Words::parse(value), Err(NotUnderstood), "{value}");
    }
}

#[test]
fn a_cpu_that_says_nonsense_does_no_harm() {
    let plan = plan_with(|_, _| [u32::MAX; 4], u64::MAX, "");
    assert!(!format!("{plan}").is_empty());
}

fn bugs(cpu: Cpu, capabilities: u64, words: &str) -> std::string::String {
    let facts = Facts::new(cpu, || capabilities);
    let plan = plan_with(cpu, capabilities, words);
    let (isolation, _) = Isolation::new(&facts, &Paging::default(), &Requests::default());
    Bugs::new(&facts, &plan, &isolation).to_string()
}

#[test]
fn bugs_are_told_with_what_is_done_about_them() {
    assert_eq!(
        bugs(skylake, 0, ""),
        "Spectre v2 (IBRS, IBPB), Meltdown (page tables), L1TF (L1D flush), MDS (VERW), \
         TAA (VERW), SSB (guests choose); nothing done against iTLB multihit"
    );
    assert_eq!(
        bugs(zen3, 0, ""),
        "Spectre v2 (IBRS, IBPB), SSB (guests choose); nothing done against SRSO"
    );
    assert_eq!(bugs(qemu64, 0, ""), "nothing done against Spectre v2, SSB");
}

#[test]
fn a_bug_whose_answer_is_switched_off_stays_open() {
    let said = bugs(skylake, 0, "l1d-flush=no,md-clear=no");
    assert!(
        said.ends_with("nothing done against L1TF, MDS, TAA, iTLB multihit"),
        "{said}"
    );
}

#[test]
fn a_cpu_that_says_it_is_safe_is_believed() {
    let all = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8;
    assert_eq!(bugs(later_intel, all, ""), "Spectre v2 (IBRS, IBPB)");
}
