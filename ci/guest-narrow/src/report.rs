//! Lines on the hypervisor's console, as `ci/guests` prints them.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::{Case, machine};

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

struct Line([u8; 200], usize);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (to, byte) in self.0.iter_mut().skip(self.1).zip(text.bytes()) {
            *to = byte;
            self.1 += 1;
        }
        Ok(())
    }
}

/// Prints one line.
pub fn line(text: fmt::Arguments) {
    let mut line = Line([0; 200], 0);
    let _ = writeln!(line, "[guest] {text}");
    crate::xen::console(&line.0[..line.1]);
}

/// Runs cases and prints how they went.
pub fn cases(group: &str, cases: &[(&str, Case)]) {
    for (name, case) in cases {
        match case() {
            Ok(()) => {
                PASSED.fetch_add(1, SeqCst);
                line(format_args!("ok {group}.{name}"));
            }
            Err((what, got)) => {
                FAILED.fetch_add(1, SeqCst);
                line(format_args!("FAIL {group}.{name}: {what}: got {got:#x}"));
            }
        }
    }
}

/// The last line.
pub fn done() {
    let (passed, failed) = (PASSED.load(SeqCst), FAILED.load(SeqCst));
    line(format_args!("done P {passed} F {failed}"));
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    line(format_args!("panic: {info}"));
    loop {
        machine::sleep();
    }
}
