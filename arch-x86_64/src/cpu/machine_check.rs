//! Machine checks of this CPU: switching them on, reading the banks, doing what [`crate::machine_check`] says.
//!
//! The handler may interrupt anything, the holder of any lock among it: it writes to the console's device past all locks. CPUs
//! that are told of one error together take turns, and the first one takes the error away.

use core::{
    fmt::{self, Write},
    hint::spin_loop,
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Release},
    },
};

use arrayvec::ArrayVec;
use tock_registers::LocalRegisterCopy;
use x86_64::registers::{
    control::{Cr4, Cr4Flags},
    model_specific::Msr,
};
use xenolith_core::{DomId, Hypervisor};
use xenolith_hal::{HostPhys, Nanos, PAGE_SIZE};

use super::{
    cpuid::cpuid,
    fault,
    percpu::{PerCpu, cpu_id},
};
use crate::{
    X86_64, console,
    cpuid::Vendor,
    machine_check::{Bank, Capabilities, Detail, During, Recovery, Severity, Verdict, judge},
    pv::frame::Frame,
};

mod msr {
    pub const CAPABILITIES: u32 = 0x179;
    pub const STATUS: u32 = 0x17a;
    pub const CONTROL: u32 = 0x17b;
    /// Control of bank 0; status, address and the rest follow, then the next bank.
    pub const BANKS: u32 = 0x400;
}

/// Banks that are looked at; no CPU shows more in this place.
const MAX_BANKS: usize = 32;

type Banks = ArrayVec<Bank, MAX_BANKS>;

/// One CPU looks at its banks; others that share them wait.
static TURN: AtomicBool = AtomicBool::new(false);

fn supported() -> bool {
    const MACHINE_CHECKS: u32 = 1 << 7 | 1 << 14;
    cpuid(1, 0).edx & MACHINE_CHECKS == MACHINE_CHECKS
}

fn get(number: u32) -> u64 {
    // SAFETY: only asked for registers that CPUID and MCG_CAP say are there; reading them changes nothing.
    unsafe { Msr::new(number).read() }
}

fn set(number: u32, value: u64) {
    // SAFETY: as above; banks belong to the hypervisor alone.
    unsafe { Msr::new(number).write(value) }
}

fn capabilities() -> LocalRegisterCopy<u64, Capabilities::Register> {
    LocalRegisterCopy::new(get(msr::CAPABILITIES))
}

fn banks(capabilities: LocalRegisterCopy<u64, Capabilities::Register>) -> u8 {
    capabilities.read(Capabilities::BANKS).min(MAX_BANKS as u64) as u8
}

fn recovery(capabilities: LocalRegisterCopy<u64, Capabilities::Register>) -> Recovery {
    const RELIABILITY: u32 = 0x8000_0007;
    const MARKS_BAD_DATA: u32 = 1 << 1;
    match Vendor::of(cpuid(0, 0).ebx) {
        Vendor::Intel if capabilities.is_set(Capabilities::RECOVERY) => Recovery::Intel,
        Vendor::Amd
            if cpuid(0x8000_0000, 0).eax >= RELIABILITY
                && cpuid(RELIABILITY, 0).ebx & MARKS_BAD_DATA != 0 =>
        {
            Recovery::Amd
        }
        _ => Recovery::None,
    }
}

const fn register(bank: u8, which: u32) -> u32 {
    msr::BANKS + bank as u32 * 4 + which
}

const BANK_CONTROL: u32 = 0;
const BANK_STATUS: u32 = 1;
const BANK_ADDRESS: u32 = 2;
const BANK_MISC: u32 = 3;

fn errors(count: u8) -> Banks {
    (0..count)
        .filter_map(|bank| {
            Bank::read(bank, get(register(bank, BANK_STATUS)), |detail| {
                get(register(
                    bank,
                    match detail {
                        Detail::Address => BANK_ADDRESS,
                        Detail::Misc => BANK_MISC,
                    },
                ))
            })
        })
        .collect()
}

/// Takes away what was read. Another CPU's error that came to a shared bank since then stays for its handler.
fn clear(banks: &Banks) {
    for bank in banks {
        let register = register(bank.number, BANK_STATUS);
        if get(register) == bank.status {
            set(register, 0);
        }
    }
}

/// Opens every bank of the executing CPU. What they hold from before the start is told and forgotten.
pub fn start() {
    if !supported() {
        return;
    }
    let capabilities = capabilities();
    let count = banks(capabilities);
    let old = errors(count);
    for bank in &old {
        log::warn!("CPU {}: machine check before the start, {bank}", cpu_id().0);
    }
    clear(&old);
    if capabilities.is_set(Capabilities::CONTROL) {
        set(msr::CONTROL, u64::MAX);
    }
    for bank in 0..count {
        set(register(bank, BANK_CONTROL), u64::MAX);
    }
    // SAFETY: the handler is in place.
    unsafe { Cr4::update(|cr4| cr4.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) }
}

