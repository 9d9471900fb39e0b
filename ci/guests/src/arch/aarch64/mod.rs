//! AArch64 guest: entry, tables, exceptions, GIC, PSCI, timer, and the Xen hypercall gate.

mod cpu;
mod entry;
pub mod gic;
mod mmu;
mod timer;
mod trap;

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use fdt::node::FdtNode;

pub use cpu::*;
pub use mmu::{Access, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, map_page, unmap_page};
pub use timer::{now, on_timer, ticks_per_second, timer_at, timer_line, timer_off, turns};
pub use trap::{Fault, attempt, class, fault_of};

pub use crate::landing::escape;
pub use crate::xen::translated::{console_ring, frame_of, map_grant_frame, shared_info};

/// Name of this architecture and guest type, for the result lines.
pub const NAME: &str = "aarch64";
/// What the hypervisor's capabilities say for this guest type.
pub const CAPABILITY: &str = "xen-3.0-aarch64";
/// How `XENMEM_memory_map` answers: there is no firmware map here.
pub const MEMORY_MAP_ANSWER: i64 = crate::xen::errno::ENOSYS;
/// Byte offset of `evtchn_pending` in the shared-info page: one legacy `vcpu_info` of 48 bytes is before it.
pub const SHARED_PENDING: u64 = 48;
/// Whether `VCPUOP_down` takes a vCPU down, and so ends a domain that has no other.
pub const HAS_VCPU_DOWN: bool = false;
/// Whether a domain that maps its own grant may find its page moved there and gone from where it was.
pub const OWN_GRANT_MOVES: bool = false;
/// Whether the hypervisor translates frame numbers.
pub const IS_TRANSLATED: bool = true;

static EVENT_LINE: AtomicU32 = AtomicU32::new(0);
static GRANT_WINDOW: AtomicU64 = AtomicU64::new(0);
static DTB: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static _head: u8;
    static _end: u8;
    static _rela_start: u8;
}

/// Addresses that the guest's code, data and stacks take.
pub fn image() -> Range<u64> {
    (&raw const _head) as u64..(&raw const _end) as u64
}

/// Addresses of the guest's code and constants, which nothing writes once it runs.
pub fn code() -> Range<u64> {
    (&raw const _head) as u64..(&raw const _rela_start) as u64 & !7
}

/// Calls the hypervisor; the result is its errno or count.
///
/// Declared safe for the sake of readable cases: what a hypercall may write is what its arguments
/// name, and a case names only buffers of its own or addresses that nothing lives at.
pub fn hypercall(number: u64, args: [u64; 5]) -> i64 {
    let mut x0 = args[0];
    // SAFETY: the arm-arch.h calling convention; x16 and the argument registers are clobbered.
    unsafe {
        asm!("hvc #0xea1", inout("x0") x0, inout("x1") args[1] => _, inout("x2") args[2] => _,
             inout("x3") args[3] => _, inout("x4") args[4] => _, inout("x16") number => _)
    };
    x0 as i64
}

/// Lets this CPU take interrupts.
pub fn irq_on() {
    // SAFETY: unmasks IRQs, whose vectors are set.
    unsafe { asm!("msr daifclr, #2", "isb") };
}

/// A mapped address with no RAM behind it, on any board.
pub fn device_address() -> u64 {
    gic::dist(0)
}

/// Keeps interrupts from this CPU.
pub fn irq_off() {
    // SAFETY: masks IRQs.
    unsafe { asm!("msr daifset, #2", "isb") };
}

/// Whether this CPU takes interrupts.
pub fn irqs_are_on() -> bool {
    let mask: u64;
    // SAFETY: a register read.
    unsafe { asm!("mrs {}, daif", out(reg) mask, options(nomem, nostack)) };
    mask >> 7 & 1 == 0
}

/// Sleeps until an interrupt is pending, masked or not.
pub fn wait() {
    // SAFETY: WFI.
    unsafe { asm!("dsb sy", "wfi") };
}

/// With interrupts masked: sleeps until one is pending, takes it, and masks them again.
pub fn wait_and_take() {
    wait();
    irq_on();
    irq_off();
}

/// Blocks by the hypercall until this CPU's timer has fired, `ticks` from now.
pub fn block_for(ticks: u64) -> i64 {
    static FIRED: AtomicU64 = AtomicU64::new(0);
    on_timer(|_| {
        timer_off();
        FIRED.fetch_add(1, Ordering::SeqCst);
    });
    irq_off();
    let before = FIRED.load(Ordering::SeqCst);
    timer_at(now() + ticks);
    while FIRED.load(Ordering::SeqCst) == before {
        let errno = crate::xen::sched::block();
        if errno != 0 {
            return errno;
        }
        irq_on();
        irq_off();
    }
    0
}

