use xenolith_hal::{CpuId, CpuMask, Nanos};

use super::{Work, machine::Machine};
use crate::{
    Errno, VcpuRef,
    domain::Destroyed,
    sched::{Affinity, RunstateKind},
};

const MS: Nanos = Nanos::from_millis(1);

#[test]
fn a_vcpu_that_comes_up_runs_on_an_idle_cpu_which_is_kicked() {
    let m = Machine::new(2);
    let domain = m.domain(1, 1);
    let vcpu = VcpuRef::all(&domain).next().unwrap();
    m.pin(&vcpu, &[1]);
    m.sim.cpu_record(CpuId(1)).take_kicks();
    assert!(m.hv.vcpu_up(&vcpu));
    assert!(!m.hv.vcpu_up(&vcpu));
    assert_eq!(m.sim.cpu_record(CpuId(1)).take_kicks(), 1);
    assert!(m.slow_path(1) == Some(vcpu.clone()));
    assert!(m.hv.is_running_anywhere(&vcpu));
    m.check();
}

#[test]
fn a_vcpu_alone_gets_no_time_slice_and_its_yield_costs_no_schedule() {
    let m = Machine::new(1);
    let vcpu = &m.running_domain(1, 1)[0];
    m.settle();
    assert_eq!(m.sim.cpu_record(CpuId(0)).timer(), None);
    m.hv.yield_now(vcpu);
    assert_eq!(m.hv.sched.work(CpuId(0)).load(super::SeqCst), 0);
}

#[test]
fn two_vcpus_that_yield_take_turns_and_reprogram_no_timer() {
    let m = Machine::new(1);
    let vcpus = m.running_domain(1, 2);
    m.settle();
    let timer = m.sim.cpu_record(CpuId(0)).timer();
    assert!(timer.is_some());
    let mut last = m.current(0).unwrap();
    for _ in 0..10 {
        m.sim.advance(Nanos(1000));
        m.hv.yield_now(&last);
        let next = m.slow_path(0).unwrap();
        assert!(next != last && vcpus.contains(&next));
        assert_eq!(m.sim.cpu_record(CpuId(0)).timer(), timer);
        last = next;
    }
}

#[test]
fn an_interrupt_that_is_there_before_the_flag_ends_the_block_at_once() {
    let m = Machine::new(1);
    let vcpu = &m.running_domain(1, 1)[0];
    m.settle();
    vcpu.arch.set_interrupt(true);
    m.hv.block(vcpu);
    assert_eq!(m.hv.sched.work(CpuId(0)).load(super::SeqCst), 0);
    vcpu.arch.set_interrupt(false);
    m.hv.block(vcpu);
    assert!(m.slow_path(0).is_none());
    assert_eq!(m.hv.runstate(vcpu).kind, RunstateKind::Blocked);
    vcpu.arch.set_interrupt(true);
    m.hv.notify(vcpu);
    assert!(m.slow_path(0).as_ref() == Some(vcpu));
    m.check();
}

#[test]
fn a_vcpu_woken_while_it_leaves_runs_only_after_its_registers_are_stored() {
    let m = Machine::new(2);
    let vcpu = &m.running_domain(1, 1)[0];
    m.settle();
    let cpu = (0..2).find(|cpu| m.current(*cpu).is_some()).unwrap();
    let other = 1 - cpu;
    m.on(cpu, |hv| {
        hv.block(vcpu);
        assert!(hv.schedule(CpuId(cpu)).is_none());
    });
    assert!(m.hv.is_running_anywhere(vcpu));
    m.on(other, |hv| {
        hv.wake(vcpu);
        assert!(hv.schedule(CpuId(other)).is_none(), "not stored yet");
    });
    m.on(cpu, |hv| hv.context_saved(vcpu));
    let (a, b) = (
        m.on(cpu, |hv| hv.schedule(CpuId(cpu))),
        m.on(other, |hv| hv.schedule(CpuId(other))),
    );
    assert!(a.as_ref() == Some(vcpu) || b.as_ref() == Some(vcpu));
    assert!(a.is_none() || b.is_none());
}

#[test]
fn notify_kicks_the_cpu_that_runs_the_vcpu_and_not_the_own_one() {
    let m = Machine::new(2);
    let vcpu = &m.running_domain(1, 1)[0];
    m.settle();
    let cpu = (0..2).find(|cpu| m.current(*cpu).is_some()).unwrap();
    let record = m.sim.cpu_record(CpuId(cpu));
    record.take_kicks();
    m.on(cpu, |hv| hv.notify(vcpu));
    assert_eq!(record.take_kicks(), 0);
    m.on(1 - cpu, |hv| hv.notify(vcpu));
    assert_eq!(record.take_kicks(), 1);
}

