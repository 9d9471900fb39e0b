//! x86-64 guest of kind PVH: entry, tables, exceptions, local APIC, CPUs, timer, and the hypercall gates.
//!
//! Words of the command line that choose among ways: `gate=page`, `apic=xapic`, `timer=oneshot`,
//! `start=vcpu_op`, `upcall=callback`.

mod access;
pub mod apic;
mod cpu;
mod entry;
mod gate;
mod landing;
pub mod paging;
pub mod regs;
pub mod start_info;
mod timer;
mod trap;

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use crate::landing::{attempt, escape};
pub use access::*;
pub use cpu::*;
pub use gate::{
    hypercall, hypercall_by_page, hypercall_from_32_bit_code, hypercall_page, is_amd, leaves,
};
pub use landing::fault_of;
pub use paging::{Access, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, map_page, unmap_page};
pub use start_info::command_line;
pub use timer::{
    apic_hertz, has_deadline, now, on_timer, ticks_per_second, timer_at, timer_every, timer_off,
    turns,
};
pub use trap::{Fault, exception};

pub use crate::xen::translated::{console_ring, frame_of, map_grant_frame, shared_info};

use crate::bootargs;
use crate::xen::{hvm, sched, shared};

/// Name of this architecture and guest type, for the result lines.
pub const NAME: &str = "x86_64";
/// What the hypervisor's capabilities say for this guest type.
pub const CAPABILITY: &str = "hvm-3.0-x86_64";
/// How `XENMEM_memory_map` answers.
pub const MEMORY_MAP_ANSWER: i64 = 0;
/// Byte offset of `evtchn_pending` in the shared-info page: 32 legacy `vcpu_info` of 64 bytes are before it.
pub const SHARED_PENDING: u64 = 2048;
/// Whether `VCPUOP_down` takes a vCPU down, and so ends a domain that has no other.
pub const HAS_VCPU_DOWN: bool = true;
/// Whether the hypervisor translates frame numbers.
pub const IS_TRANSLATED: bool = true;
/// Whether a domain that maps its own grant may find its page moved there and gone from where it was: Xen keeps one
/// place for each frame of a translated domain here.
pub const OWN_GRANT_MOVES: bool = true;

static GRANT_WINDOW: AtomicU64 = AtomicU64::new(0);
static BY_CALLBACK: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    static _head: u8;
    static _end: u8;
    static _constants_end: u8;
}

/// Addresses that the guest's code, data and stacks take.
pub fn image() -> Range<u64> {
    (&raw const _head) as u64..(&raw const _end) as u64
}

/// Addresses of the guest's code and constants, which nothing writes once it runs.
pub fn code() -> Range<u64> {
    (&raw const _head) as u64..(&raw const _constants_end) as u64 & !7
}

/// Lets this CPU take interrupts.
pub fn irq_on() {
    // SAFETY: the vectors are set.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts from this CPU.
pub fn irq_off() {
    // SAFETY: masks interrupts.
    unsafe { asm!("cli", options(nostack)) };
}

/// Whether this CPU takes interrupts.
pub fn irqs_are_on() -> bool {
    regs::flags() >> 9 & 1 != 0
}

/// Waits until an interrupt is pending, masked or not. A halt with interrupts masked would never end.
pub fn wait() {
    while !(apic::is_pending() || by_callback() && shared::upcall_pending(cpu_index())) {
        relax();
    }
}

/// With interrupts masked: sleeps until one is pending, takes it, and masks them again.
pub fn wait_and_take() {
    // SAFETY: no interrupt is taken between STI and HLT.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Blocks by the hypercall until this CPU's timer has fired, `ticks` from now or a hundredth of a second. The timer
/// goes on firing until then, since an interrupt may be taken just before the call and the call does not look back; it
/// does so slowly enough for an emulator on a busy machine.
pub fn block_for(ticks: u64) -> i64 {
    static FIRED: AtomicU64 = AtomicU64::new(0);
    let before = FIRED.load(Ordering::SeqCst);
    on_timer(|_| {
        FIRED.fetch_add(1, Ordering::SeqCst);
    });
    timer_every(ticks.max(ticks_per_second() / 100));
    irq_on();
    let errno = sched::block();
    irq_off();
    timer_off();
    let fired = FIRED.load(Ordering::SeqCst) != before;
    if errno == 0 && !fired {
        i64::MIN
    } else {
        errno
    }
}

/// Whether nothing is behind the mapped address: reads give ones and writes are dropped.
pub fn is_nothing_at(address: u64) -> bool {
    if read64(address) != u64::MAX {
        return false;
    }
    write64(address, 0x5aa5);
    read64(address) == u64::MAX
}

/// A mapped address with no RAM behind it.
pub fn device_address() -> u64 {
    apic::BASE
}

/// Counter value at this CPU's last interrupt or exception entry.
pub fn entry_stamp() -> u64 {
    this_cpu().stamp.load(Ordering::Relaxed)
}

fn by_callback() -> bool {
    BY_CALLBACK.load(Ordering::Relaxed) != 0
}

/// Whether the upcall comes through the local APIC, which must hear of its end.
pub(crate) fn upcall_needs_end() -> bool {
    !by_callback()
}

/// Has `handler` called on this CPU when the hypervisor signals an event: by the vCPU's own vector through its local
/// APIC, or with the word `upcall=callback` by the domain's callback vector, past the APIC.
pub fn on_event(handler: fn(u32)) {
    apic::on_vector(apic::vector::EVENT, handler);
    let vector = apic::vector::EVENT;
    if this_cpu().upcall.swap(1, Ordering::Relaxed) != 0 {
        return;
    }
    let errno = if by_callback() {
        hvm::set_param(hvm::PARAM_CALLBACK_IRQ, 2 << 56 | u64::from(vector))
    } else {
        hvm::set_upcall_vector(cpu_index() as u32, vector)
    };
    assert!(errno == 0, "upcall vector: {errno}");
}

/// Has `handler` called on this CPU when another sends it an interrupt.
pub fn on_ipi(handler: fn(u32)) {
    apic::on_vector(apic::vector::IPI, handler);
}

/// Interrupts CPU `target`.
pub fn ipi_send(target: usize) {
    apic::send(apic_id_of(target), apic::vector::IPI);
}

/// Guest-physical start of the window where the grant table may be mapped.
pub fn grant_window() -> u64 {
    GRANT_WINDOW.load(Ordering::Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn guest_primary() -> ! {
    trap::init();
    cpu::prepare(0);
    gate::init();
    let window = start_info::free_gib();
    GRANT_WINDOW.store(window, Ordering::Relaxed);
    paging::init(window);
    crate::console::init(None);
    BY_CALLBACK.store(
        u32::from(bootargs::word("upcall") == Some("callback")),
        Ordering::Relaxed,
    );
    timer::init();
    apic::init();
    cpu::init();
    crate::run()
}
