//! Two ends of a channel name each other; what is pending was told, and who was told does not sleep on.

use std::collections::{HashMap, HashSet};

use xenolith_abi::virq::Virq;
use xenolith_core::{
    DomId, VcpuRef,
    event::{Binding, PortFacts},
};

use crate::{
    guest::told,
    machine::{Dom, Machine},
};

impl Machine {
    pub fn check_events(&self) {
        let mut ports: HashMap<(DomId, u32), PortFacts> = HashMap::new();
        self.hv.domains.for_each(|domain| {
            self.hv.dump_ports(domain, |facts| {
                ports.insert((domain.id(), facts.port.0), *facts);
            });
        });
        for ((id, port), facts) in &ports {
            let domain = self.hv.domains.get(*id).expect("it was just there");
            assert!(usize::from(facts.vcpu.0) < domain.vcpus.len());
            match facts.binding {
                Binding::Interdomain { remote } => {
                    let peer = facts.peer.expect("a bound channel has a peer");
                    let other = ports.get(&(peer, remote.0));
                    let back = other.map(|other| (other.binding, other.peer));
                    let own = Binding::Interdomain { remote: facts.port };
                    assert_eq!(back, Some((own, Some(*id))), "{id} port {port}: one-sided");
                }
                Binding::Virq { virq } => {
                    let global = Virq::try_from(virq).map_or(true, Virq::is_global);
                    let owner = if global { 0 } else { usize::from(facts.vcpu.0) };
                    let bound = domain.vcpus.get(owner).and_then(|v| v.virqs.port(virq));
                    assert_eq!(bound, Some(facts.port), "{id} port {port}: virq {virq}");
                }
                Binding::Pirq { pirq } => {
                    let bound = domain.pirqs.port(pirq);
                    assert_eq!(bound, Some(facts.port), "{id} port {port}: pirq {pirq}");
                }
                Binding::Reserved => panic!("{id} port {port} is reserved between two steps"),
                Binding::Unbound { .. } | Binding::Ipi | Binding::Free => {
                    assert!(facts.peer.is_none(), "{id} port {port} has a peer");
                }
            }
        }
        for dom in self.doms.iter().filter(|dom| dom.polite && !dom.destroying) {
            self.check_delivery(dom);
        }
    }

    /// An event that is pending and not masked is in some vCPU's selector, and that vCPU's upcall byte is set.
    fn check_delivery(&self, dom: &Dom) {
        if dom.fifo.is_some() {
            return self.check_queues(dom);
        }
        let mut selected = 0;
        for vcpu in VcpuRef::all(&dom.domain) {
            let (selector, upcall) = told(&self.hv.hal, &vcpu).expect("a polite guest has it");
            assert!(
                selector == 0 || upcall,
                "a vCPU is not told of its selector"
            );
            selected |= selector;
        }
        self.hv.dump_ports(&dom.domain, |facts| {
            if facts.pending && !facts.masked {
                assert!(
                    selected >> (facts.port.0 / 64) & 1 != 0,
                    "{}: nobody is told of port {facts}",
                    dom.domain.id()
                );
            }
        });
    }

    /// An event that is pending and not masked is in a queue of some vCPU, and that vCPU's guest looks there.
    fn check_queues(&self, dom: &Dom) {
        let mut queued = HashSet::new();
        for vcpu in VcpuRef::all(&dom.domain) {
            let ports = self.queued_ports(dom, &vcpu);
            let (_, upcall) = told(&self.hv.hal, &vcpu).expect("a polite guest has it");
            assert!(
                ports.is_empty() || self.looks_at_queues(dom, &vcpu, upcall),
                "a vCPU is not told of its queues"
            );
            for port in ports {
                assert!(queued.insert(port), "port {port} is in two queues");
            }
        }
        self.hv.dump_ports(&dom.domain, |facts| {
            let waits = facts.pending && !facts.masked;
            assert!(
                !waits || queued.contains(&facts.port.0),
                "{}: nobody is told of port {facts}",
                dom.domain.id()
            );
        });
    }

    /// After all guests came to rest, the only events left are those of vCPUs that are down.
    pub fn check_events_arrived(&self) {
        let resting = self
            .doms
            .iter()
            .filter(|dom| dom.polite && dom.is_running());
        for dom in resting.filter(|dom| !dom.destroying) {
            let mut waiting = 0;
            let mut queued = HashSet::new();
            for vcpu in VcpuRef::all(&dom.domain) {
                let (selector, _) = told(&self.hv.hal, &vcpu).expect("a polite guest has it");
                if self.hv.vcpu_facts(&vcpu).down {
                    waiting |= selector;
                    queued.extend(self.queued_ports(dom, &vcpu));
                }
            }
            self.hv.dump_ports(&dom.domain, |facts| {
                let left = facts.pending && !facts.masked;
                let excused = match dom.fifo {
                    Some(_) => queued.contains(&facts.port.0),
                    None => waiting >> (facts.port.0 / 64) & 1 != 0,
                };
                assert!(!left || excused, "{}: event lost: {facts}", dom.domain.id());
            });
        }
    }
}
