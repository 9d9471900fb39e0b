//! GICv2 and GICv3 as a guest sees them, found in the device tree. All interrupts are group 1.
//! Arm IHI 0048 (v2) and IHI 0069 (v3).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::cpu::{cpu_index, mpidr_of};
use super::{read32, read64, write32};

/// Distributor registers (byte offsets), the same in both versions.
#[allow(missing_docs)]
pub mod gicd {
    pub const CTLR: u64 = 0x000;
    pub const TYPER: u64 = 0x004;
    pub const IIDR: u64 = 0x008;
    pub const ISENABLER: u64 = 0x100;
    pub const ICENABLER: u64 = 0x180;
    pub const ISPENDR: u64 = 0x200;
    pub const ICPENDR: u64 = 0x280;
    pub const ISACTIVER: u64 = 0x300;
    pub const ICACTIVER: u64 = 0x380;
    pub const IPRIORITYR: u64 = 0x400;
    pub const ITARGETSR: u64 = 0x800;
    pub const ICFGR: u64 = 0xc00;
    pub const SGIR: u64 = 0xf00;
    pub const SPENDSGIR: u64 = 0xf20;
    pub const IROUTER: u64 = 0x6000;
}

/// Redistributor registers; the SGI frame follows at `SGI_FRAME`.
#[allow(missing_docs)]
pub mod gicr {
    pub const WAKER: u64 = 0x014;
    pub const TYPER: u64 = 0x008;
    pub const SGI_FRAME: u64 = 0x1_0000;
    pub const STRIDE: u64 = 0x2_0000;
}

/// CPU-interface registers of version 2.
#[allow(missing_docs)]
pub mod gicc {
    pub const CTLR: u64 = 0x000;
    pub const PMR: u64 = 0x004;
    pub const BPR: u64 = 0x008;
    pub const IAR: u64 = 0x00c;
    pub const EOIR: u64 = 0x010;
    pub const RPR: u64 = 0x014;
    pub const HPPIR: u64 = 0x018;
}

static VERSION: AtomicU64 = AtomicU64::new(0);
static GICD: AtomicU64 = AtomicU64::new(0);
static SECOND: AtomicU64 = AtomicU64::new(0);
static SECOND_SIZE: AtomicU64 = AtomicU64::new(0);
static HANDLERS: [AtomicUsize; 1024] = [const { AtomicUsize::new(0) }; 1024];

/// 2 or 3; 0 before the device tree was read.
pub fn version() -> u64 {
    VERSION.load(Ordering::Relaxed)
}

/// Address of a distributor register.
pub fn dist(offset: u64) -> u64 {
    GICD.load(Ordering::Relaxed) + offset
}

/// Address of a CPU-interface register (version 2).
pub fn cpu_interface(offset: u64) -> u64 {
    SECOND.load(Ordering::Relaxed) + offset
}

/// Address of a register in CPU `index`'s redistributor (version 3).
pub fn redist(index: usize, offset: u64) -> u64 {
    let mut frame = SECOND.load(Ordering::Relaxed);
    let end = frame + SECOND_SIZE.load(Ordering::Relaxed);
    let mpidr = mpidr_of(index);
    let wanted = (mpidr & 0xff_ffff) | (mpidr >> 8 & 0xff00_0000);
    while frame < end {
        let typer = read64(frame + gicr::TYPER);
        if typer >> 32 == wanted {
            break;
        }
        if typer & 1 << 4 != 0 {
            panic!("no redistributor for cpu {index}");
        }
        frame += gicr::STRIDE;
    }
    frame + offset
}

/// Address of the banked or shared register that holds `line`'s bit in a one-bit-a-line array.
pub fn line_register(line: u32, array: u64) -> u64 {
    if line < 32 && version() == 3 {
        redist(cpu_index(), gicr::SGI_FRAME + array)
    } else {
        dist(array + u64::from(line / 32) * 4)
    }
}

/// Sets `line`'s bit in one of the set/clear arrays (ISENABLER, ISPENDR, ...).
pub fn set_bit(line: u32, array: u64) {
    write32(line_register(line, array), 1 << (line % 32));
}

/// Reads `line`'s bit in one of the one-bit-a-line arrays.
pub fn bit(line: u32, array: u64) -> bool {
    read32(line_register(line, array)) >> (line % 32) & 1 != 0
}

/// Sets the priority of `line`; lower is more urgent.
pub fn set_priority(line: u32, priority: u8) {
    let array = gicd::IPRIORITYR + u64::from(line);
    let address = if line < 32 && version() == 3 {
        redist(cpu_index(), gicr::SGI_FRAME + array)
    } else {
        dist(array)
    };
    super::write8(address, priority);
}

/// Enables `line` (on this CPU, if it is private to each) and has `handler` called with its number on the
/// CPU that takes it. A line has one handler for all CPUs.
pub fn on_line(line: u32, handler: fn(u32)) {
    HANDLERS[line as usize].store(handler as usize, Ordering::Relaxed);
    set_bit(line, gicd::ISENABLER);
}

