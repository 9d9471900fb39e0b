//! Floating-point and vector state, switched with the vCPU (Intel SDM, volume 1, chapters 10 and 13).
//!
//! The hypervisor uses none of it, so a guest's state stays in the registers from its vCPU's load to its save.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;

use spin::Once;
use x86_64::registers::{
    control::{Cr0, Cr0Flags, Cr4, Cr4Flags},
    xcontrol::{XCr0, XCr0Flags},
};

use crate::{cpu::cpuid::cpuid, cpuid::Vendor};

/// States that are switched: x87, SSE, AVX, AVX-512.
const SUPPORTED: u64 = 0b1110_0111;
/// Bytes that FXSAVE writes.
const LEGACY_BYTES: usize = 512;
/// Offset of MXCSR, and its value at reset; the control word of the x87 unit at reset.
const MXCSR: usize = 24;
const MXCSR_RESET: u32 = 0x1f80;
const FCW_RESET: u16 = 0x37f;

/// How state is stored on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// XSAVE with these states; `None`: FXSAVE.
    pub states: Option<u64>,
    /// Bytes of an area.
    pub bytes: usize,
    /// The addresses of the last x87 instruction and of its operand stay in the CPU unless an exception is pending: neither stored
    /// nor loaded (AMD APM, volume 2, "FXSAVE and FXRSTOR instructions").
    pub leaves_pointers: bool,
}

static KIND: Once<Kind> = Once::new();

/// What this machine has; found once.
pub fn kind() -> Kind {
    *KIND.call_once(|| {
        const XSAVE: u32 = 1 << 26;
        if cpuid(1, 0).ecx & XSAVE == 0 {
            return Kind {
                states: None,
                bytes: LEGACY_BYTES,
                leaves_pointers: leaves_pointers(),
            };
        }
        let leaf = cpuid(0xd, 0);
        let states = (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & SUPPORTED;
        Kind {
            states: Some(states),
            // The maximum size for all states of the CPU: enough for those that are switched.
            bytes: leaf.ecx as usize,
            leaves_pointers: leaves_pointers(),
        }
    })
}

fn leaves_pointers() -> bool {
    const EXTENDED: u32 = 0x8000_0000;
    const SIZES: u32 = 0x8000_0008;
    let extended = match cpuid(EXTENDED, 0).eax {
        SIZES.. => cpuid(SIZES, 0).ebx,
        _ => 0,
    };
    does_leave_pointers(Vendor::of(cpuid(0, 0).ebx), extended)
}

/// By vendor and register EBX of CPUID leaf 0x80000008: AMD's newer CPUs load the pointers whatever is pending.
const fn does_leave_pointers(vendor: Vendor, extended: u32) -> bool {
    const LOADS_POINTERS: u32 = 1 << 2;
    matches!(vendor, Vendor::Amd) && extended & LOADS_POINTERS == 0
}

/// Lets the executing CPU store and load state.
pub fn start() {
    // SAFETY: the hypervisor uses no floating point; these bits only allow its instructions and state.
    unsafe {
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            cr0.insert(Cr0Flags::MONITOR_COPROCESSOR);
        });
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            if kind().states.is_some() {
                cr4.insert(Cr4Flags::OSXSAVE);
            }
        });
    }
}

/// A vCPU's state while it is in no CPU.
pub struct FpuContext {
    area: NonNull<u8>,
    /// The guest's XCR0.
    pub xcr0: u64,
}

// SAFETY: the area belongs to this value alone; whoever may use the value may use the area.
unsafe impl Send for FpuContext {}

impl FpuContext {
    fn layout() -> Layout {
        // SAFETY: a power of two, and a size that CPUID gives: some KiB.
        unsafe { Layout::from_size_align_unchecked(kind().bytes, 64) }
    }

    /// As after reset. `None` without memory.
    #[must_use]
    pub fn new() -> Option<Self> {
        // SAFETY: the layout's size is not zero.
        let area = NonNull::new(unsafe { alloc_zeroed(Self::layout()) })?;
        let mut new = Self { area, xcr0: 1 };
        new.reset();
        Some(new)
    }

