//! A vCPU's first registers as `VCPUOP_initialise` gives them (`public/hvm/hvm_vcpu.h`): checked when they are given, so
//! that no state which the CPU would refuse is ever entered, and loaded when the vCPU first runs.

use xenolith_abi::hvm_vcpu::{VcpuHvmContext, VcpuHvmMode, VcpuHvmX86_32, VcpuHvmX86_64};
use xenolith_core::Errno;
use zerocopy::FromBytes;

use super::{
    hardware::{Hardware, Segment, SegmentName},
    regs::GuestRegs,
};
use crate::cpuid::Policy;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Every flag but the reserved ones, and VM: virtual-8086 mode begins by IRET.
const FLAGS: u64 = 0x3d_7fd5;
const FLAG_ALWAYS: u64 = 1 << 1;

/// Attributes of a segment, as [`Segment`] has them.
mod rights {
    pub const CODE: u16 = 1 << 3;
    /// Of code: readable. Of data: writable.
    pub const ACCESS: u16 = 1 << 1;
    pub const ACCESSED: u16 = 1;
    pub const MEMORY: u16 = 1 << 4;
    pub const LEVEL: u16 = 3 << 5;
    pub const PRESENT: u16 = 1 << 7;
    pub const LONG: u16 = 1 << 9;
    pub const BIG: u16 = 1 << 10;
    pub const PAGES: u16 = 1 << 11;
    pub const UNUSED: u16 = 0xf000;
    pub const TYPE: u16 = 0xf;
    pub const TASK_16: u16 = 3;
    pub const TASK_32: u16 = 11;
}

/// Registers to start with, checked.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    regs: GuestRegs,
    rip: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    segments: [(SegmentName, Segment); 4],
    task: Segment,
}

impl Start {
    /// From what a guest hands over; `EINVAL` for what no CPU could be in, or the domain's may not.
    pub fn new(context: &VcpuHvmContext, policy: &Policy) -> Result<Self, Errno> {
        let start = match VcpuHvmMode::try_from(context.mode)? {
            VcpuHvmMode::Bits32 => {
                let (regs, _) = VcpuHvmX86_32::read_from_prefix(&context.cpu_regs)
                    .map_err(|_| Errno::EINVAL)?;
                Self::from_32(&regs)?
            }
            VcpuHvmMode::Bits64 => {
                let (regs, _) = VcpuHvmX86_64::read_from_prefix(&context.cpu_regs)
                    .map_err(|_| Errno::EINVAL)?;
                Self::from_64(&regs)?
            }
        };
        start.check(policy)
    }

    fn from_32(regs: &VcpuHvmX86_32) -> Result<Self, Errno> {
        let segment = |base: u32, limit, attributes| Segment {
            selector: 0,
            attributes,
            limit,
            base: base.into(),
        };
        let code = segment(regs.cs_base, regs.cs_limit, regs.cs_ar);
        let data = [
            (
                SegmentName::Ds,
                segment(regs.ds_base, regs.ds_limit, regs.ds_ar),
            ),
            (
                SegmentName::Es,
                segment(regs.es_base, regs.es_limit, regs.es_ar),
            ),
            (
                SegmentName::Ss,
                segment(regs.ss_base, regs.ss_limit, regs.ss_ar),
            ),
        ];
        let task = segment(regs.tr_base, regs.tr_limit, regs.tr_ar);
        let long = regs.efer & EFER_LME != 0;
        let fine = is_code(code)
            && regs.eip <= regs.cs_limit
            && data
                .iter()
                .all(|(name, it)| is_data(*it, *name == SegmentName::Ss))
            && is_task(task, long);
        if !fine {
            return Err(Errno::EINVAL);
        }
        let [ds, es, ss] = data;
        Ok(Self {
            regs: general([
                regs.eax, regs.ecx, regs.edx, regs.ebx, regs.esp, regs.ebp, regs.esi, regs.edi,
            ]),
            rip: regs.eip.into(),
            rflags: regs.eflags.into(),
            cr0: regs.cr0.into(),
            cr3: regs.cr3.into(),
            cr4: regs.cr4.into(),
            efer: regs.efer,
            segments: [(SegmentName::Cs, code), ds, es, ss],
            task,
        })
    }

