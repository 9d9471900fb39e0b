//! Hypercalls of PV guests: by SYSCALL from the kernel, with what only they have (`xen.h`, `callback.h`, `nmi.h`).

use core::mem::offset_of;

use xenolith_abi::{
    DomId, Port,
    grant_table::{GrantCopy, GrantTableOp, MapGrantRef, UnmapGrantRef},
    multicall::MulticallEntry,
    vcpu::VcpuOp,
};
use xenolith_core::{
    Errno, Hypervisor, VcpuRef,
    event::event_channel_op_compat,
    grant,
    guest::Caller,
    hypercall::{self, Outcome},
};
use xenolith_hal::{Fault, GuestVirt};
use zerocopy::IntoBytes;

use super::{
    access, callbacks, descriptors, entry, frame::Frame, gate::Gate, machine::ThisCpu,
    memory::Stop, physdev, registers, run::Stopped, vcpu::PvVcpu,
};
use crate::{
    X86_64, apic,
    cpu::percpu::PerCpu,
    guest::{self, rows::Rows},
};

/// Numbers of `xen.h` that are served here.
mod nr {
    pub const SET_TRAP_TABLE: u64 = 0;
    pub const SET_GDT: u64 = 2;
    pub const STACK_SWITCH: u64 = 3;
    pub const SET_CALLBACKS: u64 = 4;
    pub const FPU_TASKSWITCH: u64 = 5;
    pub const SET_DEBUGREG: u64 = 8;
    pub const GET_DEBUGREG: u64 = 9;
    pub const UPDATE_DESCRIPTOR: u64 = 10;
    pub const MMU_UPDATE: u64 = 1;
    pub const EVENT_CHANNEL_OP_COMPAT: u64 = 16;
    pub const PHYSDEV_OP_COMPAT: u64 = 19;
    pub const PAGING_DOMCTL_CONT: u64 = 49;
    pub const UPDATE_VA_MAPPING: u64 = 14;
    pub const GRANT_TABLE_OP: u64 = 20;
    pub const UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
    pub const MMUEXT_OP: u64 = 26;
    pub const IRET: u64 = 23;
    pub const MULTICALL: u64 = 13;
    pub const EVENT_CHANNEL_OP: u64 = 32;
    pub const SET_SEGMENT_BASE: u64 = 25;
    pub const NMI_OP: u64 = 28;
    pub const CALLBACK_OP: u64 = 30;
}

/// Bytes of SYSCALL.
const LENGTH: u64 = 2;

/// Serves a hypercall of the kernel that has stopped, the long way.
pub fn serve(cx: &mut Stopped<'_>) {
    let nr = cx.frame().rax;
    if nr == nr::IRET {
        return registers::iret(cx);
    }
    let frame = cx.frame();
    let args = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8];
    let caller = Caller {
        hv: cx.hv(),
        vcpu: cx.vcpu,
    };
    let outcome = Rows::serve(caller, nr, args);
    let frame = cx.frame();
    frame.rax = finish(frame, outcome);
}

/// What is in RAX behind a call. One that has more to do is made again.
#[inline(always)]
fn finish(frame: &mut Frame, outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Done(value) => value.cast_unsigned(),
        Outcome::Again(args) => again(frame, &args),
    }
}

#[cold]
#[inline(never)]
fn again(frame: &mut Frame, args: &[u64; 5]) -> u64 {
    [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8] = *args;
    frame.rip = frame.rip.wrapping_sub(LENGTH);
    frame.rax
}

/// How many numbers the table has; a power of two. There are no calls from there on.
pub const CALLS: usize = 64;

/// A row of the table, as the entry code calls it: the arguments, and the frame, which has RIP and the registers that the
/// calling convention does not keep. Gives RAX.
pub type Row = unsafe extern "C" fn(u64, u64, u64, u64, u64, *mut Frame) -> u64;

/// Every hypercall of a PV guest's kernel by number. The rows are made from the common table and from [`Rows`]; numbers that
/// neither knows have a row that says so.
pub static TABLE: [Row; CALLS] = {
    macro_rules! table {
        ($($nr:literal)*) => { [$(row::<$nr>),*] };
    }
    let mut rows: [Row; CALLS] = table!(
         0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
        16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47
        48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
    );
    // These work on what the gate has at hand, and one does not come back as others do.
    rows[nr::STACK_SWITCH as usize] = stack_switch;
    rows[nr::MMU_UPDATE as usize] = mmu_update;
    rows[nr::UPDATE_VA_MAPPING as usize] = update_va_mapping;
    rows[nr::MMUEXT_OP as usize] = mmuext_op;
    rows[nr::EVENT_CHANNEL_OP as usize] = event_channel_op;
    rows[nr::GRANT_TABLE_OP as usize] = grant_table_op;
    rows[nr::MULTICALL as usize] = multicall;
    rows[nr::IRET as usize] = entry::pv_iret;
    rows
};

