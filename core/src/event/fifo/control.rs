//! Into the FIFO ABI and out of it: control blocks, pages of event words, priorities (`EVTCHNOP_init_control`,
//! `EVTCHNOP_expand_array`, `EVTCHNOP_set_priority`).
//!
//! The pages are the domain's own memory, held by references until the domain resets its event channels or ends. Events
//! that are pending when the domain comes over wait for the page with their word. A sender looks at the ABI before and
//! after it sets a bit of the two-level ABI, so that it or the switch sees the event.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};

use xenolith_abi::{
    Errno, Port,
    event_channel::{ControlBlock, FIFO_PRIORITY_MIN, FIFO_WORDS_PER_PAGE},
    shared_info::EVENT_WORDS,
};
use xenolith_hal::{AtomicOp::Swap, Gfn, Hal, Mfn, PAGE_SIZE};

use super::{Fifo, NOWHERE};
use crate::{
    Domain, DomainRef, Hypervisor, InfoArea,
    event::{EventTable, bind::vcpu_numbered},
    memory::DomainMemory,
};

impl<H: Hal> EventTable<H> {
    /// The FIFO ABI's own tables, made when they are first needed. The caller holds the lock of allocation.
    fn make_fifo(&self, vcpus: usize, account: &DomainMemory) -> Result<&Fifo, Errno> {
        if let Some(fifo) = self.fifo.get() {
            return Ok(fifo);
        }
        let heap = Fifo::heap(vcpus);
        self.buckets.charge(heap, account)?;
        self.fifo
            .try_call_once(|| Fifo::new(vcpus))
            .inspect_err(|_| self.buckets.uncharge(heap, account))
            .map_err(|_| Errno::ENOMEM)
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Gives a vCPU the control block of its queues; the first one brings the domain into the FIFO ABI.
    ///
    /// `ENOENT` for a vCPU that is none; `EINVAL` when the block is not aligned or crosses the end of its page, when the page
    /// is not the domain's own writable memory, and when the vCPU has a block.
    pub fn init_fifo_control(
        &self,
        domain: &DomainRef<H>,
        vcpu: u32,
        gfn: Gfn,
        offset: u32,
    ) -> Result<(), Errno> {
        let vcpu = vcpu_numbered(domain, vcpu)?;
        let offset = offset as usize;
        if offset > PAGE_SIZE - size_of::<ControlBlock>() || !offset.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let frame = self.pin_own(domain, gfn).ok_or(Errno::EINVAL)?;
        let events = &domain.events;
        let _allocation = events.allocation.lock();
        if events.is_closed() {
            return Err(Errno::EINVAL);
        }
        let fifo = events.make_fifo(domain.vcpus.len(), &domain.memory)?;
        let queues = fifo.vcpus.get(usize::from(vcpu.id.0));
        let area = InfoArea {
            mfn: frame.mfn(),
            offset,
        };
        if !queues.is_some_and(|queues| queues.control.register(area)) {
            return Err(Errno::EINVAL);
        }
        frame.keep();
        if !fifo.live.swap(true, SeqCst) {
            events.fifo_live.store(true, SeqCst);
            self.carry_over(domain);
        }
        Ok(())
    }

    /// What is pending in the two-level ABI waits for its page.
    fn carry_over(&self, domain: &Domain<H>) {
        let layout = domain.info_layout();
        for word in 0..EVENT_WORDS.min(layout.ports as usize / 64) {
            let at = layout.evtchn_pending + word * 8;
            let pending = self.hal.atomic64(domain.shared_info, at, Swap(0));
            let pending = pending.unwrap_or(0);
            for bit in (0..64).filter(|bit| pending >> bit & 1 != 0) {
                if let Some(channel) = domain.events.channel(Port(word as u32 * 64 + bit)) {
                    channel.fifo.postpone();
                }
            }
        }
    }

    /// Adds a page of event words. `EOPNOTSUPP` outside the FIFO ABI, `ENOSPC` when every port has a word, `EINVAL` when the
    /// page is not the domain's own writable memory.
    pub fn expand_fifo_array(&self, domain: &DomainRef<H>, gfn: Gfn) -> Result<(), Errno> {
        let fifo = domain.events.fifo().ok_or(Errno::EOPNOTSUPP)?;
        let frame = self.pin_own(domain, gfn).ok_or(Errno::EINVAL);
        let allocation = domain.events.allocation.lock();
        if !fifo.is_live() {
            return Err(Errno::EOPNOTSUPP);
        }
        let count = fifo.count.load(Acquire);
        let page = fifo.pages.get(count as usize).ok_or(Errno::ENOSPC)?;
        page.store(frame?.keep().0, SeqCst);
        fifo.count.store(count + 1, Release);
        drop(allocation);
        let first = count * FIFO_WORDS_PER_PAGE;
        for port in (first..first + FIFO_WORDS_PER_PAGE).map(Port) {
            if let Some(channel) = domain.events.channel(port)
                && channel.fifo.take_postponed()
            {
                self.set_pending(domain, channel, channel.word().vcpu(), port);
            }
        }
        Ok(())
    }

    /// Chooses the queue of a port for events to come. `EINVAL` for a port that is none and a priority that is none,
    /// `ENOSYS` outside the FIFO ABI.
    pub fn set_port_priority(
        &self,
        domain: &DomainRef<H>,
        port: Port,
        priority: u32,
    ) -> Result<(), Errno> {
        let channel = domain.events.valid(port)?;
        let _guard = channel.lock();
        domain.events.fifo().ok_or(Errno::ENOSYS)?;
        let priority = u8::try_from(priority).map_err(|_| Errno::EINVAL)?;
        if u32::from(priority) > FIFO_PRIORITY_MIN {
            return Err(Errno::EINVAL);
        }
        channel.fifo.set_priority(priority);
        Ok(())
    }

    /// The domain is back in the two-level ABI, and its pages are its own again. Its ports are closed.
    pub(in crate::event) fn leave_fifo(&self, domain: &DomainRef<H>) {
        let _allocation = domain.events.allocation.lock();
        let Some(fifo) = domain.events.fifo() else {
            return;
        };
        domain.events.fifo_live.store(false, SeqCst);
        fifo.live.store(false, SeqCst);
        for tail in fifo.vcpus.iter().flat_map(|queues| &queues.tails) {
            *tail.lock() = 0;
        }
        let blocks = fifo.vcpus.iter().filter_map(|queues| queues.control.take());
        blocks.for_each(|block| self.put_writable(block.mfn));
        for page in &fifo.pages {
            let mfn = page.swap(NOWHERE, AcqRel);
            if mfn != NOWHERE {
                self.put_writable(Mfn(mfn));
            }
        }
        fifo.count.store(0, Release);
    }
}
