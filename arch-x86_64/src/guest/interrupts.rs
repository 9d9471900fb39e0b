//! From "something is pending" to an event that the guest takes at its next entry.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenolith_core::{Hypervisor, VcpuId, VcpuRef, timer::VcpuTimer};
use xenolith_hal::{ArchTimer, Hal, Nanos};

use super::{
    control,
    exit::Context,
    hardware::{Event, Hardware, Segment, SegmentName},
    vcpu::{ArchDomain, ArchVcpu},
};
use crate::{
    X86_64,
    vlapic::{self, Effect, Message, VLapic},
};

/// Looks at what is pending for a vCPU that is about to be entered. False when it must not run: it waits for its start, or
/// has halted.
#[inline(always)]
pub fn before_entry<H: Hardware>(cx: &mut Context<'_, H>) -> bool {
    let arch = &cx.vcpu.arch;
    if arch.lapic.signals().wants_look() && !signals(cx) {
        return false;
    }
    let upcall = arch.upcall.load(Relaxed) && cx.vcpu.domain().arch.callback().is_some();
    let requested = arch.lapic.highest_requested() != 0;
    if upcall || requested && !cx.hw.takes(&arch.lapic) {
        deliver(cx);
    } else if arch.window.get() {
        close_window(cx);
    }
    cx.hw.lend(&cx.vcpu.arch.lapic, requested);
    true
}

#[cold]
fn close_window<H: Hardware>(cx: &mut Context<'_, H>) {
    cx.vcpu.arch.window.set(false);
    cx.hw.set_window(None);
}

/// What is to be delivered next.
enum Next {
    Upcall(u8),
    Lapic(u8),
}

#[inline(never)]
fn deliver<H: Hardware>(cx: &mut Context<'_, H>) {
    let arch = &cx.vcpu.arch;
    cx.sync_lapic();
    let Some(next) = next(cx) else {
        if H::LOWERS_TPR_UNSEEN
            && let Some(class) = arch.lapic.held_by_task_priority()
        {
            arch.window.set(true);
            cx.hw.set_window(Some(class));
        } else if arch.window.get() {
            close_window(cx);
        }
        return;
    };
    if cx.hw.delivers() || !cx.hw.interruptible() {
        // The class says which task priority holds it back; an upcall is held back by none.
        let class = match next {
            Next::Upcall(_) => 15,
            Next::Lapic(vector) => vector >> 4,
        };
        arch.window.set(true);
        cx.hw.set_window(Some(class));
        return;
    }
    let behind = match next {
        // The guest ends an upcall without an exit: one is asked for if an interrupt waits behind it.
        Next::Upcall(vector) => {
            cx.hw.inject(Event::Interrupt(vector));
            arch.lapic.deliverable()
        }
        Next::Lapic(vector) => {
            arch.lapic.acknowledge(vector);
            cx.hw.inject(Event::Interrupt(vector));
            None
        }
    };
    if let Some(vector) = behind {
        arch.window.set(true);
        cx.hw.set_window(Some(vector >> 4));
    } else if arch.window.get() {
        close_window(cx);
    }
}

fn next<H: Hardware>(cx: &Context<'_, H>) -> Option<Next> {
    let arch = &cx.vcpu.arch;
    if arch.upcall.load(Relaxed)
        && let Some(vector) = cx.vcpu.domain().arch.callback()
        && upcall_stands(cx)
    {
        return Some(Next::Upcall(vector));
    }
    if cx.hw.takes(&arch.lapic) {
        return None;
    }
    arch.lapic.deliverable().map(Next::Lapic)
}

/// Whether the guest has events that it was told of and did not look at. The vector is a level: it is delivered as long
/// as the byte in the guest's memory says so.
fn upcall_stands<H: Hardware>(cx: &Context<'_, H>) -> bool {
    let pending = || cx.hv().upcall_pending(cx.vcpu);
    if pending() {
        return true;
    }
    let flag = &cx.vcpu.arch.upcall;
    flag.store(false, SeqCst);
    // Whoever set the byte since then sets the flag after it.
    if pending() {
        flag.store(true, SeqCst);
        return true;
    }
    false
}

