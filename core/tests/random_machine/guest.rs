//! What runs inside a domain: a guest that takes its events and makes calls. A polite one follows the rules of the ABI
//! headers; the others write whatever they like wherever they may.

use xenolith_abi::{
    Errno, Nr, Port,
    grant_table::{EntryFlags, entry_type},
    memory::MemoryOp,
};
use xenolith_core::{DomId, DomainRef, VcpuRef, grant::Format, guest::Caller, hypercall::Outcome};
use xenolith_hal::{AtomicOp, CpuId, Gfn, GuestVirt, Hal, Mfn, P2m, P2mType, SharedInfoLayout};
use xenolith_sim::Sim;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    calls::Call,
    fifo::Consumer,
    machine::Machine,
    pv::{Tables, frame_of},
};

/// What one vCPU's guest is in the middle of.
#[derive(Default)]
pub struct GuestModel {
    /// A call that was interrupted and is to be made again.
    pub again: Option<(u64, [u64; 5])>,
    /// Ports that it polls; empty when the test does not know them.
    pub polled: Vec<Port>,
    /// Where it is in its queues of the FIFO ABI.
    pub consumer: Consumer,
}

/// Pages of arguments, one per vCPU, from the first frame on.
pub const ARGS: u64 = 0;
/// The page with every `vcpu_info`.
pub const INFO: u64 = 4;
/// First page of data.
pub const DATA: u64 = 5;
/// Where the first frame of the grant table is to be seen.
pub const GRANT_TABLE: u64 = 60;
/// Where pages are mapped.
pub const WINDOW: u64 = 64;
/// How many.
pub const WINDOW_PAGES: u64 = 24;

pub const LAYOUT: SharedInfoLayout = Sim::SHARED_INFO;

impl Machine {
    /// The guest of `vcpu`, which is on `cpu`, does one thing.
    pub fn guest_acts(&mut self, _cpu: CpuId, vcpu: &VcpuRef<Sim>) {
        let Some((at, index)) = self.find(vcpu) else {
            return;
        };
        if !self.random.once_in(4) {
            self.take_interrupts(vcpu);
        }
        if let Some((nr, args)) = self.doms[at].guests[index].again.take() {
            self.counts.continued += 1;
            self.issue(vcpu, nr, args);
            return;
        }
        self.doms[at].guests[index].polled.clear();
        let polite = self.doms[at].polite;
        let pv = vcpu.domain().is_pv();
        match self.random.below(20) {
            7..=9 if pv => self.change_page_tables(at, vcpu),
            0..=2 if !pv && self.grant_page(at).is_none() => {
                let call = self.show_grant_table(at, index, vcpu);
                self.make_call(at, index, vcpu, &call);
            }
            0 => self.scribble(at, vcpu),
            1 | 2 => self.change_grant(at, vcpu),
            3 if polite => self.mask_some_port(at, vcpu),
            18 if polite && self.random.once_in(20) => self.enter_fifo(at),
            4 if self.random.once_in(4) => self.start_or_stop_vcpu(at, vcpu),
            5 if !polite => {
                let (nr, args) = self.garbage(at, vcpu);
                self.issue(vcpu, nr, args);
            }
            6 => {
                let (nr, args) = self.multicall(at, index, vcpu);
                self.issue(vcpu, nr, args);
            }
            _ => {
                let call = self.random_call(at, index, vcpu, 0);
                self.make_call(at, index, vcpu, &call);
            }
        }
    }

    /// Makes a call and looks whether what must be true afterwards is.
    fn make_call(&mut self, at: usize, index: usize, vcpu: &VcpuRef<Sim>, call: &Call) {
        let expected = self.expect(vcpu, call);
        let result = self.issue(vcpu, call.nr, call.args);
        if !call.polled.is_empty() {
            self.doms[at].guests[index].polled.clone_from(&call.polled);
        }
        if result != Some(0) {
            return;
        }
        self.count_mapped(vcpu, call);
        if let Some(expected) = expected {
            self.verify(vcpu, &expected, call);
        }
    }

