//! Segments and task state of each CPU, and the interrupt table of all (Intel SDM, volume 3, 3.4, 6.10 and 8.7).

use alloc::{boxed::Box, vec};

use x86_64::{
    VirtAddr,
    instructions::{segmentation, segmentation::Segment, tables},
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        tss::TaskStateSegment,
    },
};

use super::vectors;

/// Interrupt stack for double faults: a broken stack must not break its own report. Entry of the task state's table.
pub const DOUBLE_FAULT_STACK: usize = 0;
const STACK_BYTES: usize = 8192;

/// Selector of the hypervisor's code, the first descriptor.
pub const CODE: u16 = 8;

/// Gives the executing CPU segments and task state of its own, and the common interrupt table.
pub fn install() {
    let stack = Box::leak(vec![0u8; STACK_BYTES].into_boxed_slice());
    let top = stack.as_ptr_range().end as u64 & !15;
    let mut tss = TaskStateSegment::new();
    tss.interrupt_stack_table[DOUBLE_FAULT_STACK] = VirtAddr::new(top);
    let tss: &'static TaskStateSegment = Box::leak(Box::new(tss));
    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
    debug_assert!(code.0 == CODE, "interrupt gates name the first descriptor");
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
    vectors::install();
}
