//! Which call comes next, and with what arguments.

use xenolith_guests::arch;
use xenolith_guests::buffer::Page;
use xenolith_guests::xen::{memory, nr, sched};

use super::words::Words;

/// One call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) args: [u64; 5],
}

/// Numbers that a hypervisor knows; tried more often than the rest.
const KNOWN: [u64; 16] = [
    nr::MEMORY_OP,
    nr::MULTICALL,
    nr::XEN_VERSION,
    nr::CONSOLE_IO,
    nr::GRANT_TABLE_OP,
    nr::VM_ASSIST,
    nr::VCPU_OP,
    nr::SCHED_OP,
    nr::EVENT_CHANNEL_OP,
    nr::PHYSDEV_OP,
    nr::HVM_OP,
    nr::SYSCTL,
    nr::DOMCTL,
    nr::DM_OP,
    nr::PLATFORM_OP,
    nr::XSM_OP,
];
/// What PV guests have for their tables, traps and segments.
const TABLES: [u64; 12] = [
    nr::MMU_UPDATE,
    nr::MMU_UPDATE,
    nr::MMUEXT_OP,
    nr::MMUEXT_OP,
    nr::UPDATE_VA_MAPPING,
    nr::UPDATE_VA_MAPPING_OTHERDOMAIN,
    nr::SET_TRAP_TABLE,
    nr::SET_GDT,
    nr::UPDATE_DESCRIPTOR,
    nr::STACK_SWITCH,
    nr::CALLBACK_OP,
    nr::SET_SEGMENT_BASE,
];
const SCHED_OP_COMPAT: u64 = 6;
/// `PHYSDEVOP_manage_pci_*` and `PHYSDEVOP_pci_device_*`.
const PCI_ADD_AND_REMOVE: [u64; 5] = [15, 16, 20, 25, 26];
const VCPU_DOWN: u64 = 2;
const VCPU_IS_UP: u64 = 3;
const ENTRY_WORDS: u64 = 8;
const MOST_ENTRIES: u64 = 8;

/// A multicall's list is put on page `list`, which no other argument names.
pub(crate) fn next(words: &mut Words, list: Page) -> Call {
    let call = single(words);
    if call.number == nr::MULTICALL {
        multicall(words, list)
    } else {
        call
    }
}

/// How many entries on page `list` a call reads.
pub(crate) fn entries(call: &Call, list: Page) -> u64 {
    let reads = call.number == nr::MULTICALL && call.args[0] == list.address();
    if reads { call.args[1] } else { 0 }
}

fn multicall(words: &mut Words, list: Page) -> Call {
    let count = words.below(MOST_ENTRIES + 1);
    for entry in 0..count {
        let mut call = single(words);
        if call.number == nr::MULTICALL {
            // A multicall in a multicall, of a list that is not there.
            call.args[0] = words.bad_pointer();
        }
        let at = entry * ENTRY_WORDS * 8;
        list.write(at, call.number);
        list.write(at + 8, words.random());
        list.write(at + 16, call.args);
        list.write(at + 56, words.random());
    }
    let address = if words.once_in(16) {
        words.bad_pointer()
    } else {
        list.address()
    };
    let count = if address == list.address() {
        count
    } else {
        words.word()
    };
    Call {
        number: nr::MULTICALL,
        args: [address, count, words.word(), 0, 0],
    }
}

fn single(words: &mut Words) -> Call {
    let number = if words.once_in(4) {
        words.below(256)
    } else if !arch::IS_TRANSLATED && words.once_in(2) {
        TABLES[words.below(TABLES.len() as u64) as usize]
    } else {
        KNOWN[words.below(KNOWN.len() as u64) as usize]
    };
    let mut call = Call {
        number,
        args: [0; 5],
    };
    call.args[0] = match words.below(8) {
        0 => words.word(),
        1 => words.below(64),
        _ => words.below(16),
    };
    for index in 1..5 {
        call.args[index] = if words.once_in(3) {
            words.word()
        } else {
            words.argument()
        };
    }
    confine(&mut call, words);
    call
}