/// Looks at the banks, tells what they say, and takes away what can be survived.
fn examine(during: During, out: &mut dyn Write) -> (Verdict, Banks, Recovery) {
    while TURN.swap(true, Acquire) {
        spin_loop();
    }
    let capabilities = capabilities();
    let (recovery, global) = (recovery(capabilities), get(msr::STATUS));
    let errors = errors(banks(capabilities));
    let verdict = judge(global, &errors, recovery, during);
    let cpu = cpu_id().0;
    for bank in &errors {
        let _ = writeln!(out, "machine check on CPU {cpu}: {bank}");
    }
    if errors.is_empty() {
        let _ = writeln!(
            out,
            "machine check on CPU {cpu}: no bank has an error, global status {global:#x}"
        );
    }
    if verdict != Verdict::Stop {
        clear(&errors);
    }
    TURN.store(false, Release);
    if verdict != Verdict::Stop {
        // The next one may come, on this CPU at once: nothing of this one may be held any more.
        set(msr::STATUS, 0);
    }
    (verdict, errors, recovery)
}

/// A machine check interrupted the hypervisor.
pub fn taken(frame: &Frame) {
    let mut out = Lines::default();
    let (verdict, ..) = examine(During::Hypervisor, &mut out);
    if verdict != Verdict::GoOn {
        let _ = writeln!(
            out,
            "machine check on CPU {}: the machine cannot go on, rip {:#x}",
            cpu_id().0,
            frame.rip
        );
        fault::stop();
    }
}

/// How often banks are looked at for errors that the hardware put right, which interrupt nobody.
const PERIOD: Nanos = Nanos::from_millis(10_000);

/// Tells of errors that the hardware put right, now and then; called where no lock is held.
#[inline]
pub fn poll(cpu: &PerCpu, now: Nanos) {
    if now.since(cpu.banks_seen.get()) >= PERIOD {
        cpu.banks_seen.set(now);
        look();
    }
}

#[cold]
fn look() {
    if !supported() {
        return;
    }
    let capabilities = capabilities();
    let recovery = recovery(capabilities);
    let mut errors = errors(banks(capabilities));
    // What is worse interrupts, and is the handler's.
    errors.retain(|bank| bank.severity(recovery) <= Severity::Latent);
    for bank in &errors {
        log::warn!("machine check on CPU {}: {bank}", cpu_id().0);
    }
    clear(&errors);
}

/// A guest that does not want machine checks stops where one comes: looks whether that was it.
pub fn after_shutdown(hv: &Hypervisor<X86_64>, domain: DomId) {
    if supported() && !errors(banks(capabilities())).is_empty() {
        let _ = in_guest(hv, domain);
    }
}

/// What a machine check in a guest means for it.
pub enum ForGuest {
    /// Nothing.
    GoesOn,
    /// Its domain ends: the memory at this address is bad.
    Ends(u64),
}

/// A machine check ended a guest of this domain.
pub fn in_guest(hv: &Hypervisor<X86_64>, domain: DomId) -> ForGuest {
    let mut out = Lines::default();
    let (verdict, errors, recovery) = examine(During::Guest, &mut out);
    let owned = || {
        let mut pages = errors.iter().map(|bank| bank.physical(recovery));
        let first = pages.clone().flatten().next()?;
        let mine = pages.all(|at| at.is_none_or(|at| is_memory_of(hv, domain, at)));
        mine.then_some(first)
    };
    match verdict {
        Verdict::GoOn => return ForGuest::GoesOn,
        Verdict::EndGuest => {
            if let Some(address) = owned() {
                return ForGuest::Ends(address);
            }
        }
        Verdict::Stop => {}
    }
    let _ = writeln!(
        out,
        "machine check on CPU {} in domain {}: the machine cannot go on",
        cpu_id().0,
        domain.0
    );
    fault::stop()
}

fn is_memory_of(hv: &Hypervisor<X86_64>, domain: DomId, at: u64) -> bool {
    let frame = HostPhys(at & !(PAGE_SIZE as u64 - 1)).frame();
    let record = hv.memory.record(frame);
    record.and_then(|record| record.state().owner()) == Some(domain)
}

/// Lines of the hypervisor, straight to the device.
#[derive(Default)]
struct Lines {
    inside: bool,
}

impl Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            if !core::mem::replace(&mut self.inside, true) {
                console::Raw.write_str("\r(XEN) ")?;
            }
            match part.strip_suffix('\n') {
                Some(line) => {
                    console::Raw.write_str(line)?;
                    console::Raw.write_str("\r\n")?;
                    self.inside = false;
                }
                None => console::Raw.write_str(part)?,
            }
        }
        Ok(())
    }
}