    fn from_64(regs: &VcpuHvmX86_64) -> Result<Self, Errno> {
        use rights::{ACCESS, ACCESSED, BIG, CODE, LONG, MEMORY, PAGES, PRESENT, TASK_32};
        const LONG_MODE: u64 = CR0_PE | CR0_PG;
        const HIGHEST_ADDRESS_BITS: u32 = 16;
        let canonical = regs.rip.cast_signed() << HIGHEST_ADDRESS_BITS >> HIGHEST_ADDRESS_BITS
            == regs.rip.cast_signed();
        if regs.cr0 & LONG_MODE != LONG_MODE
            || regs.cr4 & CR4_PAE == 0
            || regs.efer & EFER_LME == 0
            || !canonical
        {
            return Err(Errno::EINVAL);
        }
        let flat = |attributes| Segment {
            selector: 0,
            attributes: attributes | ACCESS | ACCESSED | MEMORY | PRESENT | PAGES,
            limit: u32::MAX,
            base: 0,
        };
        let data = flat(BIG);
        Ok(Self {
            regs: general([
                regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            ]),
            rip: regs.rip,
            rflags: regs.rflags,
            cr0: regs.cr0,
            cr3: regs.cr3,
            cr4: regs.cr4,
            efer: regs.efer,
            segments: [
                (SegmentName::Cs, flat(CODE | LONG)),
                (SegmentName::Ds, data),
                (SegmentName::Es, data),
                (SegmentName::Ss, data),
            ],
            task: Segment {
                selector: 0,
                attributes: PRESENT | TASK_32,
                limit: 0x67,
                base: 0,
            },
        })
    }

    /// What both forms must keep to (Intel SDM, volume 3, 2.5 and 26.3.1; AMD APM, volume 2, 15.5.1).
    fn check(mut self, policy: &Policy) -> Result<Self, Errno> {
        let paging = self.cr0 & CR0_PG != 0;
        let long = paging && self.efer & EFER_LME != 0;
        let wrong = self.cr0 >> 32 != 0
            || paging && self.cr0 & CR0_PE == 0
            || self.cr0 & CR0_NW != 0 && self.cr0 & CR0_CD == 0
            || self.cr4 & !policy.cr4_valid() != 0
            || self.efer & !policy.efer_valid() != 0
            || self.efer & EFER_LMA != 0 && !long
            || long && self.cr4 & CR4_PAE == 0
            || self.cr4 & CR4_PCIDE != 0 && (!long || self.cr3 & 0xfff != 0)
            || self.cr3 >> policy.physical_bits() != 0
            || self.rflags & !(FLAGS | FLAG_ALWAYS) != 0;
        if wrong {
            return Err(Errno::EINVAL);
        }
        self.efer &= !EFER_LMA;
        self.rflags |= FLAG_ALWAYS;
        self.cr0 |= CR0_ET;
        Ok(self)
    }

    /// Puts them into a vCPU that is as after reset.
    pub fn load<H: Hardware>(&self, hw: &mut H, regs: &mut GuestRegs) {
        *regs = self.regs;
        for (name, segment) in self.segments {
            hw.set_segment(name, segment);
        }
        hw.set_task_register(self.task);
        hw.set_efer(self.efer);
        hw.set_cr4(self.cr4);
        hw.set_cr3(self.cr3);
        // Last: with paging comes long mode.
        hw.set_cr0(self.cr0);
        hw.set_rip(self.rip);
        hw.set_rsp(self.regs.rsp);
        hw.set_rflags(self.rflags);
    }
}

fn general<T: Into<u64>>(in_encoding_order: [T; 8]) -> GuestRegs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi] = in_encoding_order.map(Into::into);
    GuestRegs {
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        ..GuestRegs::default()
    }
}

/// A limit that its granularity can say, and nothing in bits that mean nothing.
fn has_sane_limit(segment: Segment) -> bool {
    const LARGEST_IN_BYTES: u32 = 0xf_ffff;
    let limit = if segment.attributes & rights::PAGES != 0 {
        segment.limit & 0xfff == 0xfff
    } else {
        segment.limit <= LARGEST_IN_BYTES
    };
    limit && segment.attributes & rights::UNUSED == 0
}

/// Memory that is there, of the kernel's level, accessed.
fn is_memory(segment: Segment) -> bool {
    use rights::{ACCESSED, LEVEL, MEMORY, PRESENT};
    const ALL: u16 = PRESENT | MEMORY | ACCESSED;
    segment.attributes & (ALL | LEVEL) == ALL && has_sane_limit(segment)
}

fn is_code(segment: Segment) -> bool {
    is_memory(segment) && segment.attributes & (rights::CODE | rights::LONG) == rights::CODE
}

/// A data segment or readable code; none at all, unless it is the stack's, which must be written.
fn is_data(segment: Segment, stack: bool) -> bool {
    use rights::{ACCESS, CODE};
    if stack {
        return is_memory(segment) && segment.attributes & (CODE | ACCESS) == ACCESS;
    }
    segment.attributes == 0
        || is_memory(segment)
            && (segment.attributes & CODE == 0 || segment.attributes & ACCESS != 0)
}

