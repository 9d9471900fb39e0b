//! The FIFO ABI through the hypercall, with a guest that consumes its queues as the design document says.

use alloc::{vec, vec::Vec};

use xenolith_abi::{
    Errno, Port,
    event_channel::{
        BindVcpu, ControlBlock, EventChannelOp as Op, EventWord, ExpandArray, InitControl, Reset,
        SetPriority, Unmask,
    },
};
use xenolith_hal::{
    AtomicOp::{And, Cas, Load, Or, Swap},
    Gfn, Hal, P2m,
};

use super::{LAYOUT, Rig, refused};
use crate::{DomId, memory::Class};

/// Guest frames of the event words and of the control blocks.
const WORDS: u64 = 8;
const BLOCKS: u64 = 12;
/// And of the second vCPU's `vcpu_info`.
const INFO: u64 = 13;

impl Rig {
    fn init_control(&self, domain: usize, vcpu: u32, offset: u32) -> Result<u8, Errno> {
        let args = InitControl {
            control_gfn: BLOCKS,
            offset,
            vcpu,
            ..Default::default()
        };
        let done = self.call(domain, Op::InitControl, args)?;
        Ok(done.link_bits)
    }

    fn expand(&self, domain: usize, array_gfn: u64) -> Result<(), Errno> {
        let args = ExpandArray { array_gfn };
        self.call(domain, Op::ExpandArray, args).map(|_| ())
    }

    fn priority(&self, domain: usize, port: Port, priority: u32) -> Result<(), Errno> {
        let args = SetPriority { port, priority };
        self.call(domain, Op::SetPriority, args).map(|_| ())
    }

    fn unmask(&self, domain: usize, port: Port) {
        self.call(domain, Op::Unmask, Unmask { port }).unwrap();
    }

    /// The second vCPU has its place for upcalls, which the shared info has not on this machine.
    fn register_second(&self, domain: usize) {
        let vcpu = self.vcpu(domain, 1);
        if self.hv.register_vcpu_info(&vcpu, Gfn(INFO), 0).is_ok() {
            self.take_events(domain, 1);
        }
    }

    /// Both vCPUs have their blocks, and there is one page of words, all clear.
    fn enter_fifo(&self, domain: usize) {
        self.register_second(domain);
        assert_eq!(self.init_control(domain, 0, 0), Ok(17));
        assert_eq!(self.init_control(domain, 1, 128), Ok(17));
        self.expand(domain, WORDS).unwrap();
    }

    fn word_op(&self, domain: usize, port: u32, op: xenolith_hal::AtomicOp<u32>) -> u32 {
        let gfn = Gfn(WORDS + u64::from(port / 1024));
        let mfn = self.domains[domain].p2m.lookup(gfn).unwrap().mfn;
        let at = (port % 1024) as usize * 4;
        self.hv.hal.atomic32(mfn, at, op).unwrap()
    }

    fn word(&self, domain: usize, port: Port) -> EventWord {
        EventWord(self.word_op(domain, port.0, Load))
    }

    fn set_mask(&self, domain: usize, port: Port) {
        self.word_op(domain, port.0, Or(EventWord::MASKED.bits()));
    }

    /// Takes a port out of its queue; gives the next one.
    fn unlink(&self, domain: usize, port: u32) -> u32 {
        loop {
            let old = self.word_op(domain, port, Load);
            let new = old & !(EventWord::LINKED | EventWord::LINK_MASK).bits();
            if self.word_op(domain, port, Cas { old, new }) == old {
                return old & EventWord::LINK_MASK.bits();
            }
        }
    }

    /// What a guest's upcall handler does on one vCPU, until nothing is ready; the ports that it served, in order.
    fn consume(&self, domain: usize, vcpu: usize) -> Vec<Port> {
        let hal = &self.hv.hal;
        let target = &self.domains[domain].vcpus[vcpu];
        target.arch.take_upcalls();
        let info = self.domains[domain].info_area(target).unwrap();
        let upcall = info.offset + LAYOUT.vcpu.evtchn_upcall_pending;
        if hal.atomic8(info.mfn, upcall, Swap(0)) == Ok(0) {
            return Vec::new();
        }
        let block = self.domains[domain].p2m.lookup(Gfn(BLOCKS)).unwrap().mfn;
        let block = |at: usize, op| hal.atomic32(block, vcpu * 128 + at, op).unwrap();
        let (mut served, mut heads) = (Vec::new(), [0; 16]);
        let mut ready = block(0, Swap(0));
        while ready != 0 {
            let queue = ready.trailing_zeros() as usize;
            if heads[queue] == 0 {
                heads[queue] = block(core::mem::offset_of!(ControlBlock, head) + queue * 4, Load);
            }
            let port = heads[queue];
            heads[queue] = self.unlink(domain, port);
            if heads[queue] == 0 {
                ready &= !(1 << queue);
            }
            let word = self.word(domain, Port(port));
            if word.contains(EventWord::PENDING) && !word.contains(EventWord::MASKED) {
                self.word_op(domain, port, And(!EventWord::PENDING.bits()));
                served.push(Port(port));
            }
            ready |= block(0, Swap(0));
        }
        served
    }
}

