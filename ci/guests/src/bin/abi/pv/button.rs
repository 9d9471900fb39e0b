//! Non-maskable interrupts of the machine, with the word `nmi=1`: somebody outside raises one each time that a line here asks for it.

use core::sync::atomic::Ordering;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::upcall::{callback, callback_op};
use xenolith_guests::arch::{self, exception, trap};
use xenolith_guests::xen::sched;
use xenolith_guests::{bootargs, console};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[("button.nmis_of_the_machine", nmis_of_the_machine)];

/// In shared info: why one came, a bit for each cause.
const REASON: u64 = 0xc20;
const UNKNOWN: u64 = 1 << 2;

fn nmis_of_the_machine() -> Outcome {
    if bootargs::number("nmi", 0) == 0 {
        return Ok(());
    }
    let mut answers = Answers::default();
    let entry = trap::entry_of(exception::NMI as u8).address;
    let register = || callback_op(callback::REGISTER, callback::NMI, 0, entry);
    answers.take("register", register(), 0);
    let nmis = || arch::this_cpu().nmis.load(Ordering::SeqCst);
    for (what, wait) in [
        ("spins", core::hint::spin_loop as fn()),
        ("calls", || {
            sched::yield_now();
        }),
        ("sleeps", || {
            sched::block();
        }),
    ] {
        let before = nmis();
        console::line(format_args!("[guest] waits for an NMI and {what}"));
        while nmis() == before {
            wait();
        }
        answers.take(format_args!("{what}: one came"), nmis() - before, 1);
    }
    answers.take(
        "the reason",
        arch::shared_info().read::<u64>(REASON),
        UNKNOWN,
    );
    callback_op(callback::UNREGISTER, callback::NMI, 0, 0);
    answers.end()
}
