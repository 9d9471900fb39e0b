//! `event_channel_op`.

use super::{SELF, call, nr};

#[allow(missing_docs)]
pub mod op {
    pub const BIND_INTERDOMAIN: u64 = 0;
    pub const BIND_VIRQ: u64 = 1;
    pub const BIND_PIRQ: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const SEND: u64 = 4;
    pub const STATUS: u64 = 5;
    pub const ALLOC_UNBOUND: u64 = 6;
    pub const BIND_IPI: u64 = 7;
    pub const BIND_VCPU: u64 = 8;
    pub const UNMASK: u64 = 9;
    pub const RESET: u64 = 10;
    pub const INIT_CONTROL: u64 = 11;
    pub const EXPAND_ARRAY: u64 = 12;
    pub const SET_PRIORITY: u64 = 13;
}

#[allow(missing_docs)]
pub mod virq {
    pub const TIMER: u32 = 0;
    pub const DEBUG: u32 = 1;
    pub const CONSOLE: u32 = 2;
    pub const DOM_EXC: u32 = 3;
}

#[allow(missing_docs)]
pub mod status {
    pub const CLOSED: u32 = 0;
    pub const UNBOUND: u32 = 1;
    pub const INTERDOMAIN: u32 = 2;
    pub const PIRQ: u32 = 3;
    pub const VIRQ: u32 = 4;
    pub const IPI: u32 = 5;
}

/// `evtchn_status`.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug)]
pub struct Status {
    /// Whose port.
    pub domain: u16,
    pad: u16,
    /// Which port.
    pub port: u32,
    /// One of `status`.
    pub status: u32,
    /// The vCPU that it signals.
    pub vcpu: u32,
    /// Remote domain (16 bits), or virq.
    pub a: u32,
    /// Remote port.
    pub b: u32,
}

fn result(errno: i64, port: u32) -> Result<u32, i64> {
    if errno == 0 { Ok(port) } else { Err(errno) }
}

/// New port of `domain` that `remote` may bind.
pub fn alloc_unbound(domain: u16, remote: u16) -> Result<u32, i64> {
    #[repr(C)]
    struct Argument(u16, u16, u32);
    let mut argument = Argument(domain, remote, 0);
    result(
        call(nr::EVENT_CHANNEL_OP, op::ALLOC_UNBOUND, &mut argument),
        argument.2,
    )
}

/// Local port bound to `remote`'s `port`.
pub fn bind_interdomain(remote: u16, port: u32) -> Result<u32, i64> {
    #[repr(C)]
    struct Argument(u16, u16, u32, u32);
    let mut argument = Argument(remote, 0, port, 0);
    result(
        call(nr::EVENT_CHANNEL_OP, op::BIND_INTERDOMAIN, &mut argument),
        argument.3,
    )
}

/// Port for a virtual interrupt.
pub fn bind_virq(virq: u32, vcpu: u32) -> Result<u32, i64> {
    let mut argument = [virq, vcpu, 0];
    result(
        call(nr::EVENT_CHANNEL_OP, op::BIND_VIRQ, &mut argument),
        argument[2],
    )
}

/// Port that signals `vcpu`.
pub fn bind_ipi(vcpu: u32) -> Result<u32, i64> {
    let mut argument = [vcpu, 0];
    result(
        call(nr::EVENT_CHANNEL_OP, op::BIND_IPI, &mut argument),
        argument[1],
    )
}

/// Closes a port.
pub fn close(port: u32) -> i64 {
    call(nr::EVENT_CHANNEL_OP, op::CLOSE, &mut { port })
}

/// Signals the other end of a port.
pub fn send(port: u32) -> i64 {
    call(nr::EVENT_CHANNEL_OP, op::SEND, &mut { port })
}

/// Unmasks a port, and raises it if it is pending.
pub fn unmask(port: u32) -> i64 {
    call(nr::EVENT_CHANNEL_OP, op::UNMASK, &mut { port })
}

/// Has `port` signal `vcpu`.
pub fn bind_vcpu(port: u32, vcpu: u32) -> i64 {
    call(nr::EVENT_CHANNEL_OP, op::BIND_VCPU, &mut [port, vcpu])
}

/// Closes all ports of `domain`.
pub fn reset(domain: u16) -> i64 {
    call(nr::EVENT_CHANNEL_OP, op::RESET, &mut { domain })
}

/// What a port is.
pub fn status_of(port: u32) -> Result<Status, i64> {
    status_in(SELF, port)
}

/// What a port of `domain` is.
pub fn status_in(domain: u16, port: u32) -> Result<Status, i64> {
    let mut argument = Status {
        domain,
        port,
        ..Status::default()
    };
    match call(nr::EVENT_CHANNEL_OP, op::STATUS, &mut argument) {
        0 => Ok(argument),
        errno => Err(errno),
    }
}