#[test]
fn a_control_block_stands_where_the_header_allows_it() {
    let rig = Rig::new();
    let too_far = 4096 - size_of::<ControlBlock>() as u32 + 8;
    assert_eq!(refused(rig.expand(1, WORDS)), Errno::EOPNOTSUPP);
    assert_eq!(refused(rig.priority(1, Port(1), 3)), Errno::ENOSYS);
    assert_eq!(refused(rig.init_control(1, 2, 0)), Errno::ENOENT);
    assert_eq!(refused(rig.init_control(1, 0, 4)), Errno::EINVAL);
    assert_eq!(refused(rig.init_control(1, 0, too_far)), Errno::EINVAL);
    let nowhere = InitControl {
        control_gfn: 999,
        ..Default::default()
    };
    assert_eq!(
        refused(rig.call(1, Op::InitControl, nowhere)),
        Errno::EINVAL
    );
    assert_eq!(rig.init_control(1, 1, too_far - 8), Ok(17));
    assert_eq!(refused(rig.init_control(1, 1, 0)), Errno::EINVAL);
    assert_eq!(refused(rig.expand(1, 999)), Errno::EINVAL);
    assert_eq!(refused(rig.priority(1, Port(1), 16)), Errno::EINVAL);
    assert_eq!(refused(rig.priority(1, Port(64), 3)), Errno::EINVAL);
    for _ in 0..128 {
        rig.expand(1, WORDS).unwrap();
    }
    assert_eq!(refused(rig.expand(1, WORDS)), Errno::ENOSPC);
}

#[test]
fn events_are_served_in_the_order_in_which_they_were_sent() {
    let rig = Rig::new();
    rig.enter_fifo(1);
    let ports: Vec<_> = (0..4).map(|_| rig.bind_ipi(1, 0).unwrap()).collect();
    for at in [2, 0, 3, 1, 3] {
        rig.send(1, ports[at]).unwrap();
    }
    assert_eq!(rig.upcalls(1, 0), 1);
    let order = [2, 0, 3, 1].map(|at| ports[at]);
    assert_eq!(rig.consume(1, 0), order);
    assert_eq!(rig.consume(1, 0), []);
    // The queue is empty, and its old tail is sent again.
    rig.send(1, ports[1]).unwrap();
    rig.send(1, ports[2]).unwrap();
    assert_eq!(rig.consume(1, 0), [ports[1], ports[2]]);
}

#[test]
fn an_event_crosses_domains_that_use_different_abis() {
    let rig = Rig::new();
    let (near, far) = rig.pair();
    rig.enter_fifo(2);
    rig.consume(2, 0);
    rig.send(1, near).unwrap();
    assert_eq!(rig.upcalls(2, 0), 1);
    assert_eq!(rig.consume(2, 0), [far]);
    rig.send(2, far).unwrap();
    assert_eq!(rig.take_events(1, 0), [near]);
}

#[test]
fn the_highest_priority_goes_first() {
    let rig = Rig::new();
    rig.enter_fifo(1);
    let ports: Vec<_> = (0..3).map(|_| rig.bind_ipi(1, 0).unwrap()).collect();
    rig.priority(1, ports[2], 0).unwrap();
    rig.priority(1, ports[0], 15).unwrap();
    ports.iter().for_each(|port| rig.send(1, *port).unwrap());
    assert_eq!(rig.consume(1, 0), [ports[2], ports[1], ports[0]]);
}

#[test]
fn a_port_that_moves_while_it_is_the_tail_does_not_take_others_along() {
    let rig = Rig::new();
    rig.enter_fifo(1);
    let [one, two] = [0, 0].map(|vcpu| rig.bind_ipi(1, vcpu).unwrap());
    rig.send(1, one).unwrap();
    // It is in its queue still, and is served from there.
    rig.priority(1, one, 3).unwrap();
    rig.send(1, one).unwrap();
    assert_eq!(rig.consume(1, 0), [one]);
    // The old queue must forget its tail now, or the next port is appended to a port of another queue.
    rig.send(1, one).unwrap();
    rig.send(1, two).unwrap();
    assert_eq!(rig.word(1, one) & EventWord::LINK_MASK, EventWord::empty());
    assert_eq!(rig.consume(1, 0), [one, two]);
}

