//! Hart state management: how a hart starts, and starts that are refused. RISC-V SBI specification 2.0, chapter 9.
#![allow(unsafe_code)] // A hart is started in code that is no function.

use core::arch::global_asm;

use xenolith_guests::arch::sbi::{self, error, error_of, extension, hsm};
use xenolith_guests::buffer::Page;
use xenolith_guests::console::line;
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::{arch, cpus, ensure, expect};

use super::Case;

pub(crate) const CASES: &[Case] = &[
    ("harts.are_alike", alike),
    ("harts.states", states),
    ("harts.bad_starts_are_refused", bad_starts),
    ("harts.start_as_the_specification_says", first_state),
    ("harts.one_start_of_two_at_once", started_twice),
];

/// In a hole of the board's map.
const NOTHING: u64 = 0x1f00_0000;
const NO_HART: u64 = 60;

unsafe extern "C" {
    fn guest_probe_entry();
}

global_asm!(
    r#"
    // a0: hart id; a1: where to put what is here at the start. The last word is written last.
    .balign 4
guest_probe_entry:
    sd      a0, 0(a1)
    sd      a1, 8(a1)
    csrr    t0, satp
    sd      t0, 16(a1)
    csrr    t0, sstatus
    sd      t0, 24(a1)
    csrr    t0, sie
    sd      t0, 32(a1)
    fence
    li      t0, 1
    sd      t0, 40(a1)
    li      a7, 0x48534d            // stop
    li      a6, 1
    ecall
1:  j       1b
"#
);

fn start(hart: u64, entry: u64, opaque: u64) -> i64 {
    error_of(extension::HSM, hsm::START, [hart, entry, opaque])
}

/// The tree tells the same of each.
fn alike() -> Outcome {
    let tree = arch::device_tree();
    let told = tree.cpus().map(|cpu| {
        let text = |name| cpu.property(name).and_then(|property| property.as_str());
        (
            text("riscv,isa").unwrap_or(""),
            text("mmu-type").unwrap_or(""),
        )
    });
    let mut first = None;
    for told in told {
        let (isa, mmu) = *first.get_or_insert(told);
        expect!(told, (isa, mmu));
    }
    if let Some((isa, mmu)) = first {
        line(format_args!("[guest] harts are {isa}, {mmu}"));
    }
    Ok(())
}

fn states() -> Outcome {
    expect!(arch::cpu_status(0).value, hsm::STARTED, "itself");
    for index in cpus::others() {
        expect!(arch::cpu_status(index).value, hsm::STOPPED, "cpu {index}");
    }
    let nobody = error_of(extension::HSM, hsm::STATUS, [NO_HART, 0, 0]);
    expect!(nobody, error::INVALID_PARAM, "nobody");
    Ok(())
}

fn bad_starts() -> Outcome {
    let entry = arch::secondary_entry();
    let own = arch::hart_of(0);
    expect!(start(own, entry, 0), error::ALREADY_AVAILABLE, "itself");
    expect!(start(NO_HART, entry, 0), error::INVALID_PARAM, "nobody");
    for index in cpus::others() {
        // Firmware may find out only when the hart has started, so it is not asked.
        if sbi::is_bare() {
            break;
        }
        for address in [
            NOTHING,
            arch::device_address(),
            1 << 41,
            1 << 56,
            u64::MAX - 3,
        ] {
            let answer = start(arch::hart_of(index), address, 0);
            expect!(answer, error::INVALID_ADDRESS, "at {address:#x}");
            ensure!(arch::cpu_is_off(index), "cpu {index} is not off");
        }
    }
    Ok(())
}

/// Its id and the caller's word are in its registers, its MMU and its interrupts are off.
fn first_state() -> Outcome {
    const INTERRUPTS: u64 = 1 << 1;
    const DONE: u64 = 40;
    for index in cpus::others() {
        let page = Page::take();
        page.fill(0xff);
        page.write::<u64>(DONE, 0);
        let hart = arch::hart_of(index);
        let entry = guest_probe_entry as *const () as u64;
        expect!(start(hart, entry, page.address()), 0, "cpu {index}");
        ensure!(
            cpus::wait_for(|| page.read::<u64>(DONE) == 1),
            "cpu {index} does not start"
        );
        ensure!(
            cpus::wait_for(|| arch::cpu_is_off(index)),
            "cpu {index} does not stop"
        );
        let [a0, a1, satp, sstatus, sie]: [u64; 5] = page.read(0);
        expect!((a0, a1), (hart, page.address()), "arguments");
        expect!(satp, 0, "satp");
        expect!(sstatus & INTERRUPTS, 0, "sstatus.SIE");
        value("harts.sie_at_start", sie as i64);
    }
    Ok(())
}

/// Of two starts one right after the other the second finds the hart started, or on its way.
fn started_twice() -> Outcome {
    for index in cpus::others() {
        let hart = arch::hart_of(index);
        let first = arch::cpu_start(index, |_| ());
        let second = start(hart, arch::secondary_entry(), index as u64);
        expect!(first, 0, "the first");
        // The first may be over and done with by then. OpenSBI 1.1 has another error for a hart that is on its way.
        ensure!(
            second == error::ALREADY_AVAILABLE
                || second == 0
                || sbi::is_bare() && second == error::INVALID_PARAM,
            "the second: {second}"
        );
        ensure!(
            cpus::wait_for(|| arch::cpu_is_off(index)),
            "cpu {index} does not stop"
        );
    }
    Ok(())
}
