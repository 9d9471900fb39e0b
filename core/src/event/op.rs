//! The hypercall: `event_channel_op`, and its old form with the sub-operation in memory.
//!
//! Every argument struct is copied in once; a struct with results is copied back whole. When that last copy faults the
//! operation has happened all the same, as on Xen.

use core::sync::atomic::Ordering::Acquire;

use xenolith_abi::{
    Errno,
    event_channel::{
        AllocUnbound, BIND_PIRQ_WILL_SHARE, BindInterdomain, BindIpi, BindPirq, BindVcpu, BindVirq,
        Close, EventChannelOp as Op, ExpandArray, FIFO_LINK_BITS, InitControl, Reset, SendEvent,
        SetPriority, Status, Unmask,
    },
};
use xenolith_hal::{Gfn, GuestVirt, Hal};

use super::{PIRQS, Progress};
use crate::{DomId, DomainRef, guest::Caller, hypercall::Outcome};

/// `EVTCHNOP_reset_cont`.
const RESET_GOES_ON: u32 = 14;

/// Serves `event_channel_op`: the sub-operation and a pointer to its struct.
pub fn event_channel_op<H: Hal>(caller: Caller<'_, H>, cmd: u64, arg: GuestVirt) -> Outcome {
    // The sub-operation is an `int`; the upper half of the register means nothing.
    let op = match Op::try_from(cmd as u32) {
        Ok(op) => op,
        // Xen goes on with a preempted reset under this number, which guests can thus call too.
        Err(_) if cmd as u32 == RESET_GOES_ON => Op::Reset,
        Err(errno) => return Err(errno).into(),
    };
    let ports = Ports { caller, arg };
    match op {
        Op::Send => ports.send(),
        Op::Unmask => ports.unmask(),
        Op::BindInterdomain => ports.bind_interdomain(),
        Op::BindVirq => ports.bind_virq(),
        Op::BindPirq => ports.bind_pirq(),
        Op::Close => ports.close(),
        Op::Status => ports.status(),
        Op::AllocUnbound => ports.alloc_unbound(),
        Op::BindIpi => ports.bind_ipi(),
        Op::BindVcpu => ports.bind_vcpu(),
        Op::Reset => return ports.reset(cmd),
        Op::InitControl => ports.init_control(),
        Op::ExpandArray => ports.expand_array(),
        Op::SetPriority => ports.set_priority(),
    }
    .map(|()| 0)
    .into()
}

/// Serves the form of interfaces before 0x00030202: one struct with the sub-operation in front.
pub fn event_channel_op_compat<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Outcome {
    match caller.read::<u32>(arg) {
        Ok(cmd) if cmd <= Op::Unmask.number() => {
            event_channel_op(caller, cmd.into(), arg.plus(size_of::<u32>() as u64))
        }
        Ok(_) => Err(Errno::ENOSYS).into(),
        Err(errno) => Err(errno).into(),
    }
}

struct Ports<'a, H: Hal> {
    caller: Caller<'a, H>,
    arg: GuestVirt,
}