    /// Makes a call; the result, if it is over.
    pub fn issue(&mut self, vcpu: &VcpuRef<Sim>, nr: u64, args: [u64; 5]) -> Option<i64> {
        self.counts.calls += 1;
        let hv = &self.hv;
        let outcome =
            xenolith_core::hypercall::dispatch_with::<_, Tables>(Caller { hv, vcpu }, nr, args);
        self.look_for_resets();
        let (id, number) = (vcpu.domain().id(), vcpu.id.0);
        self.note(|| format!("{id}v{number} calls {nr} {args:x?}: {outcome:x?}"));
        match outcome {
            Outcome::Done(result) => {
                let exchange = nr == Nr::MemoryOp.number()
                    && args[0] == MemoryOp::Exchange.number().into()
                    && vcpu.domain().is_pv();
                self.counts.exchanged += u64::from(exchange && result == 0);
                let refused = Errno::from_result(result as isize).is_some();
                self.counts.served += u64::from(!refused);
                Some(result)
            }
            Outcome::Again(args) => {
                let (at, index) = self.find(vcpu)?;
                self.doms[at].guests[index].again = Some((nr, args));
                None
            }
        }
    }

    /// The guest takes what it was interrupted for: upcall byte first, then the selector, then the words.
    pub fn take_interrupts(&mut self, vcpu: &VcpuRef<Sim>) {
        vcpu.arch.set_interrupt(false);
        let Some(info) = vcpu.domain().info_area(vcpu) else {
            return;
        };
        self.set_upcall_mask(vcpu, 0);
        let hal = &self.hv.hal;
        let upcall = info.offset + LAYOUT.vcpu.evtchn_upcall_pending;
        let told = hal.atomic8(info.mfn, upcall, AtomicOp::Swap(0)) != Ok(0);
        if let Some((at, index)) = self.find(vcpu)
            && self.doms[at].fifo.is_some()
        {
            if told || !self.doms[at].guests[index].consumer.is_at_rest() {
                self.consume(at, index, vcpu);
            }
            return;
        }
        if !told {
            return;
        }
        let selector = info.offset + LAYOUT.vcpu.evtchn_pending_sel;
        let words = hal
            .atomic64(info.mfn, selector, AtomicOp::Swap(0))
            .expect("RAM");
        for word in (0..64).filter(|word| words >> word & 1 != 0) {
            let shared = SharedWords::of(hal, vcpu.domain());
            let ready = shared.pending(word) & !shared.mask(word);
            shared.clear_pending(word, ready);
            self.counts.events += u64::from(ready.count_ones());
        }
    }

    /// A domain whose ports were reset is back in the two-level ABI.
    fn look_for_resets(&mut self) {
        for dom in &mut self.doms {
            if dom.fifo.is_some() && !dom.domain.events.uses_fifo() {
                dom.fifo = None;
                for guest in &mut dom.guests {
                    guest.consumer = Consumer::default();
                }
            }
        }
    }

    /// Whether the guest paused between two ports of its queues.
    pub fn is_among_queues(&self, vcpu: &VcpuRef<Sim>) -> bool {
        self.find(vcpu)
            .is_some_and(|(at, index)| !self.doms[at].guests[index].consumer.is_at_rest())
    }

    /// The address of a page of arguments.
    pub fn args_page(&self, at: usize, index: usize) -> u64 {
        (self.doms[at].base + ARGS + index as u64) << 12
    }

    /// Writes to the guest's memory as the guest does; false when it has none there.
    pub fn poke<T: IntoBytes + Immutable>(&self, vcpu: &VcpuRef<Sim>, to: u64, value: &T) -> bool {
        let hv = &self.hv;
        Caller { hv, vcpu }
            .write_bytes(GuestVirt(to), value.as_bytes())
            .is_ok()
    }

    /// Reads from the guest's memory as the guest does.
    pub fn peek<T: FromBytes + IntoBytes>(&self, vcpu: &VcpuRef<Sim>, from: u64) -> Option<T> {
        let hv = &self.hv;
        let mut value = T::new_zeroed();
        Caller { hv, vcpu }
            .read_bytes(GuestVirt(from), value.as_mut_bytes())
            .ok()?;
        Some(value)
    }

