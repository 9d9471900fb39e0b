//! Event channels: one-bit notifications between domains, vCPUs and interrupt sources.
//!
//! Header: `event_channel.h`. The call takes a sub-operation and a pointer to that operation's struct;
//! results come back in the same struct. The bits of the two-level ABI live in the shared-info page
//! (`shared_info`), those of the FIFO ABI in pages that the guest brings.

use crate::ids::{DomId, Port};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A sub-operation of `event_channel_op`.
    pub enum EventChannelOp: u32, unknown is ENOSYS {
        /// Connects a new local port to an unbound remote one: [`BindInterdomain`].
        BindInterdomain = 0,
        /// Binds a new port to a VIRQ: [`BindVirq`].
        BindVirq = 1,
        /// Binds a new port to a physical interrupt: [`BindPirq`].
        BindPirq = 2,
        /// Closes a port: [`Close`].
        Close = 3,
        /// Notifies the other end: [`SendEvent`].
        Send = 4,
        /// Tells what a port is bound to: [`Status`].
        Status = 5,
        /// Makes a port that waits for a remote domain: [`AllocUnbound`].
        AllocUnbound = 6,
        /// Makes a port between vCPUs of the caller: [`BindIpi`].
        BindIpi = 7,
        /// Chooses the vCPU that a port notifies: [`BindVcpu`].
        BindVcpu = 8,
        /// Unmasks a port and delivers what is pending: [`Unmask`].
        Unmask = 9,
        /// Closes all ports of a domain: [`Reset`].
        Reset = 10,
        /// Enters the FIFO ABI for one vCPU: [`InitControl`].
        InitControl = 11,
        /// Adds a page to the FIFO event array: [`ExpandArray`].
        ExpandArray = 12,
        /// Sets a port's FIFO priority: [`SetPriority`].
        SetPriority = 13,
    }
}

wire_enum! {
    /// What a port is, as [`Status::status`] tells it.
    pub enum PortState: u32, unknown is EINVAL {
        /// Not in use.
        Closed = 0,
        /// Waits for a remote domain.
        Unbound = 1,
        /// Connected to a port of a domain.
        Interdomain = 2,
        /// Bound to a physical interrupt.
        Pirq = 3,
        /// Bound to a VIRQ.
        Virq = 4,
        /// Bound to a vCPU of its own domain.
        Ipi = 5,
    }
}

/// Ports of a domain in the two-level ABI with 64-bit words.
pub const CHANNELS_2L: u32 = 4096;

/// Ports of a domain in the FIFO ABI.
pub const CHANNELS_FIFO: u32 = 1 << 17;

/// The FIFO priority that is served first.
pub const FIFO_PRIORITY_MAX: u32 = 0;
/// The FIFO priority of a new port.
pub const FIFO_PRIORITY_DEFAULT: u32 = 7;
/// The FIFO priority that is served last.
pub const FIFO_PRIORITY_MIN: u32 = 15;
/// Queues in a FIFO control block.
pub const FIFO_MAX_QUEUES: u32 = 16;

/// FIFO event words in one page of the event array.
pub const FIFO_WORDS_PER_PAGE: u32 = 1024;
/// Bits in the link field of a FIFO event word.
pub const FIFO_LINK_BITS: u8 = 17;

wire_flags! {
    /// A FIFO event word; its low bits are the link, the next port of the queue.
    pub struct EventWord: u32 {
        /// An event has happened.
        const PENDING = 1 << 31;
        /// The guest does not want to hear of it.
        const MASKED = 1 << 30;
        /// The port is in a queue.
        const LINKED = 1 << 29;
        /// The hypervisor changes the link; the guest waits with unmasking.
        const BUSY = 1 << 28;
        /// The link field.
        const LINK_MASK = (1 << FIFO_LINK_BITS) - 1;
    }
}

/// The block that a vCPU's FIFO queues start in (`evtchn_fifo_control_block`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControlBlock {
    /// One bit for each queue that is not empty, by priority.
    pub ready: u32,
    #[doc(hidden)]
    pub _rsvd: u32,
    /// The first port of each queue.
    pub head: [u32; FIFO_MAX_QUEUES as usize],
}

/// `bind_pirq` flag: other domains may share the interrupt line.
pub const BIND_PIRQ_WILL_SHARE: u32 = 1;

/// Argument of [`EventChannelOp::AllocUnbound`] (`evtchn_alloc_unbound`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    /// In: the domain that gets the port; `DomId::SELF` unless privileged.
    pub dom: DomId,
    /// In: the domain that may connect; may be `DomId::SELF`.
    pub remote_dom: DomId,
    /// Out: the new port.
    pub port: Port,
}

