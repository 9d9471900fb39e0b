//! Serving what a guest in ring 3 stops for, until its CPU has something else to do.

use core::{
    fmt,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use xenolith_core::{Hypervisor, VcpuRef, sched::Work};
use xenolith_hal::Mfn;

use super::{
    bounce::Bounce,
    emulate,
    entry::{self, RETURN_FAILED, SYSCALL, SYSCALL_32, SYSENTER},
    frame::Frame,
    gate::Gate,
    hypercall,
    isolation::cpu as isolation,
    short::{self, Interrupted},
    tables, trap,
    vcpu::{Callback, Info, Mode, PvVcpu},
};
use crate::{
    X86_64,
    cpu::{percpu::PerCpu, run, vectors},
    guest::exit::Name,
    mm::hyp::Direct,
};

/// A vCPU of a PV guest that has stopped on this CPU.
pub struct Stopped<'a> {
    /// The executing CPU.
    pub cpu: &'static PerCpu,
    /// The vCPU.
    pub vcpu: &'a VcpuRef<X86_64>,
    /// Its PV part.
    pub pv: &'a PvVcpu,
    frame: *mut Frame,
}

impl Stopped<'_> {
    /// The hypervisor.
    #[inline(always)]
    #[must_use]
    pub fn hv(&self) -> &'static Hypervisor<X86_64> {
        self.cpu.hv
    }

    /// Its registers.
    #[inline(always)]
    #[must_use]
    pub fn frame(&mut self) -> &mut Frame {
        // SAFETY: the gate page is this CPU's, the guest has stopped, and this is the only way to its frame meanwhile: the reference
        // lasts as long as the borrow of `self`.
        unsafe { &mut *self.frame }
    }

    /// Whether the guest takes no event upcalls now.
    #[inline(always)]
    #[must_use]
    pub fn upcall_masked(&self) -> bool {
        self.pv.info().mask.load(SeqCst) != 0
    }

    /// Says whether it takes them.
    #[inline(always)]
    pub fn set_upcall_mask(&self, masked: bool) {
        self.pv.info().mask.store(masked.into(), SeqCst);
    }

    /// Vector and error code of the return that failed.
    #[must_use]
    pub fn failed(&self) -> [u64; 2] {
        // SAFETY: the executing CPU's own gate.
        self.cpu
            .gates
            .get()
            .map_or([0; 2], |gates| unsafe { (*gates.gate()).head.failed })
    }

    /// The frame that the guest's kernel has at an address, whoever of the guest's runs.
    #[must_use]
    pub fn frame_of_kernel(&self, address: u64) -> Option<Mfn> {
        tables::translate(self.hv(), self.pv.space.kernel()?, address).map(|found| found.frame())
    }

    /// The guest cannot go on: its domain ends with its registers on the console.
    #[cold]
    pub fn crash(&mut self, why: fmt::Arguments<'_>) {
        let mut text = alloc::string::String::new();
        let mode = self.pv.mode.get();
        let _ = self.frame().dump(&mut text);
        for line in text.lines() {
            log::error!("{}: {line}", Name(self.vcpu));
        }
        log::error!("{}: {mode:?} mode", Name(self.vcpu));
        let action = self.hv().crash(self.vcpu.domain(), why);
        if let Some(action) = action {
            action.carry_out(&self.hv().hal);
        }
    }
}

/// Runs a vCPU that is loaded on this CPU until the CPU has something else to do.
pub fn run_vcpu(cpu: &'static PerCpu, vcpu: &VcpuRef<X86_64>, pv: &PvVcpu) {
    let Some(gates) = cpu.gates.get() else { return };
    if !pv.has_info() {
        let place = vcpu.domain().info_area(vcpu);
        let place = place.and_then(|place| info_at(place.mfn, place.offset));
        // SAFETY: shared info and a page that was registered stay the domain's as long as its vCPUs may run.
        unsafe { pv.set_info(place) }
    }
    // SAFETY: the executing CPU's own gate. As long as this function runs, the references are good.
    let frame = unsafe {
        let head = &raw mut (*gates.gate()).head;
        (*head).work = cpu.work;
        (*head).vcpu = vcpu;
        (*head).pv = pv;
        isolation::prepare(&mut (*head).guard, vcpu);
        &raw mut (*gates.gate()).frame
    };
    let mut stopped = Stopped {
        cpu,
        vcpu,
        pv,
        frame,
    };
    if before_entry(&mut stopped) {
        // SAFETY: the vCPU is loaded: `switch::load` filled the gate and loaded its address space. Selectors and flags of the frame
        // are made safe wherever a guest can set them.
        unsafe { entry::run(frame) }
    }
}

/// A `vcpu_info` at a place in a frame of RAM.
#[must_use]
pub fn info_at(mfn: Mfn, offset: usize) -> Option<*const Info> {
    let words = Direct::words(mfn)?;
    let whole = offset.checked_add(size_of::<Info>())? <= size_of_val(words);
    whole.then(|| words.as_ptr().wrapping_byte_add(offset).cast())
}

/// The guest has stopped by a hypercall that is served; true when the CPU is to do something else.
pub(super) extern "C" fn look(cpu: &'static PerCpu, frame: *mut Frame) -> u32 {
    match stopped_vcpu(cpu, frame) {
        Some(mut cx) => u32::from(!before_entry(&mut cx)),
        None => 1,
    }
}