    /// To the values after reset.
    pub fn reset(&mut self) {
        let at = self.area.as_ptr();
        // SAFETY: the area has at least 512 bytes, 64-byte aligned.
        unsafe {
            core::ptr::write_bytes(at, 0, kind().bytes);
            at.cast::<u16>().write(FCW_RESET);
            at.add(MXCSR).cast::<u32>().write(MXCSR_RESET);
            if let Some(states) = kind().states {
                // XSTATE_BV: x87 and SSE stand in the area.
                at.add(LEGACY_BYTES).cast::<u64>().write(states & 3);
            }
        }
        self.xcr0 = 1;
    }

    /// Stores the registers here.
    ///
    /// # Safety
    /// The registers hold this vCPU's state.
    pub unsafe fn save(&mut self) {
        let at = self.area.as_ptr();
        // SAFETY: the area is large and aligned enough; XCR0 is set so that every state that the guest can have is
        // stored.
        unsafe {
            match kind().states {
                Some(states) => {
                    set_xcr0(states);
                    core::arch::asm!("xsave64 [{}]", in(reg) at, in("eax") states as u32, in("edx") (states >> 32) as u32, options(nostack, preserves_flags));
                }
                None => {
                    core::arch::asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags));
                }
            }
        }
    }

    /// Puts the state into the registers, and the guest's XCR0.
    ///
    /// # Safety
    /// Nobody needs what the registers hold.
    pub unsafe fn load(&self) {
        let at = self.area.as_ptr();
        if kind().leaves_pointers {
            forget_pointers();
        }
        // SAFETY: the area holds what `save` or `reset` wrote.
        unsafe {
            match kind().states {
                Some(states) => {
                    set_xcr0(states);
                    core::arch::asm!("xrstor64 [{}]", in(reg) at, in("eax") states as u32, in("edx") (states >> 32) as u32, options(nostack, preserves_flags));
                    set_xcr0(self.xcr0);
                }
                None => {
                    core::arch::asm!("fxrstor64 [{}]", in(reg) at, options(nostack, preserves_flags));
                }
            }
        }
    }
}

/// The x87 unit's pointers are those of an instruction here, and no longer what another guest used last.
#[cold]
fn forget_pointers() {
    static ZERO: u32 = 0;
    // SAFETY: what the registers hold is stored, and loaded anew behind this; no exception is pending when the load is made, as the
    // first instruction takes it away.
    unsafe {
        core::arch::asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) &raw const ZERO, options(nostack, preserves_flags, readonly));
    }
}

impl Drop for FpuContext {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout.
        unsafe { dealloc(self.area.as_ptr(), Self::layout()) }
    }
}

/// Whether a guest may set this XCR0 on this machine.
#[must_use]
pub fn is_valid_xcr0(value: u64) -> bool {
    const AVX: u64 = 1 << 2;
    const SSE: u64 = 1 << 1;
    const AVX512: u64 = 0xe0;
    let Some(states) = kind().states else {
        return false;
    };
    value & 1 != 0
        && value & !states == 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || value & (AVX512 | AVX) == AVX512 | AVX)
}

/// Sets XCR0 of the executing CPU.
///
/// # Safety
/// XSAVE is there, and the value is one that [`is_valid_xcr0`] accepts.
pub unsafe fn set_xcr0(value: u64) {
    // SAFETY: as the caller promises; the hypervisor itself uses no such state.
    unsafe { XCr0::write(XCr0Flags::from_bits_retain(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_of_the_last_instruction_stay_in_older_cpus_of_one_vendor() {
        const BIT: u32 = 1 << 2;
        assert!(does_leave_pointers(Vendor::Amd, 0));
        assert!(does_leave_pointers(Vendor::Amd, !BIT));
        assert!(!does_leave_pointers(Vendor::Amd, BIT));
        assert!(!does_leave_pointers(Vendor::Intel, 0));
    }
}