#[test]
fn pauses_of_vcpu_and_domain_add_up() {
    let m = Machine::new(1);
    let vcpu = &m.running_domain(1, 1)[0];
    m.settle();
    m.hv.pause_vcpu(vcpu);
    m.hv.pause_domain(vcpu.domain());
    m.settle();
    assert!(m.current(0).is_none() && !m.hv.is_running_anywhere(vcpu));
    assert_eq!(m.hv.runstate(vcpu).kind, RunstateKind::Offline);
    m.hv.unpause_vcpu(vcpu);
    m.settle();
    assert!(m.current(0).is_none());
    m.hv.unpause_domain(vcpu.domain());
    m.settle();
    assert!(m.current(0).as_ref() == Some(vcpu));
    m.check();
}

#[test]
fn a_paused_vcpu_leaves_the_queue_and_a_dismissed_domain_is_let_go() {
    let m = Machine::new(1);
    let hogs = m.running_domain(1, 1);
    m.settle();
    let vcpu = m.running_domain(2, 1).remove(0);
    m.settle();
    m.hv.pause_vcpu(&vcpu);
    m.check();
    m.hv.unpause_vcpu(&vcpu);
    m.check();
    let waits = [vcpu, hogs[0].clone()]
        .into_iter()
        .find(|v| !m.hv.is_running_anywhere(v))
        .unwrap();
    m.hv.dismiss_domain(waits.domain());
    m.check();
    assert_eq!(
        m.hv.sched
            .cpu(CpuId(0))
            .unwrap()
            .waiting
            .load(super::SeqCst),
        0
    );
}

#[test]
fn a_vcpu_of_a_domain_that_ends_is_not_started_by_another_that_still_runs() {
    let m = Machine::new(1);
    let vcpus = m.running_domain(1, 2);
    m.hv.vcpu_down(&vcpus[1]);
    m.settle();
    assert_eq!(m.hv.destroy(vcpus[0].domain()), Destroyed::NotYet);
    // The first is still on its CPU and asks for the second.
    assert!(m.hv.is_running_anywhere(&vcpus[0]));
    assert!(!m.hv.vcpu_up(&vcpus[1]));
    assert!(!m.hv.vcpu_is_up(&vcpus[1]));
    m.settle();
    assert!(m.current(0).is_none());
    assert_eq!(m.hv.destroy(vcpus[0].domain()), Destroyed::Yes);
}

#[test]
fn affinity_moves_running_and_queued_vcpus_and_refuses_absent_cpus() {
    let m = Machine::new(3);
    let vcpus = m.running_domain(1, 3);
    m.settle();
    for vcpu in &vcpus {
        m.pin(vcpu, &[2]);
    }
    m.settle();
    m.check();
    assert!(m.current(0).is_none() && m.current(1).is_none() && m.current(2).is_some());
    let queued = vcpus.iter().find(|v| !m.hv.is_running_anywhere(v)).unwrap();
    m.pin(queued, &[0]);
    m.settle();
    assert!(m.current(0).as_ref() == Some(queued));
    let nowhere = Affinity {
        hard: CpuMask::only(CpuId(77)),
        soft: CpuMask::ALL,
    };
    assert_eq!(m.hv.set_affinity(queued, &nowhere), Err(Errno::EINVAL));
    m.check();
}

#[test]
fn a_pin_override_is_undone_by_the_old_affinity() {
    let m = Machine::new(2);
    let vcpu = &m.running_domain(0, 1)[0];
    m.pin(vcpu, &[0]);
    assert_eq!(m.hv.pin_override(vcpu, None), Err(Errno::EINVAL));
    assert_eq!(m.hv.pin_override(vcpu, Some(CpuId(1))), Ok(()));
    assert_eq!(m.hv.pin_override(vcpu, Some(CpuId(0))), Err(Errno::EBUSY));
    m.settle();
    assert!(m.current(1).is_some());
    assert_eq!(m.hv.pin_override(vcpu, None), Ok(()));
    m.settle();
    assert!(m.current(0).is_some());
}

#[test]
fn an_idle_cpu_takes_work_that_waits_elsewhere() {
    let m = Machine::new(2);
    let vcpus = m.running_domain(1, 2);
    for vcpu in &vcpus {
        m.pin(vcpu, &[0]);
    }
    m.settle();
    assert!(m.current(1).is_none());
    // The one that waits may move now, and CPU 1 finds it when it looks.
    for vcpu in &vcpus {
        vcpu.sched.hard.insert(CpuId(1));
    }
    m.hv.add_work(CpuId(1), Work::RESCHEDULE);
    m.settle();
    assert!(m.current(0).is_some() && m.current(1).is_some());
    m.check();
}

#[test]
fn the_dumps_name_what_runs_and_what_waits() {
    let m = Machine::new(1);
    let vcpus = m.running_domain(3, 2);
    m.settle();
    m.pass(MS, MS);
    let mut text = std::string::String::new();
    m.hv.dump_run_queues(&mut text).unwrap();
    m.hv.dump_vcpu(&vcpus[0], &mut text).unwrap();
    assert!(text.contains("runs d3v"), "{text}");
    assert!(text.contains("waits d3v"), "{text}");
    assert!(text.contains("pauses 0 ms running 1"), "{text}");
}
