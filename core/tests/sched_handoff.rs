//! No wake-up is lost between a vCPU that stops and those that wake it: every interleaving that the memory model allows,
//! by loom. Accesses stand between sequentially consistent fences, because loom knows no such access.

use loom::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{AcqRel, Acquire, Release, SeqCst},
            fence,
        },
    },
    thread,
};
use xenolith_core::sched::handoff::{
    Flags, Place, Words, begin_block, claim_runnable, flag, park, wants_wake,
};
use xenolith_hal::CpuId;

const CPU: CpuId = CpuId(0);

/// One vCPU that runs, its interrupt line, and how often it was queued.
struct Vcpu {
    flags: AtomicU32,
    place: AtomicU32,
    interrupt: AtomicBool,
    queued: AtomicU32,
}

fn pack(place: Place) -> u32 {
    match place {
        Place::Off(_) => 0,
        Place::Queued(_) => 1,
        Place::Running(_) => 2,
        Place::Leaving(_) => 3,
    }
}

impl Flags for Vcpu {
    fn set(&self, flags: u32) -> u32 {
        let old = self.flags.fetch_or(flags, AcqRel);
        fence(SeqCst);
        old
    }
    fn clear(&self, flags: u32) -> u32 {
        let old = self.flags.fetch_and(!flags, AcqRel);
        fence(SeqCst);
        old
    }
    fn flags(&self) -> u32 {
        fence(SeqCst);
        self.flags.load(Acquire)
    }
    fn fence(&self) {
        fence(SeqCst);
    }
}

impl Words for Vcpu {
    fn runnable(&self) -> bool {
        self.flags() == 0
    }
    fn place(&self) -> Place {
        fence(SeqCst);
        [
            Place::Off(CPU),
            Place::Queued(CPU),
            Place::Running(CPU),
            Place::Leaving(CPU),
        ][self.place.load(Acquire) as usize]
    }
    fn move_to(&self, place: Place) {
        self.place.store(pack(place), Release);
        fence(SeqCst);
    }
    fn claim(&self, seen: Place, to: Place) -> bool {
        self.place
            .compare_exchange(pack(seen), pack(to), AcqRel, Acquire)
            .is_ok()
    }
}

impl Vcpu {
    fn running() -> Arc<Self> {
        Arc::new(Self {
            flags: AtomicU32::new(0),
            place: AtomicU32::new(pack(Place::Running(CPU))),
            interrupt: AtomicBool::new(false),
            queued: AtomicU32::new(0),
        })
    }

    fn put(&self, claimed: Option<CpuId>) {
        if claimed.is_some() {
            self.queued.fetch_add(1, AcqRel);
        }
    }

    /// Its CPU: the guest waits, and if it does, the CPU goes on to something else.
    fn block(&self) {
        if !begin_block(self, || self.interrupt.load(Acquire)) {
            return;
        }
        if self.runnable() {
            return;
        }
        self.move_to(Place::Leaving(CPU));
        if self.runnable() {
            self.move_to(Place::Queued(CPU));
            self.queued.fetch_add(1, AcqRel);
        } else {
            self.put(park(self, CPU));
        }
    }

    /// Another CPU sends it an interrupt.
    fn notify(&self) {
        self.interrupt.store(true, Release);
        if wants_wake(self) {
            self.clear(flag::WAITING);
            self.put(claim_runnable(self));
        }
    }
}

fn check(vcpu: &Vcpu) {
    let queued = vcpu.queued.load(Acquire);
    match vcpu.place() {
        Place::Running(_) => assert_eq!(queued, 0),
        Place::Queued(_) => assert_eq!(queued, 1, "queued by exactly one"),
        place => panic!("{place:?} with an interrupt waiting"),
    }
    assert_eq!(vcpu.flags(), 0);
}

#[test]
fn an_interrupt_ends_a_wait_that_begins_at_the_same_time() {
    loom::model(|| {
        let vcpu = Vcpu::running();
        let sender = {
            let vcpu = vcpu.clone();
            thread::spawn(move || vcpu.notify())
        };
        vcpu.block();
        sender.join().unwrap();
        check(&vcpu);
    });
}

#[test]
fn two_senders_queue_a_waiting_vcpu_once() {
    loom::model(|| {
        let vcpu = Vcpu::running();
        vcpu.block();
        let senders = [0, 1].map(|_| {
            let vcpu = vcpu.clone();
            thread::spawn(move || vcpu.notify())
        });
        for sender in senders {
            sender.join().unwrap();
        }
        check(&vcpu);
    });
}

#[test]
fn a_vcpu_that_is_resumed_while_it_is_parked_is_queued_once() {
    loom::model(|| {
        let vcpu = Vcpu::running();
        vcpu.set(flag::DOWN);
        let other = {
            let vcpu = vcpu.clone();
            thread::spawn(move || {
                vcpu.clear(flag::DOWN);
                vcpu.put(claim_runnable(&*vcpu));
            })
        };
        vcpu.move_to(Place::Leaving(CPU));
        vcpu.put(park(&*vcpu, CPU));
        other.join().unwrap();
        check(&vcpu);
    });
}
