//! What keeps a PV guest alive under its own random calls: its traps, its root, its record and the window of the
//! sacrificial pages stay; table updates go to entries of that window that nothing else uses.

use core::ops::Range;

use xenolith_guests::arch::tables::{self, ext};
use xenolith_guests::arch::{self, memory, segment, trap, upcall};
use xenolith_guests::buffer::PAGE;
use xenolith_guests::xen::nr;

use super::choice::Call;
use super::words::Words;

const REGISTER_VCPU_INFO: u32 = 10;
const SEND_NMI: u32 = 11;
const SCHED_OP_COMPAT: u64 = 6;
const XENOPROF_OP: u64 = 31;
const KEXEC_OP: u64 = 37;
const MCA: u64 = 48;
/// `PHYSDEVOP_apic_write`, `map_pirq`, `unmap_pirq`, and two more by which the hardware domain of Xen 4.17 can bring it down:
/// `prepare_msix` and `release_msix`.
const PHYSDEV_OF_MACHINE: [u32; 5] = [9, 13, 14, 30, 31];
/// Entries of the test window that the updates go to.
const FIRST_SLOT: u64 = 100;
const SLOTS: u64 = 32;
/// What the domain builder put behind the image, tables and lists, takes less than this.
const BEHIND_IMAGE: u64 = 3 << 20;

/// Machine addresses from the lowest to the highest frame of what the guest lives on.
pub(crate) fn live() -> Range<u64> {
    let mapped = (arch::image().end + BEHIND_IMAGE - memory::VIRT_BASE) / PAGE;
    let frames = || (0..mapped).map(memory::machine_frame);
    let first = frames().min().unwrap_or(0);
    let last = frames().max().unwrap_or(0);
    first * PAGE..(last + 1) * PAGE
}

/// Makes a call harmless to the guest; says whether nothing else need be done.
pub(crate) fn confine(call: &mut Call, words: &mut Words) -> bool {
    match call.number {
        nr::IRET => call.number = nr::XEN_VERSION,
        nr::SET_SEGMENT_BASE if call.args[0] as u32 == segment::GS_KERNEL as u32 => {
            call.args[0] = 0
        }
        // A breakpoint that is armed would trap.
        nr::SET_DEBUGREG if matches!(call.args[0] as u32, 5 | 7) => call.args[1] = 0,
        XENOPROF_OP | KEXEC_OP => call.args[1] = words.bad_pointer(),
        MCA => call.args[0] = words.bad_pointer(),
        nr::PHYSDEV_OP if PHYSDEV_OF_MACHINE.contains(&(call.args[0] as u32)) => {
            call.args[1] = words.bad_pointer()
        }
        nr::MMU_UPDATE => updates(call, words),
        nr::MMUEXT_OP => operations(call, words),
        nr::UPDATE_VA_MAPPING | nr::UPDATE_VA_MAPPING_OTHERDOMAIN => {
            call.args[0] = if words.once_in(8) {
                [
                    arch::UNMAPPED,
                    arch::NON_CANONICAL,
                    arch::UPPER_HALF,
                    u64::MAX,
                ][words.below(4) as usize]
            } else {
                arch::WINDOW + (FIRST_SLOT + words.below(SLOTS)) * PAGE + words.below(2)
            };
            call.args[1] = entry(words);
            if words.once_in(2) {
                call.args[2] = words.below(8);
            }
        }
        // The runtime takes its events where they are; an NMI would go wherever a call before said.
        nr::VCPU_OP if call.args[0] as u32 == REGISTER_VCPU_INFO => {
            call.args[2] = words.bad_pointer()
        }
        nr::VCPU_OP if call.args[0] as u32 == SEND_NMI => call.args[2] |= 1,
        SCHED_OP_COMPAT => {
            call.number = nr::SCHED_OP;
            return false;
        }
        _ => return false,
    }
    true
}

/// An entry, sensible more often than not.
fn entry(words: &mut Words) -> u64 {
    match words.below(4) {
        0 => words.word(),
        1 => words.frame() * PAGE | words.below(512),
        _ => words.frame() * PAGE | tables::bit::READ | words.below(2) * tables::bit::WRITABLE,
    }
}

fn updates(call: &mut Call, words: &mut Words) {
    let count = if words.once_in(16) {
        words.word()
    } else {
        words.below(5)
    };
    let at = words.pointer() & !0xff & !0xfff;
    for index in 0..5 {
        let kind = if words.once_in(8) {
            words.below(8)
        } else {
            words.below(4)
        };
        let place = match words.below(4) {
            // A word of a sacrificial page, which may be a table by now.
            0 => words.frame() * PAGE + words.below(512) * 8,
            1 => words.word() & !7,
            _ => {
                let slot = FIRST_SLOT + words.below(SLOTS);
                tables::machine_address(tables::window_entry(slot as usize))
            }
        };
        let value = if kind & 3 == tables::kind::MACHPHYS {
            words.word()
        } else {
            entry(words)
        };
        arch::write64(at + index * 16, place | kind);
        arch::write64(at + index * 16 + 8, value);
    }
    call.args[0] = if words.once_in(16) {
        words.bad_pointer()
    } else {
        at
    };
    // What is behind the five is old, and may name what was harmless then.
    call.args[1] = if call.args[0] == at {
        count.min(5)
    } else {
        count
    };
    if words.once_in(2) {
        call.args[2] = 0;
    }
    call.args[3] = domain(words);
}

fn operations(call: &mut Call, words: &mut Words) {
    let at = words.pointer() & !0xfff;
    for index in 0..4 {
        let mut command = words.below(24);
        // An empty root would be the guest's last.
        if command == u64::from(ext::NEW_BASEPTR) {
            command = u64::from(ext::UNPIN);
        }
        let first = if words.once_in(4) {
            words.word()
        } else {
            words.frame()
        };
        let second = if words.once_in(2) {
            words.frame()
        } else {
            words.word()
        };
        arch::write64(at + index * 24, command);
        arch::write64(at + index * 24 + 8, first);
        arch::write64(at + index * 24 + 16, second);
    }
    call.args[0] = if words.once_in(16) {
        words.bad_pointer()
    } else {
        at
    };
    call.args[1] = if call.args[0] == at {
        words.below(5)
    } else {
        words.word()
    };
    if words.once_in(2) {
        call.args[2] = 0;
    }
    call.args[3] = domain(words);
}

fn domain(words: &mut Words) -> u64 {
    if words.once_in(4) {
        words.word()
    } else {
        0x7ff0
    }
}

/// Traps, callbacks and stack as the runtime wants them.
pub(crate) fn restore() {
    restore_on(0);
}

/// The same, on vCPU `index`.
pub(crate) fn restore_on(index: usize) {
    trap::set_trap_table(&trap::table());
    upcall::register_callbacks();
    arch::restore_user_stack(index);
}
