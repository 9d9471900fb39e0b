//! Interrupts on their way to a vCPU, and the domain's interrupt controller on this machine.
//!
//! Any CPU says here what a vCPU shall find pending; the CPU that runs it puts that into `hvip` before the next entry. The
//! timer's interrupt comes from the CPU itself where it has Sstc.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use xenolith_core::{DomainRef, Hypervisor, sched::Work};
use xenolith_hal::{CpuId, Nanos};

use super::{
    context::VsContext,
    vcpu::{ArchDomain, ArchVcpu},
};
use crate::{
    Riscv64,
    cpu::{
        percpu::PerCpu,
        regs::{clear, read, set},
    },
    plic, timer,
    vplic::Touched,
};

/// `hvip.VSSIP`: another vCPU interrupts.
pub const SOFTWARE: u64 = 1 << 2;
/// `hvip.VSTIP`: the timer.
pub const TIMER: u64 = 1 << 6;
/// `hvip.VSEIP`: the interrupt controller.
pub const EXTERNAL: u64 = 1 << 10;

/// What waits for a vCPU.
pub struct Waiting {
    /// Something below changed since the last entry.
    changed: AtomicBool,
    /// Another vCPU sent an interrupt.
    software: AtomicBool,
    /// The line of the interrupt controller.
    external: AtomicBool,
    /// The line of the timer, where the CPU does not know it.
    timer: AtomicBool,
    /// When the guest's timer fires, in its own ticks.
    pub deadline: AtomicU64,
}

