//! Event channels through the hypercall, on a simulated machine.

use alloc::{sync::Arc, vec::Vec};
use core::{fmt::Debug, sync::atomic::Ordering::Relaxed};

use xenolith_abi::{
    Errno, Port,
    event_channel::{
        AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVcpu, BindVirq, Close,
        EventChannelOp as Op, PortState, Reset, SendEvent, SetPriority, Status, StatusPeer, Unmask,
    },
    virq::Virq,
};
use xenolith_hal::{
    AtomicOp::{And, Load, Or, Swap},
    CpuId, Gfn, GuestVirt, Hal,
};
use xenolith_sim::Sim;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{PortFacts, event_channel_op, event_channel_op_compat};
use crate::{
    DomId, DomainRef, Hypervisor, VcpuId, VcpuRef, guest::Caller, hypercall::Outcome, testing,
};

mod fifo;
mod pirq;
mod upcall_mask;

const ARGS: GuestVirt = GuestVirt(0x1000);
const LAYOUT: xenolith_hal::SharedInfoLayout = Sim::SHARED_INFO;

/// A machine with a privileged domain 0 and plain domains 1 and 2 of two vCPUs and 16 frames each.
struct Rig {
    hv: Hypervisor<Sim>,
    domains: Vec<DomainRef<Sim>>,
}

impl Rig {
    fn new() -> Self {
        let hv = testing::hypervisor(&Sim::small());
        let domains = (0..3).map(|id| testing::domain(&hv, id, 16)).collect();
        Self { hv, domains }
    }

    fn vcpu(&self, domain: usize, vcpu: u16) -> VcpuRef<Sim> {
        VcpuRef::new(&self.domains[domain], VcpuId(vcpu)).unwrap()
    }

