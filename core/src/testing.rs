//! A small hypervisor on the simulated machine, for the tests of every part of the core.

extern crate std;

use std::{boxed::Box, vec::Vec};

use xenolith_hal::{Gfn, GuestVirt, Hal, Mfn, P2m, P2mType};
use xenolith_sim::{Sim, SimDomain, SimVcpu};

use crate::{
    DomId, DomainRef, Hypervisor, VcpuId, VcpuRef,
    domain::{Destroyed, DomainConfig, GuestKind},
    guest::Caller,
    memory::{Claim, Dropped, Ended, FrameRecord, FrameType, Memory, Node, Place, RamBank},
};

/// A hypervisor over all RAM of a simulated machine.
pub(crate) fn hypervisor(sim: &Sim) -> Hypervisor<Sim> {
    let bank = |(first, frames): (Mfn, u64)| {
        let records: Vec<_> = (0..frames).map(|_| FrameRecord::new()).collect();
        RamBank {
            first,
            records: Box::leak(records.into_boxed_slice()),
            node: Node(0),
        }
    };
    let banks: Vec<_> = sim.banks().into_iter().map(bank).collect();
    let memory = Memory::new(&banks).unwrap();
    for bank in &banks {
        memory.release_at_boot(bank.first, bank.records.len() as u64);
    }
    Hypervisor::new(sim.clone(), memory)
}

/// What the domains of the tests are made with: two vCPUs, 1024 frames at most, domain 0 privileged.
pub(crate) fn config(id: u16) -> DomainConfig {
    DomainConfig {
        id: DomId(id),
        vcpus: 2,
        privileged: id == 0,
        max_frames: 1024,
        direct_map: false,
        kind: GuestKind::Translated,
    }
}

/// A running domain with `frames` frames of memory from guest frame 0 on.
pub(crate) fn domain_with(
    hv: &Hypervisor<Sim>,
    config: DomainConfig,
    frames: u64,
) -> DomainRef<Sim> {
    let vcpus = (0..config.vcpus).map(|_| SimVcpu::default()).collect();
    let domain = hv
        .create_domain(config, SimDomain::default(), vcpus, |_| {
            Ok(hv.hal.new_p2m())
        })
        .unwrap();
    for gfn in 0..frames {
        let mfn = hv.allocate_for(&domain, 0, Place::ANY).unwrap();
        domain
            .p2m
            .map(Gfn(gfn), mfn, 1, P2mType::RamRw, &hv.tables(&domain))
            .unwrap();
    }
    hv.domain_built(&domain);
    domain
}

/// A running domain of [`config`] with `frames` frames.
pub(crate) fn domain(hv: &Hypervisor<Sim>, id: u16, frames: u64) -> DomainRef<Sim> {
    domain_with(hv, config(id), frames)
}

/// A running paravirtual domain with `frames` frames, which its page tables map at address 0 on.
pub(crate) fn pv_with(hv: &Hypervisor<Sim>, config: DomainConfig, frames: u64) -> DomainRef<Sim> {
    let config = DomainConfig {
        kind: GuestKind::Paravirtual,
        ..config
    };
    let vcpus = (0..config.vcpus).map(|_| SimVcpu::default()).collect();
    let domain = hv
        .create_domain(config, SimDomain::default(), vcpus, |_| {
            Ok(hv.hal.new_linear())
        })
        .unwrap();
    for pfn in 0..frames {
        let mfn = hv.allocate_for(&domain, 0, Place::ANY).unwrap();
        hv.hal.set_machine_to_phys(mfn, Some(Gfn(pfn)));
        domain
            .p2m
            .map(Gfn(pfn), mfn, 1, P2mType::RamRw, &hv.tables(&domain))
            .unwrap();
    }
    hv.domain_built(&domain);
    domain
}

/// A running paravirtual domain of [`config`] with `frames` frames.
pub(crate) fn pv(hv: &Hypervisor<Sim>, id: u16, frames: u64) -> DomainRef<Sim> {
    pv_with(hv, config(id), frames)
}

/// The machine frame that a paravirtual guest has at a virtual page.
pub(crate) fn mfn_at(domain: &DomainRef<Sim>, page: u64) -> Mfn {
    domain.p2m.lookup(Gfn(page)).unwrap().mfn
}

/// A frame becomes a page table of its domain, with nothing in it.
pub(crate) fn make_table(hv: &Hypervisor<Sim>, domain: &DomainRef<Sim>, mfn: Mfn) {
    let record = hv.memory.record(mfn).unwrap();
    let claim = record.claim(domain.id(), FrameType::L1).unwrap();
    assert!(matches!(claim, Claim::Fresh(_)));
    record.begin_table();
    record.set_valid();
}

/// It ceases to be one.
pub(crate) fn end_table(hv: &Hypervisor<Sim>, mfn: Mfn) {
    let record = hv.memory.record(mfn).unwrap();
    assert_eq!(record.release(), Ended::Whole);
    assert_eq!(record.end_type(hv.hal.tlb_stamp()), Dropped::Kept);
}

/// The first vCPU of a domain.
pub(crate) fn vcpu(domain: &DomainRef<Sim>) -> VcpuRef<Sim> {
    VcpuRef::new(domain, VcpuId(0)).unwrap()
}

/// Destroys a domain to the end.
pub(crate) fn destroy(hv: &Hypervisor<Sim>, domain: &DomainRef<Sim>) {
    for _ in 0..100_000 {
        if hv.destroy(domain) == Destroyed::Yes {
            return;
        }
    }
    panic!("the destruction does not end");
}

/// Puts bytes into a guest's memory and gives their address.
#[allow(dead_code, reason = "not every part passes arguments in memory")]
pub(crate) fn place<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    hv: &Hypervisor<Sim>,
    vcpu: &VcpuRef<Sim>,
    at: u64,
    value: &T,
) -> GuestVirt {
    Caller { hv, vcpu }
        .write_bytes(GuestVirt(at), value.as_bytes())
        .unwrap();
    GuestVirt(at)
}
