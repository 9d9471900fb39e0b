//! One event channel: a word that anyone may read, and a lock that every change holds.
//!
//! The word says what the port is bound to and which vCPU it notifies, so that sending an IPI or a VIRQ takes no lock.
//! Only an interdomain channel has more: its peer, held by reference while the channel is bound, so that a send looks
//! no domain up. Both ends of such a pair change together under both locks: while one end is locked, the other stays.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use xenolith_abi::Port;
use xenolith_hal::{
    Hal,
    sync::{Mutex, MutexGuard, Rank},
};

use super::fifo::PortState;
use crate::{DomId, DomainRef, VcpuId};

/// What a port is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Not in use.
    Free,
    /// Taken from the free ones, not bound yet.
    Reserved,
    /// Waits for this domain to connect.
    Unbound {
        /// Who may connect.
        remote: DomId,
    },
    /// Connected to a port of the peer.
    Interdomain {
        /// The peer's port.
        remote: Port,
    },
    /// Raised by the hypervisor for this virtual interrupt.
    Virq {
        /// Its number.
        virq: u32,
    },
    /// Raised by the domain for one of its vCPUs.
    Ipi,
    /// Raised by the machine for this interrupt of a device.
    Pirq {
        /// The domain's number of it.
        pirq: u32,
    },
}

/// A channel's [`Binding`] and the vCPU that it notifies, as one word: kind in bits 0 to 7, vCPU in bits 16 to 31,
/// the binding's number in the upper half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    pub(super) const FREE: Self = Self::new(Binding::Free, VcpuId(0));

    pub(super) const fn new(binding: Binding, vcpu: VcpuId) -> Self {
        let (kind, number) = match binding {
            Binding::Free => (0, 0),
            Binding::Reserved => (1, 0),
            Binding::Unbound { remote } => (2, remote.0 as u32),
            Binding::Interdomain { remote } => (3, remote.0),
            Binding::Virq { virq } => (4, virq),
            Binding::Ipi => (5, 0),
            Binding::Pirq { pirq } => (6, pirq),
        };
        Self(kind | (vcpu.0 as u64) << 16 | (number as u64) << 32)
    }

    #[inline]
    pub(super) const fn binding(self) -> Binding {
        let number = (self.0 >> 32) as u32;
        match self.0 as u8 {
            0 => Binding::Free,
            2 => Binding::Unbound {
                remote: DomId(number as u16),
            },
            3 => Binding::Interdomain {
                remote: Port(number),
            },
            4 => Binding::Virq { virq: number },
            5 => Binding::Ipi,
            6 => Binding::Pirq { pirq: number },
            _ => Binding::Reserved,
        }
    }

    #[inline]
    pub(super) const fn vcpu(self) -> VcpuId {
        VcpuId((self.0 >> 16) as u16)
    }
}

/// The other end of an interdomain channel.
pub(super) struct Peer<H: Hal> {
    pub(super) domain: DomainRef<H>,
    pub(super) port: Port,
}

impl<H: Hal> Clone for Peer<H> {
    fn clone(&self) -> Self {
        Self {
            domain: self.domain.clone(),
            port: self.port,
        }
    }
}

/// The lock of a channel, held.
pub(super) type ChannelGuard<'a, H> = MutexGuard<'a, Option<Peer<H>>>;

/// One event channel.
pub(super) struct Channel<H: Hal> {
    word: AtomicU64,
    /// What the FIFO ABI keeps of the port.
    pub(super) fifo: PortState,
    peer: Mutex<Option<Peer<H>>>,
}

impl<H: Hal> Channel<H> {
    pub(super) const fn free() -> Self {
        Self {
            word: AtomicU64::new(Word::FREE.0),
            fifo: PortState::new(),
            peer: Mutex::new(Rank::EventChannel, None),
        }
    }

    #[inline]
    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Acquire))
    }

    /// Changes the word. The caller holds the lock, or owns the channel because it is reserved.
    pub(super) fn set(&self, word: Word) {
        self.word.store(word.0, Release);
    }

    /// Takes a free one for a binding to come. The caller holds the lock of allocation.
    pub(super) fn reserve(&self) -> &Self {
        self.fifo.reset();
        self.set(Word::new(Binding::Reserved, VcpuId(0)));
        self
    }

    pub(super) fn lock(&self) -> ChannelGuard<'_, H> {
        self.peer.lock()
    }

    /// Locks two different channels.
    pub(super) fn lock_pair<'a>(
        &'a self,
        other: &'a Self,
    ) -> (ChannelGuard<'a, H>, ChannelGuard<'a, H>) {
        self.peer.lock_pair(&other.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_what_was_put_in() {
        for binding in [
            Binding::Free,
            Binding::Reserved,
            Binding::Unbound {
                remote: DomId(0x7fef),
            },
            Binding::Interdomain {
                remote: Port(u32::MAX),
            },
            Binding::Virq { virq: 23 },
            Binding::Ipi,
            Binding::Pirq { pirq: 1023 },
        ] {
            let word = Word::new(binding, VcpuId(0xabcd));
            assert_eq!(word.binding(), binding);
            assert_eq!(word.vcpu(), VcpuId(0xabcd));
        }
    }
}
