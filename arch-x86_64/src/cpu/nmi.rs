//! Non-maskable interrupts of the machine: hardware in trouble, or a watchdog's or a person's button (`nmi=`). They come to the boot CPU.
//!
//! One may interrupt anything, the holder of any lock among it: here it is only told, past all locks, and noted. Who drives the
//! machine gets it when the CPU next looks at its work, and the reason with it where its interface has a place for that
//! (`arch-x86/xen.h`, `nmi_reason`).

use core::{
    fmt::Write,
    mem::offset_of,
    sync::atomic::{
        AtomicU8,
        Ordering::{Relaxed, SeqCst},
    },
};

use x86_64::instructions::port::Port;
use xenolith_abi::x86_64::{ArchSharedInfo, SharedInfo};
use xenolith_core::{DomId, VcpuId, VcpuRef, boot::cmdline::Nmi};
use xenolith_hal::CpuId;

use super::{fault, percpu::PerCpu};
use crate::{
    apic, console,
    pv::{self, flush::WORK, frame::Frame},
};

/// What is done with one: a number of [`Nmi`].
static POLICY: AtomicU8 = AtomicU8::new(Nmi::Ignore as u8);

/// Why one came that was not given to dom0 yet.
static REASONS: AtomicU8 = AtomicU8::new(0);

/// Why one came, and the bit of the control port that says so, which is also the one that stops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    IoCheck = 0,
    SystemError = 1,
    Unknown = 2,
}

impl Reason {
    const fn of(status: u8) -> Self {
        match status >> 6 {
            0 => Self::Unknown,
            1 => Self::IoCheck,
            _ => Self::SystemError,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "without a reason",
            Self::IoCheck => "by an I/O channel check",
            Self::SystemError => "by a system error",
        }
    }
}

/// Says what is done with them.
pub fn init(policy: Nmi) {
    POLICY.store(policy as u8, SeqCst);
}

/// One was taken.
pub fn taken(frame: &Frame) {
    const SYSTEM_CONTROL: u16 = 0x61;
    let cpu = super::percpu::cpu_id();
    let mut port = Port::<u8>::new(SYSTEM_CONTROL);
    // SAFETY: a status port that every PC has; reading it changes nothing.
    let status = unsafe { port.read() };
    let reason = Reason::of(status);
    let policy = POLICY.load(SeqCst);
    let said = reason.text();
    let _ = writeln!(
        console::Raw,
        "\r\n(XEN) non-maskable interrupt on CPU {} {said} (port 0x61: {status:#04x})\r",
        cpu.0,
    );
    if policy == Nmi::Fatal as u8 {
        let _ = writeln!(
            console::Raw,
            "(XEN) the machine stops for it, rip {:#x}\r",
            frame.rip
        );
        fault::stop();
    }
    quiet(&mut port, status, reason);
    // Others' are not the machine's.
    if policy == Nmi::Dom0 as u8
        && cpu == CpuId(0)
        && let Some(cpu) = PerCpu::try_current()
    {
        REASONS.fetch_or(1 << reason as u8, SeqCst);
        cpu.work.fetch_or(WORK, SeqCst);
        apic::kick_self();
    }
}

/// Takes the cause away: a line of errors stays raised until it is switched off. A check of the I/O channel may come again.
fn quiet(port: &mut Port<u8>, status: u8, reason: Reason) {
    const KEPT: u8 = 0x0f;
    const STOP_SYSTEM_ERROR: u8 = 1 << 2;
    const STOP_IO_CHECK: u8 = 1 << 3;
    // SAFETY: the lower half of the port switches the two causes, the timer and the speaker; only the causes change.
    unsafe {
        match reason {
            Reason::SystemError => port.write(status & KEPT | STOP_SYSTEM_ERROR),
            Reason::IoCheck => {
                port.write(status & KEPT | STOP_IO_CHECK);
                port.write(status & KEPT & !STOP_IO_CHECK);
            }
            Reason::Unknown => {}
        }
    }
}

/// Gives dom0's first vCPU what came. Called where no lock is held.
pub fn deliver(cpu: &PerCpu) {
    if REASONS.load(Relaxed) != 0 {
        give_to_dom0(cpu);
    }
}

#[cold]
fn give_to_dom0(cpu: &PerCpu) {
    const REASON: usize = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, nmi_reason);
    let reasons = REASONS.swap(0, SeqCst);
    let vcpu = cpu.hv.domains.get(DomId(0));
    let Some(vcpu) = vcpu.and_then(|dom0| VcpuRef::new(&dom0, VcpuId(0))) else {
        return;
    };
    if vcpu.arch.pv().is_some() {
        let domain = vcpu.domain();
        domain.set_shared_bits(&cpu.hv.hal, REASON, reasons.into());
        pv::hypercall::send_nmi(cpu.hv, &vcpu);
    } else if vcpu.arch.lapic.signals().post_nmi() {
        cpu.hv.notify(&vcpu);
    }
}
