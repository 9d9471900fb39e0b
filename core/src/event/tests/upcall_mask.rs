//! The byte by which a paravirtual guest masks events.

use xenolith_abi::sched::SchedOp;
use xenolith_hal::{AtomicOp::Swap, Gfn, GuestVirt, Hal};
use xenolith_sim::Sim;

use crate::{DomId, Errno, VcpuRef, event::InfoArea, guest::Caller, sched::sched_op, testing};

const MASK: usize = Sim::PV_SHARED_INFO.vcpu.evtchn_upcall_mask;

fn setup() -> (crate::Hypervisor<Sim>, VcpuRef<Sim>) {
    let hv = testing::hypervisor(&Sim::small());
    let vcpu = testing::vcpu(&testing::pv(&hv, 1, 8));
    (hv, vcpu)
}

fn info(vcpu: &VcpuRef<Sim>) -> InfoArea {
    vcpu.domain().info_area(vcpu).unwrap()
}

fn set_mask(hv: &crate::Hypervisor<Sim>, vcpu: &VcpuRef<Sim>, mask: u8) -> u8 {
    let at = info(vcpu);
    hv.hal
        .atomic8(at.mfn, at.offset + MASK, Swap(mask))
        .unwrap()
}

/// Makes some port of the domain pending.
fn send(hv: &crate::Hypervisor<Sim>, vcpu: &VcpuRef<Sim>) -> Result<(), Errno> {
    let port = hv.bind_ipi(vcpu.domain(), 0)?;
    hv.send_event(vcpu.domain(), port)
}

#[test]
fn a_new_guest_has_its_events_masked() {
    let (hv, vcpu) = setup();
    assert_eq!(set_mask(&hv, &vcpu, 0), 1);
    let translated = testing::vcpu(&testing::domain(&hv, 2, 4));
    assert_eq!(set_mask(&hv, &translated, 0), 0);
}

#[test]
fn a_masked_event_is_no_reason_to_go_on() {
    let (hv, vcpu) = setup();
    send(&hv, &vcpu).unwrap();
    assert!(!hv.upcall_pending(&vcpu));
    set_mask(&hv, &vcpu, 0);
    assert!(hv.upcall_pending(&vcpu));
}

#[test]
fn who_blocks_takes_events_again() {
    let (hv, vcpu) = setup();
    let caller = Caller {
        hv: &hv,
        vcpu: &vcpu,
    };
    send(&hv, &vcpu).unwrap();
    assert!(!hv.upcall_pending(&vcpu));
    let _ = sched_op(caller, SchedOp::Block.number(), GuestVirt(0));
    assert_eq!(set_mask(&hv, &vcpu, 1), 0);
}

#[test]
fn a_translated_guest_has_no_such_byte() {
    let (hv, _) = setup();
    let domain = testing::domain(&hv, 2, 4);
    let vcpu = testing::vcpu(&domain);
    set_mask(&hv, &vcpu, 1);
    send(&hv, &vcpu).unwrap();
    assert!(hv.upcall_pending(&vcpu));
    assert_eq!(domain.id(), DomId(2));
    hv.register_vcpu_info(&testing::vcpu(&domain), Gfn(2), 0)
        .unwrap();
}
