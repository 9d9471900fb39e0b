//! Per-CPU state, and starting further CPUs by the SBI's hart state management.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::sbi::{error, extension, hsm};
use super::{mmu, plic, sbi, trap};

/// CPUs that the runtime has stacks for.
pub const MAX_CPUS: usize = 8;
pub(super) const STACK_BYTES: usize = 32 * 1024;

/// What each CPU has for itself; the register tp points at it.
#[repr(C)]
pub struct PerCpu {
    /// The time at the last entry of a vector.
    pub stamp: AtomicU64,
    /// 1 while `fault_of` waits for a fault.
    pub expecting: AtomicU32,
    /// 1 when the expected fault came.
    pub faulted: AtomicU32,
    /// 1 while `is_pending` waits for an interrupt.
    pub probing: AtomicU32,
    /// 1 when it came.
    pub noticed: AtomicU32,
    /// scause, stval and sepc of the last expected fault.
    pub cause: AtomicU64,
    /// See `cause`.
    pub value: AtomicU64,
    /// See `cause`.
    pub pc: AtomicU64,
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
        probing: AtomicU32::new(0),
        noticed: AtomicU32::new(0),
        cause: AtomicU64::new(0),
        value: AtomicU64::new(0),
        pc: AtomicU64::new(0),
        entry: AtomicUsize::new(0),
        online: AtomicU32::new(0),
    }
}; MAX_CPUS];

static CPU_COUNT: AtomicUsize = AtomicUsize::new(1);
static HARTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; MAX_CPUS];

/// This CPU's own record.
pub fn this_cpu() -> &'static PerCpu {
    &GUEST_CPUS[cpu_index()]
}

/// The record of CPU `index`.
pub fn cpu(index: usize) -> &'static PerCpu {
    &GUEST_CPUS[index]
}

/// Index of this CPU: 0 is the one that was started first, the others are counted in device-tree order.
pub fn cpu_index() -> usize {
    let own: usize;
    // SAFETY: reads a register that the entry code set.
    unsafe { asm!("mv {}, tp", out(reg) own, options(nomem, nostack)) };
    (own - (&raw const GUEST_CPUS) as usize) / size_of::<PerCpu>()
}

/// How many CPUs the device tree names, at most `MAX_CPUS`.
pub fn cpu_count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed)
}

/// Hart id of CPU `index`.
pub fn hart_of(index: usize) -> u64 {
    HARTS[index].load(Ordering::Relaxed)
}

pub(super) fn init(fdt: &fdt::Fdt, boot_hart: u64) {
    HARTS[0].store(boot_hart, Ordering::Relaxed);
    let harts = fdt.cpus().map(|cpu| cpu.ids().first() as u64);
    let mut count = 1;
    for hart in harts.filter(|&hart| hart != boot_hart).take(MAX_CPUS - 1) {
        HARTS[count].store(hart, Ordering::Relaxed);
        count += 1;
    }
    CPU_COUNT.store(count, Ordering::Relaxed);
}

/// Spins once. PAUSE also hands the emulator over to the next CPU where one thread runs them all in turn.
pub fn relax() {
    // SAFETY: PAUSE is a hint; written as the fence that it is encoded as.
    unsafe { asm!(".insn i 0x0f, 0, x0, x0, 0x010", options(nomem, nostack)) };
}

unsafe extern "C" {
    fn guest_secondary_entry();
}

/// Address that a start must name for a CPU to come up in this runtime.
pub fn secondary_entry() -> u64 {
    guest_secondary_entry as *const () as u64
}

/// Starts CPU `index` in `entry`; the error of the SBI, 0 when it was started.
pub fn cpu_start(index: usize, entry: fn(usize)) -> i64 {
    GUEST_CPUS[index]
        .entry
        .store(entry as usize, Ordering::Relaxed);
    GUEST_CPUS[index].online.store(0, Ordering::Release);
    sbi::error_of(
        extension::HSM,
        hsm::START,
        [hart_of(index), secondary_entry(), index as u64],
    )
}

/// Whether CPU `index` runs its entry function.
pub fn cpu_is_online(index: usize) -> bool {
    GUEST_CPUS[index].online.load(Ordering::Acquire) != 0
}

/// Whether any but this CPU runs.
pub(super) fn others_are_online() -> bool {
    (0..MAX_CPUS).any(|index| index != cpu_index() && cpu_is_online(index))
}

/// What `cpu_start` says of a CPU that runs.
pub const CPU_ALREADY_ON: i64 = error::ALREADY_AVAILABLE;

/// Puts the mark of `cpu_is_online` back after a start that was refused.
pub fn set_cpu_online(index: usize, online: bool) {
    GUEST_CPUS[index]
        .online
        .store(u32::from(online), Ordering::Release);
}

/// Turns this CPU off; returns only if the SBI refuses.
pub fn cpu_stop() -> i64 {
    this_cpu().online.store(0, Ordering::Release);
    sbi::error_of(extension::HSM, hsm::STOP, [0; 3])
}

/// What the SBI says of the state of CPU `index`.
pub fn cpu_status(index: usize) -> sbi::Answer {
    sbi::call(extension::HSM, hsm::STATUS, [hart_of(index), 0, 0, 0, 0])
}

/// Whether the SBI says that CPU `index` is off.
pub fn cpu_is_off(index: usize) -> bool {
    let answer = cpu_status(index);
    (answer.error, answer.value) == (error::SUCCESS, hsm::STOPPED)
}

/// Interrupts CPU `target`.
pub fn ipi_send(target: usize) {
    sbi::error_of(extension::IPI, 0, [1, hart_of(target), 0]);
}

#[unsafe(no_mangle)]
extern "C" fn guest_secondary(index: usize) -> ! {
    mmu::enable();
    trap::init_cpu();
    plic::init_cpu();
    let own = this_cpu();
    own.online.store(1, Ordering::Release);
    let entry = own.entry.load(Ordering::Acquire);
    if entry != 0 {
        // SAFETY: only `cpu_start` stores here, and it stores a `fn(usize)`.
        let entry: fn(usize) = unsafe { core::mem::transmute(entry) };
        entry(index);
    }
    super::irq_off();
    cpu_stop();
    loop {
        super::wait();
    }
}