impl Waiting {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            changed: AtomicBool::new(false),
            software: AtomicBool::new(false),
            external: AtomicBool::new(false),
            timer: AtomicBool::new(false),
            deadline: AtomicU64::new(u64::MAX),
        }
    }

    /// Nothing waits any more but what the interrupt controller says.
    pub fn reset(&self) {
        self.software.store(false, Relaxed);
        self.timer.store(false, Relaxed);
        self.deadline.store(u64::MAX, Relaxed);
        self.changed.store(true, Release);
    }

    /// Another vCPU interrupts.
    pub fn send(&self) {
        self.software.store(true, Relaxed);
        self.changed.store(true, Release);
    }

    /// The timer's line.
    pub fn set_timer_line(&self, up: bool) {
        self.timer.store(up, Relaxed);
        self.changed.store(true, Release);
    }

    fn set_external(&self, up: bool) {
        if self.external.swap(up, Relaxed) != up {
            self.changed.store(true, Release);
        }
    }

    /// Bits of `hvip` that are to be set beside what is there.
    fn bits(&self) -> u64 {
        let bit = |flag: &AtomicBool, bit| if flag.load(Relaxed) { bit } else { 0 };
        bit(&self.software, SOFTWARE) | bit(&self.external, EXTERNAL) | bit(&self.timer, TIMER)
    }

    /// Just before an entry.
    #[inline(always)]
    pub fn put(&self) {
        if self.changed.load(Relaxed) {
            self.put_changed();
        }
    }

    #[inline(never)]
    fn put_changed(&self) {
        // One operation: whoever says more from here on says again that something changed, and what was said before is seen.
        if !self.changed.swap(false, Acquire) {
            return;
        }
        if self.software.swap(false, Relaxed) {
            set!("hvip", SOFTWARE);
        }
        let lines = self.bits() & (EXTERNAL | TIMER);
        set!("hvip", lines);
        clear!("hvip", (EXTERNAL | TIMER) & !lines);
    }

    /// A vCPU that comes to a CPU must look.
    pub fn look_again(&self) {
        self.changed.store(true, Relaxed);
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a vCPU has an interrupt that its guest has enabled. `loaded` says that this CPU has its context.
pub fn is_deliverable(domain: &ArchDomain, vcpu: &ArchVcpu, loaded: bool) -> bool {
    let pending = vcpu.waiting.bits();
    let (there, enabled) = if loaded {
        (read!("vsip") << 1, read!("vsie") << 1)
    } else {
        // SAFETY: volatile reads of two words inside the cell; another CPU that loads the vCPU at this moment looks itself.
        unsafe {
            let context: *const VsContext = vcpu.context_ptr();
            (
                (&raw const (*context).hvip).read_volatile(),
                (&raw const (*context).vsie).read_volatile() << 1,
            )
        }
    };
    // The CPU itself knows of the loaded one's, where it has such a timer.
    let known = loaded && timer::is_guests_own();
    let due = vcpu.waiting.deadline.load(Relaxed);
    let time = timer::ticks().wrapping_add(domain.time_delta);
    let timer = if !known && due != u64::MAX && due <= time {
        TIMER
    } else {
        0
    };
    (pending | there | timer) & enabled != 0
}

/// Looks again at the lines of the contexts that a change touched, and wakes those vCPUs that have something now. Called with
/// the controller unlocked.
pub fn update(hv: &Hypervisor<Riscv64>, domain: &DomainRef<Riscv64>, touched: Touched) {
    if touched == Touched::NONE {
        return;
    }
    for (context, vcpu) in domain.vcpus.iter().enumerate() {
        if touched.has(context) && line(&domain.arch, &vcpu.arch) {
            hv.notify_vcpu(domain, vcpu);
        }
    }
}

/// Takes the line of a vCPU from the controller.
fn line(domain: &ArchDomain, vcpu: &ArchVcpu) -> bool {
    let plic = domain.plic.lock();
    let up = plic.line(vcpu.index);
    vcpu.waiting.set_external(up);
    up
}

/// Makes the event source of a vCPU pending. The core notifies the vCPU; others that the guest has the source routed to are
/// notified before this CPU enters a guest again.
pub fn raise_event(domain: &ArchDomain, vcpu: &ArchVcpu) {
    let elsewhere = {
        let mut plic = domain.plic.lock();
        let touched = plic.raise(domain.event_source + vcpu.index as u32);
        let up = plic.line(vcpu.index);
        vcpu.waiting.set_external(up);
        touched.without(vcpu.index)
    };
    if elsewhere != Touched::NONE {
        raised_elsewhere(domain, elsewhere);
    }
}

/// Neither the domain's other vCPUs are at hand here, nor may the list of domains be locked.
#[cold]
fn raised_elsewhere(domain: &ArchDomain, contexts: Touched) {
    domain.raised_elsewhere.fetch_or(contexts.0, SeqCst);
    if let Some(cpu) = PerCpu::try_current() {
        cpu.work.fetch_or(EVENTS_ELSEWHERE, SeqCst);
    }
}

/// Work of a CPU: [`deliver_elsewhere`].
pub const EVENTS_ELSEWHERE: u32 = Work::ARCH.bits();

/// Looks at the lines of contexts that got events of another vCPU. A guest that has them routed so is none that is common.
#[cold]
pub fn deliver_elsewhere(cpu: &'static PerCpu) {
    cpu.work.fetch_and(!EVENTS_ELSEWHERE, SeqCst);
    cpu.hv.domains.for_each(|domain| {
        let contexts = domain.arch.raised_elsewhere.swap(0, SeqCst);
        update(cpu.hv, domain, Touched(contexts));
    });
}

/// An interrupt of the machine's devices came.
pub fn external(cpu: &'static PerCpu) {
    plic::serve(cpu.id, |source| {
        if crate::console::interrupt(cpu.hv, source) {
            return plic::Then::Complete;
        }
        // Its level would bring it back for ever.
        let Some(domain) = plic::owner(cpu.hv) else {
            return plic::Then::Close;
        };
        let touched = domain.arch.plic.lock().raise(source);
        update(cpu.hv, &domain, touched);
        plic::Then::GuestCompletes
    });
}

/// When a guest's timer fires on the machine's clock.
pub fn deadline_of(domain: &ArchDomain, vcpu: &ArchVcpu) -> Option<Nanos> {
    let due = vcpu.waiting.deadline.load(Relaxed);
    let now = timer::ticks();
    let left = due.saturating_sub(now.wrapping_add(domain.time_delta));
    (due != u64::MAX).then(|| timer::nanos_at(now.saturating_add(left)))
}

/// A timer of the core fired: the guest's line goes up, if the time that the guest asked for has come.
pub fn timer_fired(domain: &ArchDomain, vcpu: &ArchVcpu) -> Option<Nanos> {
    // Where the CPU has the guest's timer, it says so itself once the vCPU is loaded.
    if timer::is_guests_own() {
        return None;
    }
    let due = vcpu.waiting.deadline.load(Relaxed);
    if due <= timer::ticks().wrapping_add(domain.time_delta) {
        vcpu.waiting.set_timer_line(true);
        return None;
    }
    deadline_of(domain, vcpu)
}

/// The CPU that takes the machine's device interrupts.
pub const DEVICES_GO_TO: CpuId = CpuId(0);
