//! No event is lost between senders that append to a queue of the FIFO ABI and the guest that consumes it: every
//! interleaving that the memory model allows, by loom.
//!
//! The functions under test are the ones that run over guest memory; here they run over loom's atomics. Each access stands
//! between sequentially consistent fences, which is what the hardware does for [`xenolith_hal::Hal::atomic32`]. The guest
//! follows Xen's design document "FIFO-based event channels".

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{AcqRel, Acquire, SeqCst},
            fence,
        },
    },
    thread,
};
use xenolith_abi::event_channel::EventWord;
use xenolith_core::event::{
    Signal,
    fifo::link::{Change, Words, begin, enqueue},
};

const PENDING: u32 = EventWord::PENDING.bits();
const MASKED: u32 = EventWord::MASKED.bits();
const LINKED: u32 = EventWord::LINKED.bits();
const BUSY: u32 = EventWord::BUSY.bits();
const LINK: u32 = EventWord::LINK_MASK.bits();

/// The words of ports 1 to 3, one queue of one vCPU, and its interrupt line.
struct Shared {
    words: [AtomicU32; 4],
    head: AtomicU32,
    ready: AtomicBool,
    upcall: AtomicBool,
    interrupt: AtomicBool,
    tail: Mutex<u32>,
}

fn ordered<T>(access: impl FnOnce() -> T) -> T {
    fence(SeqCst);
    let value = access();
    fence(SeqCst);
    value
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            words: [0; 4].map(AtomicU32::new),
            head: AtomicU32::new(0),
            ready: AtomicBool::new(false),
            upcall: AtomicBool::new(false),
            interrupt: AtomicBool::new(false),
            tail: Mutex::new(0),
        })
    }

    fn change(&self, change: Change, port: u32) -> Signal {
        let mut tail = self.tail.lock().unwrap();
        let signal = match begin(self, change, port) {
            Ok(()) => enqueue(self, &mut tail, port, 7),
            Err(signal) => signal,
        };
        drop(tail);
        if signal == Signal::Upcall {
            self.interrupt.swap(true, AcqRel);
        }
        signal
    }

    fn send(&self, port: u32) -> Signal {
        self.change(Change::Raise, port)
    }

    fn word(&self, port: u32) -> &AtomicU32 {
        &self.words[port as usize]
    }

    /// The guest takes its interrupt, if there is one. Bit n of the result: port n was served.
    fn take_interrupt(&self) -> u32 {
        if !self.interrupt.swap(false, AcqRel) {
            return 0;
        }
        ordered(|| self.upcall.swap(false, AcqRel));
        let (mut served, mut head) = (0, 0);
        let mut ready = ordered(|| self.ready.swap(false, AcqRel));
        while ready {
            if head == 0 {
                head = ordered(|| self.head.load(Acquire));
            }
            let port = head;
            head = self.unlink(port);
            if head == 0 {
                ready = false;
            }
            let word = ordered(|| self.word(port).load(Acquire));
            if word & (PENDING | MASKED) == PENDING {
                ordered(|| self.word(port).fetch_and(!PENDING, AcqRel));
                served |= 1 << port;
            }
            ready |= ordered(|| self.ready.swap(false, AcqRel));
        }
        served
    }

    fn unlink(&self, port: u32) -> u32 {
        loop {
            let word = self.load(port);
            if self.replace(port, word, word & !(LINKED | LINK)) {
                return word & LINK;
            }
            loom::thread::yield_now();
        }
    }

    /// The guest takes a mask away, unless the hypervisor is at the word, and asks for what became pending.
    fn unmask(&self, port: u32) {
        loop {
            let word = self.load(port) & !BUSY;
            if self.replace(port, word, word & !MASKED) {
                break;
            }
            loom::thread::yield_now();
        }
        if self.load(port) & PENDING != 0 {
            self.change(Change::Unmask, port);
        }
    }

    fn assert_at_rest(&self) {
        for word in &self.words {
            assert_eq!(word.load(Acquire) & (PENDING | LINKED | BUSY), 0);
        }
    }
}

impl Words for Shared {
    fn load(&self, port: u32) -> u32 {
        ordered(|| self.word(port).load(Acquire))
    }
    fn set(&self, port: u32, bits: u32) -> u32 {
        ordered(|| self.word(port).fetch_or(bits, AcqRel))
    }
    fn clear(&self, port: u32, bits: u32) -> u32 {
        ordered(|| self.word(port).fetch_and(!bits, AcqRel))
    }
    fn replace(&self, port: u32, old: u32, new: u32) -> bool {
        ordered(|| {
            self.word(port)
                .compare_exchange(old, new, AcqRel, Acquire)
                .is_ok()
        })
    }
    fn set_head(&self, _: u8, port: u32) {
        ordered(|| self.head.swap(port, AcqRel));
    }
    fn set_ready(&self, _: u8) -> bool {
        ordered(|| self.ready.swap(true, AcqRel))
    }
    fn set_upcall(&self) -> bool {
        ordered(|| self.upcall.swap(true, AcqRel))
    }
}

/// Every interleaving with few switches: with more, two threads and a guest take hours.
fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

fn sender(shared: &Arc<Shared>, port: u32) -> thread::JoinHandle<Signal> {
    let shared = shared.clone();
    thread::spawn(move || shared.send(port))
}

#[test]
fn a_port_that_is_appended_while_the_guest_takes_the_tail_is_served() {
    model(|| {
        let shared = Shared::new();
        shared.send(1);
        let other = sender(&shared, 2);
        let first = shared.take_interrupt();
        other.join().unwrap();
        let rest = shared.take_interrupt();
        assert_eq!(first | rest, 0b110);
        shared.assert_at_rest();
    });
}

#[test]
fn two_senders_and_a_guest_that_serves_lose_nothing() {
    model(|| {
        let shared = Shared::new();
        shared.send(1);
        let senders = [2, 3].map(|port| sender(&shared, port));
        let first = shared.take_interrupt();
        for sender in senders {
            sender.join().unwrap();
        }
        let rest = shared.take_interrupt();
        assert_eq!(first | rest, 0b1110);
        shared.assert_at_rest();
    });
}

#[test]
fn a_tail_that_is_sent_again_while_it_leaves_the_queue_is_served_again_or_was_joined() {
    model(|| {
        let shared = Shared::new();
        shared.send(1);
        let senders = [1, 2].map(|port| sender(&shared, port));
        let first = shared.take_interrupt();
        for sender in senders {
            sender.join().unwrap();
        }
        let rest = shared.take_interrupt();
        assert_eq!(first | rest, 0b110);
        shared.assert_at_rest();
    });
}

#[test]
fn an_event_sent_while_the_guest_unmasks_is_served() {
    model(|| {
        let shared = Shared::new();
        shared.set(1, MASKED);
        let other = sender(&shared, 1);
        shared.unmask(1);
        let first = shared.take_interrupt();
        other.join().unwrap();
        let rest = shared.take_interrupt();
        assert_eq!(first | rest, 0b10);
        shared.assert_at_rest();
    });
}