/// Who calls, on which CPU, and the frame.
///
/// # Safety
/// The frame is the one that the entry code passes.
#[inline(always)]
unsafe fn parts<'a>(frame: *mut Frame) -> (Caller<'a, X86_64>, ThisCpu, &'a mut Frame) {
    // SAFETY: it is that of the CPU's gate, where the vCPU is that runs; nobody else refers to it.
    unsafe {
        let head = &raw const (*Gate::of(frame)).head;
        let cpu: &'static PerCpu = &*(*head).cpu;
        let caller = Caller {
            hv: cpu.hv,
            vcpu: &*(*head).vcpu,
        };
        (caller, ThisCpu(cpu), &mut *frame)
    }
}

/// A function of the form of a row.
macro_rules! row {
    ($name:ident $(<$nr:ident>)?, |$caller:ident, $this:ident, $args:ident| $serve:expr) => {
        unsafe extern "C" fn $name$(<const $nr: u64>)?(
            a: u64,
            b: u64,
            c: u64,
            d: u64,
            e: u64,
            frame: *mut Frame,
        ) -> u64 {
            // SAFETY: called by the entry code alone.
            let ($caller, $this, frame) = unsafe { parts(frame) };
            let $args = [a, b, c, d, e];
            let outcome: Outcome = $serve;
            finish(frame, outcome)
        }
    };
}

// The row of a number. All but the row itself vanishes when this is compiled.
row!(row<NR>, |caller, _this, args| hypercall::dispatch_row::<
    _,
    Rows,
>(caller, NR, args));
row!(mmu_update, |caller, this, args| this
    .tables()
    .mmu_update(caller, args));
row!(update_va_mapping, |caller, this, args| {
    this.tables().update_va_mapping(caller, args)
});
row!(mmuext_op, |caller, this, args| {
    match this.tables().one_request(caller, args) {
        Some(outcome) => outcome,
        None => this.tables().mmuext_op(caller, args),
    }
});

/// The common row behind one that serves a part of the calls by itself: what it needs of the stack, that one does not.
#[inline(never)]
unsafe extern "C" fn apart<const NR: u64>(
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
    frame: *mut Frame,
) -> u64 {
    // SAFETY: as the caller is called.
    unsafe { row::<NR>(a, b, c, d, e, frame) }
}

/// `event_channel_op`: sending at once, and a port for the caller itself made or closed; all else by the common row.
unsafe extern "C" fn event_channel_op(
    op: u64,
    at: u64,
    c: u64,
    d: u64,
    e: u64,
    frame: *mut Frame,
) -> u64 {
    const CLOSE: u32 = 3;
    const SEND: u32 = 4;
    const ALLOC_UNBOUND: u32 = 6;
    // SAFETY: called by the entry code, or by a row, with the frame of its CPU.
    let (caller, ..) = unsafe { parts(frame) };
    let done = match op as u32 {
        SEND => access::read_half(at)
            .map_err(|_| Errno::EFAULT)
            .and_then(|port| caller.hv.send_event_here(caller.domain(), Port(port))),
        CLOSE => access::read_half(at)
            .map_err(|_| Errno::EFAULT)
            .and_then(|port| caller.hv.close_port(caller.domain(), Port(port))),
        ALLOC_UNBOUND if let Some(done) = own_port(caller, at) => done,
        // SAFETY: a row, with what this one is called with.
        _ => return unsafe { apart::<{ nr::EVENT_CHANNEL_OP }>(op, at, c, d, e, frame) },
    };
    match done {
        Ok(()) => 0,
        Err(errno) => failed(errno),
    }
}

/// `evtchn_alloc_unbound` of the caller for itself: two numbers of domains, and the port that is written. `None`: for another.
#[inline(always)]
fn own_port(caller: Caller<'_, X86_64>, at: u64) -> Option<Result<(), Errno>> {
    const OF_ITSELF: u32 = DomId::SELF.0 as u32 * 0x1_0001;
    let Ok(names) = access::read_half(at) else {
        return Some(Err(Errno::EFAULT));
    };
    if names != OF_ITSELF {
        return None;
    }
    let domain = caller.domain();
    Some(
        caller
            .hv
            .alloc_unbound(domain, domain.id())
            .and_then(|port| {
                let word = u64::from(port.0) << 32 | u64::from(names);
                access::write_word(at, word).map_err(|_| Errno::EFAULT)
            }),
    )
}

