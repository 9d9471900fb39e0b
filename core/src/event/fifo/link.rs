//! How a port gets into a queue of the FIFO ABI, against a guest that takes ports out at the same time.
//!
//! A queue is a list of event words in memory that its guest writes at will: the hypervisor appends, the guest unlinks
//! from the head. Only the tail is the hypervisor's own; it is behind the lock of the queue. The guest says that a port left
//! the queue by clearing `LINKED`, and takes the link in the same step: so a port is either appended to a tail that is still
//! linked, or the queue is empty and gets a new head. Nothing read from a word leads anywhere: a guest that breaks the
//! rules loses its own events. The functions are written over [`Words`], so that loom runs them too
//! (`tests/fifo_handoff.rs`). Follows Xen's design document "FIFO-based event channels".

use xenolith_abi::event_channel::EventWord;

use crate::event::Signal;

const PENDING: u32 = EventWord::PENDING.bits();
const MASKED: u32 = EventWord::MASKED.bits();
const LINKED: u32 = EventWord::LINKED.bits();
const BUSY: u32 = EventWord::BUSY.bits();
const LINK_MASK: u32 = EventWord::LINK_MASK.bits();

/// How often a link is tried that the guest changes all the time. While `BUSY` is set, a guest that follows the rules
/// changes the word a few times at most: it may mask the port, clear its pending bit, and unlink it.
const RETRIES: u32 = 16;

/// The shared words as one vCPU's queues see them; each method is one sequentially consistent access.
pub trait Words {
    /// Reads a port's word.
    fn load(&self, port: u32) -> u32;
    /// Sets bits of a port's word; returns the old word.
    fn set(&self, port: u32, bits: u32) -> u32;
    /// Clears bits of a port's word; returns the old word.
    fn clear(&self, port: u32, bits: u32) -> u32;
    /// Puts `new` in place of `old`; tells whether `old` was there.
    fn replace(&self, port: u32, old: u32, new: u32) -> bool;
    /// Writes the head of a queue.
    fn set_head(&self, priority: u8, port: u32);
    /// Marks a queue as not empty; tells whether it was marked already.
    fn set_ready(&self, priority: u8) -> bool;
    /// Sets the vCPU's upcall byte; tells whether it was set already.
    fn set_upcall(&self) -> bool;
}

/// What is done to a port's word before the port is queued, if it then is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An event happens.
    Raise,
    /// The mask is taken away.
    Unmask,
}

/// Makes the change; `Err` when that is all, because the guest does not want to hear of the port or has it queued.
/// The queue that the port was in last is locked.
#[inline]
pub fn begin(words: &impl Words, change: Change, port: u32) -> Result<(), Signal> {
    let (before, queue_it) = match change {
        Change::Raise => {
            let before = words.set(port, PENDING);
            (before, before & (MASKED | LINKED) == 0)
        }
        Change::Unmask => {
            let before = words.clear(port, MASKED);
            (before, before & (PENDING | LINKED) == PENDING)
        }
    };
    match queue_it {
        true => Ok(()),
        false if change == Change::Raise && before & PENDING != 0 => Err(Signal::Already),
        false => Err(Signal::Quiet),
    }
}

/// Appends a port to a queue, unless it is in one. `tail` is what was appended last; the queue is locked.
#[inline]
pub fn enqueue(words: &impl Words, tail: &mut u32, port: u32, priority: u8) -> Signal {
    if words.set(port, LINKED) & LINKED != 0 {
        return Signal::Quiet;
    }
    // A port that is its own tail has left the queue, which is empty then.
    let appended = *tail != 0 && *tail != port && link(words, *tail, port);
    if !appended {
        words.set_head(priority, port);
    }
    *tail = port;
    if appended || words.set_ready(priority) || words.set_upcall() {
        return Signal::Quiet;
    }
    Signal::Upcall
}

/// Lets the tail point to a port; false when the guest has taken the tail out of the queue.
#[inline]
fn link(words: &impl Words, tail: u32, port: u32) -> bool {
    let word = words.load(tail);
    if word & LINKED == 0 {
        return false;
    }
    words.replace(tail, word, linked_to(word, port)) || link_busy(words, tail, port)
}

/// The same for a word that its guest is changing: while it is busy, the guest does not unmask it.
#[cold]
fn link_busy(words: &impl Words, tail: u32, port: u32) -> bool {
    words.set(tail, BUSY);
    for _ in 0..RETRIES {
        let word = words.load(tail);
        if word & LINKED == 0 {
            break;
        }
        if words.replace(tail, word, linked_to(word, port)) {
            return true;
        }
    }
    words.clear(tail, BUSY);
    false
}

const fn linked_to(word: u32, port: u32) -> u32 {
    word & !(BUSY | LINK_MASK) | port
}
