//! Random hypercalls with mostly sane arguments, laid out in the guest's own memory.

mod grants;
mod memory;

use xenolith_abi::{
    Nr, Port,
    event_channel::{
        AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, EventChannelOp as Ev,
        ExpandArray, InitControl, SetPriority,
    },
    handle::GuestHandle,
    multicall::MulticallEntry,
    sched::{PinOverride, Poll, RemoteShutdown, SchedOp, Shutdown, Watchdog},
    vcpu::{RegisterRunstateMemoryArea, RegisterVcpuInfo, VcpuOp},
};
use xenolith_core::{DomId, VcpuRef, event::Binding, timer::VcpuTimer};
use xenolith_hal::{ArchTimer, Hal, Nanos};
use xenolith_sim::Sim;

use crate::{
    guest::{DATA, GARBAGE, INFO, WINDOW, WINDOW_PAGES},
    machine::{BANKS, Machine},
    pv::frame_of,
};

/// A call that a guest is about to make.
pub struct Call {
    pub nr: u64,
    pub args: [u64; 5],
    /// What the call is about, for what is expected of it.
    pub what: What,
    /// Ports that it polls.
    pub polled: Vec<Port>,
}

/// Calls of which more is expected than that they break nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Send(Port),
    AllocOwn,
    Other,
}

/// What must be true after a call that succeeded.
pub enum Expected {
    /// The port of that domain is pending.
    Pending(DomId, Port),
    /// The port that was given out.
    Lowest(Port),
}

fn call(nr: Nr, args: [u64; 5]) -> Call {
    Call {
        nr: nr.number(),
        args,
        what: What::Other,
        polled: Vec::new(),
    }
}

impl Machine {
    /// A page that the guest keeps its data in, whatever has become of it.
    pub fn some_data(&mut self, at: usize) -> u64 {
        let dom = &self.doms[at];
        let (base, polite) = (dom.base, dom.polite);
        if !polite && self.random.once_in(4) {
            return self.wild_gfn(at);
        }
        base + DATA + self.random.below(10)
    }

    /// A page where nothing that the guest needs is.
    fn some_window(&mut self, at: usize) -> u64 {
        let dom = &self.doms[at];
        let (base, polite) = (dom.base, dom.polite);
        match self.random.below(8) {
            0 => self.some_data(at),
            1 if !polite => self.wild_gfn(at),
            _ => base + WINDOW + self.random.below(WINDOW_PAGES),
        }
    }

    fn wild_gfn(&mut self, at: usize) -> u64 {
        let base = self.doms[at].base;
        match self.random.below(6) {
            0 => self.random.next(),
            1 => (1 << 28) - self.random.below(3),
            2 => {
                let (first, frames) = BANKS[self.random.below(2) as usize];
                first.0 + self.random.below(frames)
            }
            _ => base + self.random.below(WINDOW + WINDOW_PAGES),
        }
    }

    /// Whom a call names: mostly the caller itself.
    fn target(&mut self, own: DomId) -> DomId {
        match self.random.below(8) {
            0 | 1 => self.some_id(),
            2 => own,
            _ => DomId::SELF,
        }
    }

    /// A call of some kind, its arguments at `slot` of the vCPU's page.
    pub fn random_call(&mut self, at: usize, index: usize, vcpu: &VcpuRef<Sim>, slot: u64) -> Call {
        let arg = self.args_page(at, index) + slot * 768;
        match self.random.below(16) {
            0..=5 => self.event_call(at, vcpu, arg),
            6..=9 => self.grant_call(at, vcpu, arg),
            10..=12 => self.memory_call(at, vcpu, arg),
            13 | 14 => self.sched_call(vcpu, arg),
            _ => self.other_call(at, vcpu, arg),
        }
    }

