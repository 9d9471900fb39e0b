//! VMX's own instructions. All of them need VMX operation, which only [`super::cpu::start`] begins.

use core::arch::asm;

use xenolith_hal::HostPhys;

use super::fields::{Field, Width};

/// A field of the current control structure. Reading changes nothing; without a current one the value means nothing.
#[inline(always)]
pub fn read<W: Width>(field: Field<W>) -> W::Value {
    let value: u64;
    // SAFETY: reads a register of the CPU's; VMX is on wherever a vCPU of this backend exists.
    unsafe {
        asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(field.encoding()), options(nomem, nostack));
    }
    W::from_register(value)
}

/// Writes a field of the current control structure. What a guest can do with it is decided at the entry, by whoever may
/// enter; host fields are written in [`super::vcpu`] and [`super::cpu`] alone.
#[inline(always)]
pub fn write<W: Width>(field: Field<W>, value: W::Value) {
    // SAFETY: changes what the next entry uses, nothing before.
    unsafe {
        asm!("vmwrite {}, {}", in(reg) u64::from(field.encoding()), in(reg) W::to_register(value), options(nomem, nostack));
    }
}

/// Whether the instruction before succeeded: neither carry nor zero. To be used in one `asm!`.
macro_rules! succeeded {
    ($instruction:literal, $($operands:tt)*) => {{
        let failed: u8;
        asm!($instruction, "setbe {failed}", failed = out(reg_byte) failed, $($operands)*);
        failed == 0
    }};
}

/// Enters VMX operation.
///
/// # Safety
/// CR0, CR4 and the feature control register allow it; the page is this CPU's own, begins with the revision number, and is
/// never used otherwise.
pub unsafe fn vmxon(region: HostPhys) -> bool {
    // SAFETY: as the caller promises; the operand holds the address for the instruction.
    unsafe { succeeded!("vmxon [{at}]", at = in(reg) &region.0, options(nostack)) }
}

/// Takes a control structure out of this CPU, into its page; the next entry with it is a launch.
///
/// # Safety
/// The page is a control structure's, in use on no other CPU.
#[inline(always)]
pub unsafe fn vmclear(page: HostPhys) -> bool {
    // SAFETY: as above.
    unsafe { succeeded!("vmclear [{at}]", at = in(reg) &page.0, options(nostack)) }
}

/// Makes a control structure the current one.
///
/// # Safety
/// The page is a control structure's that was cleared, or is on this CPU, and is in use on no other CPU.
#[inline(always)]
pub unsafe fn vmptrld(page: HostPhys) -> bool {
    // SAFETY: as above.
    unsafe { succeeded!("vmptrld [{at}]", at = in(reg) &page.0, options(nostack)) }
}

/// The current control structure.
pub fn vmptrst() -> Option<HostPhys> {
    let mut page = 0u64;
    // SAFETY: writes the eight bytes of `page`; VMX is on wherever this is called.
    unsafe { asm!("vmptrst [{}]", in(reg) &mut page, options(nostack)) }
    (page != u64::MAX).then_some(HostPhys(page))
}

/// Which translations INVEPT drops.
#[derive(Clone, Copy)]
pub enum Invept {
    /// Those of one EPT pointer.
    One(u64),
    /// All.
    All,
}

/// Drops translations that second-level tables gave.
#[inline]
pub fn invept(which: Invept) {
    let (kind, descriptor) = match which {
        Invept::One(pointer) => (1u64, [pointer, 0]),
        Invept::All => (2, [0, 0]),
    };
    // SAFETY: dropping translations is always allowed.
    unsafe {
        asm!("invept {}, [{}]", in(reg) kind, in(reg) &descriptor, options(nostack));
    }
}

/// Drops the translations of all identifiers.
pub fn invvpid_all() {
    let descriptor = [0u64; 2];
    // SAFETY: as above.
    unsafe {
        asm!("invvpid {}, [{}]", in(reg) 2u64, in(reg) &descriptor, options(nostack));
    }
}
