//! Tests the Xen ABI from inside, one family of hypercalls a module.
#![no_std]
#![no_main]

use xenolith_guests::guest;
use xenolith_guests::report::Report;

mod version;

guest!(main);

fn main() {
    let mut report = Report::begin("abi");
    report.cases(version::CASES);
    report.finish()
}
