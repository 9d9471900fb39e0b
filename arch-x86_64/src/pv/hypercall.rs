//! Hypercalls of PV guests: by SYSCALL from the kernel, with what only they have (`xen.h`, `callback.h`, `nmi.h`).

use xenolith_abi::{
    grant_table::GrantStatus,
    platform::{PlatformOp, PlatformOpArg},
    vcpu::VcpuOp,
};
use xenolith_core::{
    Errno, VcpuRef,
    event::event_channel_op_compat,
    grant::PvMapping,
    guest::Caller,
    hypercall::{self, Outcome},
};
use xenolith_hal::GuestVirt;

use super::{access, callbacks, descriptors, machine::ThisCpu, physdev, registers, run::Stopped};
use crate::{X86_64, cpu::percpu::PerCpu, guest};

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
    pub const SET_SEGMENT_BASE: u64 = 25;
    pub const NMI_OP: u64 = 28;
    pub const CALLBACK_OP: u64 = 30;
}

/// Bytes of SYSCALL.
const LENGTH: u64 = 2;

/// Serves a hypercall of the kernel that has stopped.
#[inline(always)]
pub fn serve(cx: &mut Stopped<'_>) {
    let frame = cx.frame();
    let nr = frame.rax;
    if nr == nr::IRET {
        return registers::iret(cx);
    }
    let args = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8];
    let caller = Caller {
        hv: cx.hv(),
        vcpu: cx.vcpu,
    };
    match hypercall::dispatch_with::<_, Rows>(caller, nr, args) {
        Outcome::Done(value) => cx.frame().rax = value.cast_unsigned(),
        Outcome::Again(args) => {
            let frame = cx.frame();
            [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8] = args;
            frame.rip = frame.rip.wrapping_sub(LENGTH);
        }
    }
}

/// What PV guests have beyond the common hypercalls.
pub struct Rows;

impl hypercall::Rows<X86_64> for Rows {
    fn call(caller: Caller<'_, X86_64>, nr: u64, args: [u64; 5]) -> Option<Outcome> {
        let pv = caller.vcpu.arch.pv()?;
        let this = ThisCpu(PerCpu::try_current()?);
        match nr {
            nr::MMU_UPDATE => return Some(this.tables().mmu_update(caller, args)),
            nr::UPDATE_VA_MAPPING => return Some(this.tables().update_va_mapping(caller, args)),
            nr::MMUEXT_OP => return Some(this.tables().mmuext_op(caller, args)),
            nr::UPDATE_VA_MAPPING_OTHERDOMAIN => {
                return Some(this.tables().update_va_mapping_otherdomain(caller, args));
            }
            _ => {}
        }
        let [a, b, c, ..] = args;
        let result = match nr {
            nr::SET_TRAP_TABLE => callbacks::set_trap_table(caller, pv, GuestVirt(a)),
            nr::SET_GDT => descriptors::set_table(caller, pv, GuestVirt(a), b as u32),
            nr::STACK_SWITCH => registers::stack_switch(pv, a, b),
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
            _ => return guest::physdev::common_call(caller, nr, args),
        };
        Some(Outcome::from(result))
    }

    fn map_granted(caller: Caller<'_, X86_64>, mapping: &PvMapping) -> Result<(), GrantStatus> {
        let cpu = PerCpu::try_current().ok_or(GrantStatus::GeneralError)?;
        ThisCpu(cpu).tables().map_granted(caller, mapping)
    }

    fn unmap_granted(
        caller: Caller<'_, X86_64>,
        mapping: &PvMapping,
        new: Option<GuestVirt>,
    ) -> Result<(), GrantStatus> {
        let cpu = PerCpu::try_current().ok_or(GrantStatus::GeneralError)?;
        ThisCpu(cpu).tables().unmap_granted(caller, mapping, new)
    }

    fn flush_granted(caller: Caller<'_, X86_64>) {
        if let Some(cpu) = PerCpu::try_current() {
            ThisCpu(cpu).tables().flush_granted(caller);
        }
    }

    fn platform_op(
        caller: Caller<'_, X86_64>,
        what: PlatformOp,
        op: &mut PlatformOpArg,
    ) -> Result<i64, Errno> {
        guest::platform::platform_op(caller, what, op)
    }

    fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
        physdev::physdev_op(caller, cmd, arg)
    }

    fn vcpu_op(
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
}

fn send_nmi(caller: Caller<'_, X86_64>, vcpu: &VcpuRef<X86_64>) {
    let Some(pv) = vcpu.arch.pv() else { return };
    pv.signals.post_nmi();
    vcpu.arch.look_before_entry();
    caller.hv.notify(vcpu);
}

/// Whether an address has as many bits as the CPU gives it.
#[must_use]
pub const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

/// Reads words from the guest's stack.
pub fn read_words<const N: usize>(at: u64) -> Option<[u64; N]> {
    let mut words = [0; N];
    for (word, index) in words.iter_mut().zip(0u64..) {
        *word = access::read_word(at.wrapping_add(index * 8)).ok()?;
    }
    Some(words)
}
