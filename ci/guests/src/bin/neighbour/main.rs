//! A domain to have beside others. It says who it is, offers a port and a granted page to domain 0
//! (`peer=` names another), and then sleeps; each signal on the port it answers by a signal and by
//! counting it in the first word of the page. `seconds=` ends it after that time (default: never).
//!
//! The peer finds them without XenStore: the line on the console, or the first port and grant
//! reference 8, which a domain that asked for nothing before always gets.
//!
//! With `frames=1` a PV domain shows dom0 frames of its own there, and changes what they are (`frames`).
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Report, value};
use xenolith_guests::xen::{SELF, event, grant, own_domain, shared};
use xenolith_guests::{arch, bootargs, console, guest};

#[cfg(pv)]
mod frames;

guest!(main);

const REFERENCE: u32 = 8;
static PORT: AtomicU32 = AtomicU32::new(0);
static COUNTER: AtomicU64 = AtomicU64::new(0);

fn main() {
    let report = Report::begin("neighbour");
    value("neighbour.domain", i64::from(own_domain()));
    let peer = bootargs::number("peer", 0) as u16;
    shared::page();
    match event::alloc_unbound(SELF, peer) {
        Ok(port) => offer(port, peer),
        Err(errno) => console::line(format_args!("[guest] neighbour alone: no port ({errno})")),
    }
    #[cfg(pv)]
    if bootargs::number("frames", 0) != 0 {
        frames::show(Page::at(COUNTER.load(Ordering::Relaxed)));
    }
    let seconds = bootargs::number("seconds", 0);
    let end = arch::now() + seconds * arch::ticks_per_second();
    if seconds != 0 {
        arch::on_timer(|_| arch::timer_off());
        arch::timer_at(end);
    }
    while seconds == 0 || arch::now() < end {
        arch::wait_and_take();
    }
    value("neighbour.signals", answered());
    report.finish()
}

fn offer(port: u32, peer: u16) {
    let page = Page::take();
    COUNTER.store(page.address(), Ordering::Relaxed);
    PORT.store(port, Ordering::Relaxed);
    grant::table();
    grant::grant(REFERENCE, peer, page.frame(), 0);
    arch::on_event(answer);
    // By the call: a peer may have signalled already.
    event::unmask(port);
    console::line(format_args!(
        "[guest] neighbour port {port} reference {REFERENCE} peer {peer}"
    ));
}

fn answered() -> i64 {
    match COUNTER.load(Ordering::Relaxed) {
        0 => 0,
        page => Page::at(page).read(0),
    }
}

fn answer(_line: u32) {
    shared::take_upcall(0);
    let port = PORT.load(Ordering::Relaxed);
    if shared::clear_pending(port) {
        let page = Page::at(COUNTER.load(Ordering::Relaxed));
        page.write::<u64>(0, page.read::<u64>(0) + 1);
        event::send(port);
    }
}
