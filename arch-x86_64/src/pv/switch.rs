//! Loading a vCPU of a PV guest into its CPU and saving it: address space, segments, descriptors, the registers of system calls.

use x86_64::registers::{
    control::{Cr0, Cr0Flags, Cr4, Cr4Flags},
    model_specific::Msr,
};
use xenolith_core::VcpuRef;
use xenolith_hal::{HostPhys, Mfn};

use super::{
    emulate::{controls, msr::PAT},
    entry, flush,
    frame::Frame,
    gate::Gates,
    isolation,
    vcpu::{Mode, PvVcpu, Segments},
};
use crate::{
    X86_64,
    cpu::{
        descriptors::{self, CODE, FIRST, LOCAL, USER_CODE_32},
        percpu::PerCpu,
    },
    mm::hyp::Hyp,
};

mod msr {
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const PAT: u32 = 0x277;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

fn write_msr(number: u32, value: u64) {
    // SAFETY: registers that every 64-bit CPU has, with values that it takes; the hypervisor itself uses none of them, and of the
    // page attributes only those that are always the same.
    unsafe { Msr::new(number).write(value) }
}

fn read_msr(number: u32) -> u64 {
    // SAFETY: as above.
    unsafe { Msr::new(number).read() }
}

/// Lets the executing CPU serve guests in ring 3: system calls, and the page attributes that the ABI promises. Of those only
/// entries change that nobody has used yet.
pub fn start() {
    write_msr(msr::PAT, PAT);
    // Programs may have their alignment checked; the hypervisor's own is not.
    // SAFETY: the bit counts in ring 3 alone.
    unsafe { Cr0::update(|cr0| cr0.insert(Cr0Flags::ALIGNMENT_MASK)) };
    let chosen = isolation::cpu::chosen();
    // SAFETY: the CPU has them. The loaded root has number 0; the hypervisor runs no code of a guest's, and touches
    // its data where it says so.
    unsafe {
        Cr4::update(|cr4| {
            cr4.set(Cr4Flags::PCID, chosen.tags);
            cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, chosen.smep);
            cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, chosen.smap);
        });
    }
    const SYSTEM_CALLS: u64 = 1;
    write_msr(msr::EFER, read_msr(msr::EFER) | SYSTEM_CALLS);
}

/// System calls enter the hypervisor.
fn take_system_calls(cpu: &PerCpu, gates: &Gates) {
    /// TF, IF, DF, IOPL, NT, RF, VM, AC: nothing of the caller's flags holds in the hypervisor.
    const MASKED: u64 = 0x0007_7700;
    let [long, compatible, fast] = entry::entries(cpu);
    write_msr(
        msr::STAR,
        u64::from(USER_CODE_32) << 48 | u64::from(CODE) << 32,
    );
    write_msr(msr::LSTAR, long);
    write_msr(msr::CSTAR, compatible);
    write_msr(msr::SFMASK, MASKED);
    write_msr(msr::SYSENTER_CS, CODE.into());
    write_msr(msr::SYSENTER_EIP, fast);
    write_msr(msr::SYSENTER_ESP, gates.top());
}

/// Loads the root of an address space.
#[inline(always)]
pub fn load_root(root: Mfn) {
    load_space(root.base());
}

#[inline(always)]
fn load_space(root: HostPhys) {
    // SAFETY: every root has the hypervisor's part: this is one of a guest that was checked and is held by a reference of its
    // vCPU, or the hypervisor's own.
    unsafe {
        core::arch::asm!("mov cr3, {}", in(reg) root.0, options(nostack, preserves_flags));
    }
}

#[inline(always)]
fn swap_gs() {
    // SAFETY: the hypervisor does not use GS.
    unsafe { core::arch::asm!("swapgs", options(nomem, nostack, preserves_flags)) }
}

/// The kernel runs next, where a program did. False when it has no address space.
#[inline(always)]
pub fn to_kernel(pv: &PvVcpu) -> bool {
    let Some(root) = pv.space.kernel() else {
        return false;
    };
    pv.mode.set(Mode::Kernel);
    swap_gs();
    load_root(root);
    true
}

/// A program runs next, where the kernel did. False when there is no address space for programs.
#[inline(always)]
pub fn to_user(pv: &PvVcpu) -> bool {
    let Some(root) = pv.space.user() else {
        return false;
    };
    pv.mode.set(Mode::User);
    swap_gs();
    load_root(root);
    true
}

