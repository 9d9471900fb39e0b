use crate::hypercall::NoRows;
use xenolith_abi::{
    Port,
    handle::GuestHandle,
    runstate::{RunstateInfo, UPDATE},
    sched as wire,
    sched::SchedOp,
    vcpu::VcpuOp,
};
use xenolith_hal::{CpuId, GuestVirt, Nanos};
use xenolith_sim::{MachineEnd, Sim, ended_with};
use zerocopy::{Immutable, IntoBytes};

use super::{SeqCst, machine::Machine};
use crate::{
    DomId, Errno, VcpuRef,
    domain::{Destroyed, LifeState},
    guest::Caller,
    hypercall::Outcome,
    sched::{RunstateKind, sched_op},
    testing,
    vcpu_op::vcpu_op,
};

const MS: u64 = 1_000_000;
/// Where the tests put arguments.
const ARG: GuestVirt = GuestVirt(0x1000);
/// Where nothing is mapped.
const HOLE: GuestVirt = GuestVirt(0x5000);

fn call(m: &Machine, vcpu: &VcpuRef<Sim>, op: SchedOp, arg: GuestVirt) -> Result<i64, i64> {
    let cpu = match vcpu.sched.place() {
        super::Place::Running(cpu) => cpu.0,
        _ => 0,
    };
    m.on(cpu, |hv| {
        match sched_op(Caller { hv, vcpu }, op.number(), arg) {
            Outcome::Done(value) if value >= 0 => Ok(value),
            Outcome::Done(value) => Err(value),
            Outcome::Again(_) => panic!("no scheduler call is preemptible"),
        }
    })
}

fn with<T: IntoBytes + Immutable>(
    m: &Machine,
    vcpu: &VcpuRef<Sim>,
    op: SchedOp,
    arg: &T,
) -> Result<i64, i64> {
    Caller { hv: &m.hv, vcpu }
        .write_bytes(ARG, arg.as_bytes())
        .unwrap();
    call(m, vcpu, op, ARG)
}

fn error(errno: Errno) -> Result<i64, i64> {
    Err(errno.neg() as i64)
}

fn one_vcpu() -> (Machine, VcpuRef<Sim>) {
    let m = Machine::new(1);
    let vcpu = m.running_domain(1, 1).remove(0);
    m.settle();
    (m, vcpu)
}

#[test]
fn unknown_operations_and_bad_pointers_get_their_error_numbers() {
    let (m, vcpu) = one_vcpu();
    let caller = Caller {
        hv: &m.hv,
        vcpu: &vcpu,
    };
    for cmd in [8, 77, u32::MAX] {
        let outcome = sched_op(caller, cmd, ARG);
        assert_eq!(outcome, Outcome::Done(Errno::ENOSYS.neg() as i64));
    }
    for op in [
        SchedOp::Shutdown,
        SchedOp::Poll,
        SchedOp::RemoteShutdown,
        SchedOp::ShutdownCode,
        SchedOp::Watchdog,
    ] {
        assert_eq!(call(&m, &vcpu, op, HOLE), error(Errno::EFAULT), "{op:?}");
    }
    assert_eq!(
        call(&m, &vcpu, SchedOp::PinOverride, HOLE),
        error(Errno::EPERM)
    );
}

#[test]
fn a_poll_ends_by_its_timeout_and_not_before() {
    let (m, vcpu) = one_vcpu();
    let poll = wire::Poll {
        timeout: 5 * MS,
        ..wire::Poll::default()
    };
    assert_eq!(with(&m, &vcpu, SchedOp::Poll, &poll), Ok(0));
    m.settle();
    assert!(m.current(0).is_none());
    m.pass(Nanos(4 * MS), Nanos(MS));
    assert!(m.current(0).is_none());
    m.pass(Nanos(MS), Nanos(MS));
    assert!(m.current(0).is_some());
}

#[test]
fn a_poll_ends_by_an_interrupt_and_its_timer_ends_no_later_block() {
    let (m, vcpu) = one_vcpu();
    let poll = wire::Poll {
        timeout: 5 * MS,
        ..wire::Poll::default()
    };
    assert_eq!(with(&m, &vcpu, SchedOp::Poll, &poll), Ok(0));
    m.settle();
    m.hv.notify(&vcpu);
    m.settle();
    assert!(m.current(0).is_some());
    assert_eq!(call(&m, &vcpu, SchedOp::Block, GuestVirt(0)), Ok(0));
    m.pass(Nanos(10 * MS), Nanos(MS));
    assert!(m.current(0).is_none());
}