#[test]
fn a_port_goes_to_another_vcpu() {
    let rig = Rig::new();
    let (near, far) = rig.pair();
    rig.enter_fifo(1);
    rig.consume(1, 0);
    for vcpu in [1, 0, 1] {
        rig.call(1, Op::BindVcpu, BindVcpu { port: near, vcpu })
            .unwrap();
        rig.send(2, far).unwrap();
        assert_eq!(rig.consume(1, 1 - vcpu as usize), []);
        assert_eq!(rig.consume(1, vcpu as usize), [near]);
    }
}

#[test]
fn a_masked_event_is_queued_when_its_mask_goes() {
    let rig = Rig::new();
    rig.enter_fifo(1);
    let port = rig.bind_ipi(1, 0).unwrap();
    rig.set_mask(1, port);
    rig.send(1, port).unwrap();
    assert_eq!(rig.upcalls(1, 0), 0);
    assert_eq!(rig.word(1, port), EventWord::PENDING | EventWord::MASKED);
    rig.unmask(1, port);
    assert_eq!(rig.upcalls(1, 0), 1);
    // Masked again while it is queued: it leaves the queue, and stays pending.
    rig.set_mask(1, port);
    assert_eq!(rig.consume(1, 0), []);
    rig.unmask(1, port);
    assert_eq!(rig.consume(1, 0), [port]);
    rig.unmask(1, port);
    assert_eq!(rig.consume(1, 0), []);
}

#[test]
fn what_was_pending_in_the_two_level_abi_comes_over() {
    let rig = Rig::new();
    rig.register_second(1);
    let ports = [0, 1].map(|vcpu| rig.bind_ipi(1, vcpu).unwrap());
    rig.send(1, ports[1]).unwrap();
    assert_eq!(rig.init_control(1, 0, 0), Ok(17));
    // Between the first call and the page, too.
    rig.send(1, ports[0]).unwrap();
    assert_eq!(rig.hv.any_pending(&rig.domains[1], ports), Ok(true));
    assert_eq!(rig.init_control(1, 1, 128), Ok(17));
    rig.expand(1, WORDS).unwrap();
    assert_eq!(rig.consume(1, 0), [ports[0]]);
    assert_eq!(rig.consume(1, 1), [ports[1]]);
}

#[test]
fn a_guest_that_has_more_than_the_old_ports_uses_them() {
    let rig = Rig::new();
    rig.enter_fifo(0);
    let domain = &rig.domains[0];
    let alloc = || rig.hv.alloc_unbound(domain, DomId(0));
    for port in 1..=5000 {
        assert_eq!(alloc(), Ok(Port(port)));
    }
    let port = rig.bind_ipi(0, 0).unwrap();
    assert_eq!(rig.hv.any_pending(domain, [port]), Ok(false));
    rig.send(0, port).unwrap();
    for page in 1..5 {
        rig.expand(0, if page == 4 { WORDS + 4 } else { WORDS + page })
            .unwrap();
    }
    assert_eq!(rig.consume(0, 0), [port]);
    assert_eq!(
        rig.hv.any_pending(domain, [Port(1 << 17)]),
        Err(Errno::EINVAL)
    );
}

#[test]
fn a_reset_gives_the_pages_back_and_begins_anew() {
    let rig = Rig::new();
    let domain = &rig.domains[1];
    let count = |gfn| {
        let mfn = domain.p2m.lookup(Gfn(gfn)).unwrap().mfn;
        let state = rig.hv.memory.record(mfn).unwrap().state();
        assert!(matches!(state.class(), Class::Domain(_)));
        state.count()
    };
    let before = [WORDS, BLOCKS].map(count);
    for _ in 0..3 {
        rig.enter_fifo(1);
        assert_eq!([WORDS, BLOCKS].map(count), [before[0] + 1, before[1] + 2]);
        let port = rig.bind_ipi(1, 0).unwrap();
        rig.send(1, port).unwrap();
        assert_eq!(rig.consume(1, 0), [port]);
        rig.send(1, port).unwrap();
        let dom = DomId::SELF;
        rig.call(1, Op::Reset, Reset { dom }).unwrap();
        assert_eq!([WORDS, BLOCKS].map(count), before);
        // Two levels again, nothing pending.
        let port = rig.bind_ipi(1, 0).unwrap();
        assert_eq!(rig.take_events(1, 0), []);
        rig.send(1, port).unwrap();
        assert_eq!(rig.take_events(1, 0), [port]);
        // The guest begins with pages that say nothing.
        for gfn in [WORDS, BLOCKS] {
            let mfn = domain.p2m.lookup(Gfn(gfn)).unwrap().mfn;
            rig.hv.hal.zero_frames(mfn, 0);
        }
    }
}

