//! The local APIC's rules, seen through its request and service registers with interrupts masked.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, apic, apic::reg, regs};
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::{ensure, expect};

type Case = (&'static str, fn() -> Outcome);

pub(crate) const FIRMWARE: &[Case] = &[("firmware.cpus_of_the_madt", madt)];
pub(crate) const CONTROLLER: &[Case] = &[
    ("apic.identity", identity),
    ("apic.self_interrupt_is_requested", requested),
    ("apic.task_priority_holds_back", task_priority),
    ("apic.highest_vector_first", highest_first),
    ("apic.lower_class_waits_for_the_end", lower_waits),
    ("apic.same_vector_merges", merges),
    ("apic.end_with_nothing_in_service", spurious_end),
    ("apic.software_disable_masks_the_timer", disable),
    ("apic.vectors_below_16_are_errors", low_vectors),
    ("apic.shorthand_self_and_all", shorthands),
    ("apic.cr8_is_the_task_priority", cr8),
    ("apic.x2apic_rules", x2apic_rules),
    ("timer.counts_down", counts_down),
    ("timer.periodic", periodic),
];

const LOW: u8 = 0x85;
const HIGH: u8 = 0xa1;
const HIGHER: u8 = 0xa2;
static ORDER: AtomicU64 = AtomicU64::new(0);

fn note(vector: u32) {
    let order = ORDER.load(Ordering::SeqCst);
    ORDER.store(order << 8 | u64::from(vector), Ordering::SeqCst);
}

fn send(vector: u8) {
    apic::send(apic::id(), vector);
}

/// Time for what is pending to be taken. An emulator may take it only a while after interrupts are let in.
fn settle() {
    let later = arch::now() + arch::ticks_per_second() / 1000;
    while arch::now() < later {
        arch::relax();
    }
}

/// Runs `f` with interrupts masked and the vectors noted; gives what came once they were let in.
fn masked(f: impl FnOnce() -> Outcome) -> Result<u64, xenolith_guests::report::Why> {
    for vector in [LOW, HIGH, HIGHER] {
        apic::on_vector(vector, note);
    }
    ORDER.store(0, Ordering::SeqCst);
    arch::irq_off();
    let outcome = f();
    arch::irq_on();
    settle();
    outcome.map(|()| ORDER.load(Ordering::SeqCst))
}

fn madt() -> Outcome {
    expect!(arch::apic_id_of(0), apic::id(), "the first is this one");
    for index in 0..arch::cpu_count() {
        value(
            format_args!("firmware.apic_id_{index}"),
            i64::from(arch::apic_id_of(index)),
        );
    }
    Ok(())
}

fn identity() -> Outcome {
    value("apic.is_x2apic", i64::from(apic::is_x2apic()));
    value("apic.version", i64::from(apic::read(reg::VERSION)));
    let leaf = regs::cpuid(1, 0);
    expect!(leaf.ebx >> 24, apic::id() & 0xff, "APIC id in CPUID");
    expect!(leaf.edx >> 9 & 1, 1, "APIC in CPUID");
    value("apic.base", regs::rdmsr(regs::msr::APIC_BASE) as i64);
    value("timer.apic_hertz", arch::apic_hertz() as i64);
    value("timer.ticks_per_second", arch::ticks_per_second() as i64);
    value("apic.has_deadline", i64::from(arch::has_deadline()));
    Ok(())
}

fn requested() -> Outcome {
    let order = masked(|| {
        send(LOW);
        ensure!(apic::bit(reg::IRR, LOW), "not requested");
        ensure!(!apic::bit(reg::ISR, LOW), "in service");
        ensure!(!apic::bit(reg::TMR, LOW), "level");
        Ok(())
    })?;
    expect!(order, u64::from(LOW));
    ensure!(!apic::bit(reg::IRR, LOW) && !apic::bit(reg::ISR, LOW));
    Ok(())
}

/// The priority is between the two vectors' classes. One of the lower vector's own class makes Xen on QEMU 7.2 spin:
/// the emulated SVM takes a waiting interrupt of the same class for one that may go.
fn task_priority() -> Outcome {
    const BETWEEN: u32 = 0x98;
    apic::write(reg::TPR, BETWEEN);
    expect!(apic::read(reg::TPR), BETWEEN);
    expect!(apic::read(reg::PPR), BETWEEN, "PPR");
    let order = masked(|| {
        send(LOW);
        send(HIGH);
        Ok(())
    })?;
    let held = apic::bit(reg::IRR, LOW);
    apic::write(reg::TPR, 0);
    settle();
    expect!(order, u64::from(HIGH), "what came above the priority");
    ensure!(held, "the lower one is lost");
    expect!(
        ORDER.load(Ordering::SeqCst),
        u64::from(HIGH) << 8 | u64::from(LOW),
        "after it was lowered"
    );
    Ok(())
}

fn highest_first() -> Outcome {
    let order = masked(|| {
        send(LOW);
        send(HIGHER);
        send(HIGH);
        Ok(())
    })?;
    expect!(order, 0xa2_a1_85);
    Ok(())
}

fn lower_waits() -> Outcome {
    let order = masked(|| {
        apic::on_vector(HIGH, |vector| {
            note(vector);
            send(LOW);
            send(HIGHER);
            // Interrupts are off in a handler; let them in while this vector is in service.
            arch::irq_on();
            settle();
            arch::irq_off();
            note(0xee);
        });
        send(HIGH);
        Ok(())
    })?;
    expect!(
        order,
        0xa1_ee_a2_85,
        "same class and lower wait for the end"
    );
    Ok(())
}

fn merges() -> Outcome {
    let order = masked(|| {
        for _ in 0..3 {
            send(LOW);
        }
        Ok(())
    })?;
    expect!(order, u64::from(LOW));
    Ok(())
}

fn spurious_end() -> Outcome {
    arch::irq_off();
    apic::end();
    let order = masked(|| {
        send(LOW);
        apic::end();
        ensure!(apic::bit(reg::IRR, LOW), "the request is lost");
        Ok(())
    })?;
    expect!(order, u64::from(LOW));
    Ok(())
}

fn disable() -> Outcome {
    arch::irq_off();
    arch::on_timer(|_| {});
    let before = apic::read(reg::SVR);
    apic::write(reg::SVR, before & !(1 << 8));
    let masked = apic::read(reg::LVT_TIMER) >> 16 & 1;
    apic::write(reg::SVR, before);
    arch::irq_on();
    expect!(masked, 1, "the mask bit of the timer's entry");
    Ok(())
}

fn low_vectors() -> Outcome {
    apic::write(reg::ESR, 0);
    send(5);
    apic::write(reg::ESR, 0);
    let errors = apic::read(reg::ESR);
    value("apic.errors_of_vector_5", i64::from(errors));
    apic::write(reg::ESR, 0);
    Ok(())
}

fn shorthands() -> Outcome {
    const TO_SELF: u32 = 1 << 18;
    const TO_ALL: u32 = 2 << 18;
    const ASSERT: u32 = 1 << 14;
    for shorthand in [TO_SELF, TO_ALL] {
        let order = masked(|| {
            apic::command(0, shorthand | ASSERT | u32::from(LOW));
            Ok(())
        })?;
        expect!(order, u64::from(LOW), "shorthand {shorthand:#x}");
    }
    Ok(())
}

fn cr8() -> Outcome {
    regs::set_cr8(5);
    let (tpr, ppr) = (apic::read(reg::TPR), apic::read(reg::PPR));
    apic::write(reg::TPR, 0x30);
    let back = regs::cr8();
    regs::set_cr8(0);
    expect!((tpr, ppr, back), (0x50, 0x50, 3));
    // The CPU refuses the reserved bits; QEMU does not look.
    value(
        "apic.cr8_reserved_bits_fault",
        i64::from(arch::fault_of(|| regs::set_cr8(16)).is_some()),
    );
    regs::set_cr8(0);
    Ok(())
}

/// What the MSR form refuses.
fn x2apic_rules() -> Outcome {
    if !apic::is_x2apic() {
        return Ok(());
    }
    let base = regs::msr::X2APIC;
    let refused = |what: &str, fault: Option<arch::Fault>| -> Outcome {
        ensure!(
            fault.is_some_and(
                |fault| (fault.vector, fault.error) == (arch::exception::PROTECTION, 0)
            ),
            "{what}: {fault:?}"
        );
        Ok(())
    };
    let write =
        |offset: u32, value: u64| arch::fault_of(|| regs::wrmsr(base + (offset >> 4), value));
    let read = |offset: u32| {
        arch::fault_of(|| {
            regs::rdmsr(base + (offset >> 4));
        })
    };
    refused("write of the id", write(reg::ID, 0))?;
    refused("EOI of 1", write(reg::EOI, 1))?;
    refused("read of EOI", read(reg::EOI))?;
    refused("DFR", read(reg::DFR))?;
    refused("high half of ICR", read(reg::ICR_HIGH))?;
    refused("reserved bits of TPR", write(reg::TPR, 0x100))?;
    refused("reserved bits of SVR", write(reg::SVR, 1 << 20))?;
    refused("the end of the range", read(0xff0))?;
    value(
        "apic.esr_of_1_faults",
        i64::from(write(reg::ESR, 1).is_some()),
    );
    let leave = regs::rdmsr(regs::msr::APIC_BASE) & !(1 << 10);
    refused(
        "back to the memory-mapped form",
        arch::fault_of(|| regs::wrmsr(regs::msr::APIC_BASE, leave)),
    )?;
    Ok(())
}

fn counts_down() -> Outcome {
    arch::irq_off();
    apic::write(reg::LVT_TIMER, 1 << 16 | u32::from(apic::vector::TIMER));
    apic::write(reg::TIMER_INITIAL, u32::MAX);
    let first = apic::read(reg::TIMER_CURRENT);
    settle();
    let second = apic::read(reg::TIMER_CURRENT);
    apic::write(reg::TIMER_INITIAL, 0);
    let stopped = apic::read(reg::TIMER_CURRENT);
    arch::irq_on();
    ensure!(first > second && second > 0, "{first} {second}");
    expect!(stopped, 0);
    value(
        "timer.counts_in_a_millisecond_thousands",
        i64::from((first - second) / 1000),
    );
    Ok(())
}

fn periodic() -> Outcome {
    static TICKS: AtomicU64 = AtomicU64::new(0);
    arch::on_timer(|_| {
        TICKS.fetch_add(1, Ordering::SeqCst);
    });
    arch::timer_every(arch::ticks_per_second() / 100);
    let came = xenolith_guests::cpus::wait_for(|| TICKS.load(Ordering::SeqCst) >= 10);
    arch::timer_off();
    ensure!(came, "{} ticks", TICKS.load(Ordering::SeqCst));
    Ok(())
}