    /// Fills a page of its own with something, so that memory that is not scrubbed shows.
    fn scribble(&mut self, at: usize, vcpu: &VcpuRef<Sim>) {
        let gfn = self.some_data(at);
        let mark = self.random.next() | 1;
        let dom = &self.doms[at];
        let kind = dom.domain.p2m.lookup(Gfn(gfn)).map(|entry| entry.kind);
        // A privileged domain may write what it has mapped of others, their shared info too: nobody could hold a promise
        // to a guest whose control domain does that.
        let own_only = dom.polite || dom.domain.config.privileged;
        if own_only && kind != Some(P2mType::RamRw) {
            return;
        }
        self.poke(vcpu, gfn << 12, &[mark; 16]);
    }

    fn mask_some_port(&mut self, at: usize, vcpu: &VcpuRef<Sim>) {
        let port = self.some_port(vcpu.domain());
        if self.doms[at].fifo.is_some() {
            self.mask_word(at, port.0);
        } else if port.0 < 4096 {
            let word = (port.0 / 64) as usize;
            SharedWords::of(&self.hv.hal, vcpu.domain()).set_mask(word, 1 << (port.0 % 64));
        }
    }

    /// As firmware does for a guest (`CPU_ON`, `CPU_OFF`).
    fn start_or_stop_vcpu(&mut self, at: usize, vcpu: &VcpuRef<Sim>) {
        if self.random.once_in(10) {
            self.note(|| format!("{}v{} goes down", vcpu.domain().id(), vcpu.id.0));
            self.hv.vcpu_down(vcpu);
            return;
        }
        let index = self.random.below(vcpu.domain().vcpus.len() as u64) as usize;
        let target = self.doms[at].vcpu(index);
        self.note(|| format!("{}v{index} is started", vcpu.domain().id()));
        self.hv.vcpu_up(&target);
    }

    /// The frame of the grant table that the guest sees.
    pub fn grant_page(&self, at: usize) -> Option<Mfn> {
        let dom = &self.doms[at];
        let entry = dom.domain.p2m.lookup(Gfn(dom.base + GRANT_TABLE))?;
        let is_table = entry.kind == P2mType::XenShared && entry.mfn != dom.domain.shared_info;
        is_table.then_some(entry.mfn)
    }

    /// Bytes of an entry of a domain's grant table.
    pub fn entry_size(&self, at: usize) -> usize {
        match self.doms[at].domain.grants.format() {
            Format::V2 => 16,
            _ => 8,
        }
    }

    /// Grants a page, or takes a grant back that is not in use.
    fn change_grant(&mut self, at: usize, vcpu: &VcpuRef<Sim>) {
        let Some(table) = self.grant_page(at) else {
            return;
        };
        let gref = self.random.below(12) as u32;
        let size = self.entry_size(at);
        let offset = gref as usize * size;
        let page = self.some_data(at);
        let frame = frame_of(vcpu.domain(), page);
        let grantee = match self.any_dom() {
            Some(other) => self.doms[other].domain.id(),
            None => self.some_id(),
        };
        let readonly = self.random.once_in(3);
        let hal = &self.hv.hal;
        let old = hal.atomic32(table, offset, AtomicOp::Load).expect("RAM");
        // In version 2 the marks stand elsewhere, where the hypervisor tells them.
        let mut marks = EntryFlags(old as u16);
        self.hv.dump_grants(&self.doms[at].domain, |facts| {
            if facts.gref.0 == gref {
                marks = facts.flags;
            }
        });
        let busy = marks.intersects(EntryFlags::READING | EntryFlags::WRITING);
        if self.doms[at].polite && busy {
            return;
        }
        let gone = AtomicOp::Cas { old, new: 0 };
        assert_eq!(hal.atomic32(table, offset, gone), Ok(old));
        if self.random.once_in(3) {
            return;
        }
        let kind = match size {
            16 => self.random.below(6),
            _ => 0,
        };
        let (part, target) = (self.random.next() as u32, self.random.below(12));
        let hal = &self.hv.hal;
        let mut flags = match kind {
            1 => entry_type::PERMIT_ACCESS | EntryFlags::SUB_PAGE.0,
            2 => entry_type::TRANSITIVE,
            _ => entry_type::PERMIT_ACCESS,
        };
        if readonly {
            flags |= EntryFlags::READONLY.0;
        }
        let word = u32::from(grantee.0) << 16 | u32::from(flags);
        let _ = match (size, kind) {
            (16, 2) => hal
                .atomic32(table, offset + 4, AtomicOp::Swap(part % 9))
                .and(hal.atomic64(table, offset + 8, AtomicOp::Swap(target))),
            (16, _) => hal
                .atomic32(table, offset + 4, AtomicOp::Swap(part))
                .and(hal.atomic64(table, offset + 8, AtomicOp::Swap(frame))),
            _ => hal
                .atomic32(table, offset + 4, AtomicOp::Swap(frame as u32))
                .map(u64::from),
        };
        let _ = hal.atomic32(table, offset, AtomicOp::Swap(word));
        self.note(|| format!("{} grants {frame:#x} to {grantee}", vcpu.domain().id()));
    }

