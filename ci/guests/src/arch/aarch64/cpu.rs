//! Per-CPU state, PSCI, and starting further CPUs. Arm DEN 0022 (PSCI) and DEN 0028 (SMCCC).

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::{gic, mmu};

/// CPUs that the runtime has stacks for.
pub const MAX_CPUS: usize = 8;
pub(super) const STACK_BYTES: usize = 32 * 1024;

/// What each CPU has for itself; TPIDR_EL1 points at it.
#[repr(C)]
pub struct PerCpu {
    /// CNTVCT at the last entry of a vector.
    pub stamp: AtomicU64,
    /// 1 while `fault_of` waits for a fault.
    pub expecting: AtomicU32,
    /// 1 when the expected fault came.
    pub faulted: AtomicU32,
    /// ESR_EL1, FAR_EL1 and ELR_EL1 of the last expected fault.
    pub esr: AtomicU64,
    /// See `esr`.
    pub far: AtomicU64,
    /// See `esr`.
    pub elr: AtomicU64,
    /// Function that a secondary CPU runs, as an address; 0: none.
    pub entry: AtomicUsize,
    /// 1 once the CPU runs Rust code with the MMU on.
    pub online: AtomicU32,
}

#[unsafe(no_mangle)]
static GUEST_CPUS: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        stamp: AtomicU64::new(0),
        expecting: AtomicU32::new(0),
        faulted: AtomicU32::new(0),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        elr: AtomicU64::new(0),
        entry: AtomicUsize::new(0),
        online: AtomicU32::new(0),
    }
}; MAX_CPUS];

static CPU_COUNT: AtomicUsize = AtomicUsize::new(1);
static MPIDRS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// This CPU's own record.
pub fn this_cpu() -> &'static PerCpu {
    &GUEST_CPUS[cpu_index()]
}

/// The record of CPU `index`.
pub fn cpu(index: usize) -> &'static PerCpu {
    &GUEST_CPUS[index]
}

/// Index of this CPU, counted from 0 in device-tree order.
pub fn cpu_index() -> usize {
    let own: usize;
    // SAFETY: reads a register that the entry code set.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) own, options(nomem, nostack)) };
    (own - (&raw const GUEST_CPUS) as usize) / size_of::<PerCpu>()
}

/// How many CPUs the device tree names, at most `MAX_CPUS`.
pub fn cpu_count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed)
}

/// MPIDR affinity fields of CPU `index`.
pub fn mpidr_of(index: usize) -> u64 {
    MPIDRS[index].load(Ordering::Relaxed)
}

pub(super) fn init(fdt: &fdt::Fdt) {
    let mut count = 0;
    for cpu in fdt.cpus().take(MAX_CPUS) {
        MPIDRS[count].store(cpu.ids().first() as u64, Ordering::Relaxed);
        count += 1;
    }
    CPU_COUNT.store(count.max(1), Ordering::Relaxed);
}

/// Spins once. YIELD, unlike the ISB of `spin_loop`, also hands the emulator over to the next CPU where one thread runs
/// them all in turn.
pub fn relax() {
    // SAFETY: YIELD is a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// A call by HVC under the SMC calling convention (PSCI and its kin).
pub fn smccc(function: u32, a: u64, b: u64, c: u64) -> i64 {
    let mut x0 = u64::from(function);
    // SAFETY: HVC #0 under SMCCC clobbers x0 to x17 at most; memory effects are those of PSCI.
    unsafe {
        asm!("hvc #0", inout("x0") x0, inout("x1") a => _, inout("x2") b => _, inout("x3") c => _,
             out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
             out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _)
    };
    x0 as i64
}

/// PSCI function numbers.
#[allow(missing_docs)]
pub mod psci {
    pub const VERSION: u32 = 0x8400_0000;
    pub const CPU_SUSPEND_64: u32 = 0xc400_0001;
    pub const CPU_OFF: u32 = 0x8400_0002;
    pub const CPU_ON_32: u32 = 0x8400_0003;
    pub const CPU_ON_64: u32 = 0xc400_0003;
    pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    pub const FEATURES: u32 = 0x8400_000a;
    pub const SYSTEM_SUSPEND_64: u32 = 0xc400_000e;

    pub const NOT_SUPPORTED: i64 = -1;
    pub const INVALID_PARAMETERS: i64 = -2;
    pub const ALREADY_ON: i64 = -4;
}

unsafe extern "C" {
    fn guest_secondary_entry();
}

/// Address that CPU_ON must name for a CPU to come up in this runtime.
pub fn secondary_entry() -> u64 {
    guest_secondary_entry as *const () as u64
}

/// Starts CPU `index` in `entry`; the PSCI result, 0 when it was started.
pub fn cpu_start(index: usize, entry: fn(usize)) -> i64 {
    GUEST_CPUS[index]
        .entry
        .store(entry as usize, Ordering::Relaxed);
    GUEST_CPUS[index].online.store(0, Ordering::Release);
    // The new CPU reads with its MMU off at first.
    mmu::clean_to_memory();
    i64::from(smccc(
        psci::CPU_ON_64,
        mpidr_of(index),
        secondary_entry(),
        index as u64,
    ) as i32)
}

/// Whether CPU `index` runs its entry function.
pub fn cpu_is_online(index: usize) -> bool {
    GUEST_CPUS[index].online.load(Ordering::Acquire) != 0
}

/// What `cpu_start` says of a CPU that runs.
pub const CPU_ALREADY_ON: i64 = psci::ALREADY_ON;

/// Puts the mark of `cpu_is_online` back after a start that was refused.
pub fn set_cpu_online(index: usize, online: bool) {
    GUEST_CPUS[index]
        .online
        .store(u32::from(online), Ordering::Release);
}

/// Turns this CPU off; returns only if PSCI refuses.
pub fn cpu_stop() -> i64 {
    this_cpu().online.store(0, Ordering::Release);
    i64::from(smccc(psci::CPU_OFF, 0, 0, 0) as i32)
}

/// Whether PSCI says that CPU `index` is off.
pub fn cpu_is_off(index: usize) -> bool {
    smccc(psci::AFFINITY_INFO_64, mpidr_of(index), 0, 0) == 1
}

#[unsafe(no_mangle)]
extern "C" fn guest_secondary(index: usize) -> ! {
    mmu::enable();
    gic::init_cpu();
    let own = this_cpu();
    own.online.store(1, Ordering::Release);
    let entry = own.entry.load(Ordering::Acquire);
    if entry != 0 {
        // SAFETY: only `cpu_start` stores here, and it stores a `fn(usize)`.
        let entry: fn(usize) = unsafe { core::mem::transmute(entry) };
        entry(index);
    }
    cpu_stop();
    loop {
        super::wait();
    }
}
