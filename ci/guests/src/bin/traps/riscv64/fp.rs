//! Floating-point registers: off until the kernel switches them on, and each vCPU's own. The guest itself is built without.

use core::arch::asm;

use xenolith_guests::arch::{self, fault_of, sbi};
use xenolith_guests::report::value;
use xenolith_guests::xen::sched;
use xenolith_guests::{cpus, ensure, expect};

use super::{Case, Outcome, illegal_here};

pub(crate) const CASES: &[Case] = &[
    ("fp.is_there_if_told", told),
    ("fp.off_is_illegal", off),
    ("fp.use_makes_it_dirty", dirty),
    ("fp.registers_last", last),
    ("fp.of_each_cpu", each_cpu),
];

const OFF: u64 = 0;
const INITIAL: u64 = 1;
const CLEAN: u64 = 2;
const DIRTY: u64 = 3;
const SHIFT: u64 = 13;
const IS_DIRTY: u64 = 1 << 63;
const ROUNDS: u64 = 200;
const MODE: u64 = 3;

/// Whether floating point is off, on, or on and changed.
fn set_state(state: u64) {
    // SAFETY: the state of floating point, which only these cases use.
    unsafe {
        asm!("csrc sstatus, {}", "csrs sstatus, {}", in(reg) DIRTY << SHIFT, in(reg) state << SHIFT, options(nostack))
    };
}

fn status() -> u64 {
    let status: u64;
    // SAFETY: a register read.
    unsafe { asm!("csrr {}, sstatus", out(reg) status, options(nostack)) };
    status
}

fn state() -> u64 {
    status() >> SHIFT & DIRTY
}

/// Fills f0 to f31 with numbers that begin at `first`, and sets the rounding mode.
fn fill(first: u64) {
    let numbers: [u64; 32] = core::array::from_fn(|index| first + index as u64);
    // SAFETY: only these cases use the registers.
    unsafe {
        asm!(".option push", ".option arch, +d",
             ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
             "fld f\\n, 8*\\n({0})", ".endr", "fsrm {1}", ".option pop",
             in(reg) &raw const numbers, in(reg) MODE, options(nostack))
    };
}

/// What is in f0 to f31, and the rounding mode.
fn contents() -> ([u64; 32], u64) {
    let mut numbers = [0u64; 32];
    let mode: u64;
    // SAFETY: stores into the array.
    unsafe {
        asm!(".option push", ".option arch, +d",
             ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
             "fsd f\\n, 8*\\n({0})", ".endr", "frrm {1}", ".option pop",
             in(reg) &raw mut numbers, out(reg) mode, options(nostack))
    };
    (numbers, mode)
}

/// Whether `contents` is what `fill` put there.
fn holds(first: u64) -> bool {
    let (numbers, mode) = contents();
    mode == MODE && numbers == core::array::from_fn(|index| first + index as u64)
}

/// Where the guest is told of no such registers, there are none.
fn told() -> Outcome {
    let tree = arch::device_tree();
    let isa = tree
        .cpus()
        .find_map(|cpu| cpu.property("riscv,isa")?.as_str());
    let letters = isa.and_then(|isa| isa.split('_').next()).unwrap_or("");
    value("fp.is_told", i64::from(letters.contains('d')));
    if letters.contains('d') {
        return Ok(());
    }
    for state in [INITIAL, DIRTY] {
        set_state(state);
        let word = 0u64;
        let load = fault_of(|| {
            // SAFETY: an instruction that faults, or loads a register that nobody uses.
            unsafe {
                asm!(".option push", ".option norvc", ".option arch, +d", "flw f1, 0({})", ".option pop",
                     in(reg) &raw const word, options(nostack))
            }
        });
        illegal_here("a load", load)?;
        let change = fault_of(|| {
            // SAFETY: an instruction that faults, or writes a register that nobody uses.
            unsafe {
                asm!(
                    ".option push",
                    ".option norvc",
                    ".option arch, +d",
                    "fmv.d.x f1, zero",
                    ".option pop",
                    options(nostack)
                )
            }
        });
        illegal_here("a move", change)?;
    }
    set_state(OFF);
    Ok(())
}

fn off() -> Outcome {
    set_state(OFF);
    for _ in 0..3 {
        let fault = fault_of(|| {
            // SAFETY: an instruction that faults.
            unsafe {
                asm!(".option push", ".option norvc", ".option arch, +d", "fmv.x.d {}, f1", ".option pop",
                     out(reg) _, options(nostack))
            }
        });
        illegal_here("a move", fault)?;
        sched::yield_now();
    }
    expect!(state(), OFF);
    Ok(())
}

fn dirty() -> Outcome {
    set_state(INITIAL);
    fill(1);
    expect!(state(), DIRTY, "after a write");
    ensure!(status() & IS_DIRTY != 0, "the summary");
    set_state(CLEAN);
    let good = holds(1);
    value("fp.reads_leave_it_clean", i64::from(state() == CLEAN));
    set_state(OFF);
    ensure!(good, "lost");
    ensure!(status() & IS_DIRTY == 0, "the summary when off");
    Ok(())
}

/// Across calls, sleep, and a time when they are off.
fn last() -> Outcome {
    set_state(INITIAL);
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    for round in 0..20 {
        let first = round << 32 | 0x100;
        fill(first);
        sched::yield_now();
        sbi::call(sbi::extension::BASE, 0, [0; 5]);
        ensure!(holds(first), "lost by a call");
        set_state(OFF);
        arch::timer_at(arch::now() + arch::ticks_per_second() / 2000);
        arch::wait_and_take();
        set_state(CLEAN);
        ensure!(holds(first), "lost by a sleep");
    }
    set_state(OFF);
    Ok(())
}

/// All CPUs use theirs at once and give way to each other.
fn each_cpu() -> Outcome {
    fn work(own: usize) {
        set_state(INITIAL);
        for round in 0..ROUNDS {
            let first = (own as u64) << 48 | round << 16 | 0x100;
            fill(first);
            for _ in 0..4 {
                sched::yield_now();
                arch::relax();
            }
            if !holds(first) {
                LOST[own].fetch_add(1, core::sync::atomic::Ordering::SeqCst);
            }
        }
        set_state(OFF);
    }
    use core::sync::atomic::AtomicU64;
    static LOST: [AtomicU64; arch::MAX_CPUS] = [const { AtomicU64::new(0) }; arch::MAX_CPUS];
    value("fp.cpus", arch::cpu_count() as i64);
    for index in cpus::others() {
        let (errno, online) = cpus::start(index);
        ensure!(errno == 0 && online, "start of cpu {index}: {errno}");
        cpus::begin(index, work);
    }
    work(0);
    for index in cpus::others() {
        ensure!(cpus::wait_for(|| cpus::is_idle(index)), "cpu {index} hangs");
        ensure!(cpus::stop(index), "cpu {index} does not stop");
    }
    for index in 0..arch::cpu_count() {
        let lost = LOST[index].load(core::sync::atomic::Ordering::SeqCst);
        expect!(lost, 0, "cpu {index}");
    }
    Ok(())
}