    /// A number of a domain that may exist.
    pub fn some_id(&mut self) -> DomId {
        DomId(self.random.below(crate::machine::DOMAINS.into()) as u16)
    }

    /// A port in use, mostly.
    pub fn some_port(&mut self, domain: &DomainRef<Sim>) -> Port {
        let mut ports = Vec::new();
        self.hv.dump_ports(domain, |facts| ports.push(facts.port));
        if ports.is_empty() || self.random.once_in(12) {
            return Port(self.random.below(80) as u32);
        }
        ports[self.random.below(ports.len() as u64) as usize]
    }
}

/// The event bits in a domain's shared info.
pub struct SharedWords<'a> {
    hal: &'a Sim,
    frame: Mfn,
}

impl<'a> SharedWords<'a> {
    pub fn of(hal: &'a Sim, domain: &DomainRef<Sim>) -> Self {
        let frame = domain.shared_info;
        Self { hal, frame }
    }

    fn op(&self, at: usize, word: usize, op: AtomicOp<u64>) -> u64 {
        let place = at + word * 8;
        self.hal.atomic64(self.frame, place, op).expect("RAM")
    }

    pub fn pending(&self, word: usize) -> u64 {
        self.op(LAYOUT.evtchn_pending, word, AtomicOp::Load)
    }

    pub fn mask(&self, word: usize) -> u64 {
        self.op(LAYOUT.evtchn_mask, word, AtomicOp::Load)
    }

    fn clear_pending(&self, word: usize, bits: u64) {
        self.op(LAYOUT.evtchn_pending, word, AtomicOp::And(!bits));
    }

    fn set_mask(&self, word: usize, bits: u64) {
        self.op(LAYOUT.evtchn_mask, word, AtomicOp::Or(bits));
    }
}

/// The selector and the upcall byte of a vCPU.
pub fn told(hal: &Sim, vcpu: &VcpuRef<Sim>) -> Option<(u64, bool)> {
    let info = vcpu.domain().info_area(vcpu)?;
    let selector = info.offset + LAYOUT.vcpu.evtchn_pending_sel;
    let upcall = info.offset + LAYOUT.vcpu.evtchn_upcall_pending;
    let selector = hal.atomic64(info.mfn, selector, AtomicOp::Load).ok()?;
    let upcall = hal.atomic8(info.mfn, upcall, AtomicOp::Load).ok()?;
    Some((selector, upcall != 0))
}

/// Numbers of calls that a garbage call may use.
pub const GARBAGE: [Nr; 10] = [
    Nr::MemoryOp,
    Nr::XenVersion,
    Nr::ConsoleIo,
    Nr::GrantTableOp,
    Nr::VmAssist,
    Nr::VcpuOp,
    Nr::EventChannelOp,
    Nr::HvmOp,
    Nr::Sysctl,
    Nr::Domctl,
];