/// Loads the address space of the next vCPU, or the hypervisor's own, if there was or will be a PV guest's.
pub fn change_space<'a>(
    cpu: &PerCpu,
    old: Option<&'a VcpuRef<X86_64>>,
    next: Option<&'a VcpuRef<X86_64>>,
) {
    let old = old.and_then(|old| Some((old, old.arch.pv()?)));
    let in_space = |next: &'a VcpuRef<X86_64>| {
        let pv = next.arch.pv()?;
        Some((next, pv, pv.root()?))
    };
    match next.and_then(in_space) {
        Some((next, pv, root)) => {
            // Who changes a translation from now on asks this CPU, or changed it before the root is loaded.
            if let Some(domain) = &next.domain().arch.pv {
                domain.present.insert(cpu.id);
            }
            flush::IN_GUESTS.insert(cpu.id);
            pv.set_cpu(Some(cpu.id));
            flush::with_root_load(|| load_root(root));
        }
        None if old.is_some() => {
            flush::with_root_load(|| load_space(Hyp::root()));
            flush::IN_GUESTS.remove(cpu.id);
        }
        None => {}
    }
    if let Some((old, pv)) = old {
        pv.set_cpu(None);
        let stays = next.is_some_and(|next| next.domain().id() == old.domain().id());
        if let (false, Some(domain)) = (stays, &old.domain().arch.pv) {
            domain.present.remove(cpu.id);
        }
    }
}

/// Loads everything of a vCPU but its FPU.
pub fn load(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>, pv: &PvVcpu) {
    let Some(gates) = cpu.gates.get() else { return };
    // Nobody else changes these registers but guests in hardware.
    if !cpu.takes_system_calls.replace(true) {
        take_system_calls(cpu, gates);
    }
    load_descriptors(gates, pv);
    load_segments(pv);
    if pv.segments_failed.get().is_some() {
        vcpu.arch.look_before_entry();
    }
    // SAFETY: the gate is this CPU's; the vCPU is loaded on no other, so its registers are at hand.
    unsafe {
        let gate = gates.gate();
        (*gate).head.cpu = cpu;
        Frame::copy(&raw mut (*gate).frame, pv.frame.get());
    }
    forget_debug_status();
    // As a save leaves them, none holds.
    if pv.has_breakpoints() {
        load_debug(pv);
    }
    set_task_switched(pv.task_switched.get());
    controls::load(pv, &vcpu.domain().arch);
}

/// Saves everything but the FPU and the address space.
pub fn save(cpu: &PerCpu, pv: &PvVcpu) {
    let Some(gates) = cpu.gates.get() else { return };
    // SAFETY: as in `load`.
    unsafe { Frame::copy(pv.frame.get(), &raw const (*gates.gate()).frame) }
    save_segments(pv);
    forget_debug();
    controls::unload(pv);
}

/// Puts the guest's descriptors in their place.
pub fn load_descriptors(gates: &Gates, pv: &PvVcpu) {
    // SAFETY: the vCPU is loaded on this CPU.
    let frames = unsafe { &*pv.descriptors.get() };
    gates.map_guest(frames);
    load_local(gates, pv);
}

/// Makes the CPU use the guest's local descriptors. Pages that it has not used yet are mapped when it does.
pub fn load_local(gates: &Gates, pv: &PvVcpu) {
    const PRESENT_LOCAL_TABLE: u64 = 0x82;
    gates.forget_local();
    let (_, count) = pv.local.get();
    // SAFETY: the vCPU is loaded on this CPU.
    for (page, frame) in unsafe { &*pv.local_frames.get() } {
        gates.map_local(*page, *frame);
    }
    let (descriptor, selector) = match count {
        0 => ([0; 2], 0),
        count => {
            let base = gates.local_range().start;
            (
                descriptors::system(base, count * 8 - 1, PRESENT_LOCAL_TABLE),
                LOCAL,
            )
        }
    };
    let place = usize::from(LOCAL - FIRST) >> 3;
    // SAFETY: the page is this CPU's; the descriptor says where its own window for local descriptors is.
    unsafe {
        let page = gates.own_descriptors();
        (*page)[place] = descriptor[0];
        (*page)[place + 1] = descriptor[1];
        core::arch::asm!("lldt {:x}", in(reg) selector, options(nostack, preserves_flags));
    }
}

macro_rules! load_selector {
    ($register:literal, $value:expr) => {{
        let loaded: u32;
        // SAFETY: a selector that cannot be loaded faults, and the register becomes null then. The hypervisor uses none of these.
        unsafe {
            core::arch::asm!(
                "xor {loaded:e}, {loaded:e}",
                concat!("2: mov ", $register, ", {value:x}"),
                "3: mov {loaded:e}, 1",
                "4:",
                ".pushsection ex_table, \"a\"",
                ".quad 2b, 3b, 4b",
                ".popsection",
                loaded = out(reg) loaded,
                value = in(reg) $value,
                options(nostack),
            );
            if loaded == 0 {
                core::arch::asm!(concat!("mov ", $register, ", {:x}"), in(reg) 0u16, options(nostack, preserves_flags));
            }
        }
        loaded != 0
    }};
}