/// Whether nothing is behind the mapped address: an access to it faults.
pub fn is_nothing_at(address: u64) -> bool {
    fault_of(|| {
        read64(address);
    })
    .is_some()
        && fault_of(|| write64(address, 0)).is_some()
}

/// Counter value at this CPU's last interrupt or exception entry.
pub fn entry_stamp() -> u64 {
    this_cpu().stamp.load(Ordering::Relaxed)
}

/// Has `handler` called on this CPU when the hypervisor signals an event.
pub fn on_event(handler: fn(u32)) {
    gic::on_line(event_line(), handler);
}

/// The SGI that `ipi_send` sends.
pub const IPI_LINE: u32 = 1;

/// Has `handler` called on this CPU when another sends it an interrupt.
pub fn on_ipi(handler: fn(u32)) {
    gic::on_line(IPI_LINE, handler);
}

/// Interrupts CPU `target`.
pub fn ipi_send(target: usize) {
    gic::send_sgi(target, IPI_LINE);
}

/// Line of the event-channel upcall.
pub fn event_line() -> u32 {
    EVENT_LINE.load(Ordering::Relaxed)
}

/// Guest-physical start of the window where the grant table may be mapped.
pub fn grant_window() -> u64 {
    GRANT_WINDOW.load(Ordering::Relaxed)
}

macro_rules! mmio {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal) => {
        /// One device read; a single instruction with a valid syndrome.
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // SAFETY: one load that the test means to do; a fault is caught or ends the guest.
            unsafe { asm!($load, out(reg) value, in(reg) address, options(nostack)) };
            value as $type
        }

        /// One device write; a single instruction with a valid syndrome.
        pub fn $write(address: u64, value: $type) {
            // SAFETY: one store that the test means to do; a fault is caught or ends the guest.
            unsafe { asm!($store, in(reg) value as u64, in(reg) address, options(nostack)) };
        }
    };
}

mmio!(read8, write8, u8, "ldrb {0:w}, [{1}]", "strb {0:w}, [{1}]");
mmio!(
    read16,
    write16,
    u16,
    "ldrh {0:w}, [{1}]",
    "strh {0:w}, [{1}]"
);
mmio!(read32, write32, u32, "ldr {0:w}, [{1}]", "str {0:w}, [{1}]");
mmio!(read64, write64, u64, "ldr {0:x}, [{1}]", "str {0:x}, [{1}]");

/// The `index`th interrupt of a node with three-cell GIC specifiers.
fn interrupt(node: &FdtNode, index: usize) -> Option<u32> {
    let cells = node.property("interrupts")?.value;
    let cell = |n: usize| -> Option<u32> {
        let bytes = cells.get(n * 4..n * 4 + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let base = if cell(index * 3)? == 1 { 16 } else { 32 };
    Some(base + cell(index * 3 + 1)?)
}

/// The command line.
pub fn command_line() -> &'static str {
    device_tree()
        .find_node("/chosen")
        .and_then(|node| node.property("bootargs")?.as_str())
        .unwrap_or("")
}

/// The PL011 that the device tree names as console, if the hypervisor emulates one.
fn console_uart(tree: &fdt::Fdt) -> Option<u64> {
    let node = tree.chosen().stdout()?;
    let is_uart = node.compatible()?.all().any(|name| name == "arm,sbsa-uart");
    let region = node.reg()?.next()?;
    is_uart.then_some(region.starting_address as u64)
}

/// The device tree that the guest was given.
pub fn device_tree() -> fdt::Fdt<'static> {
    // SAFETY: the address came in x0, and nothing writes there.
    match unsafe { fdt::Fdt::from_ptr(DTB.load(Ordering::Relaxed) as *const u8) } {
        Ok(tree) => tree,
        Err(_) => panic!("the device tree does not parse"),
    }
}

#[unsafe(no_mangle)]
extern "C" fn guest_primary(dtb: u64) -> ! {
    DTB.store(dtb, Ordering::Relaxed);
    let tree = device_tree();
    mmu::build();
    for bank in tree.memory().regions() {
        mmu::map_normal(bank.starting_address as u64, bank.size.unwrap_or(0) as u64);
    }
    let node = tree.find_compatible(&["xen,xen"]);
    let window = node
        .and_then(|node| node.reg())
        .and_then(|mut regions| regions.next());
    if let Some(window) = window {
        mmu::map_normal(
            window.starting_address as u64,
            window.size.unwrap_or(0) as u64,
        );
        GRANT_WINDOW.store(window.starting_address as u64, Ordering::Relaxed);
    }
    mmu::enable();
    EVENT_LINE.store(
        node.and_then(|node| interrupt(&node, 0)).unwrap_or(31),
        Ordering::Relaxed,
    );
    crate::console::init(console_uart(&tree));
    cpu::init(&tree);
    timer::init(&tree);
    gic::init(&tree);
    this_cpu().online.store(1, Ordering::Release);
    crate::run()
}
