//! The FIFO ABI: an event word per port in pages that the guest brings, and sixteen queues per vCPU, one per priority.
//!
//! Everything that reads or writes those pages holds the lock of a queue of the domain, after it looked under that lock that
//! the ABI is in use: so when the domain leaves it (`control`), the pages are nobody's once each lock was taken and let go.
//! A port is queued under the lock of the queue that it was in last. Where it is to go to another one, `moves` is held from
//! before the first lock to after the second: only then does a port's last queue change. Invariant: a queue's tail is a
//! port whose last queue this is.

mod control;
pub mod link;
mod port;

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, SeqCst},
};

use xenolith_abi::{
    Port,
    event_channel::{CHANNELS_FIFO, ControlBlock, EventWord, FIFO_MAX_QUEUES, FIFO_WORDS_PER_PAGE},
};
use xenolith_hal::{
    AtomicOp::{And, Cas, Load, Or, Swap},
    Hal, Mfn, NoMemory,
    sync::{Mutex, MutexGuard, Rank},
};

pub(super) use port::{PortState, QueueId};

use super::{InfoArea, InfoPlace, Signal};
use crate::{Domain, Vcpu, memory::try_boxed_slice};
use link::{Change, Words};

/// How many ports the ABI has.
pub const PORTS: u32 = CHANNELS_FIFO;
const PAGES: usize = (PORTS / FIFO_WORDS_PER_PAGE) as usize;
const NOWHERE: u64 = u64::MAX;

/// The queues of one vCPU.
struct VcpuQueues {
    /// Where its control block stands.
    control: InfoPlace,
    /// The port that was appended last, 0 for none.
    tails: [Mutex<u32>; FIFO_MAX_QUEUES as usize],
}

/// A domain's event words and queues.
pub(super) struct Fifo {
    /// Whether the guest uses the ABI.
    live: AtomicBool,
    /// The frames with the words, in the order in which they came. Each is held by a reference.
    pages: Box<[AtomicU64]>,
    count: AtomicU32,
    vcpus: Box<[VcpuQueues]>,
    /// Held while a port changes its queue.
    moves: Mutex<()>,
}

/// A port as the queues see it.
pub(super) struct QueuedPort<'a> {
    pub(super) port: Port,
    pub(super) state: &'a PortState,
}

impl Fifo {
    fn new(vcpus: usize) -> Result<Self, NoMemory> {
        let queues = |_| VcpuQueues {
            control: InfoPlace::new(),
            tails: [const { Mutex::new(Rank::EventQueue, 0) }; FIFO_MAX_QUEUES as usize],
        };
        Ok(Self {
            live: AtomicBool::new(false),
            pages: try_boxed_slice((0..PAGES).map(|_| AtomicU64::new(NOWHERE)))?,
            count: AtomicU32::new(0),
            vcpus: try_boxed_slice((0..vcpus).map(queues))?,
            moves: Mutex::new(Rank::EventMove, ()),
        })
    }

    /// Bytes that this takes of the heap.
    const fn heap(vcpus: usize) -> u64 {
        (PAGES * size_of::<AtomicU64>() + vcpus * size_of::<VcpuQueues>()) as u64
    }

