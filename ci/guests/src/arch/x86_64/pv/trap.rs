//! The trap table and what its entry points do. The entry code of every vector saves all registers; an exception that
//! no `fault_of` waits for ends the case.

use core::mem::offset_of;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::cpu::{selector, this_cpu};
use super::landing;
use crate::arch::hypercall;
use crate::xen::{nr, shared};

/// What an expected fault looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector; or `FAILSAFE`, `SYSCALL`.
    pub vector: u64,
    /// Error code; 0 for exceptions that have none.
    pub error: u64,
    /// CR2 as the hypervisor tells it; of meaning for page faults only.
    pub address: u64,
    /// Address of the faulting instruction.
    pub rip: u64,
}

/// Number that stands for a call of the failsafe callback.
pub const FAILSAFE: u64 = 256;
/// Number that stands for a system call of user code with rax other than 0.
pub const SYSCALL: u64 = 257;

/// Exceptions that tests meet.
#[allow(missing_docs)]
pub mod exception {
    pub const DIVIDE: u64 = 0;
    pub const DEBUG: u64 = 1;
    pub const NMI: u64 = 2;
    pub const BREAKPOINT: u64 = 3;
    pub const UNDEFINED: u64 = 6;
    pub const NO_DEVICE: u64 = 7;
    pub const DOUBLE: u64 = 8;
    pub const INVALID_TASK: u64 = 10;
    pub const NOT_PRESENT: u64 = 11;
    pub const STACK: u64 = 12;
    pub const PROTECTION: u64 = 13;
    pub const PAGE: u64 = 14;
}

/// Registers of the interrupted code, as the entry points save them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    /// The selector; bits 32 to 39 hold the upcall mask as it was.
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Frame {
    /// All zeros.
    pub const NOTHING: Self = Self {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rsi: 0,
        rdi: 0,
        rbp: 0,
        rdx: 0,
        rcx: 0,
        rbx: 0,
        rax: 0,
        vector: 0,
        error: 0,
        rip: 0,
        cs: 0,
        rflags: 0,
        rsp: 0,
        ss: 0,
    };
}

/// `trap_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Entry {
    /// Vector.
    pub vector: u8,
    /// Privilege level (2 bits); bit 2 masks events at entry.
    pub flags: u8,
    /// Code segment.
    pub cs: u16,
    /// Where to go; 0 ends the table.
    pub address: u64,
}

/// Bit of `Entry::flags` that masks events.
pub const MASKS_EVENTS: u8 = 4;
const _: () = assert!(size_of::<Entry>() == 16 && offset_of!(Entry, address) == 8);

unsafe extern "C" {
    static guest_vectors: u8;
}

const STUB_BYTES: u64 = 16;
/// Vector of the system call of old.
pub const INT_80: u8 = 0x80;

/// The runtime's entry for `vector`.
pub fn entry_of(vector: u8) -> Entry {
    let open_to_users = [exception::BREAKPOINT as u8, 4, INT_80].contains(&vector);
    Entry {
        vector,
        flags: MASKS_EVENTS | if open_to_users { 3 } else { 0 },
        cs: selector::CODE,
        address: (&raw const guest_vectors) as u64 + u64::from(vector) * STUB_BYTES,
    }
}

/// Vectors of the table that `init` sets: those of exceptions, and 0x80.
pub const VECTORS: usize = 33;

/// The runtime's table, with the entry of zeros that ends it.
pub fn table() -> [Entry; VECTORS + 1] {
    let mut table = [Entry::default(); VECTORS + 1];
    for (vector, entry) in (0u8..).zip(table.iter_mut()).take(VECTORS) {
        *entry = entry_of(if vector == 32 { INT_80 } else { vector });
    }
    table
}

/// `set_trap_table`.
pub fn set_trap_table(table: &[Entry]) -> i64 {
    hypercall(nr::SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0])
}

/// Gives the hypervisor this CPU's table.
pub(super) fn load() {
    let errno = set_trap_table(&table());
    assert!(errno == 0, "set_trap_table: {errno}");
}

static HOOK: AtomicUsize = AtomicUsize::new(0);

/// Has `hook` see every exception first; it says whether it served it. `None` takes it away.
pub fn on_exception(hook: Option<fn(&mut Frame) -> bool>) {
    HOOK.store(hook.map_or(0, |hook| hook as usize), Ordering::SeqCst);
}

/// CR2 as the hypervisor tells it in `vcpu_info`.
pub fn cr2() -> u64 {
    const CR2: u64 = 16;
    match shared::vcpu_info(super::cpu_index()) {
        0 => 0,
        info => super::read64(info + CR2),
    }
}

#[unsafe(no_mangle)]
extern "C" fn guest_exception_rust(frame: &mut Frame) {
    let own = this_cpu();
    if frame.vector == exception::NMI {
        own.nmis.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let hook = HOOK.load(Ordering::SeqCst);
    if hook != 0 {
        // SAFETY: only `on_exception` stores here, and it stores such a function.
        let hook: fn(&mut Frame) -> bool = unsafe { core::mem::transmute(hook) };
        if hook(frame) {
            return;
        }
    }
    if own.expecting.swap(0, Ordering::SeqCst) != 0 {
        own.vector.store(frame.vector, Ordering::Relaxed);
        own.error.store(frame.error, Ordering::Relaxed);
        own.address.store(cr2(), Ordering::Relaxed);
        own.rip.store(frame.rip, Ordering::Relaxed);
        own.faulted.store(1, Ordering::SeqCst);
        own.faulted_at.store(frame);
        (frame.rdi, frame.rip) = landing::after_a_fault();
        // Whatever code and stack faulted, the landing is the runtime's own, in kernel mode.
        frame.cs = u64::from(selector::CODE & !3);
        frame.ss = u64::from(selector::DATA);
        frame.rsp = (&raw const *frame) as u64;
        // No single steps, alignment checks or backward strings: only whether events are taken stays.
        frame.rflags = frame.rflags & 0x200 | 2;
        return;
    }
    panic!(
        "exception {} error {:#x} cr2 {:#x} rip {:#x} rsp {:#x} rflags {:#x} cs {:#x}",
        frame.vector,
        frame.error,
        cr2(),
        frame.rip,
        frame.rsp,
        frame.rflags,
        frame.cs
    );
}