#[test]
fn a_vcpu_that_polls_twice_in_one_multicall_is_one_poller() {
    let (m, vcpu) = one_vcpu();
    let poll = wire::Poll::default();
    assert_eq!(with(&m, &vcpu, SchedOp::Poll, &poll), Ok(0));
    assert_eq!(with(&m, &vcpu, SchedOp::Poll, &poll), Ok(0));
    assert_eq!(vcpu.domain().sched.pollers(), 1);
    m.hv.wake(&vcpu);
    assert_eq!(vcpu.domain().sched.pollers(), 0);
}

#[test]
fn a_poll_wakes_for_its_port_only() {
    let (m, vcpu) = one_vcpu();
    Caller {
        hv: &m.hv,
        vcpu: &vcpu,
    }
    .write(GuestVirt(0x2000), &7u32)
    .unwrap();
    let poll = wire::Poll {
        ports: GuestHandle::new(0x2000),
        nr_ports: 1,
        ..wire::Poll::default()
    };
    assert_eq!(with(&m, &vcpu, SchedOp::Poll, &poll), Ok(0));
    m.settle();
    m.hv.wake_pollers(vcpu.domain(), Port(8));
    m.settle();
    assert!(m.current(0).is_none());
    m.hv.wake_pollers(vcpu.domain(), Port(7));
    m.settle();
    assert!(m.current(0).is_some());
}

#[test]
fn a_poll_refuses_too_many_ports_and_unreadable_lists() {
    let (m, vcpu) = one_vcpu();
    let mut poll = wire::Poll {
        ports: GuestHandle::new(HOLE.0),
        nr_ports: 129,
        ..wire::Poll::default()
    };
    assert_eq!(with(&m, &vcpu, SchedOp::Poll, &poll), error(Errno::EINVAL));
    poll.nr_ports = 1;
    assert_eq!(with(&m, &vcpu, SchedOp::Poll, &poll), error(Errno::EFAULT));
    m.settle();
    assert!(m.current(0).is_some());
}

#[test]
fn watchdogs_are_two_per_domain_and_are_fed_and_stopped_by_their_owner() {
    let (m, vcpu) = one_vcpu();
    let set = |id, timeout| {
        with(
            &m,
            &vcpu,
            SchedOp::Watchdog,
            &wire::Watchdog { id, timeout },
        )
    };
    assert_eq!(set(1, 5), error(Errno::EINVAL));
    assert_eq!(set(0, 1), Ok(1));
    assert_eq!(set(0, 1), Ok(2));
    assert_eq!(set(0, 1), error(Errno::ENOSPC));
    assert_eq!(set(3, 1), error(Errno::EINVAL));
    assert_eq!(set(1, 10), Ok(0));
    assert_eq!(set(2, 0), Ok(0));
    assert_eq!(set(2, 1), error(Errno::EINVAL));
    assert_eq!(m.hv.timers.summary(CpuId(0)), (1, Some(Nanos(10_000 * MS))));
}

#[test]
fn the_runstate_area_follows_each_switch_even_across_two_frames() {
    let (m, vcpu) = one_vcpu();
    vcpu.domain().sched.runstate_update_flag.store(true, SeqCst);
    let area = 0x1ff0;
    let caller = Caller {
        hv: &m.hv,
        vcpu: &vcpu,
    };
    let register = |address| {
        caller.write(ARG, &address).unwrap();
        let op = VcpuOp::RegisterRunstateMemoryArea.number();
        vcpu_op::<_, NoRows>(caller, op, 0, ARG)
    };
    let fine = Outcome::Done(0);
    let read = || caller.read::<RunstateInfo>(GuestVirt(area)).unwrap();
    assert_eq!(register(0x7_0000u64), fine, "unmapped: ignored");
    assert_eq!(register(area), fine);
    assert_eq!(read().state, RunstateKind::Running as u32);
    m.pass(Nanos(3 * MS), Nanos(MS));
    m.hv.block(&vcpu);
    m.settle();
    assert_eq!(read().state, RunstateKind::Blocked as u32);
    assert_eq!(read().state_entry_time, 3 * MS);
    m.pass(Nanos(2 * MS), Nanos(MS));
    m.hv.wake(&vcpu);
    m.settle();
    let info = read();
    assert_eq!(info.state, RunstateKind::Running as u32);
    assert_eq!(info.state_entry_time & UPDATE, 0);
    assert_eq!(info.time, [3 * MS, 0, 2 * MS, 0]);
}