/// The vCPU whose registers are in this CPU's gate.
#[inline(always)]
fn stopped_vcpu(cpu: &'static PerCpu, frame: *mut Frame) -> Option<Stopped<'static>> {
    let gate = Gate::of(frame);
    // SAFETY: `run_vcpu` put them there, whose owner waits for this CPU to leave the guest.
    let (vcpu, pv) = unsafe { ((*gate).head.vcpu.as_ref()?, (*gate).head.pv.as_ref()?) };
    Some(Stopped {
        cpu,
        vcpu,
        pv,
        frame,
    })
}

/// The guest has stopped; true when the CPU is to do something else.
pub(super) extern "C" fn stopped(cpu: &'static PerCpu, frame: *mut Frame) -> u32 {
    let Some(mut cx) = stopped_vcpu(cpu, frame) else {
        return 1;
    };
    serve(&mut cx);
    u32::from(!before_entry(&mut cx))
}

#[inline(always)]
fn serve(cx: &mut Stopped<'_>) {
    const UNDEFINED: u64 = 6;
    let kernel = cx.pv.mode.get() == Mode::Kernel;
    let vector = cx.frame().vector;
    match vector {
        SYSCALL if kernel => hypercall::serve(cx),
        SYSCALL => system_call(cx, cx.pv.syscall.get()),
        // CPUID, where the guest asks for the hypervisor's answer.
        UNDEFINED if emulate::undefined(cx) => {}
        other => rare(cx, other),
    }
}

#[inline(never)]
fn rare(cx: &mut Stopped<'_>, vector: u64) {
    const EXCEPTIONS: u64 = 32;
    const OLD_SYSTEM_CALL: u64 = 0x80;
    match vector {
        0..EXCEPTIONS => trap::exception(cx, vector as u8),
        OLD_SYSTEM_CALL => trap::old_system_call(cx, OLD_SYSTEM_CALL as u8),
        SYSCALL_32 => system_call(cx, cx.pv.syscall_32.get()),
        SYSENTER => fast_system_call(cx),
        RETURN_FAILED => trap::return_failed(cx),
        vector => {
            vectors::interrupt(vector as u8);
            // Others may wait.
            run::open_interrupts();
        }
    }
}

/// SYSCALL of a program, and of 32-bit code.
fn system_call(cx: &mut Stopped<'_>, callback: Callback) {
    if cx.pv.mode.get() == Mode::Kernel || callback.address == 0 {
        return trap::no_system_call(cx);
    }
    cx.enter_kernel(Bounce::to(callback), &"a system call");
}

/// SYSENTER, of which nobody knows where it was.
fn fast_system_call(cx: &mut Stopped<'_>) {
    let callback = cx.pv.sysenter.get();
    if callback.address == 0 {
        return trap::protection_fault(cx, 0);
    }
    cx.enter_kernel(Bounce::to(callback), &"a fast system call");
}

/// What is to be done before the guest goes on. False: it does not, now.
#[inline(always)]
fn before_entry(cx: &mut Stopped<'_>) -> bool {
    if cx.cpu.work.load(Relaxed) != 0 && !serve_work(cx.cpu) {
        return false;
    }
    if something_waits(cx.pv) {
        upcall(cx);
        // Its end may have been asked for.
        return cx.cpu.work.load(Relaxed) == 0 || serve_work(cx.cpu);
    }
    true
}

/// Whether the kernel is to be told of something. The byte decides, which the kernel may set itself, to be told again; a kernel that
/// masks its events looks for them when it takes them again.
#[inline(always)]
pub(super) fn something_waits(pv: &PvVcpu) -> bool {
    let info = pv.info();
    pv.looks.load(SeqCst) || info.pending.load(SeqCst) != 0 && info.mask.load(SeqCst) == 0
}

#[cold]
fn serve_work(cpu: &'static PerCpu) -> bool {
    run::serve_work(cpu);
    cpu.work.load(Relaxed) & Work::RESCHEDULE.bits() == 0
}

/// Something waits for the guest, or did. Who makes something wait from here on has the CPU look again.
#[inline(never)]
fn upcall(cx: &mut Stopped<'_>) {
    let pv = cx.pv;
    let info = pv.info();
    pv.looks.store(false, SeqCst);
    if let Some(segments) = pv.segments_failed.take() {
        pv.looks.store(true, SeqCst);
        let mut bounce = Bounce::to(pv.failsafe.get());
        bounce.segments = Some(segments);
        return cx.enter_kernel(bounce, &"segments that cannot be loaded");
    }
    if pv.signals.nmi_waits() {
        // One more may wait, or this one for the end of the handler.
        pv.looks.store(true, SeqCst);
        if !pv.in_nmi.get() {
            pv.signals.take_nmi();
            // Without a handler it is lost.
            if pv.nmi.get().address != 0 {
                pv.in_nmi.set(true);
                return cx.enter_kernel(Bounce::to(pv.nmi.get()), &"a non-maskable interrupt");
            }
        }
    }
    if info.pending.load(SeqCst) == 0 || info.mask.load(SeqCst) != 0 {
        return;
    }
    let event = pv.event_upcall();
    if event.address == 0 {
        // A kernel that did not say yet where: it is not told, and finds the event when it looks.
        return;
    }
    if pv.mode.get() == Mode::Kernel {
        let frame = cx.frame();
        let at = Interrupted::open_kernel(frame);
        if short::enter_kernel((pv, info), frame, &at, event, None) {
            frame.be_in_handler();
            return;
        }
    }
    cx.enter_kernel(Bounce::to(event), &"an event");
}
