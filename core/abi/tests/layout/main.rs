//! Compares `xenolith-abi` with the C headers of Xen.
//!
//! The tables in `structs`, `numbers` and `constants` list what Rust says beside the C expression that says the same.
//! `headers` compiles all those expressions against the real headers, once for each architecture, and runs
//! the result. Numbers are compared both ways: one that only the header knows fails the test too.

mod constants;
mod headers;
mod numbers;
mod structs;

use headers::{Arch, Fact, Headers};

fn compare(arch: Arch) {
    let headers = Headers::open(arch);
    let mut facts = structs::facts(arch);
    let mut wrong = numbers::facts(&headers, &mut facts);
    wrong.extend(headers.disagreements(&facts));
    assert!(
        wrong.is_empty(),
        "{arch:?}: {} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    println!("{arch:?}: {} facts agree", facts.len());
}

#[test]
fn the_arm_abi_agrees_with_the_headers() {
    compare(Arch::Arm);
}

#[test]
fn the_x86_64_abi_agrees_with_the_headers() {
    compare(Arch::X86_64);
}

#[test]
fn a_wrong_offset_is_noticed() {
    let right = Fact::new("Send.port", "offsetof(struct evtchn_send, port)", 0);
    let wrong = Fact::new("Send.port", "offsetof(struct evtchn_send, port)", 2);
    let found = Headers::open(Arch::Arm).disagreements(&[right, wrong]);
    assert_eq!(
        found,
        ["Send.port: Rust has 2, offsetof(struct evtchn_send, port) is 0"]
    );
}