    fn event_call(&mut self, at: usize, vcpu: &VcpuRef<Sim>, arg: u64) -> Call {
        let own = vcpu.domain();
        let call = |op: Ev| call(Nr::EventChannelOp, [op.number().into(), arg, 0, 0, 0]);
        let target_vcpu = self.random.below(own.vcpus.len() as u64 + 1) as u32;
        match self.random.below(20) {
            0 | 1 => {
                let dom = self.target(own.id());
                let own_table = dom == DomId::SELF || dom == own.id();
                let remote_dom = self.some_id();
                self.poke(
                    vcpu,
                    arg,
                    &AllocUnbound {
                        dom,
                        remote_dom,
                        port: Port(0),
                    },
                );
                let what = if own_table {
                    What::AllocOwn
                } else {
                    What::Other
                };
                Call {
                    what,
                    ..call(Ev::AllocUnbound)
                }
            }
            2..=4 => {
                let (remote_dom, remote_port) = self.waiting_port(own.id());
                let args = BindInterdomain {
                    remote_dom,
                    remote_port,
                    ..Default::default()
                };
                self.poke(vcpu, arg, &args);
                call(Ev::BindInterdomain)
            }
            5 => {
                let virq = self.random.below(25) as u32;
                self.poke(
                    vcpu,
                    arg,
                    &BindVirq {
                        virq,
                        vcpu: target_vcpu,
                        port: Port(0),
                    },
                );
                call(Ev::BindVirq)
            }
            6 => {
                self.poke(
                    vcpu,
                    arg,
                    &BindIpi {
                        vcpu: target_vcpu,
                        port: Port(0),
                    },
                );
                call(Ev::BindIpi)
            }
            7 => {
                let port = self.some_port(own);
                self.poke(
                    vcpu,
                    arg,
                    &BindVcpu {
                        port,
                        vcpu: target_vcpu,
                    },
                );
                call(Ev::BindVcpu)
            }
            8 | 9 => {
                let port = self.some_port(own);
                self.poke(vcpu, arg, &port.0);
                call(Ev::Close)
            }
            10 | 11 => {
                let port = self.some_port(own);
                self.poke(vcpu, arg, &port.0);
                call(Ev::Unmask)
            }
            12 => {
                let port = self.some_port(own);
                let dom = self.target(own.id());
                self.poke(vcpu, arg, &(u64::from(port.0) << 32 | u64::from(dom.0)));
                call(Ev::Status)
            }
            13 if self.random.once_in(6) => {
                let dom = self.target(own.id());
                self.poke(vcpu, arg, &dom.0);
                call(Ev::Reset)
            }
            14 if self.random.once_in(2) => {
                let priority = self.random.below(17) as u32;
                let port = self.some_port(own);
                self.poke(vcpu, arg, &SetPriority { port, priority });
                call(Ev::SetPriority)
            }
            14 if !self.doms[at].polite => {
                let page = self.some_data(at);
                let gfn = frame_of(own, page);
                if self.random.once_in(2) {
                    self.poke(vcpu, arg, &ExpandArray { array_gfn: gfn });
                    return call(Ev::ExpandArray);
                }
                let args = InitControl {
                    control_gfn: gfn,
                    offset: self.random.below(520) as u32 * 8,
                    vcpu: target_vcpu,
                    ..Default::default()
                };
                self.poke(vcpu, arg, &args);
                call(Ev::InitControl)
            }
            14 => {
                // Any but those that lead into the FIFO ABI, which a polite guest does with thought.
                let op = [self.random.below(11), 13, 14][self.random.below(3) as usize];
                self::call(Nr::EventChannelOp, [op, arg, 0, 0, 0])
            }
            _ => {
                let port = self.some_port(own);
                self.poke(vcpu, arg, &port.0);
                Call {
                    what: What::Send(port),
                    ..call(Ev::Send)
                }
            }
        }
    }