#[test]
fn a_domain_that_ends_in_the_fifo_abi_gives_everything_back() {
    let rig = Rig::new();
    let free = rig.hv.memory.free_frames();
    let domain = crate::testing::domain(&rig.hv, 5, 16);
    rig.hv.init_fifo_control(&domain, 0, Gfn(3), 0).unwrap();
    rig.hv.init_fifo_control(&domain, 1, Gfn(4), 512).unwrap();
    rig.hv.expand_fifo_array(&domain, Gfn(5)).unwrap();
    let port = rig.hv.bind_ipi(&domain, 0).unwrap();
    rig.hv.send_event(&domain, port).unwrap();
    crate::testing::destroy(&rig.hv, &domain);
    assert_eq!(rig.hv.memory.free_frames(), free);
    assert_eq!(domain.events.charged(), 0);
}

#[test]
fn a_port_that_is_closed_while_it_is_queued_is_not_given_out() {
    let rig = Rig::new();
    rig.enter_fifo(1);
    let [one, two] = [0, 0].map(|vcpu| rig.bind_ipi(1, vcpu).unwrap());
    rig.send(1, one).unwrap();
    rig.send(1, two).unwrap();
    rig.close(1, one).unwrap();
    assert_eq!(rig.bind_ipi(1, 0), Ok(Port(3)));
    assert_eq!(rig.consume(1, 0), [two]);
    assert_eq!(rig.bind_ipi(1, 0), Ok(one));
}

#[test]
fn words_that_a_guest_fills_with_anything_harm_nobody_else() {
    let rig = Rig::new();
    let mut random = crate::memory::Random(77);
    rig.enter_fifo(1);
    let (near, far) = rig.pair();
    let ports: Vec<_> = (0..6).map(|n| rig.bind_ipi(1, n % 2).unwrap()).collect();
    let mut told = vec![];
    for round in 0..20_000 {
        let port = 1 + random.below(8) as u32;
        match round % 5 {
            0 => _ = rig.word_op(1, port, Swap(random.next() as u32)),
            1 => rig.send(2, far).unwrap(),
            2 => _ = rig.send(1, ports[random.below(6) as usize]),
            3 => _ = rig.priority(1, Port(port), random.below(16) as u32),
            _ => rig.unmask(1, near),
        }
        if round % 64 == 0 {
            rig.send(1, near).unwrap();
            told.extend(rig.take_events(2, 0));
        }
    }
    assert_eq!(told.len(), 20_000_usize.div_ceil(64));
}

#[test]
fn no_event_is_lost_while_threads_send_serve_and_move_ports() {
    let rig = Rig::new();
    let pairs: Vec<_> = (0..6).map(|_| rig.pair()).collect();
    rig.enter_fifo(1);
    let done = core::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        let (rig, pairs, done) = (&rig, &pairs, &done);
        for half in pairs.chunks(3) {
            scope.spawn(move || {
                for round in 0..6000 {
                    rig.hv
                        .send_event(&rig.domains[2], half[round % 3].1)
                        .unwrap();
                }
                done.fetch_add(1, core::sync::atomic::Ordering::SeqCst);
            });
        }
        scope.spawn(move || {
            let mut random = crate::memory::Random(5);
            while done.load(core::sync::atomic::Ordering::SeqCst) < 2 {
                let (port, _) = pairs[random.below(6) as usize];
                let domain = &rig.domains[1];
                let priority = random.below(3) as u32;
                rig.hv.set_port_priority(domain, port, priority).unwrap();
                let vcpu = random.below(2) as u32;
                rig.hv.bind_vcpu(domain, port, vcpu).unwrap();
            }
        });
        for vcpu in 0..2 {
            scope.spawn(move || {
                while done.load(core::sync::atomic::Ordering::SeqCst) < 2 {
                    rig.consume(1, vcpu);
                }
            });
        }
    });
    (0..2).for_each(|vcpu| drop(rig.consume(1, vcpu)));
    for (port, _) in pairs {
        assert_eq!(rig.word(1, port), EventWord::empty(), "{port:?}");
    }
}
