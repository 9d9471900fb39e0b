//! Segments and task state of each CPU, and the interrupt tables of all (Intel SDM, volume 3, 3.4, 6.10 and 8.7).
//!
//! The selectors are those that the ABI promises to PV guests (`arch-x86/xen-x86_64.h`, `FLAT_RING3_*`): the table's last page is
//! the hypervisor's, the fourteen before it are the guest's. A CPU begins with the last page alone; in its window
//! ([`crate::pv::gate`]) the others can be mapped below it.
//!
//! The last descriptor's limit is the CPU's number, for LSL; nothing is ever reached through it.

use alloc::{boxed::Box, vec};

use x86_64::{
    PrivilegeLevel, VirtAddr,
    instructions::{segmentation, segmentation::Segment, tables},
    structures::{DescriptorTablePointer, gdt::SegmentSelector, tss::TaskStateSegment},
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
/// For debug exceptions, which may come before a system call has a stack.
pub const DEBUG_STACK: usize = 3;
/// How many there are.
pub const STACKS: usize = 4;
/// Bytes of each.
pub const STACK_BYTES: usize = 8192;

/// Selector of the first descriptor of the hypervisor's page: 14 pages of 512 descriptors are the guest's.
pub const FIRST: u16 = 14 << 12;
/// The hypervisor's code.
pub const CODE: u16 = FIRST + 0x08;
/// Its stack; a SYSCALL takes it as the one after its code.
pub const DATA: u16 = FIRST + 0x10;
/// Programs of 32 bits; what SYSRET counts from.
pub const USER_CODE_32: u16 = (FIRST + 0x20) | 3;
/// Data of PV guests.
pub const USER_DATA: u16 = (FIRST + 0x28) | 3;
/// Code of PV guests and their programs.
pub const USER_CODE: u16 = (FIRST + 0x30) | 3;
/// The task state.
const TASK: u16 = FIRST + 0x40;
/// The guest's local descriptor table; not present while it has none.
pub const LOCAL: u16 = FIRST + 0x50;
/// The descriptor whose limit is the CPU's number.
pub const CPU_NUMBER: u16 = FIRST + 0x60;

/// Descriptors in the hypervisor's page.
pub const DESCRIPTORS: usize = 13;
/// The table's limit.
pub const LIMIT: u16 = FIRST + DESCRIPTORS as u16 * 8 - 1;

/// The hypervisor's page of a table.
pub type Page = [u64; DESCRIPTORS];

/// A system descriptor for something at `base`: type and rights as in bits 40 to 47.
#[must_use]
pub const fn system(base: u64, limit: u32, rights: u64) -> [u64; 2] {
    let limit = limit as u64;
    [
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | rights << 40
            | (limit >> 16 & 0xf) << 48
            | (base >> 24 & 0xff) << 56,
        base >> 32,
    ]
}

/// What the hypervisor's page holds on a CPU with this task state.
fn page(cpu: CpuId, task: u64) -> Page {
    const TASK_AVAILABLE: u64 = 0x89;
    const PRESENT_DATA: u64 = 0x93 << 40;
    let [task_low, task_high] = system(
        task,
        size_of::<TaskStateSegment>() as u32 - 1,
        TASK_AVAILABLE,
    );
    let mut page = [0; DESCRIPTORS];
    let entries = [
        (CODE, 0x00af_9b00_0000_ffff),
        (DATA, 0x00cf_9300_0000_ffff),
        (USER_CODE_32, 0x00cf_fb00_0000_ffff),
        (USER_DATA, 0x00cf_f300_0000_ffff),
        (USER_CODE, 0x00af_fb00_0000_ffff),
        (TASK, task_low),
        (TASK + 8, task_high),
        (CPU_NUMBER, PRESENT_DATA | u64::from(cpu.0)),
    ];
    for (selector, descriptor) in entries {
        page[usize::from(selector - FIRST) >> 3] = descriptor;
    }
    page
}

/// Points the executing CPU at a table whose last page is at `last`, and at its task state.
///
/// # Safety
/// A [`page`] for this CPU stands there for ever, with a task state that lives for ever.
unsafe fn load(last: u64) {
    let pointer = DescriptorTablePointer {
        limit: LIMIT,
        base: VirtAddr::new(last - u64::from(FIRST)),
    };
    let task = SegmentSelector(TASK);
    // SAFETY: the caller promises the table. Nothing uses a selector below its last page but guests that have theirs there.
    unsafe {
        tables::lgdt(&pointer);
        tables::load_tss(task);
    }
}

/// Gives the executing CPU segments and task state of its own, and the common interrupt table.
pub fn install(cpu: CpuId) {
    let mut tss = TaskStateSegment::new();
    // One for all, until the CPU's window has one for each.
    let stack = Box::leak(vec![0u8; STACK_BYTES].into_boxed_slice());
    let top = VirtAddr::new(stack.as_ptr_range().end as u64 & !15);
    for which in 0..STACKS {
        tss.interrupt_stack_table[which] = top;
    }
    let tss: &'static TaskStateSegment = Box::leak(Box::new(tss));
    let page: &'static mut Page = Box::leak(Box::new(page(cpu, core::ptr::from_ref(tss) as u64)));
    let selector = |number| SegmentSelector::new(number >> 3, PrivilegeLevel::Ring0);
    // SAFETY: the table is complete and lives for ever; base and limit mean nothing in long mode but for FS and GS, which
    // are left alone.
    unsafe {
        load(page.as_mut_ptr() as u64);
        segmentation::CS::set_reg(selector(CODE));
        segmentation::SS::set_reg(selector(DATA));
        segmentation::DS::set_reg(SegmentSelector::NULL);
        segmentation::ES::set_reg(SegmentSelector::NULL);
        core::arch::asm!("lldt {:x}", in(reg) 0u16, options(nostack, preserves_flags));
    }
    vectors::install(vectors::Stacks::Own);
}

/// Moves the executing CPU to a table whose last page is at `last`, and to a copy of its task state at `task` whose ring 0
/// stack ends at `stack`, and whose interrupt stacks end at `stacks`.
///
/// # Safety
/// Both places are this CPU's for ever, zeroed, aligned; `stack` is the end of a stack for entries from ring 3, and `stacks` are
/// mapped for ever.
pub unsafe fn move_to(
    cpu: CpuId,
    last: *mut Page,
    task: *mut TaskStateSegment,
    stack: u64,
    stacks: [u64; STACKS],
) {
    let pointer = tables::sgdt();
    let old = (pointer.base + u64::from(FIRST)).as_ptr::<Page>();
    // SAFETY: `install` made the present table and its task state, which are only read here; the caller owns the new places.
    unsafe {
        let [low, high] = [
            (*old)[usize::from(TASK - FIRST) >> 3],
            (*old)[usize::from(TASK + 8 - FIRST) >> 3],
        ];
        let base = low >> 16 & 0xff_ffff | (low >> 56) << 24 | high << 32;
        let mut state = (base as *const TaskStateSegment).read();
        state.privilege_stack_table[0] = VirtAddr::new(stack);
        for (which, top) in stacks.into_iter().enumerate() {
            state.interrupt_stack_table[which] = VirtAddr::new(top);
        }
        task.write(state);
        last.write(page(cpu, task as u64));
        load(last as u64);
    }
}
