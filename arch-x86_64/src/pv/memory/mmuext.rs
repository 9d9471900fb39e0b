//! `mmuext_op`: pinning, roots, TLB and cache flushes, LDT, and clearing and copying of pages (`xen.h`).

use core::mem::offset_of;

use xenolith_abi::x86_64::MmuextOp;
use xenolith_core::{DomId, Errno, guest::Caller, hypercall::Outcome};
use xenolith_hal::{GuestVirt, Hal, Mfn};

use super::{
    AddressSpace, Flush, Level, Machine, PageTables, Rights, Stop,
    batch::{Batch, is_single},
    is_guest_address,
    owner::Named,
};

const PIN_L1_TABLE: u32 = 0;
const PIN_L2_TABLE: u32 = 1;
const PIN_L3_TABLE: u32 = 2;
const PIN_L4_TABLE: u32 = 3;
const UNPIN_TABLE: u32 = 4;
const NEW_BASEPTR: u32 = 5;
const TLB_FLUSH_LOCAL: u32 = 6;
const INVLPG_LOCAL: u32 = 7;
const TLB_FLUSH_MULTI: u32 = 8;
const INVLPG_MULTI: u32 = 9;
const TLB_FLUSH_ALL: u32 = 10;
const INVLPG_ALL: u32 = 11;
const FLUSH_CACHE: u32 = 12;
const SET_LDT: u32 = 13;
const NEW_USER_BASEPTR: u32 = 15;
const CLEAR_PAGE: u32 = 16;
const COPY_PAGE: u32 = 17;
const FLUSH_CACHE_GLOBAL: u32 = 18;
const MARK_SUPER: u32 = 19;
const UNMARK_SUPER: u32 = 20;

/// Descriptors in an LDT, at most.
const LDT_ENTRIES: u32 = 8192;

/// A request, in registers: [`MmuextOp`] as words.
#[derive(Clone, Copy)]
struct Request {
    cmd: u32,
    arg1: u64,
    arg2: u64,
}

const _: () = assert!(
    offset_of!(MmuextOp, cmd) == 0
        && offset_of!(MmuextOp, arg1) == 8
        && offset_of!(MmuextOp, arg2) == 16
        && size_of::<MmuextOp>() == 24
);