/// `grant_table_op`: what most calls are, one element of one of three operations, at once.
unsafe extern "C" fn grant_table_op(
    cmd: u64,
    at: u64,
    count: u64,
    d: u64,
    e: u64,
    frame: *mut Frame,
) -> u64 {
    const MAP: u32 = GrantTableOp::MapGrantRef.number();
    const UNMAP: u32 = GrantTableOp::UnmapGrantRef.number();
    const COPY: u32 = GrantTableOp::Copy.number();
    if count as u32 == 1 {
        // SAFETY: called by the entry code, or by a row, with the frame of its CPU.
        let (caller, ..) = unsafe { parts(frame) };
        let served = match cmd as u32 {
            MAP => Some(map_grant(caller, at)),
            UNMAP => Some(unmap_grant(caller, at)),
            COPY => Some(copy_grant(caller, at)),
            _ => None,
        };
        match served {
            Some(Ok(())) => return 0,
            Some(Err(Fault)) => return failed(Errno::EFAULT),
            None => {}
        }
    }
    // SAFETY: a row, with what this one is called with.
    unsafe { apart::<{ nr::GRANT_TABLE_OP }>(cmd, at, count, d, e, frame) }
}

#[inline(always)]
fn map_grant(caller: Caller<'_, X86_64>, at: u64) -> Result<(), Fault> {
    let mut op: MapGrantRef = zerocopy::transmute!(access::read_4(at)?);
    grant::map_one::<_, Rows>(caller, &mut op);
    let words: [u64; 4] = zerocopy::transmute!(op);
    access::write_words(at, &words)
}

#[inline(always)]
fn unmap_grant(caller: Caller<'_, X86_64>, at: u64) -> Result<(), Fault> {
    const STATUS: u64 = offset_of!(UnmapGrantRef, status) as u64;
    let op: UnmapGrantRef = zerocopy::transmute!(access::read_3(at)?);
    let status = grant::unmap_one::<_, Rows>(caller, &op);
    access::write_quarter(at.wrapping_add(STATUS), status)
}

#[inline(always)]
fn copy_grant(caller: Caller<'_, X86_64>, at: u64) -> Result<(), Fault> {
    const STATUS: u64 = offset_of!(GrantCopy, status) as u64;
    let op: GrantCopy = zerocopy::transmute!(access::read_5(at)?);
    let status = grant::copy_one(caller, &op);
    access::write_quarter(at.wrapping_add(STATUS), status)
}

/// What RAX is behind a call that failed.
#[inline(always)]
const fn failed(errno: Errno) -> u64 {
    errno.neg_i32() as i64 as u64
}

/// The rest of a list is to be made.
#[cold]
#[inline(never)]
fn rest(frame: &mut Frame, at: u64, left: u32) -> u64 {
    frame.rdi = at;
    frame.rsi = left.into();
    frame.rip = frame.rip.wrapping_sub(LENGTH);
    nr::MULTICALL
}

/// `multicall`: as the common one, with the rows of the table. What a row asks to be made again it says in the frame; here it is
/// put into the guest's list, and the frame says that the rest of the list is to be made.
unsafe extern "C" fn multicall(
    calls: u64,
    count: u64,
    _: u64,
    _: u64,
    _: u64,
    frame: *mut Frame,
) -> u64 {
    const ENTRY: u64 = size_of::<MulticallEntry>() as u64;
    const RESULT: u64 = offset_of!(MulticallEntry, result) as u64;
    const ARGS: u64 = offset_of!(MulticallEntry, args) as u64;
    let fault = Errno::EFAULT.neg_i32() as i64 as u64;
    let (wide_count, count) = (count, count as u32);
    let mut at = calls;
    // SAFETY: the entry code passes the frame of its CPU, and no reference to it lasts while a row is called.
    let (rip, unused) = unsafe { ((*frame).rip, [(*frame).rdx, (*frame).r10, (*frame).r8]) };
    for left in (1..=count).rev() {
        if left != count && apic::interrupt_waits() {
            // SAFETY: as above.
            return rest(unsafe { &mut *frame }, at, left);
        }
        let Ok([number, _, a, b, c, d, e, _]) = access::read_8(at) else {
            return fault;
        };
        let result = match number {
            // One level only, so that the depth of the stack is bounded.
            nr::MULTICALL => Errno::EINVAL.neg_i32() as i64 as u64,
            // It leaves the hypervisor, so it is none of a list.
            nr::IRET => Errno::ENOSYS.neg_i32() as i64 as u64,
            _ => match TABLE.get(number as usize) {
                // SAFETY: a row, with what rows are called with.
                Some(row) => unsafe { row(a, b, c, d, e, frame) },
                None => Errno::ENOSYS.neg_i32() as i64 as u64,
            },
        };
        // SAFETY: as above.
        let call = unsafe { &mut *frame };
        if call.rip != rip {
            call.rip = rip;
            let args = [call.rdi, call.rsi, call.rdx, call.r10, call.r8];
            // The registers that the call itself does not use stay what they were.
            [call.rdx, call.r10, call.r8] = unused;
            return match access::write(at.wrapping_add(ARGS), args.as_bytes()) {
                Ok(()) => rest(call, at, left),
                Err(_) => {
                    (call.rdi, call.rsi) = (calls, wide_count);
                    fault
                }
            };
        }
        if access::write_word(at.wrapping_add(RESULT), result).is_err() {
            return fault;
        }
        at = at.wrapping_add(ENTRY);
    }
    0
}

