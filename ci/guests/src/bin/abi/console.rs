//! `console_io`.

use xenolith_guests::xen::errno::{EFAULT, ENOSYS};
use xenolith_guests::xen::{console_write, nr};
use xenolith_guests::{arch, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("console.write", write),
    ("console.read_nothing", read),
    ("console.bad_pointers", bad_pointers),
    ("console.unknown", unknown),
];

fn console(command: u64, count: u64, address: u64) -> i64 {
    arch::hypercall(nr::CONSOLE_IO, [command, count, address, 0, 0])
}

fn write() -> Outcome {
    expect!(console_write(b""), 0, "nothing");
    expect!(
        console_write(b"[guest] a line of the console case\n"),
        0,
        "a line"
    );
    Ok(())
}

fn read() -> Outcome {
    let mut byte = [0u8; 4];
    expect!(console(1, 0, byte.as_mut_ptr() as u64), 0);
    expect!(console(1, 4, byte.as_mut_ptr() as u64), 0);
    Ok(())
}

fn bad_pointers() -> Outcome {
    for address in [arch::UNMAPPED, arch::NON_CANONICAL, arch::UPPER_HALF] {
        expect!(console(0, 8, address), EFAULT, "write at {address:#x}");
        expect!(console(1, 8, address), 0, "read of nothing at {address:#x}");
    }
    Ok(())
}

fn unknown() -> Outcome {
    for command in [2, 3, 99] {
        expect!(console(command, 0, 0), ENOSYS, "command {command}");
    }
    Ok(())
}