    /// Makes the hypercall as vCPU 0 of a domain; gives back the argument as the call left it.
    fn call<T>(&self, domain: usize, op: Op, args: T) -> Result<T, Errno>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let vcpu = self.vcpu(domain, 0);
        let caller = Caller {
            hv: &self.hv,
            vcpu: &vcpu,
        };
        caller.write_bytes(ARGS, args.as_bytes()).unwrap();
        match event_channel_op(caller, op.number().into(), ARGS) {
            Outcome::Done(0) => {
                let mut value = T::new_zeroed();
                caller.read_bytes(ARGS, value.as_mut_bytes()).unwrap();
                Ok(value)
            }
            Outcome::Done(negative) => Err(Errno::from_result(negative as isize).unwrap()),
            Outcome::Again(_) => panic!("not expected to be preempted"),
        }
    }

    fn alloc_unbound(&self, domain: usize, remote: u16) -> Port {
        let args = AllocUnbound {
            dom: DomId::SELF,
            remote_dom: DomId(remote),
            port: Port(0),
        };
        self.call(domain, Op::AllocUnbound, args).unwrap().port
    }

    fn connect(&self, domain: usize, remote: u16, remote_port: Port) -> Result<Port, Errno> {
        let args = BindInterdomain {
            remote_dom: DomId(remote),
            remote_port,
            ..Default::default()
        };
        let done = self.call(domain, Op::BindInterdomain, args)?;
        Ok(done.local_port)
    }

    /// A connected pair of ports of domains 1 and 2, nothing pending.
    fn pair(&self) -> (Port, Port) {
        let far = self.alloc_unbound(2, 1);
        let near = self.connect(1, 2, far).unwrap();
        self.take_events(1, 0);
        (near, far)
    }

    fn bind_virq(&self, domain: usize, virq: u32, vcpu: u32) -> Result<Port, Errno> {
        let args = BindVirq {
            virq,
            vcpu,
            port: Port(0),
        };
        Ok(self.call(domain, Op::BindVirq, args)?.port)
    }

    fn bind_ipi(&self, domain: usize, vcpu: u32) -> Result<Port, Errno> {
        let args = BindIpi {
            vcpu,
            port: Port(0),
        };
        Ok(self.call(domain, Op::BindIpi, args)?.port)
    }

    fn send(&self, domain: usize, port: Port) -> Result<(), Errno> {
        self.call(domain, Op::Send, SendEvent { port }).map(|_| ())
    }

    fn close(&self, domain: usize, port: Port) -> Result<(), Errno> {
        self.call(domain, Op::Close, Close { port }).map(|_| ())
    }

    fn status(&self, caller: usize, dom: u16, port: Port) -> Result<Status, Errno> {
        let args = Status {
            dom: DomId(dom),
            port,
            ..Default::default()
        };
        self.call(caller, Op::Status, args)
    }

    fn state(&self, domain: usize, port: Port) -> PortState {
        let status = self.status(domain, DomId::SELF.0, port).unwrap();
        PortState::try_from(status.status).unwrap()
    }

    fn mask(&self, domain: usize, port: Port) {
        let shared = self.domains[domain].shared_info;
        let at = LAYOUT.evtchn_mask + port.0 as usize / 64 * 8;
        self.hv
            .hal
            .atomic64(shared, at, Or(1 << (port.0 % 64)))
            .unwrap();
    }

    /// What a guest's upcall handler does: returns the unmasked pending ports of a vCPU and clears them.
    fn take_events(&self, domain: usize, vcpu: u16) -> Vec<Port> {
        let hal = &self.hv.hal;
        let domain = &self.domains[domain];
        let vcpu = &domain.vcpus[usize::from(vcpu)];
        vcpu.arch.take_upcalls();
        let Some(info) = domain.info_area(vcpu) else {
            return Vec::new();
        };
        let field = |at: usize| info.offset + at;
        hal.atomic8(info.mfn, field(LAYOUT.vcpu.evtchn_upcall_pending), Swap(0))
            .unwrap();
        let selector = hal
            .atomic64(info.mfn, field(LAYOUT.vcpu.evtchn_pending_sel), Swap(0))
            .unwrap();
        let mut ports = Vec::new();
        for word in (0..64).filter(|word| selector >> word & 1 != 0) {
            let at = word * 8;
            let mask = hal
                .atomic64(domain.shared_info, LAYOUT.evtchn_mask + at, Load)
                .unwrap();
            let taken = hal
                .atomic64(domain.shared_info, LAYOUT.evtchn_pending + at, And(mask))
                .unwrap()
                & !mask;
            let bits = (0..64u32).filter(|bit| taken >> bit & 1 != 0);
            ports.extend(bits.map(|bit| Port(word as u32 * 64 + bit)));
        }
        ports
    }

    fn upcalls(&self, domain: usize, vcpu: usize) -> u64 {
        self.domains[domain].vcpus[vcpu].arch.take_upcalls()
    }
}

fn refused<T: Debug>(result: Result<T, Errno>) -> Errno {
    result.unwrap_err()
}

#[test]
fn an_event_crosses_from_one_domain_to_another_and_back() {
    let rig = Rig::new();
    let (near, far) = rig.pair();
    rig.upcalls(2, 0);
    rig.send(1, near).unwrap();
    assert_eq!(rig.upcalls(2, 0), 1);
    assert_eq!(rig.take_events(2, 0), [far]);
    rig.send(2, far).unwrap();
    assert_eq!(rig.take_events(1, 0), [near]);
    assert_eq!(rig.take_events(1, 0), []);
}

#[test]
fn a_pending_event_interrupts_once() {
    let rig = Rig::new();
    let port = rig.bind_ipi(1, 0).unwrap();
    for _ in 0..3 {
        rig.send(1, port).unwrap();
    }
    assert_eq!(rig.upcalls(1, 0), 1);
}

#[test]
fn a_masked_port_stays_pending_until_unmask() {
    let rig = Rig::new();
    let port = rig.bind_ipi(1, 0).unwrap();
    rig.mask(1, port);
    rig.send(1, port).unwrap();
    assert_eq!(rig.upcalls(1, 0), 0);
    rig.call(1, Op::Unmask, Unmask { port }).unwrap();
    assert_eq!(rig.upcalls(1, 0), 1);
    assert_eq!(rig.take_events(1, 0), [port]);
    rig.call(1, Op::Unmask, Unmask { port }).unwrap();
    assert_eq!(rig.upcalls(1, 0), 0);
}

