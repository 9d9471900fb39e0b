//! `xen_version`: each sub-op answers, and fills no more than its buffer.

use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::{call_at, nr};
use xenolith_guests::{ensure, expect};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[("version.number", number)];

fn number() -> Outcome {
    let version = call_at(nr::XEN_VERSION, 0, 0);
    value("version.number", version);
    ensure!(version >> 16 == 4);
    expect!(version & 0xffff, 17);
    Ok(())
}
