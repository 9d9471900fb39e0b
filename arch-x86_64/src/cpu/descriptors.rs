//! Segments and task state of each CPU, and the interrupt tables of all (Intel SDM, volume 3, 3.4, 6.10 and 8.7).
//!
//! The last descriptor's limit is the CPU's number, for LSL; nothing is ever reached through it.

use alloc::{boxed::Box, vec};

use x86_64::{
    VirtAddr,
    instructions::{segmentation, segmentation::Segment, tables},
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        tss::TaskStateSegment,
    },
};
use xenolith_hal::CpuId;

use super::vectors;

/// Interrupt stacks, as the task state numbers them: a broken stack must not break its own report, and what no mask holds
/// back may come at any instruction.
pub const DOUBLE_FAULT_STACK: usize = 0;
/// For machine checks.
pub const MACHINE_CHECK_STACK: usize = 1;
/// For non-maskable interrupts.
pub const NMI_STACK: usize = 2;
const STACKS: usize = 3;
const STACK_BYTES: usize = 8192;

/// Selector of the hypervisor's code, the first descriptor.
pub const CODE: u16 = 8;

/// Selector of the descriptor whose limit is the CPU's number.
pub const CPU_NUMBER: u16 = 0x28;

/// Gives the executing CPU segments and task state of its own, and the common interrupt table.
pub fn install(cpu: CpuId) {
    let mut tss = TaskStateSegment::new();
    for which in 0..STACKS {
        let stack = Box::leak(vec![0u8; STACK_BYTES].into_boxed_slice());
        let top = VirtAddr::new(stack.as_ptr_range().end as u64 & !15);
        tss.interrupt_stack_table[which] = top;
    }
    let tss: &'static TaskStateSegment = Box::leak(Box::new(tss));
    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
    const PRESENT_DATA: u64 = 0x93 << 40;
    let number = gdt.append(Descriptor::UserSegment(PRESENT_DATA | u64::from(cpu.0)));
    debug_assert!(code.0 == CODE, "interrupt gates name the first descriptor");
    debug_assert!(number.0 == CPU_NUMBER, "LSL names this descriptor");
    gdt.load();
    // SAFETY: the selectors are of the table just loaded, which lives for ever; base and limit mean nothing in long mode
    // but for FS and GS, which are left alone.
    unsafe {
        segmentation::CS::set_reg(code);
        segmentation::SS::set_reg(data);
        segmentation::DS::set_reg(SegmentSelector::NULL);
        segmentation::ES::set_reg(SegmentSelector::NULL);
        tables::load_tss(task);
    }
    vectors::install(vectors::Stacks::Own);
}
