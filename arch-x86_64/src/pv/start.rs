//! The registers that a vCPU of a PV guest starts with: dom0's and others' made at boot, or what the guest says for a further vCPU
//! (`VCPUOP_initialise`, `struct vcpu_guest_context`).

use alloc::vec;

use arrayvec::ArrayVec;
use xenolith_abi::{
    errno::Errno,
    x86_64::{ContextFlags, CpuUserRegs, VcpuGuestContext},
};
use xenolith_core::{DomainRef, VcpuRef, guest::Caller};
use xenolith_hal::{GuestVirt, HostPhys, Mfn};
use zerocopy::FromBytes;

use super::{
    bounce::flags,
    descriptors,
    frame::Frame,
    hypercall::is_canonical,
    machine::ThisCpu,
    memory::Stop,
    vcpu::{Callback, DESCRIPTOR_PAGES, Mode, PvVcpu, Segments, Trap},
};
use crate::{X86_64, cpu::percpu::PerCpu};

/// `VCPUOP_initialise`: registers for a vCPU that never had any. Called again after [`Stop::Preempted`], it goes on with the tables.
pub fn initialise(
    caller: Caller<'_, X86_64>,
    vcpu: &VcpuRef<X86_64>,
    arg: GuestVirt,
) -> Result<(), Stop> {
    let mut bytes = vec![0u8; size_of::<VcpuGuestContext>()];
    caller.read_bytes(arg, &mut bytes)?;
    let context = VcpuGuestContext::read_from_bytes(&bytes).map_err(|_| Errno::EFAULT)?;
    let _turn = vcpu.arch.start.lock();
    let pv = vcpu.arch.pv().ok_or(Errno::EINVAL)?;
    if pv.has_registers.get() {
        return Err(Errno::EEXIST.into());
    }
    set(caller.domain(), vcpu, pv, &context)?;
    pv.has_registers.set(true);
    Ok(())
}

/// General registers as a guest gives them, with what no guest may have taken away.
#[must_use]
pub fn frame(regs: &CpuUserRegs) -> Frame {
    Frame {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        rbp: regs.rbp,
        rdi: regs.rdi,
        rsi: regs.rsi,
        rdx: regs.rdx,
        rcx: regs.rcx,
        rbx: regs.rbx,
        rax: regs.rax,
        vector: 0,
        error: 0,
        rip: regs.rip,
        cs: u64::from(regs.cs | 3),
        rflags: regs.rflags & flags::ALL & !(flags::IOPL | flags::VM86)
            | flags::INTERRUPTS
            | flags::FIXED,
        rsp: regs.rsp,
        ss: u64::from(regs.ss | 3),
    }
}

fn set(
    domain: &DomainRef<X86_64>,
    vcpu: &VcpuRef<X86_64>,
    pv: &PvVcpu,
    context: &VcpuGuestContext,
) -> Result<(), Stop> {
    let canonical = [
        context.event_callback_eip,
        context.failsafe_callback_eip,
        context.syscall_callback_eip,
        context.fs_base,
        context.gs_base_kernel,
        context.gs_base_user,
        context.user_regs.rip,
        context.user_regs.rsp,
        context.kernel_sp,
    ];
    let handlers = context.trap_ctxt.iter().map(|trap| trap.address);
    if !canonical.into_iter().chain(handlers).all(is_canonical) {
        return Err(Errno::EINVAL.into());
    }
    let pages = (context.gdt_ents as usize).div_ceil(512);
    if pages > DESCRIPTOR_PAGES || context.ldt_ents > 8192 {
        return Err(Errno::EINVAL.into());
    }
    let frames: ArrayVec<Mfn, DESCRIPTOR_PAGES> = context
        .gdt_frames
        .iter()
        .take(pages)
        .map(|frame| Mfn(*frame))
        .collect();
    descriptors::install(domain, pv, &frames, context.gdt_ents as u32)?;
    // None says nothing of where; what a context that was refused had said is gone.
    let local = match context.ldt_ents {
        0 => 0,
        _ => context.ldt_base,
    };
    descriptors::set_local(pv, local, context.ldt_ents as u32)?;
    let root = |register: u64| (register != 0).then(|| HostPhys(register).frame());
    let [_, user, _, kernel, ..] = context.ctrlreg;
    let cpu = ThisCpu(PerCpu::try_current().ok_or(Errno::EINVAL)?);
    let kernel = root(kernel).ok_or(Errno::EINVAL)?;
    cpu.tables()
        .start_with_roots(vcpu, kernel, root(user), &pv.space)?;
    for (trap, given) in pv.traps.iter().zip(&context.trap_ctxt) {
        trap.set(Trap {
            address: given.address,
            selector: given.cs | 3,
            flags: given.flags,
        });
    }
    let flags = context.flags;
    pv.event.set(Callback {
        address: context.event_callback_eip,
        masks_events: true,
    });
    pv.failsafe.set(Callback {
        address: context.failsafe_callback_eip,
        masks_events: flags.contains(ContextFlags::FAILSAFE_DISABLES_EVENTS),
    });
    pv.syscall.set(Callback {
        address: context.syscall_callback_eip,
        masks_events: flags.contains(ContextFlags::SYSCALL_DISABLES_EVENTS),
    });
    pv.kernel_stack.set(context.kernel_sp);
    pv.kernel_stack_selector.set(context.kernel_ss as u16 | 3);
    pv.mode.set(
        match flags.contains(ContextFlags::IN_KERNEL) || root(user).is_none() {
            true => Mode::Kernel,
            false => Mode::User,
        },
    );
    let regs = &context.user_regs;
    pv.iopl.set((regs.rflags >> 12 & 3) as u8);
    pv.segments.set(Segments {
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        fs_base: context.fs_base,
        gs_base_kernel: context.gs_base_kernel,
        gs_base_user: context.gs_base_user,
    });
    // SAFETY: the vCPU never had registers, so it runs nowhere; the caller holds its lock.
    unsafe { *pv.frame.get() = frame(regs) }
    Ok(())
}

/// Gives a vCPU that never ran its roots, however long that takes: for the building of domains.
pub fn set_roots(vcpu: &VcpuRef<X86_64>, kernel: Mfn, user: Option<Mfn>) -> Result<(), Errno> {
    let cpu = ThisCpu(PerCpu::try_current().ok_or(Errno::EINVAL)?);
    let pv = vcpu.arch.pv().ok_or(Errno::EINVAL)?;
    let tables = cpu.tables();
    tables.insist(|| -> Result<(), Stop> { tables.start_with_roots(vcpu, kernel, user, &pv.space) })
}
