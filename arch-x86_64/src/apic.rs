//! The local interrupt controller of each CPU (Intel SDM, volume 3, chapter 11): as x2APIC by its MSRs where the CPU has
//! that, else as xAPIC by its registers in memory. The boot CPU decides, every other does the same.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use spin::Once;
use x86_64::registers::model_specific::Msr;
use xenolith_hal::{CpuId, HostPhys, MAX_CPUS, PAGE_SIZE};

use crate::{
    cpu::{cpuid::cpuid, percpu::cpu_id, vectors},
    mm::hyp::Hyp,
};

const APIC_BASE: u32 = 0x1b;
const APIC_ON: u64 = 1 << 11;
const X2APIC_ON: u64 = 1 << 10;
const X2APIC_FIRST: u32 = 0x800;

/// Register numbers: offset in memory divided by 16, which is also the distance of the MSR.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Register {
    Id = 0x02,
    EndOfInterrupt = 0x0b,
    Spurious = 0x0f,
    RequestFirst = 0x20,
    CommandLow = 0x30,
    CommandHigh = 0x31,
    TimerVector = 0x32,
    LineOne = 0x36,
    TimerCount = 0x38,
    TimerCurrent = 0x39,
    TimerDivide = 0x3e,
}

enum Access {
    Memory(AtomicU64),
    Msrs,
}

static ACCESS: Once<Access> = Once::new();

/// Where every CPU has its registers in memory.
static PLACE: AtomicU64 = AtomicU64::new(0);

/// APIC number of each CPU.
static IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Whether the registers are in the page with this address.
pub fn is_at(page: HostPhys) -> bool {
    page.frame() == HostPhys(PLACE.load(Relaxed)).frame()
}

fn read_msr(number: u32) -> u64 {
    // SAFETY: the registers read here exist on every CPU with a local APIC, and reading them changes nothing.
    unsafe { Msr::new(number).read() }
}

fn write_msr(number: u32, value: u64) {
    // SAFETY: only registers of the local APIC are written here, and its mode; none changes how memory is mapped.
    unsafe { Msr::new(number).write(value) }
}

/// Finds how the registers are reached, on the boot CPU. `x2apic` says whether that mode may be switched on; one that
/// firmware has switched on stays.
pub fn init(registers: HostPhys, x2apic: bool) -> Result<(), &'static str> {
    const HAS_X2APIC: u32 = 1 << 21;
    PLACE.store(registers.0, Relaxed);
    let exists = cpuid(1, 0).ecx & HAS_X2APIC != 0;
    let is_on = read_msr(APIC_BASE) & X2APIC_ON != 0;
    if is_on && !x2apic {
        log::warn!("x2apic=no has no effect: firmware has switched the mode on");
    }
    let access = if is_on || exists && x2apic {
        Access::Msrs
    } else {
        let va = Hyp::map_device(registers, PAGE_SIZE as u64)
            .map_err(|_| "out of page tables for the local APIC")?;
        Access::Memory(AtomicU64::new(va as u64))
    };
    log::info!(
        "local APICs as {}{}",
        if is_x2apic(&access) {
            "x2APIC"
        } else {
            "xAPIC"
        },
        if is_on {
            ", switched on by firmware"
        } else {
            ""
        }
    );
    ACCESS.call_once(|| access);
    mask_legacy_controllers();
    Ok(())
}

const fn is_x2apic(access: &Access) -> bool {
    matches!(access, Access::Msrs)
}

/// The largest APIC number that a CPU can have to be reached by interrupts of other CPUs.
pub fn last_id() -> u32 {
    if ACCESS.get().is_some_and(is_x2apic) {
        u32::MAX - 1
    } else {
        LAST_XAPIC_ID
    }
}

/// The largest number in eight bits; the one after it means everyone.
pub const LAST_XAPIC_ID: u32 = 0xfe;

