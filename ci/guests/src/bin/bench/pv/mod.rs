//! What only PV guests have: page tables by hypercall, trapped privileged instructions, user code, and the calls that
//! a kernel makes when it switches tasks.
#![allow(unsafe_code)]

mod entries;
mod memory;

use core::arch::asm;

use xenolith_guests::arch::{self, regs, segment, selector};
use xenolith_guests::xen::{call, grant, nr, own_domain};

use super::measure as time;

/// A time far from now.
const FAR: u64 = 1 << 62;
/// A register that the hypervisor lets a guest read.
const MISC_ENABLE: u32 = 0x1a0;
/// `PHYSDEVOP_set_iopl`: at 1 the kernel may use all ports that the domain may.
const SET_IOPL: u64 = 6;
/// A port that no machine has a device at.
const NO_PORT: u16 = 0x5f0;

pub(super) fn measure() {
    time("xen_version_by_page", || {
        arch::hypercall_by_page(nr::XEN_VERSION, [0; 5]);
    });
    time("set_timer_op_far", || {
        arch::hypercall(nr::SET_TIMER_OP, [FAR, 0, 0, 0, 0]);
    });
    let top = arch::user_stack_top(0);
    time("stack_switch", || {
        arch::stack_switch(selector::DATA, top);
    });
    time("set_segment_base", || {
        arch::set_segment_base(segment::FS, 0x1000);
    });
    time("fpu_taskswitch", || {
        arch::hypercall(nr::FPU_TASKSWITCH, [0; 5]);
    });
    time("cpuid_forced", || {
        core::hint::black_box(arch::forced_cpuid(0, 0));
    });
    time("rdmsr", || {
        regs::rdmsr(MISC_ENABLE);
    });
    let cr4 = regs::cr4();
    time("cr4_write", || regs::set_cr4(cr4));
    let cr0 = regs::cr0();
    time("cr0_write", || regs::set_cr0(cr0));
    time("cr3_read", || {
        regs::cr3();
    });
    time("clts", || {
        // SAFETY: clears a flag that the guest has no use for.
        unsafe { asm!("clts", options(nostack)) };
    });
    let errno = call(nr::PHYSDEV_OP, SET_IOPL, &mut 1u32);
    time("port_read_of_nothing", || {
        if errno == 0 {
            regs::in8(NO_PORT);
        }
    });
    time("wbinvd", || {
        // SAFETY: writes caches back.
        unsafe { asm!("wbinvd", options(nostack)) };
    });
    grant_by_entry();
    memory::measure();
    entries::measure();
}

/// A grant mapped by the address of the table entry.
fn grant_by_entry() {
    use xenolith_guests::arch::tables;
    use xenolith_guests::buffer::Page;
    const REFERENCE: u32 = 42;
    let own = own_domain();
    let page = Page::take();
    grant::grant(REFERENCE, own, page.frame(), 0);
    let entry = tables::machine_address(tables::window_entry(40));
    let mut map = grant::Map {
        host_address: entry,
        flags: grant::map_flag::HOST_MAP | grant::map_flag::CONTAINS_PTE,
        reference: REFERENCE,
        domain: own,
        ..grant::Map::default()
    };
    let mut failed = 0;
    time("grant_map_unmap_by_entry", || {
        grant::one(grant::op::MAP, &mut map);
        failed += i64::from(map.status != 0);
        let mut unmap = grant::Unmap {
            host_address: entry,
            handle: map.handle,
            ..grant::Unmap::default()
        };
        grant::one(grant::op::UNMAP, &mut unmap);
    });
    xenolith_guests::report::value("grant_map_by_entry_status", failed);
}
