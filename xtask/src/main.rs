//! The project's command line: build, run, test.
fn main() {}
