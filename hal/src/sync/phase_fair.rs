//! The counters of a phase-fair reader-writer lock: readers and writers take turns when both wait.
//!
//! A reader waits for at most one writer, and a writer for the readers that came before it and for one turn of each
//! writer before it, so neither can be kept out by a stream of the other. Writers among themselves go in the order of
//! their tickets. An uncontended read costs two atomic additions. The scheme is Brandenburg and Anderson's PF-T
//! ("Spin-Based Reader-Writer Synchronization for Multiprocessor Real-Time Systems", 2010).
//!
//! This file names its atomics through `super::atomic`, so that `hal/tests/phase_fair.rs` can explore it with loom.

use super::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    spin_loop,
};

/// One reader in the readers' counters.
const READER: u32 = 1 << 2;
/// What the writer whose turn it is leaves in `readers_in`.
const WRITER: u32 = 0b11;
/// A writer waits or works.
const PRESENT: u32 = 0b10;
/// Which of two neighbours in the writers' order it is, so that a reader sees one go even if the next is there already.
const PHASE: u32 = 0b01;

/// A lock without its data.
pub struct PhaseFair {
    /// Readers that came, and the mark of the writer whose turn it is.
    readers_in: AtomicU32,
    /// Readers that went.
    readers_out: AtomicU32,
    /// The next writer's ticket.
    writers_in: AtomicU32,
    /// The ticket of the writer whose turn it is.
    writers_out: AtomicU32,
}

impl PhaseFair {
    /// An open lock.
    #[allow(clippy::new_without_default, reason = "a lock is made on purpose")]
    pub fn new() -> Self {
        Self {
            readers_in: AtomicU32::new(0),
            readers_out: AtomicU32::new(0),
            writers_in: AtomicU32::new(0),
            writers_out: AtomicU32::new(0),
        }
    }

    /// Waits until no writer works. Not to be called by one who reads already: a writer may have come between.
    #[inline(always)]
    pub fn begin_read(&self) {
        let writer = self.readers_in.fetch_add(READER, Acquire) & WRITER;
        if writer != 0 {
            self.wait_for(writer);
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for(&self, writer: u32) {
        while self.readers_in.load(Acquire) & WRITER == writer {
            spin_loop();
        }
    }

    /// Ends what [`PhaseFair::begin_read`] began.
    #[inline(always)]
    pub fn end_read(&self) {
        self.readers_out.fetch_add(READER, Release);
    }

    /// Waits until nobody else works.
    pub fn begin_write(&self) {
        let ticket = self.writers_in.fetch_add(1, Relaxed);
        while self.writers_out.load(Acquire) != ticket {
            spin_loop();
        }
        // From here on new readers wait; those that the counter shows are waited for.
        let mark = PRESENT | ticket & PHASE;
        let came = self.readers_in.fetch_add(mark, Acquire);
        while self.readers_out.load(Acquire) != came {
            spin_loop();
        }
    }

    /// Ends what [`PhaseFair::begin_write`] began.
    pub fn end_write(&self) {
        self.readers_in.fetch_and(!WRITER, Release);
        self.writers_out.fetch_add(1, Release);
    }
}