fn read(register: Register) -> u32 {
    match ACCESS.get() {
        // SAFETY: the page of registers is mapped for ever.
        Some(Access::Memory(base)) => unsafe {
            ((base.load(Relaxed) + register as u64 * 16) as *const u32).read_volatile()
        },
        Some(Access::Msrs) => read_msr(X2APIC_FIRST + register as u32) as u32,
        None => 0,
    }
}

fn write(register: Register, value: u32) {
    match ACCESS.get() {
        // SAFETY: the page of registers is mapped for ever.
        Some(Access::Memory(base)) => unsafe {
            ((base.load(Relaxed) + register as u64 * 16) as *mut u32).write_volatile(value);
        },
        Some(Access::Msrs) => write_msr(X2APIC_FIRST + register as u32, value.into()),
        None => {}
    }
}

/// Nothing comes from the PC's two old controllers: their interrupts could not be told from exceptions.
fn mask_legacy_controllers() {
    for port in [0x21u16, 0xa1] {
        // SAFETY: the mask registers of the two controllers.
        unsafe { x86_64::instructions::port::Port::<u8>::new(port).write(0xff) }
    }
}

/// Lets the executing CPU receive interrupts.
pub fn enable() {
    const SOFTWARE_ENABLE: u32 = 1 << 8;
    const MASKED: u32 = 1 << 16;
    const BY_ONE: u32 = 0b1011;
    switch_mode();
    write(Register::TimerVector, MASKED | u32::from(vectors::TIMER));
    write(Register::TimerDivide, BY_ONE);
    write(
        Register::Spurious,
        SOFTWARE_ENABLE | u32::from(vectors::SPURIOUS),
    );
}

/// Lets the executing CPU take the machine's non-maskable interrupts, which come by line 1 on every PC.
pub fn take_machines_nmis() {
    const NMI: u32 = 4 << 8;
    write(Register::LineOne, NMI);
}

/// Makes the executing CPU's controller what that of the boot CPU is.
fn switch_mode() {
    if !ACCESS.get().is_some_and(is_x2apic) {
        return;
    }
    let base = read_msr(APIC_BASE);
    // From off to x2APIC there is no way but this one.
    for bits in [APIC_ON, APIC_ON | X2APIC_ON] {
        if base & bits != bits {
            write_msr(APIC_BASE, base | bits);
        }
    }
}

/// The executing CPU's APIC number.
pub fn own_id() -> u32 {
    match ACCESS.get() {
        Some(Access::Memory(_)) => read(Register::Id) >> 24,
        _ => read(Register::Id),
    }
}

/// Tells which APIC number a CPU has.
pub fn set_id(cpu: CpuId, id: u32) {
    if let Some(slot) = IDS.get(cpu.index()) {
        slot.store(id, Relaxed);
    }
}

/// The interrupt that is served is done.
pub fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

fn send(id: u32, command: u32) {
    const BUSY: u32 = 1 << 12;
    match ACCESS.get() {
        Some(Access::Msrs) => {
            // Unlike a store to the registers in memory, the write does not wait for stores before it.
            // SAFETY: the fences change nothing.
            unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) }
            write_msr(
                X2APIC_FIRST + Register::CommandLow as u32,
                u64::from(id) << 32 | u64::from(command),
            );
        }
        _ => {
            write(Register::CommandHigh, id << 24);
            write(Register::CommandLow, command);
            while read(Register::CommandLow) & BUSY != 0 {
                core::hint::spin_loop();
            }
        }
    }
}

const ASSERT: u32 = 1 << 14;

/// Resets a CPU; it then waits for [`send_startup`].
pub fn send_init(id: u32) {
    const INIT: u32 = 5 << 8;
    send(id, ASSERT | INIT);
}

/// Starts a CPU that was reset, in real mode at a page below 1 MiB.
pub fn send_startup(id: u32, page: HostPhys) {
    const STARTUP: u32 = 6 << 8;
    send(id, ASSERT | STARTUP | (page.frame().0 as u32 & 0xff));
}