impl<'a, H: Hal> Ports<'a, H> {
    fn own(&self) -> &'a DomainRef<H> {
        self.caller.domain()
    }

    /// The domain that a guest names; `ESRCH` when there is none.
    fn named(&self, id: DomId) -> Result<DomainRef<H>, Errno> {
        let own = self.own();
        if id == DomId::SELF || id == own.id() {
            return Ok(own.clone());
        }
        let found = self.caller.hv.domains.get(id);
        found.ok_or(Errno::ESRCH)
    }

    /// The number of the domain that a guest names.
    fn number(&self, id: DomId) -> Result<DomId, Errno> {
        match id {
            DomId::SELF => Ok(self.own().id()),
            id => self.named(id).map(|domain| domain.id()),
        }
    }

    /// The domain that a guest names and may act for: itself, or any if it is privileged.
    fn target(&self, id: DomId) -> Result<DomainRef<H>, Errno> {
        let domain = self.named(id)?;
        if domain.id() != self.own().id() && !self.own().config.privileged {
            return Err(Errno::EPERM);
        }
        Ok(domain)
    }

    fn send(&self) -> Result<(), Errno> {
        let SendEvent { port } = self.caller.read(self.arg)?;
        self.caller.hv.send_event(self.own(), port)
    }

    fn unmask(&self) -> Result<(), Errno> {
        let Unmask { port } = self.caller.read(self.arg)?;
        let channel = self.own().events.valid(port)?;
        let vcpu = channel.word().vcpu();
        self.caller.hv.unmask_port(self.own(), channel, vcpu, port);
        Ok(())
    }

    fn alloc_unbound(&self) -> Result<(), Errno> {
        let mut args: AllocUnbound = self.caller.read(self.arg)?;
        let domain = self.target(args.dom)?;
        let remote = self.number(args.remote_dom)?;
        args.port = self.caller.hv.alloc_unbound(&domain, remote)?;
        self.caller.write(self.arg, &args)
    }

    fn bind_interdomain(&self) -> Result<(), Errno> {
        let mut args: BindInterdomain = self.caller.read(self.arg)?;
        let remote = self.named(args.remote_dom)?;
        let hv = self.caller.hv;
        args.local_port = hv.bind_interdomain(self.own(), &remote, args.remote_port)?;
        self.caller.write(self.arg, &args)
    }

    fn bind_virq(&self) -> Result<(), Errno> {
        let mut args: BindVirq = self.caller.read(self.arg)?;
        args.port = self.caller.hv.bind_virq(self.own(), args.virq, args.vcpu)?;
        self.caller.write(self.arg, &args)
    }

    /// Physical interrupts reach translated guests through the virtual interrupt controller. None is numbered for event
    /// channels, so there is no record that a binding could be kept in: Xen says "no memory" then.
    fn bind_pirq(&self) -> Result<(), Errno> {
        let mut args: BindPirq = self.caller.read(self.arg)?;
        let BindPirq { pirq, flags, .. } = args;
        if self.own().is_pv() {
            let share = flags & BIND_PIRQ_WILL_SHARE != 0;
            args.port = self.caller.hv.bind_pirq(self.own(), pirq, share)?;
            return self.caller.write(self.arg, &args);
        }
        Err(match pirq < PIRQS {
            true => Errno::ENOMEM,
            false => Errno::EINVAL,
        })
    }

    fn bind_ipi(&self) -> Result<(), Errno> {
        let mut args: BindIpi = self.caller.read(self.arg)?;
        args.port = self.caller.hv.bind_ipi(self.own(), args.vcpu)?;
        self.caller.write(self.arg, &args)
    }

    fn bind_vcpu(&self) -> Result<(), Errno> {
        let BindVcpu { port, vcpu } = self.caller.read(self.arg)?;
        self.caller.hv.bind_vcpu(self.own(), port, vcpu)
    }

    fn close(&self) -> Result<(), Errno> {
        let Close { port } = self.caller.read(self.arg)?;
        self.caller.hv.close_port(self.own(), port)
    }

    fn status(&self) -> Result<(), Errno> {
        let mut args: Status = self.caller.read(self.arg)?;
        let status = self.target(args.dom)?.events.status(args.port)?;
        args.status = status.state.number();
        args.vcpu = status.vcpu.0.into();
        args.peer = status.peer;
        self.caller.write(self.arg, &args)
    }

    fn init_control(&self) -> Result<(), Errno> {
        let mut args: InitControl = self.caller.read(self.arg)?;
        let (gfn, offset) = (Gfn(args.control_gfn), args.offset);
        self.caller
            .hv
            .init_fifo_control(self.own(), args.vcpu, gfn, offset)?;
        args.link_bits = FIFO_LINK_BITS;
        self.caller.write(self.arg, &args)
    }

    fn expand_array(&self) -> Result<(), Errno> {
        let ExpandArray { array_gfn } = self.caller.read(self.arg)?;
        self.caller.hv.expand_fifo_array(self.own(), Gfn(array_gfn))
    }

    fn set_priority(&self) -> Result<(), Errno> {
        let SetPriority { port, priority } = self.caller.read(self.arg)?;
        let hv = self.caller.hv;
        hv.set_port_priority(self.own(), port, priority)
    }

    /// Closed ports stay closed, so the call goes on simply by being made again.
    fn reset(&self, cmd: u64) -> Outcome {
        let domain = match self.reset_target() {
            Ok(domain) => domain,
            Err(errno) => return Err(errno).into(),
        };
        match self.caller.hv.reset_ports(&domain) {
            Progress::Finished => Outcome::Done(0),
            Progress::Interrupted => Outcome::Again([cmd, self.arg.0, 0, 0, 0]),
        }
    }

    /// Another domain's ports are only reset while none of its vCPUs runs.
    fn reset_target(&self) -> Result<DomainRef<H>, Errno> {
        let Reset { dom } = self.caller.read(self.arg)?;
        let domain = self.target(dom)?;
        if domain.id() != self.own().id() && domain.pause_count.load(Acquire) == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(domain)
    }
}
