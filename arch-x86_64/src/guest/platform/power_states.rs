//! What the control domain's kernel read of ACPI about CPUs' states of power (`XENPF_set_processor_pminfo`): looked at, and kept.
//!
//! A CPU that idles halts: that is C1, which every CPU has. Its frequency is its own affair. So what is kept is only told, on the
//! console, when it is new.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt::Write;

use xenolith_abi::platform::{
    IdleState, IdleStates, Performance, PerformanceParts, PerformanceState, PlatformOpArg,
    PowerInfo, PowerInfoKind,
};
use xenolith_core::{Errno, guest::Caller};
use xenolith_hal::{
    CpuId, GuestVirt, MAX_CPUS,
    sync::{Mutex, Rank},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Hv, argument};
use crate::{X86_64, apic, cpu::cpuid::cpuid, machine, pv::memory::is_guest_address};

/// No CPU has more of either; ACPI allows eight idle states.
const MOST_IDLE: usize = 8;
const MOST_PERFORMANCE: usize = 64;

/// What is known of a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Kind and latency in microseconds of each idle state.
    idle: Vec<(u8, u32)>,
    /// Megahertz of each performance state.
    megahertz: Vec<u32>,
    /// All parts of its performance states were told together.
    is_complete: bool,
}

/// Nothing is all zeroes, which cost the image no bytes.
static KNOWN: [Mutex<Option<Box<Known>>>; MAX_CPUS] =
    [const { Mutex::new(Rank::DomainTable, None) }; MAX_CPUS];

/// Serves the call.
pub fn set(caller: Caller<'_, X86_64>, op: &PlatformOpArg) -> Result<i64, Errno> {
    let PowerInfo { id, kind } = argument(op)?;
    match PowerInfoKind::try_from(kind)? {
        PowerInfoKind::Cx => idle(caller, id, &told(op)?),
        PowerInfoKind::Px => performance(caller, id, &told(op)?),
        PowerInfoKind::Tx => Err(Errno::ENOSYS),
        PowerInfoKind::Pdc => capabilities(caller, id, told(op)?),
    }
}

/// What follows number and kind.
fn told<T: FromBytes>(op: &PlatformOpArg) -> Result<T, Errno> {
    let rest = op.body.as_bytes().get(size_of::<PowerInfo>()..);
    let read = T::read_from_prefix(rest.unwrap_or_default());
    read.map(|(value, _)| value).map_err(|_| Errno::EINVAL)
}

/// The CPU with a number of ACPI's.
fn of_acpi(hv: &Hv, id: u32) -> Result<CpuId, Errno> {
    let has = |cpu: &CpuId| machine::acpi_id(apic::id_of(*cpu)) == Some(id);
    hv.sched.online_cpus().iter().find(has).ok_or(Errno::EINVAL)
}

/// Does something with what is known of a CPU.
fn with_known<R>(cpu: CpuId, f: impl FnOnce(&mut Known) -> R) -> Result<R, Errno> {
    let known = KNOWN.get(cpu.index()).ok_or(Errno::EINVAL)?;
    Ok(f(known.lock().get_or_insert_default()))
}

/// An array of the kernel's, but for its first `most` elements none of it.
fn list<T: FromBytes>(
    caller: Caller<'_, X86_64>,
    from: u64,
    count: u32,
    most: usize,
) -> Result<Vec<T>, Errno> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(most);
    let mut bytes = Vec::new();
    let room = count.saturating_mul(size_of::<T>());
    bytes.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(room, 0);
    if !bytes.is_empty() {
        caller.read_bytes(GuestVirt(from), &mut bytes)?;
    }
    let each = bytes.chunks_exact(size_of::<T>());
    Ok(each
        .filter_map(|one| T::read_from_bytes(one).ok())
        .collect())
}

fn idle(caller: Caller<'_, X86_64>, id: u32, told: &IdleStates) -> Result<i64, Errno> {
    let at = told.states.address();
    if caller.vcpu.arch.pv().is_some() && !is_guest_address(at) {
        return Err(Errno::EFAULT);
    }
    let cpu = of_acpi(caller.hv, id)?;
    let states: Vec<IdleState> = list(caller, at, told.count, MOST_IDLE)?;
    let states: Vec<_> = states
        .iter()
        .map(|state| (state.kind, state.latency))
        .collect();
    let mut text = String::new();
    for (kind, latency) in &states {
        let _ = write!(text, " C{kind} ({latency} us)");
    }
    let old = with_known(cpu, |known| {
        core::mem::replace(&mut known.idle, states.clone())
    })?;
    if old != states {
        log::debug!("dom0 tells of idle states of CPU {}:{text}", cpu.0);
    }
    Ok(0)
}