/// The APIC number of a CPU that has come up.
pub fn id_of(cpu: CpuId) -> u32 {
    IDS.get(cpu.index()).map_or(0, |slot| slot.load(Relaxed))
}

/// An APIC number that an IOAPIC or a device's message can hold: the executing CPU's, else that of the first CPU that has
/// such a one.
pub fn id_for_devices() -> u8 {
    let fits = |id: u32| {
        u8::try_from(id)
            .ok()
            .filter(|id| u32::from(*id) <= LAST_XAPIC_ID)
    };
    let first = || IDS.iter().find_map(|id| fits(id.load(Relaxed)));
    fits(own_id()).or_else(first).unwrap_or(0)
}

/// Makes another CPU leave its sleep or its guest.
pub fn kick(cpu: CpuId) {
    send(id_of(cpu), ASSERT | u32::from(vectors::KICK));
}

/// Interrupts the executing CPU itself. It may interrupt [`kick`]: the register that says whom that means is left as it is.
pub fn kick_self() {
    const SELF: u32 = 1 << 18;
    write(
        Register::CommandLow,
        SELF | ASSERT | u32::from(vectors::KICK),
    );
}

/// When each CPU looks next whether an interrupt waits, by its own counter.
static NEXT_LOOKS: [NextLook; MAX_CPUS] = [const { NextLook(AtomicU64::new(0)) }; MAX_CPUS];

/// On a line of the cache of its own.
#[repr(align(64))]
struct NextLook(AtomicU64);

/// Whether an interrupt waits for this CPU. Who asks often is told of it a microsecond late at most: to look takes long, and
/// those who do many small things ask between any two.
#[inline]
pub fn interrupt_waits() -> bool {
    /// Less than a microsecond on any CPU.
    const PAUSE: u64 = 1000;
    let Some(NextLook(next)) = NEXT_LOOKS.get(cpu_id().index()) else {
        return looks_waiting();
    };
    // SAFETY: every CPU with long mode has the counter.
    let now = unsafe { core::arch::x86_64::_rdtsc() };
    // A counter that was set back is not waited for.
    if next.load(Relaxed).wrapping_sub(now) <= PAUSE {
        return false;
    }
    let waits = looks_waiting();
    if !waits {
        next.store(now.wrapping_add(PAUSE), Relaxed);
    }
    waits
}

#[inline(never)]
fn looks_waiting() -> bool {
    // The first of the eight registers is for exceptions.
    let mut requests = (1..8)
        .rev()
        .map(|index| Register::RequestFirst as u32 + index);
    match ACCESS.get() {
        Some(Access::Memory(base)) => requests.any(|register| {
            let at = base.load(Relaxed) + u64::from(register) * 16;
            // SAFETY: the page of registers is mapped for ever.
            unsafe { (at as *const u32).read_volatile() != 0 }
        }),
        Some(Access::Msrs) => requests.any(|register| read_msr(X2APIC_FIRST + register) != 0),
        None => false,
    }
}

/// Has the APIC compare its requests with the task priority again, which is 0 before and after.
///
/// A processor's never forgets one. The one of QEMU's SVM can: an exit clears a bit in the word that the emulator's device thread
/// sets another bit in at that moment (`do_vmexit`), and a CPU that then sleeps never wakes.
#[inline(always)]
pub fn look_again() {
    // SAFETY: the hypervisor's task priority is always 0.
    unsafe {
        core::arch::asm!("mov cr8, {}", in(reg) 0_u64, options(nostack, preserves_flags));
    }
}

/// Starts the timer from a count, or stops it (0); an interrupt comes when it has run down.
pub fn start_timer(count: u32) {
    write(Register::TimerVector, u32::from(vectors::TIMER));
    write(Register::TimerCount, count);
}

/// How far the timer has run down.
pub fn timer_count() -> u32 {
    read(Register::TimerCurrent)
}
