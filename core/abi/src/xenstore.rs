//! The XenStore ring and its messages.
//!
//! Header: `io/xs_wire.h`. The ring page is shared with an untrusted other side: indices run freely, are
//! taken modulo the ring's size, and may hold anything. The strings that follow a header end in zero.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in each ring.
pub const RING_SIZE: usize = 1024;
/// Most bytes after a [`Sockmsg`].
pub const PAYLOAD_MAX: usize = 4096;
/// Longest absolute path.
pub const ABS_PATH_MAX: usize = 3072;
/// Longest relative path.
pub const REL_PATH_MAX: usize = 2048;
/// `server_features`: the ring can be reset.
pub const FEATURE_RECONNECTION: u32 = 1;
/// `server_features`: the `error` field is in use.
pub const FEATURE_ERROR: u32 = 2;
/// `connection`: in use.
pub const CONNECTED: u32 = 0;
/// `connection`: the guest wants a reset.
pub const RECONNECT: u32 = 1;

wire_enum! {
    /// What a message asks for or answers (`XS_*`).
    pub enum MessageType: u32, unknown is ENOSYS {
        /// Debugging and control.
        Control = 0,
        /// Children of a node.
        Directory = 1,
        /// Value of a node.
        Read = 2,
        /// Permissions of a node.
        GetPerms = 3,
        /// Watch a path.
        Watch = 4,
        /// Stop watching.
        Unwatch = 5,
        /// Begin a transaction.
        TransactionStart = 6,
        /// End it.
        TransactionEnd = 7,
        /// A domain has a ring now.
        Introduce = 8,
        /// A domain has none any more.
        Release = 9,
        /// The home path of a domain.
        GetDomainPath = 10,
        /// Set a value.
        Write = 11,
        /// Make a node.
        Mkdir = 12,
        /// Remove a node and what is below.
        Rm = 13,
        /// Set permissions.
        SetPerms = 14,
        /// A watch fired.
        WatchEvent = 15,
        /// A request failed.
        Error = 16,
        /// Whether a domain has a ring.
        IsDomainIntroduced = 17,
        /// A domain goes on after suspend.
        Resume = 18,
        /// A domain acts for another.
        SetTarget = 19,
        /// Forget all watches of the caller.
        ResetWatches = 21,
        /// Children of a node, in parts.
        DirectoryPart = 22,
    }
}

/// Header of a message (`xsd_sockmsg`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sockmsg {
    /// A number of [`MessageType`].
    pub kind: u32,
    /// Chosen by the asker, repeated in the answer.
    pub req_id: u32,
    /// Transaction; 0 for none.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

/// The ring page (`xenstore_domain_interface`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainInterface {
    /// Requests of the guest.
    pub req: [u8; RING_SIZE],
    /// Answers and watch events.
    pub rsp: [u8; RING_SIZE],
    /// Server's read index.
    pub req_cons: u32,
    /// Guest's write index.
    pub req_prod: u32,
    /// Guest's read index.
    pub rsp_cons: u32,
    /// Server's write index.
    pub rsp_prod: u32,
    /// What the server can do.
    pub server_features: u32,
    /// [`CONNECTED`] or [`RECONNECT`].
    pub connection: u32,
    /// Why the server gave up on this ring.
    pub error: u32,
}
