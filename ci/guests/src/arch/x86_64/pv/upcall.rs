//! Events: the upcall that the hypervisor makes, and the mask that stands for the interrupt flag. Timer and interrupts
//! from other CPUs are events too; the runtime serves their ports, and hands all else to the case's handler.

use core::sync::atomic::{AtomicUsize, Ordering, fence};

use super::cpu::{cpu, cpu_index, this_cpu};
use super::{read8, read64, relax, write8};
use crate::arch::hypercall;
use crate::xen::{event, nr, sched, shared};

/// Byte offset of the mask in a `vcpu_info`.
const MASK: u64 = 1;

/// Kinds of callback.
#[allow(missing_docs)]
pub mod callback {
    pub const EVENT: u16 = 0;
    pub const FAILSAFE: u16 = 1;
    pub const SYSCALL: u16 = 2;
    pub const NMI: u16 = 4;
    pub const SYSENTER: u16 = 5;
    pub const SYSCALL_32: u16 = 7;
    pub const MASK_EVENTS: u16 = 1;
    pub const REGISTER: u64 = 0;
    pub const UNREGISTER: u64 = 1;
}

unsafe extern "C" {
    fn guest_event();
    fn guest_failsafe();
    fn guest_syscall();
}

/// `callback_op` with a `callback_register`.
pub fn callback_op(command: u64, kind: u16, flags: u16, address: u64) -> i64 {
    #[repr(C)]
    struct Register(u16, u16, u64);
    let mut argument = Register(kind, flags, address);
    let at = (&raw mut argument) as u64;
    hypercall(nr::CALLBACK_OP, [command, at, 0, 0, 0])
}

/// Addresses of the runtime's entries for events, failsafe and system calls.
pub fn callbacks() -> [u64; 3] {
    [
        guest_event as *const () as u64,
        guest_failsafe as *const () as u64,
        guest_syscall as *const () as u64,
    ]
}

/// Has the hypervisor call the runtime, with events masked at each entry.
pub fn register_callbacks() {
    let kinds = [callback::EVENT, callback::FAILSAFE, callback::SYSCALL];
    for (kind, address) in kinds.into_iter().zip(callbacks()) {
        let errno = callback_op(callback::REGISTER, kind, callback::MASK_EVENTS, address);
        assert!(errno == 0, "callback {kind}: {errno}");
    }
}

/// Address of this CPU's mask.
fn mask_address() -> u64 {
    shared::vcpu_info(cpu_index()) + MASK
}

/// Lets this CPU take events.
pub fn irq_on() {
    write8(mask_address(), 0);
    fence(Ordering::SeqCst);
    if shared::upcall_pending(cpu_index()) {
        // Any call has the hypervisor look.
        hypercall(nr::XEN_VERSION, [0; 5]);
    }
}

/// Keeps events from this CPU.
pub fn irq_off() {
    if shared::vcpu_info(cpu_index()) != 0 {
        write8(mask_address(), 1);
        fence(Ordering::SeqCst);
    }
}

/// Whether this CPU takes events.
pub fn irqs_are_on() -> bool {
    read8(mask_address()) == 0
}

/// Waits until an event is pending, masked or not.
pub fn wait() {
    while !shared::upcall_pending(cpu_index()) {
        relax();
    }
}

/// With events masked: sleeps until one is pending, takes it, and masks them again. Blocking takes the mask off.
pub fn wait_and_take() {
    sched::block();
    irq_off();
}

static ON_EVENT: AtomicUsize = AtomicUsize::new(0);
static ON_IPI: AtomicUsize = AtomicUsize::new(0);

/// Has `handler` called when the hypervisor signals an event that is not the runtime's own.
pub fn on_event(handler: fn(u32)) {
    ON_EVENT.store(handler as usize, Ordering::SeqCst);
}

/// Has `handler` called on this CPU when another sends it an interrupt.
pub fn on_ipi(handler: fn(u32)) {
    ON_IPI.store(handler as usize, Ordering::SeqCst);
    let own = this_cpu();
    if own.ipi_port.load(Ordering::SeqCst) == 0
        && let Ok(port) = event::bind_ipi(cpu_index() as u32)
    {
        shared::clear_pending(port);
        shared::clear_mask(port);
        own.ipi_port.store(port, Ordering::SeqCst);
    }
}

/// Interrupts CPU `target`.
pub fn ipi_send(target: usize) {
    event::send(cpu(target).ipi_port.load(Ordering::SeqCst));
}

fn call(handler: &AtomicUsize, line: u32) -> bool {
    let handler = handler.load(Ordering::SeqCst);
    if handler != 0 {
        // SAFETY: only `on_event` and `on_ipi` store here, and they store a `fn(u32)`.
        let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
        handler(line);
    }
    handler != 0
}

/// Whether `port` is the runtime's and pending; it is not, afterwards.
fn took(port: u32) -> bool {
    port != 0 && shared::clear_pending(port)
}

#[unsafe(no_mangle)]
extern "C" fn guest_event_rust() {
    let own = this_cpu();
    let index = cpu_index();
    write8(shared::vcpu_info(index) + shared::UPCALL_PENDING, 0);
    fence(Ordering::SeqCst);
    let timer = took(own.timer_port.load(Ordering::SeqCst));
    let ipi = took(own.ipi_port.load(Ordering::SeqCst));
    if timer {
        super::timer::fired();
    }
    if ipi {
        call(&ON_IPI, 0);
    }
    let served = timer || ipi;
    if (!served || others_are_pending(index)) && call(&ON_EVENT, 0) {
        return;
    }
    shared::take_upcall(index);
}

/// Whether the words that the selector names have ports that are pending and not masked.
fn others_are_pending(index: usize) -> bool {
    let selector = read64(shared::vcpu_info(index) + shared::SELECTOR);
    (0..64u32)
        .filter(|word| selector >> word & 1 != 0)
        .any(|word| shared::raised(word) != 0)
}
