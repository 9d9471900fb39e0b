//! The interrupt controller's rules, seen through acknowledge and end with IRQs masked.

use xenolith_guests::arch::{self, gic, gic::gicd};
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::{ensure, expect};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("gic.identity", identity),
    ("gic.nothing_pending_is_1023", spurious),
    ("gic.a_disabled_line_waits", disabled_waits),
    ("gic.priority_mask_holds_back", mask_holds_back),
    ("gic.running_priority", running_priority),
    ("gic.only_more_urgent_ones_preempt", preemption),
    ("gic.sixteen_sgis_in_priority_order", priority_order),
    ("gic.equal_priorities_lowest_number_first", equal_priorities),
    ("gic.late_urgent_one_goes_first", late_urgent),
    ("gic.registers_read_back", read_back),
    ("gic.sgis_by_set_pending", set_pending),
    ("gic.spis_by_set_pending", spis_by_set_pending),
];

/// SGIs that no other part of the guest uses.
const A: u32 = 8;
const B: u32 = 9;
const DEFAULT_PRIORITY: u8 = 0xa0;

/// Runs `f` with IRQs masked, so that it sees pending interrupts by acknowledging them.
fn masked(f: impl FnOnce() -> Outcome) -> Outcome {
    arch::irq_off();
    let outcome = f();
    while take() < 1020 {}
    arch::irq_on();
    outcome
}

/// Acknowledges and ends; the line, or 1020 and above for none.
fn take() -> u32 {
    let token = gic::acknowledge();
    if token & 0x3ff < 1020 {
        gic::end(token);
    }
    token & 0x3ff
}

fn raise(line: u32, priority: u8) {
    gic::set_priority(line, priority);
    gic::set_bit(line, gicd::ISENABLER);
    gic::send_sgi(0, line);
}

fn identity() -> Outcome {
    value("gic.version", gic::version() as i64);
    value("gic.typer", i64::from(arch::read32(gic::dist(gicd::TYPER))));
    value("gic.iidr", i64::from(arch::read32(gic::dist(gicd::IIDR))));
    value("gic.ctlr", i64::from(arch::read32(gic::dist(gicd::CTLR))));
    Ok(())
}

fn spurious() -> Outcome {
    masked(|| {
        expect!(take(), 1023);
        Ok(())
    })
}

fn disabled_waits() -> Outcome {
    masked(|| {
        gic::set_priority(A, DEFAULT_PRIORITY);
        gic::set_bit(A, gicd::ICENABLER);
        // A GICv2 may keep its software interrupts enabled for ever (IHI 0048, GICD_ISENABLER).
        let always = gic::version() == 2 && gic::bit(A, gicd::ISENABLER);
        value("gic.sgis_are_always_enabled", i64::from(always));
        if always {
            return Ok(());
        }
        ensure!(!gic::bit(A, gicd::ISENABLER), "still enabled");
        gic::send_sgi(0, A);
        expect!(take(), 1023, "while disabled");
        gic::set_bit(A, gicd::ISENABLER);
        expect!(take(), A, "once enabled");
        expect!(take(), 1023, "afterwards");
        Ok(())
    })
}

fn mask_holds_back() -> Outcome {
    masked(|| {
        gic::set_priority_mask(0x80);
        expect!(gic::priority_mask(), 0x80);
        raise(A, 0x90);
        raise(B, 0x80);
        let held = take();
        gic::set_priority(B, 0x40);
        gic::set_priority_mask(0xf0);
        expect!(held, 1023);
        let (first, second) = (take(), take());
        ensure!(first + second == A + B, "then {first}, {second}");
        Ok(())
    })
}

fn running_priority() -> Outcome {
    masked(|| {
        expect!(gic::running_priority(), 0xff, "idle");
        raise(A, 0x60);
        let token = gic::acknowledge();
        let running = gic::running_priority();
        gic::end(token);
        expect!(token & 0x3ff, A);
        expect!(running, 0x60, "busy");
        expect!(gic::running_priority(), 0xff, "idle again");
        Ok(())
    })
}

fn preemption() -> Outcome {
    masked(|| {
        raise(A, 0x60);
        let outer = gic::acknowledge();
        raise(B, 0x70);
        let less_urgent = take();
        raise(B + 1, 0x40);
        let more_urgent = take();
        gic::end(outer);
        let at_last = take();
        expect!(less_urgent, 1023, "a less urgent one");
        expect!(more_urgent, B + 1, "a more urgent one");
        expect!(at_last, B, "after the end");
        Ok(())
    })
}