#[test]
fn a_bound_connection_is_pending_at_once() {
    let rig = Rig::new();
    let far = rig.alloc_unbound(2, 1);
    rig.send(2, far).unwrap();
    let near = rig.connect(1, 2, far).unwrap();
    assert_eq!(rig.take_events(1, 0), [near]);
}

#[test]
fn only_the_awaited_domain_connects_and_only_once() {
    let rig = Rig::new();
    let far = rig.alloc_unbound(2, 1);
    assert_eq!(refused(rig.connect(0, 2, far)), Errno::EINVAL);
    assert_eq!(refused(rig.connect(1, 2, Port(9))), Errno::EINVAL);
    assert_eq!(refused(rig.connect(1, 2, Port(4000))), Errno::EINVAL);
    assert_eq!(refused(rig.connect(1, 77, far)), Errno::ESRCH);
    assert_eq!(refused(rig.connect(1, DomId::IO.0, far)), Errno::ESRCH);
    rig.connect(1, 2, far).unwrap();
    assert_eq!(refused(rig.connect(1, 2, far)), Errno::EINVAL);
    // The refused attempts gave their ports back.
    assert_eq!(rig.alloc_unbound(1, 0), Port(2));
}

#[test]
fn a_domain_connects_to_itself_but_no_port_to_itself() {
    let rig = Rig::new();
    let one = rig.alloc_unbound(1, DomId::SELF.0);
    // The next free port is the very one that would be bound.
    let next = Port(one.0 + 1);
    let own = DomId::SELF.0;
    assert_eq!(refused(rig.connect(1, own, next)), Errno::EINVAL);
    let two = rig.connect(1, own, one).unwrap();
    assert_eq!(two, next);
    rig.take_events(1, 0);
    rig.send(1, one).unwrap();
    assert_eq!(rig.take_events(1, 0), [two]);
    rig.close(1, two).unwrap();
    assert_eq!(rig.state(1, one), PortState::Unbound);
}

#[test]
fn closing_one_end_lets_the_other_wait_again() {
    let rig = Rig::new();
    let (near, far) = rig.pair();
    rig.send(2, far).unwrap();
    rig.close(1, near).unwrap();
    assert_eq!(rig.state(1, near), PortState::Closed);
    let status = rig.status(2, 2, far).unwrap();
    assert_eq!(status.status, PortState::Unbound.number());
    assert_eq!(status.peer, StatusPeer::unbound(DomId(1)));
    // An unbound port swallows what is sent; a closed one refuses it and has lost its pending bit.
    rig.send(2, far).unwrap();
    assert_eq!(refused(rig.send(1, near)), Errno::EINVAL);
    assert_eq!(refused(rig.close(1, near)), Errno::EINVAL);
    assert_eq!(rig.hv.any_pending(&rig.domains[1], [near]), Ok(false));
    assert_eq!(rig.connect(1, 2, far), Ok(near));
    assert_eq!(Arc::strong_count(&rig.domains[1]), 3);
}

#[test]
fn a_port_waits_for_nobody_who_is_not_there() {
    let rig = Rig::new();
    let args = AllocUnbound {
        dom: DomId::SELF,
        remote_dom: DomId(99),
        port: Port(0),
    };
    assert_eq!(refused(rig.call(1, Op::AllocUnbound, args)), Errno::ESRCH);
}

#[test]
fn a_plain_domain_acts_for_itself_only() {
    let rig = Rig::new();
    let args = |dom: u16| AllocUnbound {
        dom: DomId(dom),
        remote_dom: DomId(0),
        port: Port(0),
    };
    let alloc = |caller, dom| rig.call(caller, Op::AllocUnbound, args(dom));
    assert_eq!(refused(alloc(1, 2)), Errno::EPERM);
    assert_eq!(refused(alloc(1, 99)), Errno::ESRCH);
    assert_eq!(alloc(1, 1).unwrap().port, Port(1));
    assert_eq!(alloc(0, 1).unwrap().port, Port(2));
    assert_eq!(refused(rig.status(1, 2, Port(1))), Errno::EPERM);
    assert_eq!(refused(rig.status(1, 99, Port(1))), Errno::ESRCH);
    let status = rig.status(0, 1, Port(2)).unwrap();
    assert_eq!(status.status, PortState::Unbound.number());
    let reset = |caller, dom: u16| {
        let dom = DomId(dom);
        rig.call(caller, Op::Reset, Reset { dom })
    };
    assert_eq!(refused(reset(1, 2)), Errno::EPERM);
    // A domain that may run is not reset by another.
    assert_eq!(refused(reset(0, 1)), Errno::EINVAL);
    rig.domains[1]
        .pause_count
        .store(1, core::sync::atomic::Ordering::SeqCst);
    reset(0, 1).unwrap();
    assert_eq!(rig.state(1, Port(1)), PortState::Closed);
}

