//! The reader-writer lock under every interleaving that the memory model allows, by loom: nobody sees a write half done,
//! and everybody's turn comes (loom gives up on an endless wait).

/// What the lock's own source takes its atomics from.
mod atomic {
    pub(super) use loom::{sync::atomic::Ordering, thread::yield_now as spin_loop};

    pub(super) struct AtomicU32(loom::sync::atomic::AtomicU32);

    impl AtomicU32 {
        pub(super) fn new(value: u32) -> Self {
            Self(loom::sync::atomic::AtomicU32::new(value))
        }

        /// Loads are all in waiting loops, where an old value means another round. loom would go round for ever; so a load
        /// here sees the newest value, as a real CPU's does in the end.
        pub(super) fn load(&self, order: Ordering) -> u32 {
            self.0.fetch_add(0, order)
        }

        pub(super) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
            self.0.fetch_add(value, order)
        }

        pub(super) fn fetch_and(&self, value: u32, order: Ordering) -> u32 {
            self.0.fetch_and(value, order)
        }
    }
}

#[path = "../src/sync/phase_fair.rs"]
#[allow(missing_docs, unreachable_pub)]
mod phase_fair;

use loom::{cell::UnsafeCell, sync::Arc, thread};
use phase_fair::PhaseFair;

struct Guarded {
    lock: PhaseFair,
    /// Two halves that are always equal outside a write. loom itself reports a read beside a write.
    halves: [UnsafeCell<u32>; 2],
}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: PhaseFair::new(),
            halves: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    fn read(&self) -> u32 {
        self.lock.begin_read();
        let [a, b] = &self.halves;
        // SAFETY: the lock is what the model is about; loom checks each access.
        #[allow(unsafe_code, reason = "loom's cells are read through pointers")]
        let seen = unsafe { [a.with(|p| *p), b.with(|p| *p)] };
        self.lock.end_read();
        assert_eq!(seen[0], seen[1]);
        seen[0]
    }

    fn write(&self) {
        self.lock.begin_write();
        for half in &self.halves {
            // SAFETY: as above.
            #[allow(unsafe_code, reason = "loom's cells are written through pointers")]
            half.with_mut(|p| unsafe { *p += 1 });
        }
        self.lock.end_write();
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn a_reader_beside_two_writers_sees_whole_writes_and_gets_its_turn() {
    explore(|| {
        let guarded = Guarded::new();
        let writers = [guarded.clone(), guarded.clone()].map(|g| thread::spawn(move || g.write()));
        assert!(guarded.read() <= 2);
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(guarded.read(), 2);
    });
}

#[test]
fn a_writer_beside_one_who_reads_again_and_again_gets_its_turn() {
    explore(|| {
        let guarded = Guarded::new();
        let reader = {
            let g = guarded.clone();
            thread::spawn(move || {
                let first = g.read();
                assert!(g.read() >= first);
            })
        };
        guarded.write();
        reader.join().unwrap();
        assert_eq!(guarded.read(), 1);
    });
}