fn performance(caller: Caller<'_, X86_64>, id: u32, told: &Performance) -> Result<i64, Errno> {
    const COORDINATIONS: core::ops::RangeInclusive<u32> = 1..=3;
    let cpu = of_acpi(caller.hv, id)?;
    let parts = PerformanceParts::from_bits_retain(told.flags);
    let (control, status) = (&told.control_register, &told.status_register);
    if parts.contains(PerformanceParts::REGISTERS) && control.space_id != status.space_id {
        return Err(Errno::EINVAL);
    }
    if parts.contains(PerformanceParts::STATES) {
        if told.state_count <= 1 {
            return Err(Errno::EINVAL);
        }
        let (from, count) = (told.states.address(), told.state_count);
        let states: Vec<PerformanceState> = list(caller, from, count, MOST_PERFORMANCE)?;
        let megahertz: Vec<_> = states
            .iter()
            .map(|state| state.core_frequency as u32)
            .collect();
        let old = with_known(cpu, |known| {
            core::mem::replace(&mut known.megahertz, megahertz.clone())
        })?;
        if old != megahertz {
            log::debug!(
                "dom0 tells of frequencies of CPU {}: {megahertz:?} MHz",
                cpu.0
            );
        }
    }
    if parts.contains(PerformanceParts::COORDINATION) && !COORDINATIONS.contains(&told.shared_type)
    {
        return Err(Errno::EINVAL);
    }
    with_known(cpu, |known| {
        // A limit on what was told completely is for who drives the frequencies.
        if parts.contains(PerformanceParts::LIMIT) && known.is_complete {
            return Err(Errno::ENODEV);
        }
        known.is_complete |= parts == PerformanceParts::all();
        Ok(0)
    })?
}

/// Bits of `_PDC`: what software for processors tells ACPI that it can do (Intel's interface specification of ACPI for processors).
mod pdc {
    pub const C1_HALT: u32 = 1 << 1;
    pub const THROTTLE_BY_REGISTER: u32 = 1 << 2;
    pub const C1_OF_MANY: u32 = 1 << 3;
    pub const C2_C3_OF_MANY: u32 = 1 << 4;
    pub const COORDINATES_THROTTLING: u32 = 1 << 7;
    pub const C1_BY_INSTRUCTION: u32 = 1 << 8;
    pub const C2_C3_BY_INSTRUCTION: u32 = 1 << 9;
    /// What remains the kernel's own.
    pub const THROTTLING: u32 = THROTTLE_BY_REGISTER | COORDINATES_THROTTLING;
}

/// The hypervisor says what it can do in the kernel's place; it drives no frequencies.
fn capabilities(caller: Caller<'_, X86_64>, id: u32, at: u64) -> Result<i64, Errno> {
    const ALL: u32 = u32::MAX;
    const REVISION: u32 = 1;
    let read = |word: u64| -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        caller.read_bytes(GuestVirt(at.wrapping_add(word * 4)), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    };
    let (revision, count) = (read(0)?, read(1)?);
    if revision != REVISION || count == 0 {
        return Err(Errno::EINVAL);
    }
    let asked = read(2)?;
    if id != ALL {
        of_acpi(caller.hv, id)?;
    }
    let mut answer = asked & pdc::THROTTLING | pdc::C1_HALT | pdc::C1_OF_MANY | pdc::C2_C3_OF_MANY;
    if has_monitor() {
        answer |= pdc::C1_BY_INSTRUCTION | pdc::C2_C3_BY_INSTRUCTION;
    }
    caller.write_bytes(GuestVirt(at.wrapping_add(8)), &answer.to_le_bytes())?;
    Ok(0)
}

/// Whether MWAIT is there, with interrupts that end it though they are masked.
fn has_monitor() -> bool {
    const MONITOR: u32 = 1 << 3;
    const LEAF: u32 = 5;
    const EXTENSIONS: u32 = 0b11;
    cpuid(1, 0).ecx & MONITOR != 0
        && cpuid(0, 0).eax >= LEAF
        && cpuid(LEAF, 0).ecx & EXTENSIONS == EXTENSIONS
}
