//! Hypercalls: one table, one row per number.
//!
//! A row says the number, the arguments as the handler takes them, who may call, and the handler. An unknown number is
//! answered `ENOSYS`, and so is one that Xen does not have on the architectures at hand. What only one architecture has,
//! it offers as further [`Rows`]. The set and the answers are those of Xen 4.17 (`xen.h`).

mod absent;
mod access;
mod assist;
mod console_io;
pub mod hvm;
mod multicall;
mod others;
#[cfg(test)]
mod paravirtual;
mod platform;
#[cfg(test)]
pub(crate) mod rig;
mod tools;
mod version;

use xenolith_abi::{
    Nr,
    grant_table::GrantStatus,
    platform::{PlatformOp, PlatformOpArg},
    vcpu::VcpuOp,
};
use xenolith_hal::{GuestVirt, Hal};

use crate::{Errno, VcpuRef, grant::PvMapping, guest::Caller};

pub use access::{Control, Privilege};

/// What a hypercall leaves in the caller's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call is over with this result (negative: an error number).
    Done(i64),
    /// The call has more to do: the guest re-issues it with these arguments after pending work was looked at.
    Again([u64; 5]),
}

impl Outcome {
    /// The same with the registers that the call does not use left alone: a guest may rely on them.
    #[inline]
    fn keeping(self, args: &[u64; 5], used: usize) -> Self {
        match self {
            // Not `self`: that would copy room for arguments too.
            Self::Done(value) => Self::Done(value),
            Self::Again(next) => Self::Again(merge(next, args, used)),
        }
    }
}

/// Out of line: few calls are preempted.
#[cold]
#[inline(never)]
fn merge(mut next: [u64; 5], args: &[u64; 5], used: usize) -> [u64; 5] {
    for (next, arg) in next.iter_mut().zip(args).skip(used) {
        *next = *arg;
    }
    next
}

impl From<Result<i64, Errno>> for Outcome {
    #[inline]
    fn from(result: Result<i64, Errno>) -> Self {
        Self::Done(match result {
            Ok(value) => value,
            Err(errno) => errno.neg() as i64,
        })
    }
}

impl From<Errno> for Outcome {
    #[inline]
    fn from(errno: Errno) -> Self {
        Self::Done(errno.neg() as i64)
    }
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Every domain; what it may do to others is checked inside.
    Everybody,
    /// Privileged domains. The handler asks for a [`Privilege`] itself: Xen looks at some arguments before that.
    Privileged,
}

/// A row of the table, as people see it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The number.
    pub nr: Nr,
    /// Names of the arguments in the order of the argument registers.
    pub arguments: &'static [&'static str],
    /// Who may call.
    pub who: Who,
}