#[test]
fn a_virq_is_bound_once_where_it_belongs() {
    let rig = Rig::new();
    let (timer, console) = (Virq::Timer.number(), Virq::Console.number());
    let port = rig.bind_virq(1, timer, 1).unwrap();
    assert_eq!(refused(rig.bind_virq(1, timer, 1)), Errno::EEXIST);
    assert_eq!(refused(rig.bind_virq(1, timer, 2)), Errno::ENOENT);
    assert_eq!(refused(rig.bind_virq(1, console, 1)), Errno::EINVAL);
    assert_eq!(refused(rig.bind_virq(1, 24, 0)), Errno::EINVAL);
    assert_eq!(refused(rig.send(1, port)), Errno::EINVAL);
    let status = rig.status(1, 1, port).unwrap();
    assert_eq!(status.status, PortState::Virq.number());
    assert_eq!((status.vcpu, status.peer), (1, StatusPeer::irq(timer)));
    rig.close(1, port).unwrap();
    assert_eq!(rig.bind_virq(1, timer, 1), Ok(port));
}

#[test]
fn a_virq_reaches_the_vcpu_that_it_is_bound_to() {
    let rig = Rig::new();
    let domain = &rig.domains[1];
    rig.hv
        .send_guest_vcpu_virq(domain, &domain.vcpus[0], Virq::Timer);
    assert_eq!(rig.upcalls(1, 0), 0);
    let timer = rig.bind_virq(1, Virq::Timer.number(), 0).unwrap();
    rig.hv
        .send_guest_vcpu_virq(domain, &domain.vcpus[0], Virq::Timer);
    assert_eq!(rig.take_events(1, 0), [timer]);
    let died = rig.bind_virq(0, Virq::DomExc.number(), 0).unwrap();
    rig.hv.send_global_virq(Virq::DomExc);
    assert_eq!(rig.take_events(0, 0), [died]);
}

#[test]
fn a_moved_global_virq_is_found_again_when_it_is_closed() {
    let rig = Rig::new();
    let virq = Virq::Console.number();
    let port = rig.bind_virq(0, virq, 0).unwrap();
    rig.call(0, Op::BindVcpu, BindVcpu { port, vcpu: 1 })
        .unwrap();
    rig.close(0, port).unwrap();
    assert_eq!(rig.bind_virq(0, virq, 0), Ok(port));
}

#[test]
fn only_ports_without_a_fixed_vcpu_are_moved() {
    let rig = Rig::new();
    let bind = |port, vcpu| rig.call(1, Op::BindVcpu, BindVcpu { port, vcpu });
    let (near, far) = rig.pair();
    let ipi = rig.bind_ipi(1, 1).unwrap();
    let timer = rig.bind_virq(1, Virq::Timer.number(), 0).unwrap();
    assert_eq!(refused(bind(ipi, 0)), Errno::EINVAL);
    assert_eq!(refused(bind(timer, 1)), Errno::EINVAL);
    assert_eq!(refused(bind(near, 2)), Errno::ENOENT);
    assert_eq!(refused(bind(Port(50), 1)), Errno::EINVAL);
    assert_eq!(refused(bind(Port(500), 1)), Errno::EINVAL);
    rig.hv
        .register_vcpu_info(&rig.vcpu(1, 1), Gfn(2), 64)
        .unwrap();
    rig.take_events(1, 1);
    bind(near, 1).unwrap();
    rig.send(2, far).unwrap();
    assert_eq!(rig.upcalls(1, 0), 0);
    assert_eq!(rig.take_events(1, 1), [near]);
    assert_eq!(rig.status(1, 1, near).unwrap().vcpu, 1);
}

