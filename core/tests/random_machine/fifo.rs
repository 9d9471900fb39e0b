//! Guests that use the FIFO ABI: how they come into it, how they consume their queues, often with a pause in the middle,
//! and which ports they will come to.

use std::collections::HashSet;

use xenolith_abi::event_channel::{ControlBlock, EventWord};
use xenolith_core::VcpuRef;
use xenolith_hal::{AtomicOp, Gfn, Hal, Mfn, P2m, P2mType};
use xenolith_sim::Sim;

use crate::{
    guest::{INFO, LAYOUT},
    machine::{Dom, Machine},
    pv::frame_of,
};

/// The page of event words.
pub const WORDS: u64 = 15;
/// Where the control blocks begin in the page with every `vcpu_info`.
const BLOCKS: usize = 1024;
const BLOCK: usize = 128;

/// The frames that a guest gave, as it remembers them.
#[derive(Clone, Copy)]
pub struct FifoPages {
    words: Mfn,
    blocks: Mfn,
}

/// Where a vCPU's guest is in its queues.
#[derive(Clone, Default)]
pub struct Consumer {
    heads: [u32; 16],
    ready: u32,
}

impl Consumer {
    pub fn is_at_rest(&self) -> bool {
        self.ready == 0
    }
}

fn word_op(hal: &Sim, pages: FifoPages, port: u32, op: AtomicOp<u32>) -> u32 {
    let at = (port % 1024) as usize * 4;
    hal.atomic32(pages.words, at, op).expect("RAM")
}

fn block_op(hal: &Sim, pages: FifoPages, vcpu: u16, at: usize, op: AtomicOp<u32>) -> u32 {
    let at = BLOCKS + usize::from(vcpu) * BLOCK + at;
    hal.atomic32(pages.blocks, at, op).expect("RAM")
}

fn head_at(queue: u32) -> usize {
    core::mem::offset_of!(ControlBlock, head) + queue as usize * 4
}

impl Machine {
    /// A polite guest goes over to the FIFO ABI, if it can.
    pub fn enter_fifo(&mut self, at: usize) {
        let dom = &self.doms[at];
        let (domain, base) = (dom.domain.clone(), dom.base);
        if domain.events.uses_fifo() || domain.memory.is_closed() {
            return;
        }
        let frame = |gfn| match domain.p2m.lookup(Gfn(gfn)) {
            Some(entry) if entry.kind == P2mType::RamRw => Some(entry.mfn),
            _ => None,
        };
        let (Some(words), Some(blocks)) = (frame(base + WORDS), frame(base + INFO)) else {
            return;
        };
        let pages = FifoPages { words, blocks };
        let hal = &self.hv.hal;
        for port in 0..1024 {
            word_op(hal, pages, port, AtomicOp::Swap(0));
        }
        for vcpu in VcpuRef::all(&domain) {
            for at in (0..size_of::<ControlBlock>()).step_by(4) {
                block_op(hal, pages, vcpu.id.0, at, AtomicOp::Swap(0));
            }
        }
        let offset = |vcpu: u16| (BLOCKS + usize::from(vcpu) * BLOCK) as u32;
        let entered = (0..domain.vcpus.len() as u16).try_for_each(|vcpu| {
            let gfn = Gfn(frame_of(&domain, base + INFO));
            self.hv
                .init_fifo_control(&domain, vcpu.into(), gfn, offset(vcpu))
        });
        if entered.is_err() {
            assert!(!domain.events.uses_fifo(), "only the first call can fail");
            return;
        }
        let expanded = self
            .hv
            .expand_fifo_array(&domain, Gfn(frame_of(&domain, base + WORDS)));
        expanded.expect("the page was there");
        self.note(|| format!("{} uses the FIFO ABI", domain.id()));
        // What the selectors say is not looked at any more.
        for vcpu in VcpuRef::all(&domain) {
            let info = domain.info_area(&vcpu).expect("a polite guest has it");
            let selector = info.offset + LAYOUT.vcpu.evtchn_pending_sel;
            let hal = &self.hv.hal;
            hal.atomic64(info.mfn, selector, AtomicOp::Swap(0))
                .expect("RAM");
        }
        let dom = &mut self.doms[at];
        dom.fifo = Some(pages);
        for guest in &mut dom.guests {
            guest.consumer = Consumer::default();
        }
    }

