use std::{string::ToString, vec::Vec};

use proptest::prelude::*;

use super::*;

const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const UNCORRECTED: u64 = 1 << 61;
const ENABLED: u64 = 1 << 60;
const MISC: u64 = 1 << 59;
const ADDRESS: u64 = 1 << 58;
const LOST: u64 = 1 << 57;
const SIGNALLED: u64 = 1 << 56;
const ACTION: u64 = 1 << 55;
const DEFERRED: u64 = 1 << 44;
const RESTART: u64 = 1;
const IN_PROGRESS: u64 = 1 << 2;

fn bank(status: u64) -> Bank {
    Bank::read(4, VALID | status, |detail| match detail {
        Detail::Address => 0x1234_5678,
        Detail::Misc => 2 << 6 | 12,
    })
    .unwrap()
}

#[test]
fn a_bank_without_an_error_is_not_looked_at() {
    assert_eq!(Bank::read(0, !VALID, |_| panic!("asked")), None);
}

#[test]
fn only_what_the_status_names_is_read() {
    let mut asked = Vec::new();
    let _ = Bank::read(0, VALID | ADDRESS, |detail| {
        asked.push(detail);
        0
    });
    assert_eq!(asked, [Detail::Address]);
}

#[test]
fn a_corrected_error_lets_the_machine_go_on() {
    for recovery in [Recovery::None, Recovery::Intel, Recovery::Amd] {
        let bank = bank(ENABLED);
        assert_eq!(bank.severity(recovery), Severity::Corrected);
        for during in [During::Hypervisor, During::Guest] {
            assert_eq!(judge(RESTART, [&bank], recovery, during), Verdict::GoOn);
            assert_eq!(judge(0, [&bank], recovery, during), Verdict::Stop);
        }
    }
}

#[test]
fn lost_context_is_always_the_end() {
    for recovery in [Recovery::None, Recovery::Intel, Recovery::Amd] {
        let bank = bank(UNCORRECTED | LOST | SIGNALLED | ACTION);
        for during in [During::Hypervisor, During::Guest] {
            assert_eq!(judge(RESTART, [&bank], recovery, during), Verdict::Stop);
        }
    }
}

#[test]
fn without_recovery_an_uncorrected_error_is_the_end() {
    assert_eq!(bank(UNCORRECTED).severity(Recovery::None), Severity::Fatal);
}

#[test]
fn intel_tells_latent_errors_from_those_that_were_met() {
    let severity = |status| bank(UNCORRECTED | status).severity(Recovery::Intel);
    assert_eq!(severity(0), Severity::Latent);
    assert_eq!(severity(SIGNALLED), Severity::Latent);
    assert_eq!(severity(SIGNALLED | ACTION), Severity::Contained);
    assert_eq!(severity(SIGNALLED | ACTION | OVERFLOW), Severity::Fatal);
}

#[test]
fn amd_tells_deferred_errors_from_those_that_were_met() {
    assert_eq!(bank(DEFERRED).severity(Recovery::Amd), Severity::Latent);
    assert_eq!(
        bank(DEFERRED).severity(Recovery::Intel),
        Severity::Corrected
    );
    assert_eq!(
        bank(UNCORRECTED).severity(Recovery::Amd),
        Severity::Contained
    );
}

#[test]
fn bad_data_that_a_guest_met_ends_the_guest_alone() {
    let bank = bank(UNCORRECTED | SIGNALLED | ACTION | ADDRESS | MISC);
    let verdict = |during| judge(0, [&bank], Recovery::Intel, during);
    assert_eq!(verdict(During::Guest), Verdict::EndGuest);
    assert_eq!(verdict(During::Hypervisor), Verdict::Stop);
}

#[test]
fn the_worst_bank_decides() {
    let banks = [bank(0), bank(UNCORRECTED | LOST), bank(0)];
    assert_eq!(
        judge(RESTART, &banks, Recovery::Intel, During::Guest),
        Verdict::Stop
    );
}

#[test]
fn no_error_anywhere_stops_only_a_cpu_that_cannot_go_on() {
    let none: [Bank; 0] = [];
    let verdict = |global| judge(global, &none, Recovery::Intel, During::Hypervisor);
    assert_eq!(verdict(RESTART | IN_PROGRESS), Verdict::GoOn);
    assert_eq!(verdict(IN_PROGRESS), Verdict::Stop);
    assert_eq!(verdict(0), Verdict::GoOn, "it was dealt with");
}

#[test]
fn an_address_counts_only_when_it_is_known_to_be_physical() {
    let with_mode = bank(ADDRESS | MISC);
    assert_eq!(with_mode.physical(Recovery::Intel), Some(0x1234_5000));
    assert_eq!(bank(ADDRESS).physical(Recovery::Intel), None);
    assert_eq!(bank(ADDRESS).physical(Recovery::Amd), Some(0x1234_5678));
    assert_eq!(bank(MISC).physical(Recovery::Amd), None);
    assert_eq!(with_mode.physical(Recovery::None), None);
}

#[test]
fn a_bank_is_one_line() {
    let text = bank(UNCORRECTED | LOST | ADDRESS | 0x0135).to_string();
    assert_eq!(
        text,
        "bank 4, status 0xa600000000000135: uncorrected, context lost, cache hierarchy, address 0x12345678"
    );
    assert_eq!(
        bank(0x0090).to_string(),
        "bank 4, status 0x8000000000000090: corrected, memory controller"
    );
}

proptest! {
    #[test]
    fn any_words_are_judged(status: u64, address: u64, misc: u64, global: u64) {
        let bank = Bank { number: 1, status, address, misc };
        let _ = bank.to_string();
        for recovery in [Recovery::None, Recovery::Intel, Recovery::Amd] {
            let _ = bank.physical(recovery);
            let guest = judge(global, [&bank], recovery, During::Guest);
            let own = judge(global, [&bank], recovery, During::Hypervisor);
            prop_assert!(own >= guest, "the hypervisor never survives what a guest does not");
        }
    }
}