#[test]
fn ports_are_given_out_from_the_lowest_until_none_is_left() {
    let rig = Rig::new();
    assert_eq!(refused(rig.status(1, 1, Port(64))), Errno::EINVAL);
    assert_eq!(rig.state(1, Port(0)), PortState::Closed);
    assert_eq!(refused(rig.close(1, Port(0))), Errno::EINVAL);
    let alloc = |domain: usize| rig.hv.alloc_unbound(&rig.domains[domain], DomId(0));
    for port in 1..4096 {
        assert_eq!(alloc(0), Ok(Port(port)));
    }
    assert_eq!(alloc(0), Err(Errno::ENOSPC));
    rig.close(0, Port(700)).unwrap();
    rig.close(0, Port(7)).unwrap();
    assert_eq!(alloc(0), Ok(Port(7)));
    assert_eq!(alloc(0), Ok(Port(700)));
    assert_eq!(alloc(0), Err(Errno::ENOSPC));
    // A plain domain has 1023, until a tool says otherwise.
    for port in 1..1024 {
        assert_eq!(alloc(1), Ok(Port(port)));
    }
    assert_eq!(alloc(1), Err(Errno::ENOSPC));
    rig.domains[1].events.set_max_port(1024);
    assert_eq!(alloc(1), Ok(Port(1024)));
    assert_eq!(alloc(1), Err(Errno::ENOSPC));
}

#[test]
fn ports_are_charged_to_their_domain_and_end_with_its_quota() {
    let rig = Rig::new();
    let (domain, account) = (&rig.domains[1], &rig.domains[1].memory);
    let before = account.hypervisor.load(Relaxed);
    let alloc = || rig.hv.alloc_unbound(domain, DomId(0));
    (0..500).for_each(|_| assert!(alloc().is_ok()));
    let spent = account.hypervisor.load(Relaxed) - before;
    assert!(spent >= 500 * 40 / 4096, "{spent} frames for 500 ports");
    assert_eq!(spent, domain.events.charged());
    account.hypervisor_max.store(before + spent, Relaxed);
    let refused = (0..500).find_map(|_| alloc().err());
    assert_eq!(refused, Some(Errno::ENOMEM));
    // A port that is free needs no memory.
    rig.close(1, Port(300)).unwrap();
    assert_eq!(alloc(), Ok(Port(300)));
    let _ = rig.hv.close_all_ports(domain);
    assert_eq!(account.hypervisor.load(Relaxed), before);
}

#[test]
fn a_reset_closes_everything_and_goes_on_after_an_interrupt() {
    let rig = Rig::new();
    let far = rig.alloc_unbound(2, 1);
    rig.connect(1, 2, far).unwrap();
    rig.bind_virq(1, Virq::Timer.number(), 0).unwrap();
    for _ in 0..100 {
        rig.alloc_unbound(1, 0);
    }
    let vcpu = rig.vcpu(1, 0);
    let caller = Caller {
        hv: &rig.hv,
        vcpu: &vcpu,
    };
    let dom = DomId::SELF;
    caller.write(ARGS, &Reset { dom }).unwrap();
    rig.hv.hal.cpu_record(CpuId(0)).interrupt_after(2);
    let reset = || event_channel_op(caller, Op::Reset.number().into(), ARGS);
    let Outcome::Again([cmd, arg, ..]) = reset() else {
        panic!("not preempted");
    };
    assert_eq!((cmd, arg), (10, ARGS.0));
    rig.hv.hal.cpu_record(CpuId(0)).clear_interrupt();
    assert_eq!(reset(), Outcome::Done(0));
    let mut left = 0;
    rig.hv.dump_ports(&rig.domains[1], |_| left += 1);
    assert_eq!(left, 0);
    assert_eq!(rig.state(2, far), PortState::Unbound);
    rig.bind_virq(1, Virq::Timer.number(), 0).unwrap();
}

