//! What a guest does not come back from, by the word `fault=`: an exception whose handler raises one at its first instruction.
//! With `fault=endless` the CPU itself delivers page faults for ever, which is the guest's own time.

use core::arch::{asm, global_asm};

use xenolith_guests::{arch, bootargs, cpus, ensure};

use super::{Case, NOTHING, Outcome};

pub(crate) const CASES: &[Case] = &[("last.fault", fault)];

unsafe extern "C" {
    static guest_handler_illegal: u8;
    static guest_handler_fence: u8;
    static guest_handler_store: u8;
}

global_asm!(
    r#"
    .balign 4
guest_handler_illegal:
    mret
    .balign 4
guest_handler_fence:
    .word   0x62000073              // HFENCE.GVMA
    .balign 4
guest_handler_store:                // a0: where nothing is
    sd      zero, 0(a0)
    ret
"#
);

fn fault() -> Outcome {
    let Some(kind) = bootargs::word("fault") else {
        return Ok(());
    };
    arch::irq_off();
    match kind {
        "handler-nowhere" => handler_nowhere(0),
        "handler-in-a-device" => without_tables(arch::device_address()),
        "handler-illegal" => without_tables((&raw const guest_handler_illegal) as u64),
        "handler-of-the-hypervisor" => without_tables((&raw const guest_handler_fence) as u64),
        "handler-stores-nowhere" => without_tables((&raw const guest_handler_store) as u64),
        "tables-nowhere" => tables_nowhere(),
        "other-cpu" => {
            let (errno, came) = cpus::start(1);
            ensure!(came, "CPU 1 does not start: {errno}");
            cpus::begin(1, handler_nowhere);
            loop {
                arch::relax();
            }
        }
        "endless" => endless(),
        _ => ensure!(false, "there is no such fault"),
    }
    Ok(())
}

fn handler_nowhere(_: usize) {
    without_tables(NOTHING);
}

/// An illegal instruction for a handler at a physical address.
fn without_tables(handler: u64) -> ! {
    // SAFETY: it ends the domain, which is what was asked for. The image is mapped one to one.
    unsafe {
        asm!("csrw satp, zero", "sfence.vma", "csrw stvec, {}", "mret", in(reg) handler, in("a0") NOTHING, options(noreturn))
    }
}

/// Neither the next instruction nor the handler is found any more.
fn tables_nowhere() -> ! {
    const SV39: u64 = 8 << 60;
    // SAFETY: as above.
    unsafe {
        asm!("csrw satp, {}", "sfence.vma", "1: j 1b", in(reg) SV39 | NOTHING >> 12, options(noreturn))
    }
}

fn endless() -> ! {
    // SAFETY: this CPU does nothing more.
    unsafe { asm!("csrw stvec, {}", "mret", in(reg) arch::UNMAPPED, options(noreturn)) }
}