/// What all requests of a call share.
struct Requests<'a, H: Hal> {
    caller: Caller<'a, H>,
    /// Whose tables and pages.
    rights: Rights<'a, H>,
    /// They are the caller's own.
    own: bool,
    space: &'a AddressSpace,
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Serves the hypercall: requests, their number, where to count those that are done, and the domain they are about.
    #[inline(never)]
    pub fn mmuext_op(self, caller: Caller<'_, H>, args: [u64; 5]) -> Outcome {
        let space = self.machine.address_space(caller.vcpu);
        if is_single(args, space) && self.extended_quickly(caller, space, args) {
            return self.after_one(caller, space, args);
        }
        self.extended_calls(caller, space, args)
    }

    /// Does the one request of a call if it is one of those that kernels make all the time. False: it is not, or cannot be
    /// done, and nothing happened.
    #[inline(always)]
    fn extended_quickly(self, caller: Caller<'_, H>, space: &AddressSpace, args: [u64; 5]) -> bool {
        let Ok([cmd, first, _]) = self.machine.read_words(caller, GuestVirt(args[0])) else {
            return false;
        };
        match cmd as u32 {
            TLB_FLUSH_LOCAL => self.machine.flush_here(Flush::All),
            NEW_BASEPTR => return self.change_kernel_root(caller.vcpu, space, Mfn(first)),
            INVLPG_LOCAL if is_guest_address(first) => {
                self.machine.flush_here(Flush::Page(GuestVirt(first)));
            }
            TLB_FLUSH_ALL => self.flush_all(caller, Flush::All),
            INVLPG_ALL if is_guest_address(first) => {
                self.flush_all(caller, Flush::Page(GuestVirt(first)));
            }
            _ => return false,
        }
        true
    }

    #[inline(never)]
    fn extended_calls(
        self,
        caller: Caller<'_, H>,
        space: &AddressSpace,
        args: [u64; 5],
    ) -> Outcome {
        let batch = match Batch::open(caller, args) {
            Ok(batch) => batch,
            Err(result) => return self.finish_with(space, result),
        };
        let owner = DomId(args[3] as u16);
        let outcome = if owner == DomId::SELF {
            let requests = Requests {
                caller,
                rights: self.own_rights(caller.domain()),
                own: true,
                space,
            };
            self.extended(&batch, &requests)
        } else {
            match self.foreign_extended(caller, owner, &batch) {
                Ok(outcome) => outcome,
                Err(errno) => errno.into(),
            }
        };
        self.after(space, outcome)
    }

    /// Serves a call with a single request about the caller itself that is over at once, as kernels make most. `None`: it is
    /// another one, or it fails, and [`Self::mmuext_op`] is to look at it from the beginning.
    #[inline(always)]
    pub fn one_request(self, caller: Caller<'_, H>, args: [u64; 5]) -> Option<Outcome> {
        let [at, count, done_at, domain, _] = args;
        let space = self.machine.address_space(caller.vcpu);
        let one = count as u32 == 1 && domain as u16 == DomId::SELF.0 && is_guest_address(at);
        if !one || space.has_leaving() {
            return None;
        }
        let op: MmuextOp = caller.read(GuestVirt(at)).ok()?;
        match op.cmd {
            TLB_FLUSH_LOCAL => self.machine.flush_here(Flush::All),
            NEW_BASEPTR => self.set_kernel_root(caller.vcpu, Mfn(op.arg1)).ok()?,
            _ => return None,
        }
        if done_at != 0 {
            // As in a longer list.
            let _ = caller.write(GuestVirt(done_at), &1u32);
        }
        Some(self.after(space, Outcome::Done(0)))
    }

    #[cold]
    #[inline(never)]
    fn foreign_extended(
        self,
        caller: Caller<'_, H>,
        owner: DomId,
        batch: &Batch,
    ) -> Result<Outcome, Errno> {
        let named = Named::find(caller, owner)?;
        let domain = named.domain(caller);
        if !domain.is_pv() {
            return Err(Errno::EINVAL);
        }
        named.check(caller)?;
        // While its tables change it does not end.
        let in_use = domain.memory.enter();
        if in_use.is_none() {
            return Err(Errno::EINVAL);
        }
        let requests = Requests {
            caller,
            rights: self.rights(domain, named.owner(caller), domain),
            own: false,
            space: self.machine.address_space(caller.vcpu),
        };
        Ok(self.extended(batch, &requests))
    }

    #[inline(always)]
    fn extended(self, batch: &Batch, requests: &Requests<'_, H>) -> Outcome {
        let caller = requests.caller;
        let (mut done, mut at) = (0, batch.at);
        let result = loop {
            if let Err(stop) = self.finish_leaving(requests.space) {
                break Err(stop);
            }
            if done == batch.count {
                break Ok(());
            }
            if done != 0 && self.hv.hal.interrupt_waits() {
                break Err(Stop::Preempted);
            }
            let [cmd, arg1, arg2] = match self.machine.read_words(caller, at) {
                Ok(words) => words,
                Err(errno) => break Err(errno.into()),
            };
            let op = Request {
                cmd: cmd as u32,
                arg1,
                arg2,
            };
            if let Err(stop) = self.extended_one(op, requests) {
                break Err(stop);
            }
            at = at.plus(size_of::<MmuextOp>() as u64);
            done += 1;
        };
        self.close(caller, batch, size_of::<MmuextOp>(), done, result)
    }

    #[inline(always)]
    fn extended_one(self, op: Request, requests: &Requests<'_, H>) -> Result<(), Stop> {
        let (rights, space) = (&requests.rights, requests.space);
        let mfn = Mfn(op.arg1);
        match op.cmd {
            PIN_L1_TABLE => self.pin(mfn, Level::L1, rights, space),
            PIN_L2_TABLE => self.pin(mfn, Level::L2, rights, space),
            PIN_L3_TABLE => self.pin(mfn, Level::L3, rights, space),
            PIN_L4_TABLE => self.pin(mfn, Level::L4, rights, space),
            UNPIN_TABLE => Ok(self.unpin(mfn, rights, space)?),
            CLEAR_PAGE => Ok(self.clear_page(mfn, rights.owner)?),
            COPY_PAGE => Ok(self.copy_page(mfn, Mfn(op.arg2), rights.owner)?),
            MARK_SUPER | UNMARK_SUPER => Err(Errno::EOPNOTSUPP.into()),
            14 | 21.. => Err(Errno::ENOSYS.into()),
            _ if !requests.own => Err(Errno::EPERM.into()),
            NEW_BASEPTR => self.set_kernel_root(requests.caller.vcpu, mfn),
            NEW_USER_BASEPTR => {
                let root = Some(mfn).filter(|mfn| mfn.0 != 0);
                self.set_user_root(requests.caller.vcpu, root)
            }
            _ => Ok(self.extended_flush(op, requests.caller)?),
        }
    }

    #[inline(always)]
    fn extended_flush(self, op: Request, caller: Caller<'_, H>) -> Result<(), Errno> {
        let address = GuestVirt(op.arg1);
        let page = Flush::Page(address);
        match op.cmd {
            TLB_FLUSH_LOCAL => self.machine.flush_here(Flush::All),
            INVLPG_LOCAL if is_guest_address(address.0) => self.machine.flush_here(page),
            TLB_FLUSH_MULTI => self.flush_some(caller, GuestVirt(op.arg2), Flush::All)?,
            INVLPG_MULTI => match is_guest_address(address.0) {
                true => self.flush_some(caller, GuestVirt(op.arg2), page)?,
                false => drop(self.cpus_named(caller, GuestVirt(op.arg2))?),
            },
            TLB_FLUSH_ALL => self.flush_all(caller, Flush::All),
            INVLPG_ALL if is_guest_address(address.0) => self.flush_all(caller, page),
            FLUSH_CACHE => match self.machine.may_set_cache(caller.domain()) {
                true => self.machine.flush_caches(false),
                false => return Err(Errno::EACCES),
            },
            FLUSH_CACHE_GLOBAL => match self.machine.may_set_cache(caller.domain()) {
                true => self.machine.flush_caches(true),
                false => return Err(Errno::EINVAL),
            },
            SET_LDT => return self.set_ldt(op, caller),
            _ => {}
        }
        Ok(())
    }

    fn set_ldt(self, op: Request, caller: Caller<'_, H>) -> Result<(), Errno> {
        let entries = op.arg2 as u32;
        let base = match entries {
            0 => 0,
            _ => op.arg1,
        };
        if base & 0xfff != 0 || !is_guest_address(base) || entries > LDT_ENTRIES {
            return Err(Errno::EINVAL);
        }
        self.machine.set_ldt(caller.vcpu, GuestVirt(base), entries)
    }
}
