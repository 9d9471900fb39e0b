//! RISC-V guest: entry, tables, exceptions, PLIC, SBI, timer, and the Xen hypercall gate.
//!
//! The same image also runs on the bare machine behind its firmware: there it prints and ends by the SBI, and the cases
//! that make no hypercall say what the firmware and the CPU themselves do. Word of the command line: `timer=stimecmp`.

mod code;
mod cpu;
mod entry;
mod landing;
mod mmu;
pub mod plic;
pub mod sbi;
mod timer;
mod trap;
mod user;

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use fdt::node::FdtNode;

pub use code::{CODE_SLOT, fault_of_code, user_code, user_code_until};
pub use cpu::*;
pub use mmu::{
    Access, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, entry_for, map_page, map_page_here,
    set_table, unmap_page,
};
pub use timer::{
    has_sstc, now, on_timer, set_stimecmp, ticks_per_second, timer_at, timer_at_by_sbi, timer_off,
    turns,
};
pub use trap::{
    Fault, cause, clear_software, disable, enable, fault_of, interrupt, is_pending,
    with_many_vectors,
};
pub use user::{A0, User};

pub use crate::landing::{attempt, escape};
pub use crate::xen::translated::{console_ring, frame_of, map_grant_frame, shared_info};

/// Name of this architecture and guest type, for the result lines.
pub const NAME: &str = "riscv64";
/// What the hypervisor's capabilities say for this guest type.
pub const CAPABILITY: &str = "xen-3.0-riscv64";
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

static EVENT_SOURCES: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static GRANT_WINDOW: AtomicU64 = AtomicU64::new(0);

/// A copy of the device tree, which is safe from what cases do to memory outside the image.
#[repr(C, align(8))]
struct Tree(UnsafeCell<[u8; TREE_BYTES]>);

// SAFETY: written by the first CPU before anything reads it.
unsafe impl Sync for Tree {}

const TREE_BYTES: usize = 64 * 1024;
static TREE: Tree = Tree(UnsafeCell::new([0; TREE_BYTES]));

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
    let mut result = 0u64;
    // SAFETY: the calling convention of the SBI's space for Xen; the argument registers are clobbered.
    unsafe {
        asm!("ecall", inout("a0") result, inout("a1") args[0] => _, inout("a2") args[1] => _,
             inout("a3") args[2] => _, inout("a4") args[3] => _, inout("a5") args[4] => _,
             in("a6") number, in("a7") sbi::extension::XEN)
    };
    result as i64
}

/// Lets this CPU take interrupts.
pub fn irq_on() {
    // SAFETY: unmasks interrupts, whose vectors are set.
    unsafe { asm!("csrsi sstatus, 2", options(nostack)) };
}

/// Keeps interrupts from this CPU.
pub fn irq_off() {
    // SAFETY: masks interrupts.
    unsafe { asm!("csrci sstatus, 2", options(nostack)) };
}

/// Whether this CPU takes interrupts.
pub fn irqs_are_on() -> bool {
    let status: u64;
    // SAFETY: a register read.
    unsafe { asm!("csrr {}, sstatus", out(reg) status, options(nomem, nostack)) };
    status >> 1 & 1 != 0
}

/// A mapped address with no RAM behind it.
pub fn device_address() -> u64 {
    plic::register(0)
}