/// Gives the calls that take counts useful ones, and keeps the guest alive.
fn confine(call: &mut Call, words: &mut Words) {
    #[cfg(pv)]
    if super::confine_pv::confine(call, words) {
        return;
    }
    match call.number {
        nr::GRANT_TABLE_OP => {
            call.args[2] = if words.once_in(8) {
                words.word()
            } else {
                words.below(5)
            };
            // Entries get their answers written: a long row of them from low memory on would run over the guest.
            if call.args[2] > MOST_ENTRIES && words.leads_to_ram(call.args[1]) {
                call.args[1] = arch::UNMAPPED;
            }
        }
        nr::VCPU_OP => {
            if call.args[0] & 0xffff_ffff == VCPU_DOWN {
                call.args[0] = VCPU_IS_UP;
            }
            call.args[1] = if words.once_in(4) {
                words.word()
            } else {
                words.below(2)
            }
        }
        nr::CONSOLE_IO => {
            call.args[0] = words.below(4);
            let (count, address) = if words.once_in(2) {
                (0, words.pointer())
            } else {
                (words.word(), words.bad_pointer())
            };
            (call.args[1], call.args[2]) = (count, address);
        }
        nr::SCHED_OP | SCHED_OP_COMPAT => {
            let sub = call.args[0] & 0xffff_ffff;
            // A domain may shut itself down through the remote form too, and the code that it sets first
            // is what counts when it ends.
            let ends = matches!(
                sub,
                sched::op::SHUTDOWN | sched::op::REMOTE_SHUTDOWN | sched::op::SHUTDOWN_CODE
            );
            if ends || matches!(sub, sched::op::POLL | sched::op::WATCHDOG) {
                call.args[1] = words.bad_pointer();
            }
            if sub == sched::op::BLOCK {
                call.args[0] = sched::op::YIELD;
            }
        }
        nr::SYSCTL | nr::DOMCTL | nr::PLATFORM_OP => {
            // Whatever comes first in the struct is no interface version.
            if call.args[0] == words.bad_pointer() {
                return;
            }
            let address = words.pointer() & !7;
            arch::write64(address, words.random() | 0x8000_0000);
            call.args[0] = address;
        }
        nr::MEMORY_OP => memory_op(call, words),
        // The hardware domain of Xen 4.17 on x86 can bring Xen down by taking a PCI device away.
        nr::PHYSDEV_OP if PCI_ADD_AND_REMOVE.contains(&(call.args[0] & 0xffff_ffff)) => {
            call.args[1] = words.bad_pointer();
        }
        // These take no frame numbers, so an odd pointer cannot make one.
        nr::XEN_VERSION | nr::PHYSDEV_OP if words.once_in(8) => call.args[1] ^= words.below(4),
        _ => {}
    }
}

/// Reservation calls get an order that cannot reach from the sacrificial frames to the image.
fn memory_op(call: &mut Call, words: &mut Words) {
    let sub = call.args[0] & 63;
    if words.once_in(8) {
        call.args[0] |= words.below(8) << 6;
    }
    let reserves = matches!(
        sub,
        memory::op::INCREASE_RESERVATION
            | memory::op::DECREASE_RESERVATION
            | memory::op::POPULATE_PHYSMAP
    );
    if !reserves {
        return;
    }
    if words.once_in(12) {
        call.args[1] = words.bad_pointer();
        return;
    }
    let frames = words.pointer() & !0xfff;
    for index in 0..8 {
        let frame = words.frame();
        arch::write64(frames + index * 8, frame);
    }
    // The struct is not on the page of its frames.
    let argument = (words.pointer() & !0xfff ^ 0x1000) + 64 * words.below(32);
    let count = if words.once_in(8) {
        words.word()
    } else {
        words.below(9)
    };
    let order = [0, 0, 0, 0, 1, 4, 9, 30, 64, 0xffff_ffff][words.below(10) as usize];
    let flags = if words.once_in(4) {
        words.word() << 32
    } else {
        0
    };
    arch::write64(argument, frames);
    arch::write64(argument + 8, count);
    arch::write64(argument + 16, order | flags);
    arch::write64(
        argument + 24,
        if words.once_in(4) {
            words.word()
        } else {
            0x7ff0
        },
    );
    call.args[1] = argument;
}
