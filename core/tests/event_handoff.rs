//! No event is lost between a sender and a guest: every interleaving that the memory model allows, by loom.
//!
//! The functions under test are the ones that run over guest memory; here they run over loom's atomics. loom has no
//! sequentially consistent access, so each access stands between sequentially consistent fences, which is what the
//! hardware does for [`xenolith_hal::Hal::atomic64`].

use loom::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, SeqCst},
            fence,
        },
    },
    thread,
};
use xenolith_core::event::two_level::{Signal, VcpuWords, Words, raise, unmask};

/// One word of ports and one vCPU, and what the vCPU's guest has seen.
struct Shared {
    pending: AtomicU64,
    mask: AtomicU64,
    selector: AtomicU64,
    upcall: AtomicBool,
    /// The interrupt line of the vCPU.
    interrupt: AtomicBool,
}

impl Shared {
    fn new(mask: u64) -> Arc<Self> {
        Arc::new(Self {
            pending: AtomicU64::new(0),
            mask: AtomicU64::new(mask),
            selector: AtomicU64::new(0),
            upcall: AtomicBool::new(false),
            interrupt: AtomicBool::new(false),
        })
    }

    fn load(word: &AtomicU64) -> u64 {
        fence(SeqCst);
        let value = word.load(Acquire);
        fence(SeqCst);
        value
    }

    fn send(&self, port: u32) -> Signal {
        let signal = raise(self, port);
        self.act(signal);
        signal
    }

    fn unmask(&self, port: u32) {
        self.act(unmask(self, port));
    }

    fn act(&self, signal: Signal) {
        if signal == Signal::Upcall {
            self.interrupt.swap(true, AcqRel);
        }
    }

    /// The guest takes its interrupt, if there is one, and follows the order of `xen.h`. Returns the ports it served.
    fn take_interrupt(&self) -> u64 {
        if !self.interrupt.swap(false, AcqRel) {
            return 0;
        }
        self.upcall.swap(false, AcqRel);
        fence(SeqCst);
        if self.selector.swap(0, AcqRel) == 0 {
            return 0;
        }
        fence(SeqCst);
        let ready = Self::load(&self.pending) & !Self::load(&self.mask);
        self.pending.fetch_and(!ready, AcqRel);
        fence(SeqCst);
        ready
    }
}

impl Words for Shared {
    type Vcpu<'a> = &'a Self;

    fn vcpu(&self) -> Option<&Self> {
        Some(self)
    }
    fn set_pending(&self, _: usize, bits: u64) -> u64 {
        let old = self.pending.fetch_or(bits, AcqRel);
        fence(SeqCst);
        old
    }
    fn clear_pending(&self, _: usize, bits: u64) {
        self.pending.fetch_and(!bits, AcqRel);
        fence(SeqCst);
    }
    fn pending(&self, _: usize) -> u64 {
        Self::load(&self.pending)
    }
    fn mask(&self, _: usize) -> u64 {
        Self::load(&self.mask)
    }
    fn clear_mask(&self, _: usize, bits: u64) -> u64 {
        let old = self.mask.fetch_and(!bits, AcqRel);
        fence(SeqCst);
        old
    }
}

impl VcpuWords for &Shared {
    fn select(&self, word: usize) -> bool {
        if Shared::load(&self.selector) & 1 << word != 0 {
            return true;
        }
        self.selector.fetch_or(1 << word, AcqRel);
        fence(SeqCst);
        false
    }
    fn set_upcall(&self) -> bool {
        let old = self.upcall.swap(true, AcqRel);
        fence(SeqCst);
        old
    }
}

#[test]
fn an_event_sent_while_the_guest_serves_another_is_served_too() {
    loom::model(|| {
        let shared = Shared::new(0);
        shared.send(0);
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || shared.send(1))
        };
        let first = shared.take_interrupt();
        sender.join().unwrap();
        let rest = shared.take_interrupt();
        assert_eq!(first | rest, 0b11);
    });
}

#[test]
fn an_event_sent_again_while_it_is_served_is_pending_or_was_seen() {
    loom::model(|| {
        let shared = Shared::new(0);
        shared.send(0);
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || shared.send(0))
        };
        let first = shared.take_interrupt();
        let second = sender.join().unwrap();
        let rest = shared.take_interrupt();
        // The second event was joined to the first before that was served, or comes by itself.
        assert_eq!(first, 1);
        assert_eq!(rest == 1, second != Signal::Already);
        assert_eq!(shared.pending(0), 0);
    });
}

#[test]
fn an_event_sent_while_the_guest_unmasks_is_told() {
    loom::model(|| {
        let shared = Shared::new(1);
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || shared.send(0))
        };
        shared.unmask(0);
        let first = shared.take_interrupt();
        sender.join().unwrap();
        let rest = shared.take_interrupt();
        assert_eq!(first | rest, 1);
    });
}

#[test]
fn two_senders_on_one_vcpu_lose_nothing() {
    loom::model(|| {
        let shared = Shared::new(0);
        let senders = [1, 2].map(|port| {
            let shared = shared.clone();
            thread::spawn(move || shared.send(port))
        });
        let first = shared.take_interrupt();
        for sender in senders {
            sender.join().unwrap();
        }
        let rest = shared.take_interrupt();
        assert_eq!(first | rest, 0b110);
    });
}