fn line_priority(line: u32) -> u8 {
    0x20 + (((line * 7) % 16) as u8) * 8
}

fn priority_order() -> Outcome {
    masked(|| {
        for line in 0..16 {
            raise(line, line_priority(line));
        }
        let mut last = 0;
        let mut seen = 0u32;
        for _ in 0..16 {
            let line = take();
            ensure!(line < 16, "lost: got {line}, seen {seen:#x}");
            ensure!(line_priority(line) >= last, "{line} came too late");
            ensure!(seen & 1 << line == 0, "{line} came twice");
            last = line_priority(line);
            seen |= 1 << line;
        }
        expect!(take(), 1023, "afterwards");
        Ok(())
    })
}

fn equal_priorities() -> Outcome {
    masked(|| {
        for line in (0..16).rev() {
            raise(line, DEFAULT_PRIORITY);
        }
        let mut seen = 0u32;
        let mut in_order = true;
        for line in 0..16 {
            let got = take();
            ensure!(got < 16, "lost one, seen {seen:#x}");
            in_order &= got == line;
            seen |= 1 << got;
        }
        expect!(seen, 0xffff);
        value("gic.equal_priorities_in_order", i64::from(in_order));
        Ok(())
    })
}

fn late_urgent() -> Outcome {
    masked(|| {
        for line in 0..15 {
            raise(line, DEFAULT_PRIORITY);
        }
        raise(15, 0x20);
        expect!(take(), 15);
        for _ in 0..15 {
            ensure!(take() < 15, "lost one");
        }
        Ok(())
    })
}

fn read_back() -> Outcome {
    const LINE: u32 = 45;
    gic::set_priority(LINE, 0x50);
    let priorities = arch::read32(gic::dist(gicd::IPRIORITYR + 44));
    expect!(priorities >> 8 & 0xff, 0x50);
    gic::set_bit(LINE, gicd::ISENABLER);
    ensure!(gic::bit(LINE, gicd::ISENABLER) && gic::bit(LINE, gicd::ICENABLER));
    gic::set_bit(LINE, gicd::ICENABLER);
    ensure!(!gic::bit(LINE, gicd::ISENABLER));
    Ok(())
}

fn set_pending() -> Outcome {
    masked(|| {
        for line in 0..16 {
            gic::set_priority(line, line_priority(line));
            gic::set_bit(line, gicd::ISENABLER);
        }
        let fault = arch::fault_of(|| gic::set_bit(A, gicd::ISPENDR));
        value("gic.sgi_set_pending_faults", i64::from(fault.is_some()));
        let line = take();
        value("gic.sgi_set_pending_raises", i64::from(line == A));
        Ok(())
    })
}

fn spis_by_set_pending() -> Outcome {
    masked(|| {
        let first = free_spi();
        let mut raised = 0;
        for line in first..first + 8 {
            gic::set_priority(line, 0x20 + (7 - (line - first) as u8) * 8);
            gic::set_bit(line, gicd::ISENABLER);
            let fault = arch::fault_of(|| gic::set_bit(line, gicd::ISPENDR));
            raised += u32::from(fault.is_none());
        }
        value("gic.spi_set_pending_accepted", i64::from(raised));
        let mut taken = 0;
        let mut last = 0;
        loop {
            let line = take();
            if line >= 1020 {
                break;
            }
            ensure!(
                (first..first + 8).contains(&line),
                "line {line} out of nowhere"
            );
            let priority = 0x20 + (7 - (line - first) as u8) * 8;
            ensure!(priority >= last, "{line} came too late");
            last = priority;
            taken += 1;
        }
        value("gic.spi_set_pending_taken", taken);
        for line in first..first + 8 {
            gic::set_bit(line, gicd::ICENABLER);
        }
        Ok(())
    })
}

/// The first of eight SPIs that no device of the boards used here has.
fn free_spi() -> u32 {
    const QUIET: u32 = 200;
    let lines = (arch::read32(gic::dist(gicd::TYPER)) & 0x1f) * 32 + 32;
    QUIET.min(lines - 8)
}