macro_rules! store_selector {
    ($register:literal) => {{
        let value: u16;
        // SAFETY: reads a register.
        unsafe {
            core::arch::asm!(concat!("mov {:x}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

fn load_segments(pv: &PvVcpu) {
    let segments = pv.segments.get();
    let all = load_selector!("ds", segments.ds)
        & load_selector!("es", segments.es)
        & load_selector!("fs", segments.fs)
        & load_selector!("gs", segments.gs);
    write_msr(msr::FS_BASE, segments.fs_base);
    let (now, other) = match pv.mode.get() {
        Mode::Kernel => (segments.gs_base_kernel, segments.gs_base_user),
        Mode::User => (segments.gs_base_user, segments.gs_base_kernel),
    };
    write_msr(msr::GS_BASE, now);
    write_msr(msr::KERNEL_GS_BASE, other);
    if !all {
        pv.segments_failed
            .set(Some([segments.ds, segments.es, segments.fs, segments.gs]));
    }
}

fn save_segments(pv: &PvVcpu) {
    let (now, other) = (read_msr(msr::GS_BASE), read_msr(msr::KERNEL_GS_BASE));
    let (gs_base_kernel, gs_base_user) = match pv.mode.get() {
        Mode::Kernel => (now, other),
        Mode::User => (other, now),
    };
    pv.segments.set(Segments {
        ds: store_selector!("ds"),
        es: store_selector!("es"),
        fs: store_selector!("fs"),
        gs: store_selector!("gs"),
        fs_base: read_msr(msr::FS_BASE),
        gs_base_kernel,
        gs_base_user,
    });
}

/// A segment's base of the vCPU that is loaded, as the guest sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// FS.
    Fs,
    /// GS of a program, while the kernel runs.
    GsUser,
    /// GS of the kernel, while it runs.
    GsKernel,
}

const fn base_register(which: Base) -> u32 {
    match which {
        Base::Fs => msr::FS_BASE,
        Base::GsUser => msr::KERNEL_GS_BASE,
        Base::GsKernel => msr::GS_BASE,
    }
}

/// Sets a base for the kernel that runs; the address is canonical.
pub fn set_base(which: Base, address: u64) {
    write_msr(base_register(which), address);
}

/// Reads a base for the kernel that runs.
#[must_use]
pub fn base(which: Base) -> u64 {
    read_msr(base_register(which))
}

/// Loads GS of a program, while the kernel runs: null if it cannot be.
pub fn set_user_gs(selector: u16) {
    swap_gs();
    let _ = load_selector!("gs", selector);
    swap_gs();
}

/// Whether the guest's next use of floating point is told to it.
#[inline]
pub fn set_task_switched(on: bool) {
    let old = Cr0::read_raw();
    let flag = Cr0Flags::TASK_SWITCHED.bits();
    let new = if on { old | flag } else { old & !flag };
    if new != old {
        // SAFETY: the hypervisor uses no floating point.
        unsafe { Cr0::write_raw(new) }
    }
}

/// Loads breakpoints, while the guest is on this CPU.
pub fn load_debug(pv: &PvVcpu) {
    let [a, b, c, d, .., control] = pv.debug.get();
    // SAFETY: breakpoints are at addresses of the guest; what the hypervisor itself touches there for the guest is let pass
    // (`crate::cpu::recovery`).
    unsafe {
        core::arch::asm!("mov dr0, {}", in(reg) a, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov dr1, {}", in(reg) b, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov dr2, {}", in(reg) c, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov dr3, {}", in(reg) d, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov dr7, {}", in(reg) control, options(nomem, nostack, preserves_flags));
    }
}

/// What another guest left in the status register is nobody's.
fn forget_debug_status() {
    // SAFETY: as after reset.
    unsafe {
        core::arch::asm!("mov dr6, {}", in(reg) 0xffff_0ff0u64, options(nomem, nostack, preserves_flags));
    }
}

/// No breakpoint holds any more.
pub fn forget_debug() {
    // SAFETY: as after reset.
    unsafe {
        core::arch::asm!("mov dr7, {}", in(reg) 0x400u64, options(nomem, nostack, preserves_flags));
    }
}
