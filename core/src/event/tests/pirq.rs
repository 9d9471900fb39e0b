//! Physical interrupts of a paravirtual domain as events.

use super::*;
use crate::event::PIRQS;

/// As [`Rig::new`], with domain 1 paravirtual.
fn rig() -> Rig {
    let hv = testing::hypervisor(&Sim::small());
    let domains = (0..3)
        .map(|id| match id {
            1 => testing::pv(&hv, id, 16),
            _ => testing::domain(&hv, id, 16),
        })
        .collect();
    Rig { hv, domains }
}

impl Rig {
    fn bind_pirq(&self, pirq: u32) -> Result<Port, Errno> {
        let args = BindPirq {
            pirq,
            ..Default::default()
        };
        self.call(1, Op::BindPirq, args).map(|args| args.port)
    }

    fn is_pending(&self, port: Port) -> bool {
        let mut found = false;
        self.hv.dump_ports(&self.domains[1], |facts| {
            found |= facts.port == port && facts.pending;
        });
        found
    }

    fn open_pirqs(&self) -> u64 {
        self.domains[1].arch.open_pirqs()
    }
}

#[test]
fn an_interrupt_of_a_device_makes_its_port_pending() {
    let rig = rig();
    let port = rig.bind_pirq(9).unwrap();
    assert_eq!(rig.open_pirqs(), 1 << 9);
    rig.hv.send_pirq(&rig.domains[1], 8);
    assert!(!rig.is_pending(port));
    rig.hv.send_pirq(&rig.domains[1], 9);
    assert!(rig.is_pending(port));
    let args = Status {
        dom: DomId::SELF,
        port,
        ..Default::default()
    };
    let status = rig.call(1, Op::Status, args).unwrap();
    assert_eq!(status.status, PortState::Pirq.number());
    assert_eq!(status.peer, StatusPeer::irq(9));
}

#[test]
fn an_interrupt_without_a_port_waits_for_one() {
    let rig = rig();
    rig.hv.send_pirq(&rig.domains[1], 5);
    let port = rig.bind_pirq(5).unwrap();
    assert!(rig.is_pending(port));
    rig.close(1, port).unwrap();
    let port = rig.bind_pirq(5).unwrap();
    assert!(!rig.is_pending(port));
}

#[test]
fn a_number_has_one_port_at_a_time_and_none_after_it_is_closed() {
    let rig = rig();
    let port = rig.bind_pirq(5).unwrap();
    assert_eq!(rig.bind_pirq(5), Err(Errno::EEXIST));
    assert_eq!(
        refused(rig.call(1, Op::Send, SendEvent { port })),
        Errno::EINVAL
    );
    rig.close(1, port).unwrap();
    assert_eq!(rig.open_pirqs(), 0);
    assert_eq!(rig.bind_pirq(5), Ok(port));
}

#[test]
fn numbers_that_the_domain_has_not_got_take_no_port() {
    let rig = rig();
    let first = rig.bind_pirq(1).unwrap();
    for bad in [64, PIRQS - 1, PIRQS, u32::MAX] {
        assert_eq!(rig.bind_pirq(bad), Err(Errno::EINVAL));
    }
    rig.close(1, first).unwrap();
    assert_eq!(rig.bind_pirq(1), Ok(first));
}

#[test]
fn a_port_of_a_device_notifies_the_vcpu_that_was_chosen() {
    let rig = rig();
    let page = Gfn(testing::mfn_at(&rig.domains[1], 2).0);
    let second = rig.vcpu(1, 1);
    rig.hv.register_vcpu_info(&second, page, 0).unwrap();
    // Who registers its place is told of everything, and masks nothing there.
    let _ = rig.take_events(1, 1);
    let port = rig.bind_pirq(3).unwrap();
    rig.call(1, Op::BindVcpu, BindVcpu { port, vcpu: 1 })
        .unwrap();
    let upcalls = |vcpu: u16| rig.vcpu(1, vcpu).arch.take_upcalls();
    let _ = (upcalls(0), upcalls(1));
    rig.hv.send_pirq(&rig.domains[1], 3);
    assert_eq!((upcalls(0), upcalls(1)), (0, 1));
}

#[test]
fn a_domain_that_ends_leaves_no_interrupt_open() {
    let rig = rig();
    for pirq in [1, 2, 3] {
        rig.bind_pirq(pirq).unwrap();
    }
    testing::destroy(&rig.hv, &rig.domains[1]);
    assert_eq!(rig.open_pirqs(), 0);
    rig.hv.send_pirq(&rig.domains[1], 2);
}