    /// A port that waits for a domain.
    fn waiting_port(&mut self, own: DomId) -> (DomId, Port) {
        let Some(at) = self.any_dom() else {
            return (DomId(0), Port(1));
        };
        let remote = self.doms[at].domain.clone();
        let mut found = Vec::new();
        self.hv.dump_ports(&remote, |facts| {
            if facts.binding == (Binding::Unbound { remote: own }) {
                found.push(facts.port);
            }
        });
        let port = self.random.pick(&found).copied();
        (remote.id(), port.unwrap_or_else(|| self.some_port(&remote)))
    }

    fn sched_call(&mut self, vcpu: &VcpuRef<Sim>, arg: u64) -> Call {
        let own = vcpu.domain();
        let privileged = own.config.privileged;
        let call = |op: SchedOp| call(Nr::SchedOp, [op.number().into(), arg, 0, 0, 0]);
        match self.random.below(60) {
            0..=24 => {
                // Who sleeps sets an alarm, mostly.
                if !self.random.once_in(4) {
                    let alarm = self.hv.hal.now().plus(Nanos(self.random.below(2_000_000)));
                    let timer = VcpuTimer::Arch(ArchTimer::A);
                    self.hv.set_timer(vcpu, timer, alarm);
                }
                call(SchedOp::Block)
            }
            25..=34 => call(SchedOp::Yield),
            35..=52 => {
                let polled: Vec<_> = (0..self.random.below(4))
                    .map(|_| self.some_port(own))
                    .collect();
                for (n, port) in polled.iter().enumerate() {
                    self.poke(vcpu, arg + 128 + n as u64 * 4, &port.0);
                }
                let timeout = match self.random.below(4) {
                    0 => 0,
                    _ => self.hv.hal.now().0 + self.random.below(5_000_000),
                };
                let args = Poll {
                    ports: GuestHandle::new(arg + 128),
                    nr_ports: polled.len() as u32,
                    timeout,
                    ..Default::default()
                };
                self.poke(vcpu, arg, &args);
                Call {
                    polled,
                    ..call(SchedOp::Poll)
                }
            }
            53 if !privileged && self.random.once_in(6) => {
                let reason = self.random.below(6) as u32;
                self.poke(vcpu, arg, &Shutdown { reason });
                call(SchedOp::Shutdown)
            }
            54 if privileged && self.random.once_in(3) => {
                let domain_id = DomId(1 + self.random.below(20) as u16);
                self.poke(
                    vcpu,
                    arg,
                    &RemoteShutdown {
                        domain_id,
                        reason: 3,
                        ..Default::default()
                    },
                );
                call(SchedOp::RemoteShutdown)
            }
            55 if !privileged && self.random.once_in(3) => {
                let id = self.random.below(4) as u32;
                let timeout = self.random.below(3) as u32;
                self.poke(vcpu, arg, &Watchdog { id, timeout });
                call(SchedOp::Watchdog)
            }
            57 => {
                let pcpu = self.random.below(7) as i32 - 2;
                self.poke(vcpu, arg, &PinOverride { pcpu });
                call(SchedOp::PinOverride)
            }
            _ => call(SchedOp::Yield),
        }
    }

    fn other_call(&mut self, at: usize, vcpu: &VcpuRef<Sim>, arg: u64) -> Call {
        let index = self.random.below(vcpu.domain().vcpus.len() as u64);
        match self.random.below(5) {
            0 => {
                let offset = index as u32 * 64;
                let mfn = frame_of(vcpu.domain(), self.doms[at].base + INFO);
                self.poke(
                    vcpu,
                    arg,
                    &RegisterVcpuInfo {
                        mfn,
                        offset,
                        rsvd: 0,
                    },
                );
                let op = VcpuOp::RegisterVcpuInfo.number().into();
                call(Nr::VcpuOp, [op, index, arg, 0, 0])
            }
            1 => {
                let page = self.some_data(at) << 12;
                let addr = GuestHandle::new(page + self.random.below(4096) / 8 * 8);
                self.poke(vcpu, arg, &RegisterRunstateMemoryArea { addr });
                let op = VcpuOp::RegisterRunstateMemoryArea.number().into();
                call(Nr::VcpuOp, [op, index, arg, 0, 0])
            }
            2 => {
                self.poke(vcpu, arg, b"a line of text that a guest prints\n");
                call(Nr::ConsoleIo, [0, self.random.below(300), arg, 0, 0])
            }
            3 => call(
                Nr::VmAssist,
                [self.random.below(3), self.random.below(8), 0, 0, 0],
            ),
            _ => call(Nr::XenVersion, [self.random.below(14), arg, 0, 0, 0]),
        }
    }

