//! x86-64 guest of kind PV: a deprivileged kernel in ring 3, on page tables that the hypervisor checks.
//! `public/arch-x86/xen-x86_64.h` and `public/xen.h` say what holds at entry and at each callback.
//!
//! Words of the command line that choose among ways: `gate=page`.

#[path = "../access.rs"]
mod access;
pub mod beside;
mod cpu;
mod entry;
mod gate;
#[path = "../landing.rs"]
mod landing;
pub mod low;
pub mod memory;
#[path = "../regs.rs"]
pub mod regs;
pub mod start_info;
pub mod tables;
mod timer;
pub mod trap;
pub mod upcall;
pub mod user;

use core::arch::asm;
use core::arch::x86_64::CpuidResult;
use core::ops::Range;

pub use crate::landing::{attempt, escape};
pub use access::*;
pub use cpu::*;
pub use gate::{hypercall, hypercall_by_page, hypercall_page, leaves};
pub use landing::fault_of;
pub use memory::frame_of;
pub use start_info::command_line;
pub use tables::{Access, NON_CANONICAL, UNMAPPED, UPPER_HALF, WINDOW, map_page, unmap_page};
pub use timer::{
    block_for, now, on_timer, system_time_at, ticks_per_second, timer_at, timer_off, timer_release,
    turns,
};
pub use trap::{Fault, exception};
pub use upcall::{ipi_send, irq_off, irq_on, irqs_are_on, on_event, on_ipi, wait, wait_and_take};

use crate::buffer::{PAGE, Page};
use crate::xen::{SELF, grant, shared};

/// Name of this architecture and guest type, for the result lines.
pub const NAME: &str = "x86_64-pv";
/// What the hypervisor's capabilities say for this guest type.
pub const CAPABILITY: &str = "xen-3.0-x86_64";
/// How `XENMEM_memory_map` answers: dom0 has no map of its own.
pub const MEMORY_MAP_ANSWER: i64 = crate::xen::errno::ENOSYS;
/// Byte offset of `evtchn_pending` in the shared-info page: 32 legacy `vcpu_info` of 64 bytes are before it.
pub const SHARED_PENDING: u64 = 2048;
/// Whether `VCPUOP_down` takes a vCPU down, and so ends a domain that has no other.
pub const HAS_VCPU_DOWN: bool = true;
/// A mapping of a grant is one more mapping of its page.
pub const OWN_GRANT_MOVES: bool = false;
/// Whether the hypervisor translates frame numbers: here they are the machine's own.
pub const IS_TRANSLATED: bool = false;

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

/// CPUID as the hypervisor answers it: with the prefix that has it emulated (`arch-x86/xen.h`).
pub fn forced_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: the prefix and the instruction change only these registers.
    unsafe {
        // The compiler may choose rbx itself.
        asm!("mov {ebx}, rbx", "ud2", ".byte 0x78, 0x65, 0x6e", "cpuid", "xchg {ebx}, rbx",
             ebx = out(reg) ebx, inout("eax") leaf => eax, inout("ecx") subleaf => ecx, out("edx") edx)
    };
    CpuidResult {
        eax,
        ebx: ebx as u32,
        ecx,
        edx,
    }
}

/// Whether nothing is behind the address: an access faults.
pub fn is_nothing_at(address: u64) -> bool {
    fault_of(|| {
        read64(address);
    })
    .is_some_and(|fault| (fault.vector, fault.address) == (exception::PAGE, address))
}

/// A mapped address that is not the guest's: the hypervisor's own.
pub fn device_address() -> u64 {
    memory::MACHINE_TO_PHYS
}

/// Counter value at this CPU's last entry from the hypervisor.
pub fn entry_stamp() -> u64 {
    this_cpu().stamp.load(core::sync::atomic::Ordering::Relaxed)
}

/// Start of the window where the grant table and grants may be mapped.
pub fn grant_window() -> u64 {
    tables::GRANTS
}

/// The shared-info page, which the runtime maps before anything else.
pub fn shared_info() -> Page {
    Page::at(tables::GRANTS + tables::SHARED_INFO_SLOT * PAGE)
}

/// Maps frame `index` of this domain's grant table at its place in the window; the errno or the call's status.
pub fn map_grant_frame(index: u64) -> i64 {
    let mut frames = [0u64; 16];
    let mut setup = grant::Setup {
        domain: SELF,
        frames: index as u32 + 1,
        status: 0,
        list: frames.as_mut_ptr() as u64,
    };
    let errno = grant::one(grant::op::SETUP_TABLE, &mut setup);
    if errno != 0 || setup.status != 0 {
        return errno.min(i64::from(setup.status));
    }
    let Some(&frame) = frames.get(index as usize) else {
        return -1;
    };
    tables::map_in_grants(index, frame);
    0
}

/// Page and event channel of the domain's console, if it is not dom0.
pub fn console_ring() -> Option<(u64, u32)> {
    let info = start_info::start_info();
    if info.flags & start_info::IS_DOM0 != 0 || info.console_mfn == 0 {
        return None;
    }
    let address = tables::map_in_grants(tables::CONSOLE_SLOT, info.console_mfn);
    Some((address, info.console_evtchn))
}

#[unsafe(no_mangle)]
extern "C" fn guest_primary() -> ! {
    gate::init();
    cpu::prepare(0);
    tables::init();
    let info = start_info::start_info();
    tables::map_in_grants(tables::SHARED_INFO_SLOT, info.shared_info / PAGE);
    shared::page();
    crate::console::init(None);
    gate::choose();
    timer::init();
    cpu::init();
    crate::run()
}