/// Hypercalls that only one architecture has. A number in the common table never gets here.
pub trait Rows<H: Hal> {
    /// Serves the call; `None` for a number that is not its own either.
    fn call(caller: Caller<'_, H>, nr: u64, args: [u64; 5]) -> Option<Outcome>;

    /// Serves any hypercall, common or not. An architecture whose callers are many has one function for all.
    #[inline]
    fn serve(caller: Caller<'_, H>, nr: u64, args: [u64; 5]) -> Outcome
    where
        Self: Sized,
    {
        dispatch_with::<H, Self>(caller, nr, args)
    }

    /// Serves `physdev_op`. Without devices of the architecture's own kind every operation is unknown, to privileged
    /// domains too.
    fn physdev_op(caller: Caller<'_, H>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
        let _ = (caller, cmd, arg);
        Err(Errno::ENOSYS)
    }

    /// Serves those of `vcpu_op` that touch a vCPU's registers: `Initialise`, `SendNmi` and their like. Called only where
    /// [`Hal::VCPU_OP_COMPLETE`] says so.
    fn vcpu_op(caller: Caller<'_, H>, op: VcpuOp, vcpu: &VcpuRef<H>, arg: GuestVirt) -> Outcome {
        let _ = (caller, op, vcpu, arg);
        Errno::ENOSYS.into()
    }

    /// Serves those of `platform_op` that the architecture answers. The caller is privileged; what `op` holds after a success is
    /// written back.
    fn platform_op(
        caller: Caller<'_, H>,
        what: PlatformOp,
        op: &mut PlatformOpArg,
    ) -> Result<i64, Errno> {
        let _ = (caller, what, op);
        Err(Errno::ENOSYS)
    }

    /// Makes the page-table entry of a paravirtual caller lead to a granted frame, in place of what it led to.
    fn map_granted(caller: Caller<'_, H>, mapping: &PvMapping) -> Result<(), GrantStatus> {
        let _ = (caller, mapping);
        Err(GrantStatus::GeneralError)
    }

    /// Takes the entry away again, or puts in its place the one that maps `new` (which is emptied instead). TLBs may hold
    /// the entry until [`Rows::flush_granted`]. An error when the entry is another one by now: then the mapping stands.
    fn unmap_granted(
        caller: Caller<'_, H>,
        mapping: &PvMapping,
        new: Option<GuestVirt>,
    ) -> Result<(), GrantStatus> {
        let _ = (caller, mapping, new);
        Err(GrantStatus::GeneralError)
    }

    /// When this returns, no TLB holds an entry that [`Rows::unmap_granted`] took from this caller.
    fn flush_granted(caller: Caller<'_, H>) {
        let _ = caller;
    }
}

/// No hypercalls beyond the common ones.
pub struct NoRows;

impl<H: Hal> Rows<H> for NoRows {
    #[inline]
    fn call(_: Caller<'_, H>, _: u64, _: [u64; 5]) -> Option<Outcome> {
        None
    }
}

/// An argument as it comes out of its register.
trait Argument {
    fn from_register(word: u64) -> Self;
}

impl Argument for u64 {
    #[inline]
    fn from_register(word: u64) -> Self {
        word
    }
}

impl Argument for u32 {
    /// The upper half of the register means nothing.
    #[inline]
    fn from_register(word: u64) -> Self {
        word as u32
    }
}

impl Argument for GuestVirt {
    #[inline]
    fn from_register(word: u64) -> Self {
        Self(word)
    }
}

macro_rules! hypercalls {
    ($($nr:ident($($arg:ident: $kind:ty),*) $who:ident => $handler:expr;)*) => {
        /// Every common hypercall, by rising number.
        pub static TABLE: &[Row] = &[$(
            Row { nr: Nr::$nr, arguments: &[$(stringify!($arg)),*], who: Who::$who },
        )*];

        #[allow(non_upper_case_globals, reason = "named as the rows are")]
        mod number {
            $(pub(super) const $nr: u64 = xenolith_abi::Nr::$nr.number();)*
        }

        /// The same as [`dispatch_with`], all of it where it is called: for a number that is a constant there, of which nothing
        /// but its row is left.
        #[inline(always)]
        pub fn dispatch_row<H: Hal, A: Rows<H>>(caller: Caller<'_, H>, nr: u64, args: [u64; 5]) -> Outcome {
            match nr {
                $(number::$nr => {
                    let mut registers = args.into_iter();
                    $(let $arg = <$kind>::from_register(registers.next().unwrap_or(0));)*
                    let used = [$(stringify!($arg)),*].len();
                    Outcome::from($handler(caller, $($arg),*)).keeping(&args, used)
                })*
                _ => A::call(caller, nr, args).unwrap_or_else(|| Errno::ENOSYS.into()),
            }
        }
    };
}

hypercalls! {
    PlatformOp(op: GuestVirt) Privileged => platform::platform_op::<H, A>;
    MemoryOp(cmd: u64, arg: GuestVirt) Everybody => others::memory_op;
    Multicall(calls: GuestVirt, count: u32) Everybody => multicall::multicall::<H, A>;
    XenVersion(cmd: u32, arg: GuestVirt) Everybody => version::xen_version;
    ConsoleIo(cmd: u32, count: u32, buffer: GuestVirt) Everybody => console_io::console_io;
    GrantTableOp(cmd: u64, arg: GuestVirt, count: u64) Everybody => others::grant_table_op::<H, A>;
    VmAssist(cmd: u32, kind: u32) Everybody => assist::vm_assist;
    VcpuOp(cmd: u32, vcpu: u32, arg: GuestVirt) Everybody => others::vcpu_op::<H, A>;
    XsmOp(op: GuestVirt) Everybody => absent::xsm_op;
    SchedOp(cmd: u32, arg: GuestVirt) Everybody => others::sched_op;
    EventChannelOp(cmd: u64, arg: GuestVirt) Everybody => others::event_channel_op;
    PhysdevOp(cmd: u32, arg: GuestVirt) Everybody => A::physdev_op;
    HvmOp(cmd: u64, arg: GuestVirt) Everybody => hvm::hvm_op;
    Sysctl(op: GuestVirt) Privileged => tools::sysctl;
    Domctl(op: GuestVirt) Privileged => tools::domctl;
}

/// Serves a hypercall of an architecture that has more than the common ones.
#[inline]
pub fn dispatch_with<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    nr: u64,
    args: [u64; 5],
) -> Outcome {
    dispatch_row::<H, A>(caller, nr, args)
}

/// Serves a hypercall: `nr` and `args` as they stand in the registers of `caller`.
#[inline]
pub fn dispatch<H: Hal>(caller: Caller<'_, H>, nr: u64, args: [u64; 5]) -> Outcome {
    dispatch_with::<H, NoRows>(caller, nr, args)
}

#[cfg(test)]
mod tests {
    use super::{rig::*, *};

