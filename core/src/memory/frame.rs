//! The record of a machine frame: owner, type, type count and reference count in one atomic word.

use core::sync::atomic::AtomicU64;

/// What the word of a [`FrameRecord`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameState(pub u64);

/// One machine frame.
#[derive(Default)]
pub struct FrameRecord {
    /// Owner, type and counts.
    pub state: AtomicU64,
    /// Links of the free lists while the frame is free.
    pub link: AtomicU64,
}
