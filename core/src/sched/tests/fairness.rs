use std::vec::Vec;

use xenolith_hal::Nanos;

use super::machine::Machine;
use crate::sched::RunstateKind;

const MS: Nanos = Nanos::from_millis(1);
const SECOND: Nanos = Nanos::from_millis(1000);

fn shares(cpus: u16, vcpus: u16) -> Vec<u64> {
    let m = Machine::new(cpus);
    let vcpus = m.running_domain(1, vcpus);
    m.settle();
    m.pass(SECOND, MS);
    m.check();
    vcpus.iter().map(|vcpu| m.ran(vcpu) / MS.0).collect()
}

fn within_tenth(shares: &[u64]) -> bool {
    let mean = shares.iter().sum::<u64>() / shares.len() as u64;
    shares.iter().all(|share| share.abs_diff(mean) * 10 <= mean)
}

#[test]
fn sixteen_busy_vcpus_on_four_cpus_progress_alike() {
    let shares = shares(4, 16);
    assert_eq!(shares.iter().sum::<u64>(), 4000, "no CPU was ever idle");
    assert!(within_tenth(&shares), "{shares:?}");
}

#[test]
fn five_busy_vcpus_on_four_cpus_progress_alike() {
    let shares = shares(4, 5);
    assert_eq!(shares.iter().sum::<u64>(), 4000);
    assert!(within_tenth(&shares), "{shares:?}");
}

#[test]
fn seven_busy_vcpus_on_three_cpus_progress_alike() {
    let shares = shares(3, 7);
    assert_eq!(shares.iter().sum::<u64>(), 3000);
    assert!(within_tenth(&shares), "{shares:?}");
}

#[test]
fn a_vcpu_that_mostly_sleeps_runs_soon_after_it_is_woken() {
    let m = Machine::new(1);
    let _hogs = m.running_domain(1, 3);
    let sleeper = m.running_domain(2, 1).remove(0);
    m.settle();
    let mut latest = 0;
    for _ in 0..50 {
        while m.current(0).as_ref() != Some(&sleeper) {
            m.pass(MS, MS);
        }
        m.hv.block(&sleeper);
        m.settle();
        m.pass(Nanos(20 * MS.0), MS);
        m.hv.wake(&sleeper);
        m.settle();
        let mut waited = 0;
        while m.current(0).as_ref() != Some(&sleeper) {
            m.pass(MS, MS);
            waited += 1;
        }
        latest = latest.max(waited);
    }
    assert!(latest <= 2, "{latest} ms");
}

#[test]
fn a_long_sleep_earns_no_long_run() {
    let m = Machine::new(1);
    let hog = m.running_domain(1, 1).remove(0);
    let sleeper = m.domain(2, 1);
    m.settle();
    m.pass(SECOND, MS);
    m.hv.vcpu_up(&crate::VcpuRef::all(&sleeper).next().unwrap());
    m.settle();
    let before = m.ran(&hog);
    m.pass(Nanos(100 * MS.0), MS);
    let got = (m.ran(&hog) - before) / MS.0;
    assert!((40..=60).contains(&got), "{got} of 100 ms");
}

#[test]
fn pinned_vcpus_share_their_cpu_and_leave_the_others_alone() {
    let m = Machine::new(2);
    let pinned = m.running_domain(1, 3);
    for vcpu in &pinned {
        m.pin(vcpu, &[1]);
    }
    let free = m.running_domain(2, 1).remove(0);
    m.settle();
    m.pass(SECOND, MS);
    let shares: Vec<_> = pinned.iter().map(|vcpu| m.ran(vcpu) / MS.0).collect();
    assert_eq!(m.ran(&free) / MS.0, 1000);
    assert!(within_tenth(&shares), "{shares:?}");
}

#[test]
fn the_runstate_times_add_up_to_the_time_since_start() {
    let m = Machine::new(2);
    let vcpus = m.running_domain(1, 5);
    m.settle();
    m.pass(SECOND, MS);
    for vcpu in &vcpus {
        let times = m.hv.runstate(vcpu);
        assert_eq!(times.time.iter().map(|t| t.0).sum::<u64>(), SECOND.0);
        assert_eq!(times.time[RunstateKind::Running as usize].0, m.ran(vcpu));
    }
}
