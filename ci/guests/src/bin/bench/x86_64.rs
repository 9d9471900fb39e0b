//! What only x86-64 has: CPUID, model-specific registers, ports, control registers, the local APIC.

use xenolith_guests::arch::{self, apic, regs};
use xenolith_guests::xen::nr;

use super::measure as time;

/// A port that no machine has a device at.
const NO_PORT: u16 = 0x5f0;

pub(super) fn measure() {
    time("xen_version_by_page", || {
        arch::hypercall_by_page(nr::XEN_VERSION, [0; 5]);
    });
    time("cpuid", || {
        core::hint::black_box(regs::cpuid(0, 0));
    });
    time("cpuid_of_the_hypervisor", || {
        core::hint::black_box(regs::cpuid(arch::leaves(), 0));
    });
    time("apic_base_read", || {
        regs::rdmsr(regs::msr::APIC_BASE);
    });
    time("apic_id_read", || {
        apic::read(apic::reg::ID);
    });
    time("apic_task_priority_write", || {
        apic::write(apic::reg::TPR, 0);
    });
    time("port_read_of_nothing", || {
        regs::in8(NO_PORT);
    });
    let cr0 = regs::cr0();
    time("cr0_write", || regs::set_cr0(cr0));
    let cr4 = regs::cr4();
    time("cr4_write", || regs::set_cr4(cr4));
    let cr3 = regs::cr3();
    time("cr3_write", || regs::set_cr3(cr3));
    let nothing = arch::grant_window() + (100 << 12);
    time("read_of_nothing", || {
        arch::read32(nothing);
    });
}
