//! The registers that a PV guest's first vCPU starts with: flat segments, its entry and its stack, and in RSI the address of
//! its start info (`xen.h`, "Start-of-day memory layout"). Events are masked by its `vcpu_info`, interrupts are not.

use xenolith_abi::x86_64::{CpuUserRegs, FLAT_RING3_CS64, FLAT_RING3_DS64, FLAT_RING3_SS64};
use xenolith_core::boot::elf::pv::PvKernel;
use xenolith_hal::{Mfn, PAGE_SHIFT};

use super::{frames::FrameMap, layout::Layout};

/// IF, and the bit that is always set.
const FLAGS: u64 = 1 << 9 | 1 << 1;

/// How a PV guest starts.
#[derive(Clone, Copy, Debug)]
pub struct PvStart {
    /// General registers and selectors; the bases of segments are 0.
    pub regs: CpuUserRegs,
    /// The root of its page tables.
    pub root: Mfn,
}

impl PvStart {
    /// The start of a kernel that was laid out so; `None` where a frame is not in the map.
    #[must_use]
    pub fn new(kernel: &PvKernel<'_>, layout: &Layout, frames: &FrameMap) -> Option<Self> {
        let regs = CpuUserRegs {
            rip: kernel.entry,
            rsp: layout.address(layout.stack) + (1 << PAGE_SHIFT),
            rsi: layout.address(layout.start_info),
            rflags: FLAGS,
            cs: FLAT_RING3_CS64,
            ss: FLAT_RING3_SS64,
            ds: FLAT_RING3_DS64,
            es: FLAT_RING3_DS64,
            fs: FLAT_RING3_DS64,
            gs: FLAT_RING3_DS64,
            ..CpuUserRegs::default()
        };
        let root = frames.mfn(layout.tables.root())?;
        Some(Self { regs, root })
    }
}