#[test]
fn a_domain_that_ends_holds_no_other_and_binds_nothing_more() {
    let rig = Rig::new();
    let (near, far) = rig.pair();
    let own = rig.alloc_unbound(1, 1);
    rig.connect(1, 1, own).unwrap();
    let domain = &rig.domains[1];
    assert_eq!(rig.hv.close_all_ports(domain), super::Progress::Finished);
    assert_eq!(Arc::strong_count(domain), 2);
    assert_eq!(Arc::strong_count(&rig.domains[2]), 2);
    assert_eq!(rig.hv.alloc_unbound(domain, DomId(0)), Err(Errno::EINVAL));
    assert_eq!(refused(rig.connect(1, 2, far)), Errno::EINVAL);
    assert_eq!(refused(rig.send(1, near)), Errno::EINVAL);
    assert_eq!(rig.state(2, far), PortState::Unbound);
}

#[test]
fn a_registered_vcpu_info_takes_everything_over() {
    let rig = Rig::new();
    let (near, far) = rig.pair();
    let vcpu = rig.vcpu(1, 0);
    rig.send(2, far).unwrap();
    rig.upcalls(1, 0);
    let register = |gfn, offset| rig.hv.register_vcpu_info(&vcpu, Gfn(gfn), offset);
    let size = LAYOUT.vcpu.size as u32;
    assert_eq!(register(2, 4096 - size + 8), Err(Errno::ENXIO));
    assert_eq!(register(2, 4), Err(Errno::ENXIO));
    assert_eq!(register(100, 0), Err(Errno::EINVAL));
    register(2, 4096 - size).unwrap();
    assert_eq!(register(3, 0), Err(Errno::EINVAL));
    assert!(rig.hv.upcall_pending(&vcpu));
    assert_eq!(rig.upcalls(1, 0), 1);
    assert_eq!(rig.take_events(1, 0), [near]);
    assert!(!rig.hv.upcall_pending(&vcpu));
    rig.send(2, far).unwrap();
    assert_eq!(rig.take_events(1, 0), [near]);
}

#[test]
fn a_frame_with_a_vcpu_info_is_held_until_the_domain_ends() {
    let rig = Rig::new();
    let domain = &rig.domains[1];
    let vcpu = rig.vcpu(1, 0);
    rig.hv.register_vcpu_info(&vcpu, Gfn(2), 0).unwrap();
    let mfn = vcpu.info.get().unwrap().mfn;
    let held = || rig.hv.memory.record(mfn).unwrap().state().count();
    assert_eq!(held(), 2);
    rig.hv.forget_vcpu_infos(domain);
    assert_eq!(held(), 1);
    rig.hv.forget_vcpu_infos(domain);
    assert_eq!(held(), 1);
}

#[test]
fn events_of_a_vcpu_without_a_vcpu_info_wait_for_it() {
    let rig = Rig::new();
    let port = rig.bind_ipi(1, 1).unwrap();
    rig.send(1, port).unwrap();
    assert_eq!(rig.upcalls(1, 1), 0);
    assert!(!rig.hv.upcall_pending(&rig.vcpu(1, 1)));
    rig.hv
        .register_vcpu_info(&rig.vcpu(1, 1), Gfn(2), 0)
        .unwrap();
    assert_eq!(rig.upcalls(1, 1), 1);
    assert_eq!(rig.take_events(1, 1), [port]);
}

#[test]
fn what_is_not_offered_is_refused_as_xen_does() {
    let rig = Rig::new();
    let pirq = |pirq| {
        let args = BindPirq {
            pirq,
            ..Default::default()
        };
        refused(rig.call(1, Op::BindPirq, args))
    };
    assert_eq!((pirq(30), pirq(1024)), (Errno::ENOMEM, Errno::EINVAL));
    let priority = |port| {
        let port = Port(port);
        let args = SetPriority { port, priority: 3 };
        refused(rig.call(1, Op::SetPriority, args))
    };
    assert_eq!((priority(1), priority(999)), (Errno::ENOSYS, Errno::EINVAL));
    assert_eq!(refused(rig.bind_ipi(1, 2)), Errno::ENOENT);
    let vcpu = rig.vcpu(1, 0);
    let caller = Caller {
        hv: &rig.hv,
        vcpu: &vcpu,
    };
    let call = |cmd, arg| event_channel_op(caller, cmd, GuestVirt(arg));
    let failed = |errno: Errno| Outcome::Done(errno.neg() as i64);
    assert_eq!(call(15, ARGS.0), failed(Errno::ENOSYS));
    assert_eq!(call(u64::MAX, ARGS.0), failed(Errno::ENOSYS));
    for op in 0..15 {
        assert_eq!(call(op, 0x10_0000), failed(Errno::EFAULT), "op {op}");
    }
}