/// INIT, start-up and NMI messages. False when the vCPU now waits for one of them.
#[cold]
fn signals<H: Hardware>(cx: &mut Context<'_, H>) -> bool {
    let pending = cx.vcpu.arch.lapic.signals().take();
    if pending.init {
        cx.vcpu.arch.lapic.init();
        cx.hw.reset();
        *cx.regs = super::regs::GuestRegs::default();
    }
    if let Some(page) = pending.start {
        start_at(cx.hw, page);
    } else if pending.init {
        cx.hv().vcpu_down(cx.vcpu);
        // A start-up message that came since then is not lost: it makes the vCPU come up again.
        if cx.vcpu.arch.lapic.signals().is_pending() {
            cx.hv().vcpu_up(cx.vcpu);
        }
        return false;
    }
    if pending.given {
        cx.hw.reset();
        let start = cx.vcpu.arch.start.lock().take();
        if let Some(start) = start {
            start.load(cx.hw, cx.regs);
            control::load_pointers(cx);
        }
    }
    if pending.nmi {
        cx.hw.inject(Event::Nmi);
    } else if cx.vcpu.arch.lapic.signals().is_deaf() {
        // Something else woke it.
        cx.hv().block(cx.vcpu);
        return false;
    }
    true
}

/// Real mode at a page below 1 MiB, as a start-up message says it.
fn start_at<H: Hardware>(hw: &mut H, page: u8) {
    hw.set_rip(0);
    hw.set_segment(
        SegmentName::Cs,
        Segment {
            selector: u16::from(page) << 8,
            attributes: 0x9b,
            limit: 0xffff,
            base: u64::from(page) << 12,
        },
    );
}

/// The guest has ended an interrupt at an APIC that the CPU has.
#[cold]
pub fn ended<H: Hardware>(cx: &Context<'_, H>, vector: u8) {
    if cx.vcpu.arch.lapic.is_level(vector) {
        super::ioapic::end_of_interrupt(cx.vcpu.domain(), vector);
    }
}

/// Acts on what a write to a local APIC asks for.
pub fn carry_out<H: Hardware>(cx: &mut Context<'_, H>, effect: Effect) {
    match effect {
        Effect::None => {}
        Effect::Timer(deadline) => set_timer(cx.hv(), cx.vcpu, deadline),
        Effect::Ipi(message) => send(
            cx.hv(),
            cx.vcpu.domain(),
            Some(cx.vcpu.arch.index),
            &message,
        ),
        Effect::Eoi(vector) => super::ioapic::end_of_interrupt(cx.vcpu.domain(), vector),
        Effect::Mode(_) => {
            let deadline = cx.vcpu.arch.lapic.deadline();
            set_timer(cx.hv(), cx.vcpu, deadline);
        }
    }
}

fn set_timer(hv: &Hypervisor<X86_64>, vcpu: &VcpuRef<X86_64>, deadline: Option<Nanos>) {
    let timer = VcpuTimer::Arch(ArchTimer::A);
    if let Some(at) = deadline {
        hv.set_timer(vcpu, timer, at);
    } else {
        hv.cancel_timer(vcpu, timer);
    }
}

/// Takes an interrupt message to the vCPUs of a domain.
pub fn send(
    hv: &Hypervisor<X86_64>,
    domain: &xenolith_core::DomainRef<X86_64>,
    sender: Option<usize>,
    message: &Message,
) {
    let count = domain.vcpus.len();
    let lapic = |index: usize| -> Option<&VLapic> { Some(&domain.vcpus.get(index)?.arch.lapic) };
    vlapic::deliver(message, sender, count, lapic, |index| {
        if Some(index) == sender {
            return;
        }
        if let Some(target) = VcpuRef::new(domain, VcpuId(index as u16)) {
            if target.arch.lapic.signals().is_pending() {
                // It may be down, waiting for just this.
                hv.vcpu_up(&target);
            }
            hv.notify(&target);
        }
    });
}

/// The local APIC's timer has run out.
pub fn timer_fired(hal: &X86_64, vcpu: &ArchVcpu) -> Option<Nanos> {
    vcpu.lapic.timer_fired(hal.now())
}

/// An event channel became pending. The vCPU's own vector comes through its APIC, once; the domain's past it, for as long
/// as the guest does not look. A guest may have both.
pub fn raise_upcall(vcpu: &ArchVcpu) {
    let own = vcpu.upcall_vector.load(Relaxed);
    if own != 0 {
        vcpu.lapic.latch(own);
    }
    vcpu.upcall.store(true, SeqCst);
}

/// Whether a halted vCPU has an interrupt to go on with.
pub fn has_deliverable(domain: &ArchDomain, vcpu: &ArchVcpu, upcall: bool) -> bool {
    let signals = vcpu.lapic.signals();
    signals.is_pending()
        || !signals.is_deaf()
            && (upcall && domain.callback().is_some() || vcpu.deliverable().is_some())
}
