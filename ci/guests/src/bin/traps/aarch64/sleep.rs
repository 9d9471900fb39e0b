//! WFI and WFE, and the physical timer that a guest may use besides the virtual one.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::report::value;
use xenolith_guests::xen::sched;
use xenolith_guests::{arch, cpus, ensure};

use super::{Case, Outcome, read, write};

pub(crate) const CASES: &[Case] = &[
    ("sleep.wfi_ends_with_a_masked_interrupt", wfi),
    ("sleep.wfe_comes_back", wfe),
    ("sleep.counters_run", counters),
    ("sleep.physical_timer", physical_timer),
    ("sleep.yield_comes_back", yields),
];

const PHYSICAL_TIMER: u32 = 30;
static FIRED: AtomicU64 = AtomicU64::new(0);

fn wfi() -> Outcome {
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    for _ in 0..5 {
        let deadline = arch::now() + arch::ticks_per_second() / 1000;
        arch::timer_at(deadline);
        while arch::now() < deadline {
            arch::wait();
        }
        arch::irq_on();
        arch::irq_off();
    }
    Ok(())
}

fn wfe() -> Outcome {
    for _ in 0..100 {
        // SAFETY: the event is set first, so the second WFE may sleep only until some event.
        unsafe { asm!("sevl", "wfe") };
    }
    Ok(())
}

fn counters() -> Outcome {
    let first = arch::now();
    ensure!(
        cpus::wait_for(|| arch::now() > first),
        "the virtual counter stands"
    );
    let physical = read!("cntpct_el0");
    value("sleep.cntpct_faults", i64::from(physical.is_err()));
    if let (Ok(first), Ok(second)) = (physical, read!("cntpct_el0")) {
        ensure!(second >= first, "the physical counter runs backwards");
    }
    Ok(())
}

fn physical_timer() -> Outcome {
    let Ok(now) = read!("cntpct_el0") else {
        return Ok(());
    };
    if write!("cntp_cval_el0", now + arch::ticks_per_second() / 1000).is_some() {
        value("sleep.physical_timer_faults", 1);
        return Ok(());
    }
    arch::gic::on_line(PHYSICAL_TIMER, |_| {
        let _ = write!("cntp_ctl_el0", 0);
        FIRED.fetch_add(1, Ordering::SeqCst);
    });
    let _ = write!("cntp_ctl_el0", 1);
    arch::irq_on();
    let fired = cpus::wait_for(|| FIRED.load(Ordering::SeqCst) == 1);
    arch::irq_off();
    ensure!(fired, "it did not fire");
    Ok(())
}

fn yields() -> Outcome {
    for _ in 0..100 {
        sched::yield_now();
    }
    Ok(())
}
