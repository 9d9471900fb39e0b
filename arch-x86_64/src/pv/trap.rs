//! Exceptions of guests in ring 3: what the hypervisor serves itself, and what goes to the guest's kernel (`set_trap_table`).

use core::{fmt, sync::atomic::Ordering::Relaxed};

use super::{access, bounce::Bounce, emulate, run::Stopped, smap, table_write, vcpu::Mode};

mod vector {
    pub const DEBUG: u8 = 1;
    pub const UNDEFINED: u8 = 6;
    pub const NO_DEVICE: u8 = 7;
    pub const PROTECTION: u8 = 13;
    pub const PAGE: u8 = 14;
}

/// Exceptions that push an error code.
const fn has_error(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

struct Exception(u8);

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {}", self.0)
    }
}

/// Serves an exception.
pub fn exception(cx: &mut Stopped<'_>, number: u8) {
    match number {
        vector::PAGE => page_fault(cx),
        vector::PROTECTION => protection(cx),
        vector::NO_DEVICE => {
            // SAFETY: the guest's registers are in the CPU; the flag only says whether it wants to be told of their use.
            unsafe { core::arch::asm!("clts", options(nomem, nostack, preserves_flags)) };
            if cx.pv.task_switched.replace(false) {
                deliver(cx, number);
            }
        }
        vector::DEBUG => debug(cx),
        _ => deliver(cx, number),
    }
}

/// Hands an exception to the kernel as the CPU told it.
fn deliver(cx: &mut Stopped<'_>, number: u8) {
    let error = has_error(number).then_some(cx.frame().error);
    give(cx, number, error);
}

/// Hands an exception to the kernel.
pub fn give(cx: &mut Stopped<'_>, number: u8, error: Option<u64>) {
    let trap = cx.pv.trap(number);
    cx.enter_kernel(Bounce::trap(trap, error), &Exception(number));
}

/// The instruction does not exist.
pub fn undefined(cx: &mut Stopped<'_>) {
    give(cx, vector::UNDEFINED, None);
}

/// A protection fault of an instruction of the guest's.
pub fn protection_fault(cx: &mut Stopped<'_>, error: u64) {
    give(cx, vector::PROTECTION, Some(error));
}

/// A page fault at an address.
pub fn give_page_fault(cx: &mut Stopped<'_>, address: u64, error: u64) {
    cx.set_cr2(address);
    give(cx, vector::PAGE, Some(error));
}

fn protection_of_gate(cx: &mut Stopped<'_>, number: u8) {
    const IN_TABLE: u64 = 2;
    protection_fault(cx, u64::from(number) << 3 | IN_TABLE);
}

/// The system call of old, by an INT that has happened already. As with INT3 and INTO, whose gates are open too, nobody looks at
/// the privilege that the kernel's entry asks for.
pub fn old_system_call(cx: &mut Stopped<'_>, number: u8) {
    let trap = cx.pv.trap(number);
    if trap.address != 0 {
        return cx.enter_kernel(Bounce::trap(trap, None), &Exception(number));
    }
    cx.back_by(2);
    protection_of_gate(cx, number);
}

/// A system call for which the kernel has no entry: the instruction, of two bytes, does not exist.
pub fn no_system_call(cx: &mut Stopped<'_>) {
    cx.back_by(2);
    undefined(cx);
}

/// A fault of protection: an INT that no gate of the CPU serves, a privileged instruction, or the guest's own.
fn protection(cx: &mut Stopped<'_>) {
    const IN_TABLE: u64 = 2;
    const OUTSIDE: u64 = 1;
    let error = cx.frame().error;
    if error & (IN_TABLE | OUTSIDE) == IN_TABLE {
        // Some emulators scale the vector by 16: the instruction itself says which.
        if let Some(number) = interrupt_number(cx) {
            let trap = cx.pv.trap(number);
            if trap.address != 0 && trap.admits(cx.pv.mode.get()) {
                let rip = cx.frame().rip;
                cx.frame().rip = rip.wrapping_add(2);
                return cx.enter_kernel(Bounce::trap(trap, None), &Exception(number));
            }
            return protection_of_gate(cx, number);
        }
    }
    if error == 0 && emulate::privileged(cx) {
        return;
    }
    deliver(cx, vector::PROTECTION);
}