    /// Up to four calls in one.
    pub fn multicall(&mut self, at: usize, index: usize, vcpu: &VcpuRef<Sim>) -> (u64, [u64; 5]) {
        let list = self.args_page(at, index) + 3072;
        let count = 1 + self.random.below(4);
        for n in 0..count {
            let call = self.random_call(at, index, vcpu, n);
            let [a, b, c, d, e] = call.args;
            let entry = MulticallEntry {
                op: call.nr,
                result: 0,
                args: [a, b, c, d, e, 0],
            };
            self.poke(vcpu, list + n * size_of::<MulticallEntry>() as u64, &entry);
        }
        (Nr::Multicall.number(), [list, count, 0, 0, 0])
    }

    /// Any call with anything in its registers, short of what ends the machine or prints for ever.
    pub fn garbage(&mut self, at: usize, vcpu: &VcpuRef<Sim>) -> (u64, [u64; 5]) {
        let nr = GARBAGE[self.random.below(GARBAGE.len() as u64) as usize];
        let page = self.args_page(at, usize::from(vcpu.id.0));
        let mut args = [0; 5];
        for arg in &mut args {
            *arg = match self.random.below(4) {
                0 | 1 => self.random.below(32),
                2 => page + self.random.below(4096),
                _ => self.random.next(),
            };
        }
        if nr == Nr::ConsoleIo {
            args[1] %= 4096;
        }
        (nr.number(), args)
    }

    /// What must be true after the call if it succeeds.
    pub fn expect(&self, vcpu: &VcpuRef<Sim>, call: &Call) -> Option<Expected> {
        let own = vcpu.domain();
        let mut used = Vec::new();
        match call.what {
            What::Other => None,
            // A port that is still queued is not given out.
            What::AllocOwn if own.events.uses_fifo() => None,
            What::AllocOwn => {
                self.hv.dump_ports(own, |facts| used.push(facts.port));
                let lowest = (1..).map(Port).find(|port| !used.contains(port));
                lowest.map(Expected::Lowest)
            }
            What::Send(port) => {
                let mut goal = None;
                self.hv.dump_ports(own, |facts| {
                    if facts.port == port {
                        goal = match (facts.binding, facts.peer) {
                            (Binding::Interdomain { remote }, Some(peer)) => Some((peer, remote)),
                            (Binding::Ipi, _) => Some((own.id(), port)),
                            _ => None,
                        };
                    }
                });
                let (peer, port) = goal?;
                let target = self.doms.iter().find(|dom| dom.domain.id() == peer)?;
                if !target.polite && target.domain.events.uses_fifo() {
                    // Its pages may overlap, and be written as anything.
                    return None;
                }
                Some(Expected::Pending(peer, port))
            }
        }
    }

    /// Checks what was expected.
    pub fn verify(&self, vcpu: &VcpuRef<Sim>, expected: &Expected, call: &Call) {
        match *expected {
            Expected::Lowest(port) => {
                let given = self.peek::<AllocUnbound>(vcpu, call.args[1]);
                if let Some(given) = given {
                    assert_eq!(given.port, port, "not the lowest free port was given out");
                }
            }
            Expected::Pending(id, port) => {
                let domain = self.hv.domains.get(id).expect("a peer is in the table");
                let mut pending = false;
                self.hv.dump_ports(&domain, |facts| {
                    pending |= facts.port == port && facts.pending
                });
                assert!(pending, "an event to {id} port {} is lost", port.0);
            }
        }
    }
}