    /// Whether the guest uses the ABI now.
    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.live.load(SeqCst)
    }

    #[inline]
    fn lock(&self, queue: QueueId) -> Option<MutexGuard<'_, u32>> {
        let queues = self.vcpus.get(usize::from(queue.vcpu.0))?;
        Some(queues.tails.get(usize::from(queue.priority))?.lock())
    }

    /// Makes a port pending, or takes its mask away, and queues it for `vcpu` where the guest is to hear of it.
    #[inline]
    pub(super) fn change<H: Hal>(
        &self,
        hal: &H,
        (domain, vcpu): (&Domain<H>, &Vcpu<H>),
        at: &QueuedPort<'_>,
        change: Change,
    ) -> Signal {
        let queue = QueueId {
            vcpu: vcpu.id,
            priority: at.state.priority(),
        };
        if at.state.last() == queue
            && let Some(mut tail) = self.lock(queue)
            && at.state.last() == queue
        {
            return match self.begin(hal, at, change) {
                Ok(()) => self.enqueue(hal, (domain, vcpu), at.port, queue, &mut tail),
                Err(signal) => signal,
            };
        }
        self.change_and_move(hal, (domain, vcpu), at, change, queue)
    }

    /// The same for a port that was in another queue last. If it still is, it is heard of from there.
    #[cold]
    fn change_and_move<H: Hal>(
        &self,
        hal: &H,
        (domain, vcpu): (&Domain<H>, &Vcpu<H>),
        at: &QueuedPort<'_>,
        change: Change,
        queue: QueueId,
    ) -> Signal {
        let _moves = self.moves.lock();
        let last = at.state.last();
        let Some(mut old_tail) = self.lock(last) else {
            return Signal::Quiet;
        };
        if let Err(signal) = self.begin(hal, at, change) {
            return signal;
        }
        if last != queue {
            if *old_tail == at.port.0 {
                *old_tail = 0;
            }
            at.state.set_last(queue);
        }
        drop(old_tail);
        match self.lock(queue) {
            Some(mut tail) => self.enqueue(hal, (domain, vcpu), at.port, queue, &mut tail),
            None => Signal::Quiet,
        }
    }

    /// Changes the word of a port whose last queue is locked; `Err` when it is not to be queued.
    #[inline]
    fn begin<H: Hal>(&self, hal: &H, at: &QueuedPort<'_>, change: Change) -> Result<(), Signal> {
        if !self.is_live() {
            return Err(Signal::Quiet);
        }
        if self.page(at.port.0).is_none() {
            self.postpone(at, change)?;
        }
        link::begin(&self.words(hal), change, at.port.0)
    }

    /// The guest has not brought the page yet. Who brings it first makes it known, then looks for events that wait; so
    /// one of both sees the other.
    #[cold]
    fn postpone(&self, at: &QueuedPort<'_>, change: Change) -> Result<(), Signal> {
        if change == Change::Unmask {
            return Err(Signal::Quiet);
        }
        let waits = at.state.postpone();
        if self.page(at.port.0).is_some() && at.state.take_postponed() {
            return Ok(());
        }
        Err(match waits {
            true => Signal::Already,
            false => Signal::Quiet,
        })
    }

    /// Queues a port in a queue that is locked. Without a control block there is no queue: the guest unmasks no port
    /// before it has one.
    #[inline]
    fn enqueue<H: Hal>(
        &self,
        hal: &H,
        (domain, vcpu): (&Domain<H>, &Vcpu<H>),
        port: Port,
        queue: QueueId,
        tail: &mut u32,
    ) -> Signal {
        let control = self
            .vcpus
            .get(usize::from(queue.vcpu.0))
            .and_then(|queues| queues.control.get());
        if control.is_none() || !self.is_live() {
            return Signal::Quiet;
        }
        let words = FifoWords {
            control,
            info: domain.info_area(vcpu),
            ..self.words(hal)
        };
        link::enqueue(&words, tail, port.0, queue.priority)
    }

    /// A port's word; nothing is set where there is none.
    pub(super) fn word<H: Hal>(&self, hal: &H, at: &QueuedPort<'_>) -> EventWord {
        let _tail = self.lock(at.state.last());
        if !self.is_live() {
            return EventWord::empty();
        }
        let word = EventWord(self.words(hal).load(at.port.0));
        match at.state.is_postponed() {
            true => word | EventWord::PENDING,
            false => word,
        }
    }

    /// A port's event is forgotten.
    #[inline(never)]
    pub(super) fn clear_pending<H: Hal>(&self, hal: &H, at: &QueuedPort<'_>) {
        let _tail = self.lock(at.state.last());
        at.state.take_postponed();
        if self.is_live() {
            self.words(hal).clear(at.port.0, EventWord::PENDING.bits());
        }
    }

    /// The frames that are held.
    pub(super) fn frames(&self) -> impl Iterator<Item = Mfn> + '_ {
        let blocks = self.vcpus.iter().filter_map(|queues| queues.control.get());
        let pages = self.pages.iter().map(|page| page.load(Acquire));
        let pages = pages.filter(|mfn| *mfn != NOWHERE).map(Mfn);
        pages.chain(blocks.map(|block| block.mfn))
    }

    #[inline]
    fn page(&self, port: u32) -> Option<Mfn> {
        let page = self.pages.get((port / FIFO_WORDS_PER_PAGE) as usize)?;
        let mfn = page.load(Acquire);
        (mfn != NOWHERE).then_some(Mfn(mfn))
    }

    #[inline]
    fn words<'a, H: Hal>(&'a self, hal: &'a H) -> FifoWords<'a, H> {
        FifoWords {
            hal,
            fifo: self,
            control: None,
            info: None,
        }
    }
}

/// The words in the pages of a domain, and the queues and the upcall byte of one vCPU. An access that fails, because the
/// page is not there, changes nothing and counts as "told already".
struct FifoWords<'a, H: Hal> {
    hal: &'a H,
    fifo: &'a Fifo,
    control: Option<InfoArea>,
    info: Option<InfoArea>,
}

impl<H: Hal> FifoWords<'_, H> {
    #[inline]
    fn op(&self, port: u32, op: xenolith_hal::AtomicOp<u32>) -> Option<u32> {
        let at = (port % FIFO_WORDS_PER_PAGE) as usize * size_of::<EventWord>();
        self.hal.atomic32(self.fifo.page(port)?, at, op).ok()
    }

    #[inline]
    fn control(&self, at: usize, op: xenolith_hal::AtomicOp<u32>) -> Option<u32> {
        let control = self.control?;
        self.hal.atomic32(control.mfn, control.offset + at, op).ok()
    }
}

impl<H: Hal> Words for FifoWords<'_, H> {
    #[inline]
    fn load(&self, port: u32) -> u32 {
        self.op(port, Load).unwrap_or(0)
    }

    #[inline]
    fn set(&self, port: u32, bits: u32) -> u32 {
        self.op(port, Or(bits)).unwrap_or(u32::MAX)
    }

    #[inline]
    fn clear(&self, port: u32, bits: u32) -> u32 {
        self.op(port, And(!bits)).unwrap_or(0)
    }

    #[inline]
    fn replace(&self, port: u32, old: u32, new: u32) -> bool {
        self.op(port, Cas { old, new }) == Some(old)
    }

    #[inline]
    fn set_head(&self, priority: u8, port: u32) {
        let at = core::mem::offset_of!(ControlBlock, head);
        self.control(at + usize::from(priority) * size_of::<u32>(), Swap(port));
    }

    #[inline]
    fn set_ready(&self, priority: u8) -> bool {
        let bit = 1 << priority;
        let at = core::mem::offset_of!(ControlBlock, ready);
        self.control(at, Or(bit)).is_none_or(|old| old & bit != 0)
    }

    #[inline]
    fn set_upcall(&self) -> bool {
        let at = H::SHARED_INFO.vcpu.evtchn_upcall_pending;
        self.info
            .and_then(|info| self.hal.atomic8(info.mfn, info.offset + at, Or(1)).ok())
            .is_none_or(|old| old & 1 != 0)
    }
}