/// Sends SGI `line` to CPU `target`.
pub fn send_sgi(target: usize, line: u32) {
    let mpidr = mpidr_of(target);
    if version() == 3 {
        let value = (1 << (mpidr & 15))
            | (mpidr >> 8 & 0xff) << 16
            | u64::from(line) << 24
            | (mpidr >> 16 & 0xff) << 32
            | (mpidr >> 32 & 0xff) << 48;
        // SAFETY: ICC_SGI1R_EL1 raises an SGI; memory written before must be seen by its handler.
        unsafe { asm!("dsb ishst", "msr s3_0_c12_c11_5, {}", "isb", in(reg) value) };
    } else {
        // SAFETY: a barrier.
        unsafe { asm!("dsb ishst") };
        write32(dist(gicd::SGIR), (1 << (16 + target)) | line);
    }
}

/// Acknowledges the most urgent pending interrupt; 1020 and above mean none. Version 2 keeps the
/// sender's CPU number above bit 10: give the value unchanged to `end`.
pub fn acknowledge() -> u32 {
    if version() == 3 {
        let line: u64;
        // SAFETY: ICC_IAR1_EL1 acknowledges an interrupt.
        unsafe { asm!("mrs {}, s3_0_c12_c12_0", "dsb sy", out(reg) line) };
        line as u32
    } else {
        read32(cpu_interface(gicc::IAR))
    }
}

/// Ends what `acknowledge` gave.
pub fn end(token: u32) {
    if version() == 3 {
        // SAFETY: ICC_EOIR1_EL1 drops the priority and deactivates.
        unsafe { asm!("msr s3_0_c12_c12_1, {}", "isb", in(reg) u64::from(token)) };
    } else {
        write32(cpu_interface(gicc::EOIR), token);
    }
}

/// Masks interrupts of this priority and less urgent ones.
pub fn set_priority_mask(mask: u8) {
    if version() == 3 {
        // SAFETY: ICC_PMR_EL1.
        unsafe { asm!("msr s3_0_c4_c6_0, {}", "isb", in(reg) u64::from(mask)) };
    } else {
        write32(cpu_interface(gicc::PMR), u32::from(mask));
    }
}

/// The priority mask as it reads back.
pub fn priority_mask() -> u8 {
    if version() == 3 {
        let mask: u64;
        // SAFETY: ICC_PMR_EL1.
        unsafe { asm!("mrs {}, s3_0_c4_c6_0", out(reg) mask) };
        mask as u8
    } else {
        read32(cpu_interface(gicc::PMR)) as u8
    }
}

/// The priority of the interrupt being served; 0xff when none is.
pub fn running_priority() -> u8 {
    if version() == 3 {
        let priority: u64;
        // SAFETY: ICC_RPR_EL1.
        unsafe { asm!("mrs {}, s3_0_c12_c11_3", out(reg) priority) };
        priority as u8
    } else {
        read32(cpu_interface(gicc::RPR)) as u8
    }
}

/// Finds the interrupt controller and brings distributor and this CPU's interface up.
pub(super) fn init(fdt: &fdt::Fdt) {
    let v3 = fdt.find_compatible(&["arm,gic-v3"]);
    let v2 = fdt.find_compatible(&["arm,cortex-a15-gic", "arm,gic-400", "arm,cortex-a9-gic"]);
    let (version, node) = match (v3, v2) {
        (Some(node), _) => (3, node),
        (_, Some(node)) => (2, node),
        _ => panic!("no interrupt controller in the device tree"),
    };
    let mut regions = node.reg().into_iter().flatten();
    let (Some(first), Some(second)) = (regions.next(), regions.next()) else {
        panic!("interrupt controller without two regions");
    };
    VERSION.store(version, Ordering::Relaxed);
    GICD.store(first.starting_address as u64, Ordering::Relaxed);
    SECOND.store(second.starting_address as u64, Ordering::Relaxed);
    SECOND_SIZE.store(second.size.unwrap_or(0) as u64, Ordering::Relaxed);
    // Affinity routing and group 1 (as non-secure reads it); version 2 has just "enable".
    write32(dist(gicd::CTLR), if version == 3 { 0x12 } else { 1 });
    init_cpu();
}

/// Brings up this CPU's interface.
pub(super) fn init_cpu() {
    if version() == 3 {
        let waker = redist(cpu_index(), gicr::WAKER);
        write32(waker, read32(waker) & !2);
        // SAFETY: ICC_SRE, PMR, BPR1, CTLR (EOI also deactivates), IGRPEN1 of this CPU.
        unsafe {
            asm!("msr s3_0_c12_c12_5, {one}", "isb", "msr s3_0_c4_c6_0, {all}",
                 "msr s3_0_c12_c12_3, xzr", "msr s3_0_c12_c12_4, xzr",
                 "msr s3_0_c12_c12_7, {one}", "isb", one = in(reg) 1u64, all = in(reg) 0xf0u64)
        };
    } else {
        write32(cpu_interface(gicc::PMR), 0xf0);
        write32(cpu_interface(gicc::CTLR), 1);
    }
}

#[unsafe(no_mangle)]
extern "C" fn guest_irq_rust() {
    let token = acknowledge();
    let line = token & 0x3ff;
    if line >= 1020 {
        return;
    }
    let handler = HANDLERS[line as usize].load(Ordering::Relaxed);
    if handler == 0 {
        panic!("interrupt {line} without a handler");
    }
    // SAFETY: only `on_line` stores here, and it stores a `fn(u32)`.
    let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
    handler(line);
    end(token);
}