#[test]
fn the_old_form_of_the_call_does_the_same() {
    let rig = Rig::new();
    let vcpu = rig.vcpu(1, 0);
    let caller = Caller {
        hv: &rig.hv,
        vcpu: &vcpu,
    };
    caller
        .write(ARGS, &[Op::BindIpi.number(), 0, u32::MAX])
        .unwrap();
    assert_eq!(event_channel_op_compat(caller, ARGS), Outcome::Done(0));
    let [_, _, port]: [u32; 3] = caller.read(ARGS).unwrap();
    assert_eq!(rig.state(1, Port(port)), PortState::Ipi);
    caller.write(ARGS, &Op::Reset.number()).unwrap();
    assert_eq!(
        event_channel_op_compat(caller, ARGS),
        Outcome::Done(Errno::ENOSYS.neg() as i64)
    );
}

#[test]
fn a_poll_looks_at_each_port() {
    let rig = Rig::new();
    let (one, two) = (rig.bind_ipi(1, 0).unwrap(), rig.bind_ipi(1, 0).unwrap());
    let domain = &rig.domains[1];
    assert_eq!(rig.hv.any_pending(domain, [one, two]), Ok(false));
    rig.send(1, two).unwrap();
    assert_eq!(rig.hv.any_pending(domain, [one, two]), Ok(true));
    assert_eq!(rig.hv.any_pending(domain, [Port(4096)]), Err(Errno::EINVAL));
}

#[test]
fn a_dump_tells_what_each_port_is() {
    use alloc::string::ToString;
    let rig = Rig::new();
    let (_, far) = rig.pair();
    rig.send(2, far).unwrap();
    rig.alloc_unbound(1, 0);
    rig.bind_ipi(1, 1).unwrap();
    rig.bind_virq(1, Virq::Debug.number(), 1).unwrap();
    rig.mask(1, Port(2));
    let mut lines = Vec::new();
    rig.hv.dump_ports(&rig.domains[1], |facts: &PortFacts| {
        lines.push(facts.to_string())
    });
    assert_eq!(
        lines,
        [
            "   1 [1/0]: v0 interdomain with d2 port 1",
            "   2 [0/1]: v0 unbound, waits for d0",
            "   3 [0/0]: v1 ipi",
            "   4 [0/0]: v1 virq 1",
        ]
    );
}

#[test]
fn ends_that_are_closed_and_bound_by_many_threads_stay_in_pairs() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for domain in [1usize, 2] {
            let rig = &rig;
            scope.spawn(move || {
                let other = 3 - domain as u16;
                let (own, peer) = (&rig.domains[domain], &rig.domains[usize::from(other)]);
                for round in 0..2000u32 {
                    let port = Port(1 + round % 5);
                    match round % 7 {
                        0 | 3 => drop(rig.hv.alloc_unbound(own, DomId(other))),
                        1 | 4 => drop(rig.hv.bind_interdomain(own, peer, port)),
                        2 | 5 => drop(rig.hv.send_event(own, port)),
                        _ => drop(rig.hv.close_port(own, port)),
                    }
                }
            });
        }
    });
    for (domain, other) in [(1, 2), (2, 1)] {
        rig.hv.dump_ports(&rig.domains[domain], |facts| {
            let super::Binding::Interdomain { remote } = facts.binding else {
                return;
            };
            let peer = rig.domains[other].events.status(remote).unwrap();
            let us = StatusPeer::interdomain(DomId(domain as u16), facts.port);
            assert_eq!(peer.peer, us);
        });
        let _ = rig.hv.close_all_ports(&rig.domains[domain]);
    }
    for domain in &rig.domains {
        assert_eq!(Arc::strong_count(domain), 2);
    }
}