    #[test]
    fn rows_rise_and_fit_the_argument_registers() {
        assert!(TABLE.windows(2).all(|pair| pair[0].nr < pair[1].nr));
        assert!(TABLE.iter().all(|row| row.arguments.len() <= 5));
    }

    #[test]
    fn a_number_without_a_row_is_not_implemented() {
        let rig = Rig::new();
        for nr in (0..256).chain([u64::MAX, 1 << 32 | 17]) {
            if TABLE.iter().all(|row| row.nr.number() != nr) {
                assert_eq!(rig.raw(0, nr, [0; 5]), Outcome::from(Errno::ENOSYS));
            }
        }
    }

    #[test]
    fn privileged_rows_never_serve_an_ordinary_domain() {
        let rig = Rig::new();
        for row in TABLE.iter().filter(|row| row.who == Who::Privileged) {
            for arg in [0, PAGE, 1 << 60] {
                assert!(rig.call(1, row.nr, [arg; 5]).is_err(), "{row:?}");
            }
        }
    }

    #[test]
    fn an_architecture_adds_rows_and_cannot_change_common_ones() {
        struct More;
        impl Rows<xenolith_sim::Sim> for More {
            fn call(_: Caller<'_, xenolith_sim::Sim>, nr: u64, args: [u64; 5]) -> Option<Outcome> {
                (nr == 15 || nr == 17).then(|| Outcome::Done(args[0] as i64 + 1))
            }
        }
        let rig = Rig::new();
        let vcpu = rig.vcpu(0);
        let caller = Caller {
            hv: &rig.hv,
            vcpu: &vcpu,
        };
        let call = |nr| dispatch_with::<_, More>(caller, nr, [0; 5]);
        assert_eq!(call(15), Outcome::Done(1));
        assert_eq!(call(17), Outcome::Done(0x4_0011));
        assert_eq!(call(14), Outcome::from(Errno::ENOSYS));
    }

    #[test]
    fn random_arguments_are_answered_and_never_panic() {
        let rig = Rig::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let row = &TABLE[random() as usize % TABLE.len()];
            // Domain 0 would rightly switch the machine off.
            if row.nr == Nr::SchedOp {
                continue;
            }
            let args = core::array::from_fn(|_| match random() % 4 {
                0 => random() % 64,
                1 => PAGE + random() % 0x1000,
                2 => random() % 0x8000,
                _ => random(),
            });
            // A privileged domain may write without bound.
            let args = if row.nr == Nr::ConsoleIo {
                [args[0], args[1] % 4096, args[2], 0, 0]
            } else {
                args
            };
            // Domain 0 may end the machine, and with it the test.
            let caller = match row.nr {
                Nr::SchedOp => 1,
                _ => random() as u16 % 2,
            };
            let _ = rig.raw(caller, row.nr.number(), args);
        }
    }
}