/// A busy task state segment.
fn is_task(segment: Segment, long: bool) -> bool {
    use rights::{MEMORY, PRESENT, TASK_16, TASK_32, TYPE};
    let kind = segment.attributes & TYPE;
    segment.attributes & (PRESENT | MEMORY) == PRESENT
        && (kind == TASK_32 || kind == TASK_16 && !long)
        && has_sane_limit(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn policy() -> Policy {
        crate::cpuid::tests::policy()
    }

    fn context(mode: u32, regs: &[u8]) -> VcpuHvmContext {
        let mut cpu_regs = [0; size_of::<VcpuHvmX86_32>()];
        cpu_regs[..regs.len()].copy_from_slice(regs);
        VcpuHvmContext {
            mode,
            pad: 0,
            cpu_regs,
        }
    }

    fn long() -> VcpuHvmX86_64 {
        VcpuHvmX86_64 {
            rip: 0x10_0000,
            rflags: 2,
            cr0: CR0_PE | CR0_PG,
            cr3: 0x1000,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..VcpuHvmX86_64::default()
        }
    }

    fn flat() -> VcpuHvmX86_32 {
        VcpuHvmX86_32 {
            eip: 0x10_0000,
            eflags: 2,
            cr0: CR0_PE as u32,
            cs_limit: u32::MAX,
            ds_limit: u32::MAX,
            ss_limit: u32::MAX,
            tr_limit: 0x67,
            cs_ar: 0xc9b,
            ds_ar: 0xc93,
            ss_ar: 0xc93,
            tr_ar: 0x8b,
            ..VcpuHvmX86_32::default()
        }
    }

    fn answer(mode: u32, regs: &[u8]) -> Result<Start, Errno> {
        Start::new(&context(mode, regs), &policy())
    }

    #[test]
    fn both_forms_of_a_proper_start_are_taken() {
        let start = answer(1, long().as_bytes()).unwrap();
        assert_eq!((start.rip, start.efer), (0x10_0000, EFER_LME));
        let start = answer(0, flat().as_bytes()).unwrap();
        assert_eq!(start.cr0, CR0_PE | CR0_ET);
        assert_eq!(answer(2, flat().as_bytes()).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn a_long_start_without_long_mode_is_refused() {
        let wrong = [
            VcpuHvmX86_64 {
                cr0: CR0_PE,
                ..long()
            },
            VcpuHvmX86_64 { cr4: 0, ..long() },
            VcpuHvmX86_64 { efer: 0, ..long() },
            VcpuHvmX86_64 {
                rip: 1 << 47,
                ..long()
            },
            VcpuHvmX86_64 {
                cr3: 1 << 60,
                ..long()
            },
            VcpuHvmX86_64 {
                cr4: u64::MAX,
                ..long()
            },
            VcpuHvmX86_64 {
                efer: u64::MAX,
                ..long()
            },
            VcpuHvmX86_64 {
                cr0: CR0_PE | CR0_PG | CR0_NW,
                ..long()
            },
            VcpuHvmX86_64 {
                rflags: 1 << 17,
                ..long()
            },
        ];
        for regs in wrong {
            assert!(answer(1, regs.as_bytes()).is_err(), "{regs:x?}");
        }
    }

    #[test]
    fn segments_that_no_cpu_could_hold_are_refused() {
        let wrong = [
            VcpuHvmX86_32 { cs_ar: 0, ..flat() },
            VcpuHvmX86_32 {
                cs_ar: 0xc93,
                ..flat()
            },
            VcpuHvmX86_32 {
                cs_ar: 0xe9b,
                ..flat()
            },
            VcpuHvmX86_32 { ss_ar: 0, ..flat() },
            VcpuHvmX86_32 {
                ss_ar: 0xcf3,
                ..flat()
            },
            VcpuHvmX86_32 {
                ds_limit: u32::MAX - 1,
                ..flat()
            },
            VcpuHvmX86_32 {
                ds_ar: 0x493,
                ..flat()
            },
            VcpuHvmX86_32 {
                tr_ar: 0x89,
                ..flat()
            },
            VcpuHvmX86_32 {
                cs_limit: 0xfff,
                ..flat()
            },
            VcpuHvmX86_32 {
                cs_ar: 0x1c9b,
                ..flat()
            },
        ];
        for regs in wrong {
            assert!(answer(0, regs.as_bytes()).is_err(), "{regs:x?}");
        }
        let without_data = VcpuHvmX86_32 {
            ds_ar: 0,
            ds_limit: 0,
            ..flat()
        };
        assert!(answer(0, without_data.as_bytes()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(mode in 0u32..3, regs: [u8; 32], at in 0usize..88) {
            let mut context = context(mode, long().as_bytes());
            context.cpu_regs[at..at + 32].copy_from_slice(&regs);
            let _ = Start::new(&context, &policy());
        }
    }
}
