//! Floating-point registers, loaded at a vCPU's first use and saved when it leaves the CPU.
//!
//! The hypervisor is built without them, so they keep a guest's values across any number of exits. While a vCPU that has not
//! used them is loaded, `sstatus.FS` of HS-mode is off and the first use traps (Privileged Architecture, "Hypervisor Status").

use core::{
    arch::asm,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::regs::FS;

/// Guests have floating point: this and every CPU that joined has registers of 64 bits.
static GIVEN: AtomicBool = AtomicBool::new(false);

/// On the boot CPU: guests have what it has.
pub fn init() {
    GIVEN.store(is_there(), Relaxed);
}

/// Whether guests have floating point.
pub fn is_given() -> bool {
    GIVEN.load(Relaxed)
}

/// Whether this CPU has what guests were given.
pub fn suits() -> bool {
    !is_given() || is_there()
}

/// Whether this CPU has extension D: looks whether one of its registers can be read.
fn is_there() -> bool {
    let missing: u64;
    // SAFETY: the trap vector points behind the read while it is tried, and is put back; a trap in between changes only the
    // trap registers, which nobody reads here.
    unsafe {
        asm!(
            ".option push", ".option arch, +d",
            "csrs  sstatus, {fs}",
            "lla   {next}, 2f",
            "csrrw {old}, stvec, {next}",
            "li    {missing}, 1",
            "fmv.x.d {next}, f0",
            "li    {missing}, 0",
            ".balign 4",
            "2: csrw stvec, {old}",
            "csrc  sstatus, {fs}",
            ".option pop",
            fs = in(reg) FS,
            next = out(reg) _,
            old = out(reg) _,
            missing = out(reg) missing,
            options(nostack),
        );
    }
    missing == 0
}

/// f0 to f31, and fcsr.
#[repr(C)]
#[derive(Clone, Default)]
pub struct FpContext {
    f: [u64; 32],
    fcsr: u64,
}

/// One instruction for each register and its place.
macro_rules! each {
    ($instruction:literal) => {
        concat!(
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n",
            $instruction,
            " f\\i, 8*\\i({b})\n.endr"
        )
    };
}

impl FpContext {
    /// Stores this CPU's registers.
    pub fn save(&mut self) {
        let base = core::ptr::from_mut(self);
        // SAFETY: stores exactly the 33 words of the context; the registers hold guest values and are not changed. HS-mode
        // may touch them meanwhile.
        unsafe {
            asm!(
                ".option push", ".option arch, +d",
                "csrs sstatus, {fs}",
                each!("fsd"),
                "frcsr {w}", "sd {w}, 256({b})",
                "csrc sstatus, {fs}",
                ".option pop",
                fs = in(reg) FS, b = in(reg) base, w = out(reg) _, options(nostack),
            );
        }
    }

    /// Loads this CPU's registers.
    pub fn load(&self) {
        let base = core::ptr::from_ref(self);
        // SAFETY: reads exactly the 33 words of the context; the hypervisor's code uses none of the registers. HS-mode may
        // touch them meanwhile.
        unsafe {
            asm!(
                ".option push", ".option arch, +d",
                "csrs sstatus, {fs}",
                each!("fld"),
                "ld {w}, 256({b})", "fscsr {w}",
                "csrc sstatus, {fs}",
                ".option pop",
                fs = in(reg) FS, b = in(reg) base, w = out(reg) _, options(nostack, readonly),
            );
        }
    }
}
