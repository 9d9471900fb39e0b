//! The console on a simulated machine.

use super::*;
use crate::{DomId, hypercall::rig::*};
use xenolith_hal::Nanos;

fn type_in(rig: &Rig, keys: &[u8]) {
    for key in keys {
        rig.hv.console.input(&rig.hv, *key);
    }
}

fn typed(rig: &Rig, domain: u16) -> alloc::vec::Vec<u8> {
    rig.hv
        .console
        .typed_for(&rig.domains[usize::from(domain)])
        .bytes()
        .to_vec()
}

#[test]
fn three_switch_keys_move_the_focus_and_fewer_are_typed() {
    let rig = Rig::new();
    let console = &rig.hv.console;
    assert!(console.offer_focus(DomId(1)) && console.offer_focus(DomId(5)));
    type_in(&rig, &[1, 1, b'x']);
    assert_eq!(typed(&rig, 0), [1, 1, b'x']);
    type_in(&rig, &[1, 1, 1]);
    assert_eq!(console.focus(), Focus::Domain(DomId(1)));
    assert_eq!(
        rig.hv.hal.take_console(),
        "(XEN) Keys go to d1 now (Ctrl-a three times: next)\r\n"
    );
    type_in(&rig, &[1, 1, 1]);
    assert_eq!(console.focus(), Focus::Xenolith, "domain 5 does not exist");
    type_in(&rig, &[1, 1, 1]);
    assert_eq!(console.focus(), Focus::Dom0);
}

#[test]
fn another_switch_key_or_none_can_be_chosen() {
    let rig = Rig::new();
    rig.hv.console.set_switch(2);
    type_in(&rig, &[1, 1, 1, 2, 2, 2]);
    assert_eq!(typed(&rig, 0), [1, 1, 1]);
    assert_eq!(rig.hv.console.focus(), Focus::Xenolith);
    rig.hv.console.set_switch(0);
    type_in(&rig, &[0, 0, 0, 2, 2, 2]);
    assert_eq!(rig.hv.console.focus(), Focus::Xenolith);
}

#[test]
fn a_console_device_gets_what_is_typed_for_its_domain() {
    let rig = Rig::new();
    rig.hv.console.set_device_input(|hv, domain, byte| {
        hv.console.guest_char(hv, domain, byte.to_ascii_uppercase());
        domain.id() == DomId(1)
    });
    rig.hv.console.set_focus(Focus::Domain(DomId(1)));
    type_in(&rig, b"ab");
    assert_eq!(rig.hv.hal.take_console(), "AB");
    assert!(typed(&rig, 1).is_empty());
}

#[test]
fn lines_of_domains_do_not_mix() {
    let rig = Rig::new();
    let [d0, d1] = [&rig.domains[0], &rig.domains[1]];
    let console = &rig.hv.console;
    for (a, b) in b"one\n".iter().zip(b"two\n") {
        console.guest_char(&rig.hv, d1, *a);
        console.guest_lines(&rig.hv, d0, &[*b]);
    }
    assert_eq!(rig.hv.hal.take_console(), "(d1) one\r\n(d0) two\r\n");
    console.guest_lines(&rig.hv, d1, &[b'x'; 250]);
    console.guest_flush(&rig.hv, d1);
    console.guest_flush(&rig.hv, d1);
    let out = rig.hv.hal.take_console();
    assert_eq!(
        out.lines().map(str::len).collect::<alloc::vec::Vec<_>>(),
        [205, 55]
    );
}

#[test]
fn a_domain_that_floods_is_held_back_and_the_loss_is_told() {
    let rig = Rig::new();
    let flood = |lines| {
        rig.hv
            .console
            .guest_lines(&rig.hv, &rig.domains[1], "x\n".repeat(lines).as_bytes());
        rig.hv.hal.take_console()
    };
    assert_eq!(flood(3000).lines().count(), 1024);
    assert_eq!(flood(10), "");
    rig.hv.hal.advance(Nanos::from_millis(1000));
    let after = flood(300);
    assert!(after.starts_with("(d1) (1986 lines left out: too many at once)\r\n(d1) x\r\n"));
    assert_eq!(after.lines().count(), 257);
}

#[test]
fn levels_hold_back_what_is_not_wanted() {
    let rig = Rig::new();
    let say = |target: &str, level| {
        let text = format_args!("said");
        let record = log::Record::builder()
            .target(target)
            .level(level)
            .args(text)
            .build();
        rig.hv.console.print_record(&rig.hv.hal, &record);
        !rig.hv.hal.take_console().is_empty()
    };
    assert!(say("xenolith_core", log::Level::Info) && !say("xenolith_core", log::Level::Debug));
    rig.hv.console.levels.set_own(log::LevelFilter::Error);
    assert!(!say("xenolith_core", log::Level::Warn) && say("guest", log::Level::Warn));
    rig.hv.console.levels.set_guests(log::LevelFilter::Off);
    assert!(!say("guest", log::Level::Error) && say("xenolith_core", log::Level::Error));
    rig.hv
        .console
        .guest_lines(&rig.hv, &rig.domains[1], b"hidden\n");
    assert_eq!(rig.hv.hal.take_console(), "");
}

#[test]
fn the_ring_keeps_lines_and_nothing_raw() {
    let rig = Rig::new();
    rig.hv.console.write_raw(&rig.hv.hal, b"# ls");
    rig.hv
        .console
        .print(&rig.hv.hal, format_args!("first\nsecond"));
    assert_eq!(
        rig.hv.hal.take_console(),
        "# ls\r\n(XEN) first\r\n(XEN) second\r\n"
    );
    let mut kept = [0; 64];
    let (from, len) = rig.hv.console.read_ring(0, &mut kept);
    assert_eq!(
        (from, &kept[..len]),
        (0, &b"(XEN) first\n(XEN) second\n"[..])
    );
    let long = "y".repeat(300);
    rig.hv.console.print(&rig.hv.hal, format_args!("{long}"));
    let out = rig.hv.hal.take_console();
    assert_eq!(out.matches('y').count(), 300);
    assert!(
        out.lines()
            .all(|line| line.starts_with("(XEN) ") && line.len() < 256)
    );
}
