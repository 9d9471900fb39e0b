//! Calls to the firmware (RISC-V Supervisor Binary Interface specification, 1.0): harts, timer, interrupts between harts,
//! power.

use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use xenolith_hal::{CpuId, HostPhys, MAX_CPUS};

/// Hart number of each CPU.
static HARTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Tells which hart a CPU is.
pub fn set_hart(cpu: CpuId, hart: u64) {
    if let Some(slot) = HARTS.get(cpu.index()) {
        slot.store(hart, Relaxed);
    }
}

/// Which hart a CPU is.
pub fn hart(cpu: CpuId) -> u64 {
    HARTS.get(cpu.index()).map_or(0, |slot| slot.load(Relaxed))
}

/// Starts a stopped hart at a physical address, with `argument` in its a1.
pub fn hart_start(hart: u64, entry: HostPhys, argument: u64) -> Result<(), impl fmt::Debug> {
    sbi_rt::hart_start(hart as usize, entry.0 as usize, argument as usize)
        .into_result()
        .map(|_| ())
}

/// Makes another CPU leave its `wfi` or its guest.
pub fn kick(cpu: CpuId) {
    let mask = sbi_rt::HartMask::from_mask_base(1, hart(cpu) as usize);
    let _ = sbi_rt::send_ipi(mask);
}

/// Takes note of a kick: the software interrupt is no longer pending.
pub fn clear_kick() {
    const SOFTWARE: u64 = 1 << 1;
    // SAFETY: clears a pending bit of this hart.
    unsafe {
        core::arch::asm!("csrc sip, {}", in(reg) SOFTWARE, options(nostack, preserves_flags));
    }
}

/// An interrupt of the timer when the `time` counter reaches `ticks`.
pub fn set_timer(ticks: u64) {
    let _ = sbi_rt::set_timer(ticks);
}

/// Whether the firmware makes fences on other harts.
pub fn has_fences() -> bool {
    sbi_rt::probe_extension(sbi_rt::Fence).is_available()
}

/// A fence that was not made leaves a guest memory that is not its own any more: nothing may go on.
fn made(result: sbi_rt::SbiRet) {
    if result.error != 0 {
        let error = result.error.cast_signed();
        log::error!("the firmware does not fence other CPUs: SBI error {error}");
        crate::cpu::fault::stop()
    }
}

/// On return no CPU uses what it had of a domain's translation of these guest-physical addresses. What was stored into tables
/// before is seen by all walks.
pub fn fence_guest_physical(start: u64, size: u64, vmid: u16) {
    // SAFETY: orders memory accesses.
    unsafe { core::arch::asm!("fence rw, rw", options(nostack, preserves_flags)) }
    let (all, vmid) = (sbi_rt::HartMask::all(), usize::from(vmid));
    let (start, size) = (start as usize, size as usize);
    made(sbi_rt::remote_hfence_gvma_vmid(all, start, size, vmid));
}

/// On return no CPU uses what it had of the loaded domain's own translation of these addresses, in one of its address spaces
/// or all. The guest chose the numbers: for what the firmware refuses, everything is fenced.
pub fn fence_guest_virtual(start: u64, size: u64, asid: Option<u64>) {
    let all = sbi_rt::HartMask::all();
    let (start, size) = (start as usize, size as usize);
    let told = match asid {
        Some(asid) => sbi_rt::remote_hfence_vvma_asid(all, start, size, asid as usize),
        None => sbi_rt::remote_hfence_vvma(all, start, size),
    };
    if told.error != 0 {
        made(sbi_rt::remote_hfence_vvma(all, 0, usize::MAX));
    }
}

/// On return every CPU fetches what was stored before.
pub fn fence_instructions() {
    made(sbi_rt::remote_fence_i(sbi_rt::HartMask::all()));
}

/// Powers the machine off; returns when the firmware cannot.
pub fn system_off() {
    let _ = sbi_rt::system_reset(sbi_rt::Shutdown, sbi_rt::NoReason);
}

/// Restarts the machine; returns when the firmware cannot.
pub fn system_reset() {
    let _ = sbi_rt::system_reset(sbi_rt::ColdReboot, sbi_rt::NoReason);
}

/// Sends a byte to the firmware's console, for the time before a UART is known.
pub fn put(byte: u8) {
    #[expect(
        deprecated,
        reason = "its successor came with SBI 2.0, which the boards' firmware does not have yet"
    )]
    let _ = sbi_rt::legacy::console_putchar(usize::from(byte));
}

/// What firmware this is, for the banner.
pub struct Firmware;

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = sbi_rt::get_spec_version();
        write!(f, "SBI {}.{}", version.major(), version.minor())
    }
}