/// Sleeps until an interrupt is pending, masked or not.
pub fn wait() {
    // SAFETY: WFI.
    unsafe { asm!("fence", "wfi") };
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

/// The time at this CPU's last interrupt or exception entry.
pub fn entry_stamp() -> u64 {
    this_cpu().stamp.load(Ordering::Relaxed)
}

/// Has `handler` called on this CPU when the hypervisor signals an event.
pub fn on_event(handler: fn(u32)) {
    let source = event_source(cpu_index());
    if source != 0 {
        plic::on_source(source, handler);
    }
}

/// Has `handler` called on this CPU when another sends it an interrupt.
pub fn on_ipi(handler: fn(u32)) {
    trap::on_cause(interrupt::SOFTWARE, handler);
}

/// Interrupt source of the event-channel upcall of CPU `index`; 0 without a hypervisor.
pub fn event_source(index: usize) -> u32 {
    EVENT_SOURCES[index].load(Ordering::Relaxed)
}

/// Guest-physical start of the window where the grant table may be mapped.
pub fn grant_window() -> u64 {
    GRANT_WINDOW.load(Ordering::Relaxed)
}

macro_rules! mmio {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal) => {
        /// One device read; a single instruction.
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // SAFETY: one load that the test means to do; a fault is caught or ends the guest.
            unsafe {
                asm!(concat!($load, " {}, 0({})"), out(reg) value, in(reg) address, options(nostack))
            };
            value as $type
        }

        /// One device write; a single instruction.
        pub fn $write(address: u64, value: $type) {
            // SAFETY: one store that the test means to do; a fault is caught or ends the guest.
            unsafe {
                asm!(concat!($store, " {}, 0({})"), in(reg) value as u64, in(reg) address, options(nostack))
            };
        }
    };
}

mmio!(read8, write8, u8, "lbu", "sb");
mmio!(read16, write16, u16, "lhu", "sh");
mmio!(read32, write32, u32, "lwu", "sw");
mmio!(read64, write64, u64, "ld", "sd");

/// The `index`th cell of a property.
fn cells(node: &FdtNode, property: &str, index: usize) -> Option<u32> {
    let bytes = node.property(property)?.value;
    let cell = bytes.get(index * 4..index * 4 + 4)?;
    Some(u32::from_be_bytes(cell.try_into().ok()?))
}

/// The command line.
pub fn command_line() -> &'static str {
    device_tree()
        .find_node("/chosen")
        .and_then(|node| node.property("bootargs")?.as_str())
        .unwrap_or("")
}

/// The device tree that the guest was given.
pub fn device_tree() -> fdt::Fdt<'static> {
    // SAFETY: it was copied at the start, and nothing writes there any more.
    match fdt::Fdt::new(unsafe { &*TREE.0.get() }) {
        Ok(tree) => tree,
        Err(_) => panic!("the device tree does not parse"),
    }
}

/// Keeps the device tree that is at `address`.
fn keep_tree(address: u64) {
    const LENGTH: u64 = 4;
    let bytes = (read32(address + LENGTH).swap_bytes() as usize).min(TREE_BYTES);
    // SAFETY: the tree is that long, and only this CPU runs.
    unsafe { (address as *const u8).copy_to_nonoverlapping(TREE.0.get().cast(), bytes) };
}

#[unsafe(no_mangle)]
extern "C" fn guest_primary(hart: u64, dtb: u64) -> ! {
    keep_tree(dtb);
    let tree = device_tree();
    mmu::build();
    for bank in tree.memory().regions() {
        mmu::map_ram(bank.starting_address as u64, bank.size.unwrap_or(0) as u64);
    }
    mmu::enable();
    if let Some(node) = tree.find_compatible(&["xen,xen"]) {
        let window = node.reg().and_then(|mut regions| regions.next());
        let window = window.map_or(0, |window| window.starting_address as u64);
        GRANT_WINDOW.store(window, Ordering::Relaxed);
        for (index, source) in EVENT_SOURCES.iter().enumerate() {
            let number = cells(&node, "interrupts", index);
            source.store(number.unwrap_or(0), Ordering::Relaxed);
        }
    }
    if sbi::is_bare() {
        crate::console::by(sbi::write);
    } else {
        crate::console::init(None);
    }
    cpu::init(&tree, hart);
    timer::init(&tree);
    trap::init_cpu();
    plic::init(&tree);
    this_cpu().online.store(1, Ordering::Release);
    crate::run()
}