    /// The guest goes on with its queues; it may be interrupted between two ports.
    pub fn consume(&mut self, at: usize, index: usize, vcpu: &VcpuRef<Sim>) {
        let Some(pages) = self.doms[at].fifo else {
            return;
        };
        let mut consumer = std::mem::take(&mut self.doms[at].guests[index].consumer);
        let hal = self.sim.clone();
        let take_ready = || block_op(&hal, pages, vcpu.id.0, 0, AtomicOp::Swap(0));
        consumer.ready |= take_ready();
        while consumer.ready != 0 && !self.random.once_in(6) {
            let queue = consumer.ready.trailing_zeros();
            let head = &mut consumer.heads[queue as usize];
            if *head == 0 {
                *head = block_op(&hal, pages, vcpu.id.0, head_at(queue), AtomicOp::Load);
            }
            let port = *head;
            assert!(port != 0 && port < 1024, "port {port} is in a queue");
            let gone = !(EventWord::LINKED | EventWord::LINK_MASK).bits();
            let word = EventWord(word_op(&hal, pages, port, AtomicOp::And(gone)));
            assert!(word.contains(EventWord::LINKED), "{word:?} in a queue");
            *head = (word & EventWord::LINK_MASK).bits();
            if *head == 0 {
                consumer.ready &= !(1 << queue);
            }
            if word.contains(EventWord::PENDING) && !word.contains(EventWord::MASKED) {
                let served = AtomicOp::And(!EventWord::PENDING.bits());
                word_op(&hal, pages, port, served);
                self.counts.queued += 1;
            }
            consumer.ready |= take_ready();
        }
        self.doms[at].guests[index].consumer = consumer;
    }

    /// The guest masks a port.
    pub fn mask_word(&self, at: usize, port: u32) {
        if let Some(pages) = self.doms[at].fifo {
            let mask = AtomicOp::Or(EventWord::MASKED.bits());
            word_op(&self.hv.hal, pages, port, mask);
        }
    }

    /// The ports that the guest of a vCPU will come to in its queues.
    pub fn queued_ports(&self, dom: &Dom, vcpu: &VcpuRef<Sim>) -> HashSet<u32> {
        let (Some(pages), hal) = (dom.fifo, &self.hv.hal) else {
            return HashSet::new();
        };
        let consumer = &dom.guests[usize::from(vcpu.id.0)].consumer;
        let ready = consumer.ready | block_op(hal, pages, vcpu.id.0, 0, AtomicOp::Load);
        let mut found = HashSet::new();
        for queue in (0..16).filter(|queue| ready >> queue & 1 != 0) {
            let mut port = consumer.heads[queue as usize];
            if port == 0 {
                port = block_op(hal, pages, vcpu.id.0, head_at(queue), AtomicOp::Load);
            }
            while port != 0 {
                assert!(found.insert(port), "port {port} is queued twice");
                let word = EventWord(word_op(hal, pages, port, AtomicOp::Load));
                assert!(word.contains(EventWord::LINKED), "port {port}: {word:?}");
                port = (word & EventWord::LINK_MASK).bits();
            }
        }
        found
    }

    /// Whether the guest of a vCPU knows, or will be told, that there is something in its queues.
    pub fn looks_at_queues(&self, dom: &Dom, vcpu: &VcpuRef<Sim>, upcall: bool) -> bool {
        upcall || !dom.guests[usize::from(vcpu.id.0)].consumer.is_at_rest()
    }
}