unsafe extern "C" fn stack_switch(
    a: u64,
    b: u64,
    _: u64,
    _: u64,
    _: u64,
    frame: *mut Frame,
) -> u64 {
    // SAFETY: as in `row`.
    let pv = unsafe { &*(*Gate::of(frame)).head.pv };
    registers::stack_switch(pv, a, b);
    0
}

/// Serves what only PV guests have; `None` for other numbers.
#[inline(always)]
pub fn call(caller: Caller<'_, X86_64>, pv: &PvVcpu, nr: u64, args: [u64; 5]) -> Option<Outcome> {
    let [a, b, c, ..] = args;
    let result = match nr {
        nr::MMU_UPDATE => return Some(ThisCpu::of()?.tables().mmu_update(caller, args)),
        nr::UPDATE_VA_MAPPING => {
            return Some(ThisCpu::of()?.tables().update_va_mapping(caller, args));
        }
        nr::MMUEXT_OP => return Some(ThisCpu::of()?.tables().mmuext_op(caller, args)),
        nr::UPDATE_VA_MAPPING_OTHERDOMAIN => {
            let tables = ThisCpu::of()?;
            return Some(tables.tables().update_va_mapping_otherdomain(caller, args));
        }
        nr::SET_TRAP_TABLE => callbacks::set_trap_table(caller, pv, GuestVirt(a)),
        nr::SET_GDT => descriptors::set_table(caller, pv, GuestVirt(a), b as u32),
        nr::STACK_SWITCH => {
            registers::stack_switch(pv, a, b);
            Ok(0)
        }
        nr::SET_CALLBACKS => callbacks::set_callbacks(pv, a, b, c),
        nr::FPU_TASKSWITCH => registers::fpu_taskswitch(pv, a as u32),
        nr::SET_DEBUGREG => registers::set_debug(pv, a as u32, b),
        nr::GET_DEBUGREG => return Some(registers::debug(pv, a as u32)),
        nr::UPDATE_DESCRIPTOR => return Some(descriptors::update(caller, pv, a, b)),
        nr::SET_SEGMENT_BASE => registers::set_segment_base(a as u32, b),
        nr::NMI_OP => callbacks::nmi_op(caller, pv, a as u32, GuestVirt(b)),
        nr::EVENT_CHANNEL_OP_COMPAT => {
            return Some(event_channel_op_compat(caller, GuestVirt(a)));
        }
        nr::PHYSDEV_OP_COMPAT => physdev::physdev_op_compat(caller, GuestVirt(a)),
        nr::PAGING_DOMCTL_CONT => {
            let read = caller.read::<u32>(GuestVirt(a));
            read.and(Err(Errno::EOPNOTSUPP))
        }
        nr::CALLBACK_OP => callbacks::callback_op(caller, pv, a as u32, GuestVirt(b)),
        _ => return None,
    };
    Some(Outcome::from(result))
}

/// The PV form of `vcpu_op`.
pub fn vcpu_op(
    caller: Caller<'_, X86_64>,
    op: VcpuOp,
    vcpu: &VcpuRef<X86_64>,
    arg: GuestVirt,
) -> Outcome {
    let result = match op {
        // Its tables may be many.
        VcpuOp::Initialise => match super::start::initialise(caller, vcpu, arg) {
            Ok(()) => Ok(0),
            Err(Stop::Failed(errno)) => Err(errno),
            Err(Stop::Preempted) => {
                let id = vcpu.id.0.into();
                return Outcome::Again([op.number().into(), id, arg.0, 0, 0]);
            }
        },
        VcpuOp::SendNmi if arg.0 != 0 => Err(Errno::EINVAL),
        VcpuOp::SendNmi => {
            send_nmi(caller.hv, vcpu);
            Ok(0)
        }
        VcpuOp::RegisterVcpuTimeMemoryArea => guest::time::register_copy(caller, vcpu, arg),
        // Of vCPUs that stay where they are, which none does.
        VcpuOp::GetPhysid => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    };
    result.into()
}

/// Gives a vCPU of a PV domain a non-maskable interrupt.
pub fn send_nmi(hv: &Hypervisor<X86_64>, vcpu: &VcpuRef<X86_64>) {
    let Some(pv) = vcpu.arch.pv() else { return };
    pv.signals.post_nmi();
    vcpu.arch.look_before_entry();
    hv.notify(vcpu);
}

/// Whether an address has as many bits as the CPU gives it.
#[inline(always)]
#[must_use]
pub const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}