#[test]
fn vcpu_op_answers_where_firmware_starts_vcpus_as_xen_does_there() {
    let (m, vcpu) = one_vcpu();
    let caller = Caller {
        hv: &m.hv,
        vcpu: &vcpu,
    };
    let is_up = VcpuOp::IsUp.number();
    for id in [1, 0x1_0000, u32::MAX] {
        assert_eq!(
            vcpu_op::<_, NoRows>(caller, is_up, id, ARG),
            Errno::ENOENT.into()
        );
    }
    for cmd in [0, 1, 2, 3, 4, 6, 8, 11, 12, 13, 14, 99] {
        assert_eq!(
            vcpu_op::<_, NoRows>(caller, cmd, 0, ARG),
            Errno::EINVAL.into()
        );
    }
    for op in [VcpuOp::RegisterVcpuInfo, VcpuOp::RegisterRunstateMemoryArea] {
        assert_eq!(
            vcpu_op::<_, NoRows>(caller, op.number(), 0, HOLE),
            Errno::EFAULT.into()
        );
    }
}

#[test]
fn a_domain_that_shuts_down_stops_and_keeps_the_reason_that_it_latched_first() {
    let (m, vcpu) = one_vcpu();
    let reason = |reason| wire::Shutdown { reason };
    assert_eq!(with(&m, &vcpu, SchedOp::ShutdownCode, &reason(3)), Ok(0));
    assert_eq!(with(&m, &vcpu, SchedOp::Shutdown, &reason(0)), Ok(0));
    m.settle();
    assert!(m.current(0).is_none());
    assert_eq!(vcpu.domain().life.state(), LifeState::Shutdown);
    assert_eq!(vcpu.domain().life.reason(), 3);
}

#[test]
fn the_end_of_the_privileged_domain_ends_the_machine() {
    for (reason, end) in [(0, MachineEnd::PowerOff), (1, MachineEnd::Restart)] {
        let m = Machine::new(1);
        let vcpu = m.running_domain(0, 1).remove(0);
        m.settle();
        let what = wire::Shutdown { reason };
        let ended = ended_with(|| {
            let _ = with(&m, &vcpu, SchedOp::Shutdown, &what);
        });
        assert_eq!(ended, Some(end));
    }
}

#[test]
fn only_the_privileged_domain_shuts_others_down() {
    let m = Machine::new(1);
    let control = m.running_domain(0, 1).remove(0);
    let other = m.running_domain(1, 1).remove(0);
    m.settle();
    let remote = |domain| wire::RemoteShutdown {
        domain_id: DomId(domain),
        reason: 2,
        ..wire::RemoteShutdown::default()
    };
    let op = SchedOp::RemoteShutdown;
    assert_eq!(with(&m, &other, op, &remote(0)), error(Errno::EPERM));
    assert_eq!(with(&m, &control, op, &remote(9)), error(Errno::ESRCH));
    assert_eq!(with(&m, &control, op, &remote(1)), Ok(0));
    assert_eq!(other.domain().life.reason(), 2);
}

#[test]
fn a_watchdog_that_is_not_fed_ends_its_domain() {
    let (m, vcpu) = one_vcpu();
    let what = wire::Watchdog { id: 0, timeout: 1 };
    assert_eq!(with(&m, &vcpu, SchedOp::Watchdog, &what), Ok(1));
    m.pass(Nanos(999 * MS), Nanos(MS));
    assert_eq!(vcpu.domain().life.state(), LifeState::Running);
    m.pass(Nanos(MS), Nanos(MS));
    assert_eq!(vcpu.domain().life.reason(), 4);
    assert!(m.current(0).is_none());
}

#[test]
fn a_domain_destroyed_while_its_vcpus_run_and_wait_gives_everything_back() {
    let m = Machine::new(1);
    let free = m.hv.memory.free_frames();
    let vcpus = m.running_domain(1, 3);
    m.settle();
    m.hv.set_timer(&vcpus[1], crate::timer::VcpuTimer::Poll, Nanos(MS));
    let domain = vcpus[0].domain().clone();
    drop(vcpus);
    assert_eq!(m.hv.destroy(&domain), Destroyed::NotYet, "still on its CPU");
    m.settle();
    testing::destroy(&m.hv, &domain);
    assert_eq!(m.hv.timers.summary(CpuId(0)).0, 0);
    assert_eq!(m.hv.memory.free_frames(), free);
    assert!(m.hv.domains.get(DomId(1)).is_none());
    m.forget();
    assert_eq!(alloc::sync::Arc::strong_count(&domain), 1);
}