/// Argument of [`EventChannelOp::BindInterdomain`] (`evtchn_bind_interdomain`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// In: the domain that waits; may be `DomId::SELF`.
    pub remote_dom: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 2],
    /// In: its unbound port.
    pub remote_port: Port,
    /// Out: the new local port, which is pending at once.
    pub local_port: Port,
}

/// Argument of [`EventChannelOp::BindVirq`] (`evtchn_bind_virq`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// In: a number of [`Virq`](crate::virq::Virq).
    pub virq: u32,
    /// In: the vCPU; 0 for a global VIRQ.
    pub vcpu: u32,
    /// Out: the new port.
    pub port: Port,
}

/// Argument of [`EventChannelOp::BindPirq`] (`evtchn_bind_pirq`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindPirq {
    /// In: the physical interrupt in the domain's numbering.
    pub pirq: u32,
    /// In: [`BIND_PIRQ_WILL_SHARE`] or 0.
    pub flags: u32,
    /// Out: the new port.
    pub port: Port,
}

/// Argument of [`EventChannelOp::BindIpi`] (`evtchn_bind_ipi`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// In: the vCPU that the port notifies for ever.
    pub vcpu: u32,
    /// Out: the new port.
    pub port: Port,
}

/// Argument of [`EventChannelOp::Close`] (`evtchn_close`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Close {
    /// In: the port to close.
    pub port: Port,
}

/// Argument of [`EventChannelOp::Send`] (`evtchn_send`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendEvent {
    /// In: the local end of the channel.
    pub port: Port,
}

/// Argument of [`EventChannelOp::Status`] (`evtchn_status`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// In: the domain; other than `DomId::SELF` needs privilege.
    pub dom: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 2],
    /// In: the port.
    pub port: Port,
    /// Out: a number of [`PortState`].
    pub status: u32,
    /// Out: the vCPU that the port notifies.
    pub vcpu: u32,
    /// Out: what it is bound to.
    pub peer: StatusPeer,
}

/// The union at the end of [`Status`], as two words.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StatusPeer {
    /// The remote domain in the low half, or the PIRQ, or the VIRQ.
    pub first: u32,
    /// The remote port of an interdomain channel.
    pub second: u32,
}

impl StatusPeer {
    /// For [`PortState::Unbound`]: the domain that may connect.
    #[must_use]
    pub const fn unbound(dom: DomId) -> Self {
        Self {
            first: dom.0 as u32,
            second: 0,
        }
    }

    /// For [`PortState::Interdomain`]: the other end.
    #[must_use]
    pub const fn interdomain(dom: DomId, port: Port) -> Self {
        Self {
            first: dom.0 as u32,
            second: port.0,
        }
    }

    /// For [`PortState::Pirq`] and [`PortState::Virq`]: the number.
    #[must_use]
    pub const fn irq(number: u32) -> Self {
        Self {
            first: number,
            second: 0,
        }
    }

    /// The domain in a union that holds one.
    #[must_use]
    pub const fn dom(self) -> DomId {
        DomId(self.first as u16)
    }
}

/// Argument of [`EventChannelOp::BindVcpu`] (`evtchn_bind_vcpu`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// In: the port; neither an IPI nor a per-vCPU VIRQ.
    pub port: Port,
    /// In: the vCPU to notify from now on.
    pub vcpu: u32,
}

/// Argument of [`EventChannelOp::Unmask`] (`evtchn_unmask`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Unmask {
    /// In: the port.
    pub port: Port,
}

/// Argument of [`EventChannelOp::Reset`] (`evtchn_reset`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reset {
    /// In: the domain; other than `DomId::SELF` needs privilege.
    pub dom: DomId,
}

/// Argument of [`EventChannelOp::InitControl`] (`evtchn_init_control`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitControl {
    /// In: guest frame of the control block.
    pub control_gfn: u64,
    /// In: byte offset of the control block in that frame.
    pub offset: u32,
    /// In: the vCPU.
    pub vcpu: u32,
    /// Out: bits in a link field.
    pub link_bits: u8,
    #[doc(hidden)]
    pub _pad: [u8; 7],
}

/// Argument of [`EventChannelOp::ExpandArray`] (`evtchn_expand_array`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExpandArray {
    /// In: guest frame of the new array page.
    pub array_gfn: u64,
}

/// Argument of [`EventChannelOp::SetPriority`] (`evtchn_set_priority`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPriority {
    /// In: the port.
    pub port: Port,
    /// In: from [`FIFO_PRIORITY_MAX`] to [`FIFO_PRIORITY_MIN`].
    pub priority: u32,
}
