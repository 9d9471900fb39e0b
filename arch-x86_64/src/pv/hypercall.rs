//! Hypercalls of PV guests: by SYSCALL from the kernel, with what only they have (`xen.h`, `callback.h`, `nmi.h`).

use core::mem::offset_of;

use xenolith_abi::{Port, multicall::MulticallEntry, vcpu::VcpuOp};
use xenolith_core::{
    Errno, VcpuRef,
    event::event_channel_op_compat,
    guest::Caller,
    hypercall::{self, Outcome},
};
use xenolith_hal::GuestVirt;
use zerocopy::IntoBytes;

use super::{
    access, callbacks, descriptors, entry, frame::Frame, gate::Gate, machine::ThisCpu, physdev,
    registers, run::Stopped, vcpu::PvVcpu,
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

row!(event_channel_op, |caller, _this, args| {
    const SEND: u32 = 4;
    let [op, at, ..] = args;
    match op as u32 {
        SEND => access::read_half(at)
            .map_err(|_| Errno::EFAULT)
            .and_then(|port| caller.hv.send_event(caller.domain(), Port(port)))
            .map(|()| 0)
            .into(),
        _ => hypercall::dispatch_row::<_, Rows>(caller, nr::EVENT_CHANNEL_OP, args),
    }
});

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
) -> Result<i64, Errno> {
    match op {
        VcpuOp::Initialise => super::start::initialise(caller, vcpu, arg),
        VcpuOp::SendNmi if arg.0 != 0 => Err(Errno::EINVAL),
        VcpuOp::SendNmi => {
            send_nmi(caller, vcpu);
            Ok(0)
        }
        VcpuOp::RegisterVcpuTimeMemoryArea => guest::time::register_copy(caller, vcpu, arg),
        // Of vCPUs that stay where they are, which none does.
        VcpuOp::GetPhysid => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

fn send_nmi(caller: Caller<'_, X86_64>, vcpu: &VcpuRef<X86_64>) {
    let Some(pv) = vcpu.arch.pv() else { return };
    pv.signals.post_nmi();
    vcpu.arch.look_before_entry();
    caller.hv.notify(vcpu);
}

/// Whether an address has as many bits as the CPU gives it.
#[inline(always)]
#[must_use]
pub const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}
