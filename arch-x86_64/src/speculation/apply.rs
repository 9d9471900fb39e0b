//! Carries out the [`Plan`]: the parts that the world switches run at entries and exits, and barriers.
//!
//! The world switches exist twice: plain, and with these parts. [`CAREFUL`] picks, which is all that a CPU without
//! controls pays. At an exit the return stack is filled and SPEC_CTRL written before the first return; at an entry VERW
//! comes last, and what is read after it are the guest's own registers.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed};

use spin::Once;
use x86_64::registers::model_specific::Msr;
use xenolith_core::boot::cmdline::Warning;

use super::{Bugs, Facts, Isolation, Paging, Plan, Requests, Words};
use crate::{
    cpu::cpuid::cpuid,
    pv::{guard, isolation::cpu as isolated, smap},
};

const ARCH_CAPABILITIES: u32 = 0x10a;
const PREDICTION_COMMAND: u32 = 0x49;
const BARRIER: u64 = 1;

static PLAN: Once<Plan> = Once::new();
/// There is any work at all: the world switches with these parts are taken.
pub(crate) static CAREFUL: AtomicBool = AtomicBool::new(false);

/// What the world switches do, read by them.
pub(crate) static WORK: AtomicU32 = AtomicU32::new(0);
/// The hypervisor's SPEC_CTRL, read by them.
pub(crate) static HOST: AtomicU32 = AtomicU32::new(0);
/// A selector for VERW, which looks at it and forgets it: the null selector.
pub(crate) static SELECTOR: AtomicU16 = AtomicU16::new(0);

/// [`WORK`]: [`Plan::switch`].
pub(crate) const SWITCH: u32 = 1 << 0;
/// [`WORK`]: [`Plan::verw`].
pub(crate) const VERW: u32 = 1 << 1;
/// [`WORK`]: [`Plan::flush`].
pub(crate) const FLUSH: u32 = 1 << 2;
/// [`WORK`]: [`Plan::returns`].
pub(crate) const RETURNS: u32 = 1 << 3;

/// Assembly for an entry, when `rdi` points to the guest's registers: `rax`, `rcx`, `r8` and flags are lost.
macro_rules! careful_entry {
    () => {
        r#"
    movq    %rdx, %r8
    testl   ${spec_switch}, {spec_work}(%rip)
    jz      991f
    movl    {spec_ctrl}(%rdi), %eax
    xorl    %edx, %edx
    movl    $0x48, %ecx                 // SPEC_CTRL
    wrmsr
991:
    testl   ${spec_flush}, {spec_work}(%rip)
    jz      992f
    movl    $1, %eax
    xorl    %edx, %edx
    movl    $0x10b, %ecx                // FLUSH_CMD: the first data cache
    wrmsr
992:
    movq    %r8, %rdx
    testl   ${spec_verw}, {spec_work}(%rip)
    jz      993f
    verw    {spec_selector}(%rip)
993:
        "#
    };
}
/// Assembly for an exit: `rax`, `rcx`, `rdx` and flags are lost, and 256 bytes of stack are used.
macro_rules! careful_exit {
    () => {
        r#"
    testl   ${spec_returns}, {spec_work}(%rip)
    jz      994f
    movl    $16, %ecx
991:
    call    992f
981:
    pause                               // where a return that is only guessed would go
    lfence
    jmp     981b
992:
    call    993f
982:
    pause
    lfence
    jmp     982b
993:
    decl    %ecx
    jnz     991b
    addq    $256, %rsp
    lfence                              // no return is guessed before the stack is full
994:
    testl   ${spec_switch}, {spec_work}(%rip)
    jz      995f
    movl    {spec_host}(%rip), %eax
    xorl    %edx, %edx
    movl    $0x48, %ecx
    wrmsr
995:
        "#
    };
}
pub(crate) use {careful_entry, careful_exit};

/// Decides, on the first CPU, before any other CPU runs and any guest exists. `requests` are about page tables.
pub fn init(words: Option<&str>, requests: &Requests<'_>) {
    let parsed = words.map_or(Ok(Words::default()), Words::parse);
    let words = parsed.unwrap_or_else(|_| {
        log::warn!("{}", Warning::of_value("spec-ctrl", words.unwrap_or("")));
        Words::default()
    });
    let leaf = |leaf, subleaf| {
        let found = cpuid(leaf, subleaf);
        [found.eax, found.ebx, found.ecx, found.edx]
    };
    // SAFETY: called only where CPUID shows the register.
    let facts = Facts::new(leaf, || unsafe { Msr::new(ARCH_CAPABILITIES).read() });
    let plan = *PLAN.call_once(|| Plan::new(&facts, &words));
    let work = [
        (plan.switch, SWITCH),
        (plan.verw, VERW),
        (plan.flush, FLUSH),
        (plan.returns, RETURNS),
    ];
    let work = work.iter().filter(|(on, _)| *on);
    WORK.store(work.fold(0, |all, (_, bit)| all | bit), Relaxed);
    HOST.store(plan.host, Relaxed);
    CAREFUL.store(plan.has_work(), Relaxed);
    let (isolation, refused) = Isolation::new(&facts, &Paging::new(leaf), requests);
    for (name, value) in refused.into_iter().flatten() {
        log::warn!("{}", Warning::of_value(name, value));
    }
    isolated::choose(isolation);
    guard::start(isolation.any(), &plan);
    if isolation.smap {
        smap::start();
    }
    log::info!("speculation: {plan}{isolation}");
    log::info!("CPU bugs: {}", Bugs::new(&facts, &plan, &isolation));
}

/// What was decided; nothing before that.
pub fn plan() -> Plan {
    PLAN.get().copied().unwrap_or_default()
}

/// Whether guests read and write SPEC_CTRL and PRED_CMD.
pub fn guests_have_controls() -> bool {
    PLAN.get()
        .is_some_and(|plan| plan.switch || plan.guest_barrier)
}

/// What the CPU promises in ARCH_CAPABILITIES, or nothing.
pub fn arch_capabilities() -> u64 {
    const LEAF: u32 = 7;
    let shown = cpuid(0, 0).eax >= LEAF
        && cpuid(LEAF, 0).edx & crate::cpuid::features::leaf7_edx::ARCH_CAPABILITIES != 0;
    match shown {
        // SAFETY: CPUID shows the register.
        true => unsafe { Msr::new(ARCH_CAPABILITIES).read() },
        false => 0,
    }
}

/// The hypervisor's own SPEC_CTRL.
pub fn host_spec_ctrl() -> u64 {
    HOST.load(Relaxed).into()
}

/// Forgets what branch predictors learned, where the CPU can.
pub fn forget_branches() {
    if PLAN.get().is_some_and(|plan| plan.guest_barrier) {
        // SAFETY: the plan asks for it only where CPUID shows the barrier.
        unsafe { Msr::new(PREDICTION_COMMAND).write(BARRIER) };
    }
}

/// Another domain's guest runs next on this CPU.
pub fn between_domains() {
    if PLAN.get().is_some_and(|plan| plan.barrier) {
        // SAFETY: as above.
        unsafe { Msr::new(PREDICTION_COMMAND).write(BARRIER) };
    }
}