/// The operand of an INT at the instruction pointer.
fn interrupt_number(cx: &mut Stopped<'_>) -> Option<u8> {
    const INT: u8 = 0xcd;
    let mut bytes = [0; 2];
    access::read(cx.frame().rip, &mut bytes).ok()?;
    (bytes[0] == INT).then_some(bytes[1])
}

/// Where the last page fault of this CPU was.
#[inline(always)]
pub(super) fn fault_address() -> u64 {
    let address;
    // SAFETY: reads the register.
    unsafe {
        core::arch::asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags));
    }
    address
}

/// As if the last page fault had been there.
pub(super) fn set_fault_address(address: u64) {
    // SAFETY: the register is nothing but a note.
    unsafe {
        core::arch::asm!("mov cr2, {}", in(reg) address, options(nomem, nostack, preserves_flags));
    }
}

/// Error codes of page faults.
#[allow(missing_docs, reason = "bits are named as they are")]
pub(super) mod page {
    pub const PRESENT: u64 = 1;
    pub const WRITE: u64 = 2;
    pub const USER: u64 = 4;
    pub const RESERVED: u64 = 8;
}

fn page_fault(cx: &mut Stopped<'_>) {
    use page::{PRESENT, RESERVED, USER, WRITE};
    let address = fault_address();
    let error = cx.frame().error;
    // The CPU reads descriptors with its own privilege, whoever runs.
    if error & USER == 0 && !access::is_guest(address) && cx.segment_fault(address) {
        return;
    }
    if error & RESERVED != 0 {
        return cx.crash(format_args!(
            "reserved bits in its page tables, at {address:#x}"
        ));
    }
    if error & (PRESENT | WRITE) == PRESENT | WRITE
        && cx.pv.mode.get() == Mode::Kernel
        && table_write::serve(cx, address)
    {
        return;
    }
    if error & (PRESENT | USER) == PRESENT && access::is_guest(address) && smap::give_up() {
        return;
    }
    // The kernel does not know that it runs in ring 3.
    let error = match cx.pv.mode.get() {
        Mode::Kernel => error & !USER,
        Mode::User => error | USER,
    };
    give_page_fault(cx, address, error);
}

fn debug(cx: &mut Stopped<'_>) {
    let status: u64;
    // SAFETY: moves of a debug register that only the guest uses; no breakpoint holds in the hypervisor.
    unsafe {
        core::arch::asm!("mov {}, dr6", out(reg) status, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov dr6, {}", in(reg) 0xffff_0ff0_u64, options(nomem, nostack, preserves_flags));
    }
    let mut kept = cx.pv.debug.get();
    kept[6] = kept[6] & !0xf | status;
    cx.pv.debug.set(kept);
    deliver(cx, vector::DEBUG);
}

/// The CPU would not return to the registers that the guest asked for: the guest has the exception, where they would have led it.
pub fn return_failed(cx: &mut Stopped<'_>) {
    let [number, error] = cx.failed();
    let number = number as u8;
    if number == vector::PAGE {
        // A descriptor that is not there, which no guest knows as an address of its own.
        if !cx.segment_fault(fault_address()) {
            protection_fault(cx, 0);
        }
        return;
    }
    give(cx, number, has_error(number).then_some(error));
}

impl Stopped<'_> {
    /// The instruction has not happened: it has so many bytes.
    fn back_by(&mut self, bytes: u64) {
        let frame = self.frame();
        frame.rip = frame.rip.wrapping_sub(bytes);
    }

    /// Keeps the address of a page fault where the guest looks for it.
    fn set_cr2(&self, address: u64) {
        self.pv.cr2.set(address);
        self.pv.info().cr2.store(address, Relaxed);
    }

    /// The CPU read a descriptor that is not there. True when it is now, and the instruction can be tried again.
    fn segment_fault(&mut self, address: u64) -> bool {
        let Some(gates) = self.cpu.gates.get() else {
            return false;
        };
        if gates.local_range().contains(&address) {
            let offset = address - gates.local_range().start;
            return super::descriptors::map_local(self, offset);
        }
        if gates.guest_range().contains(&address) {
            // No such page of descriptors: the selector is bad, which is a fault of protection.
            let selector = (address - gates.guest_range().start) & !7;
            protection_fault(self, selector);
            return true;
        }
        false
    }
}
