//! What the control domain's kernel asks of a PC (`platform.h`): what the BIOS left, which CPUs there are, power management.
//!
//! The hypervisor manages no power but the machine's off switch, and takes no CPU out or in: such requests get
//! the answer of a Xen that was told not to.

mod memory_types;
mod power_states;
mod resources;

use alloc::vec::Vec;

use xenolith_abi::platform::{
    CORE_PARKING_GET, CORE_PARKING_SET, CoreParking, CpuHotadd, CpuOnline, FirmwareInfo,
    FirmwareKind, MemHotadd, MicrocodeUpdate, PCPU_FLAGS_INVALID, PCPU_FLAGS_ONLINE, PcpuInfo,
    PcpuVersion, PlatformOp, PlatformOpArg, PlatformQuirk, Settime32, SymbolData,
};
use xenolith_core::{Errno, Hypervisor, guest::Caller};
use xenolith_hal::{CpuId, GuestVirt, Nanos};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    X86_64, apic,
    cpu::{self, cpuid::cpuid},
    machine, microcode,
};

type Hv = Hypervisor<X86_64>;

/// Serves the call of a privileged domain.
pub fn platform_op(
    caller: Caller<'_, X86_64>,
    what: PlatformOp,
    op: &mut PlatformOpArg,
) -> Result<i64, Errno> {
    let hv = caller.hv;
    match what {
        PlatformOp::Settime32 => set_time(hv, &argument(op)?),
        PlatformOp::FirmwareInfo => firmware_info(op),
        PlatformOp::GetCpuInfo => with(op, |info| cpu_info(hv, info)),
        PlatformOp::GetCpuVersion => with(op, |version| cpu_version(hv, version)),
        PlatformOp::CpuOnline => online(hv, argument(op)?),
        PlatformOp::CpuOffline => offline(hv, argument(op)?),
        PlatformOp::CoreParking => with(op, parking),
        PlatformOp::PlatformQuirk => quirk(argument(op)?),
        PlatformOp::SetProcessorPminfo => power_states::set(caller, op),
        PlatformOp::MicrocodeUpdate => load_microcode(caller, argument(op)?),
        PlatformOp::ResourceOp => resources::serve(caller, op),
        PlatformOp::GetSymbol => with(op, |symbol| no_symbol(caller, symbol)),
        PlatformOp::ReadMemtype => with(op, memory_types::read),
        PlatformOp::AddMemtype => memory_types::add(argument(op)?),
        PlatformOp::DelMemtype => memory_types::delete(argument(op)?),
        PlatformOp::CpuHotadd => add_cpu(argument(op)?),
        PlatformOp::MemHotadd => add_memory(argument(op)?),
        _ => Err(Errno::ENOSYS),
    }
}

fn argument<T: FromBytes>(op: &PlatformOpArg) -> Result<T, Errno> {
    let read = T::read_from_prefix(op.body.as_bytes());
    read.map(|(value, _)| value).map_err(|_| Errno::EINVAL)
}

/// Changes an argument in place.
fn with<T: FromBytes + IntoBytes + zerocopy::Immutable>(
    op: &mut PlatformOpArg,
    change: impl FnOnce(&mut T) -> Result<(), Errno>,
) -> Result<i64, Errno> {
    let mut value = argument(op)?;
    change(&mut value)?;
    value
        .write_to_prefix(op.body.as_mut_bytes())
        .map_err(|_| Errno::EINVAL)?;
    Ok(0)
}

fn set_time(hv: &Hv, time: &Settime32) -> Result<i64, Errno> {
    let since_1970 = u64::from(time.secs) * 1_000_000_000 + u64::from(time.nsecs);
    hv.set_wallclock(Nanos(since_1970).since(Nanos(time.system_time)));
    Ok(0)
}

/// The BIOS was asked nothing before the hypervisor took over.
fn firmware_info(op: &mut PlatformOpArg) -> Result<i64, Errno> {
    let mut info: FirmwareInfo = argument(op)?;
    match FirmwareKind::try_from(info.kind)? {
        FirmwareKind::KbdShiftFlags if info.index == 0 => {
            info.body = [0; 4];
            with(op, |place| {
                *place = info;
                Ok(())
            })
        }
        FirmwareKind::KbdShiftFlags
        | FirmwareKind::DiskInfo
        | FirmwareKind::DiskMbrSignature
        | FirmwareKind::VbeDdcInfo => Err(Errno::ESRCH),
        FirmwareKind::EfiInfo => Err(Errno::ENOSYS),
    }
}

/// A CPU by its number, if it runs. CPUs that do not are not there.
fn running(hv: &Hv, number: u32) -> Option<CpuId> {
    let online = hv.sched.online_cpus();
    online.iter().find(|cpu| u32::from(cpu.0) == number)
}

fn last(hv: &Hv) -> u32 {
    let online = hv.sched.online_cpus();
    online.iter().map(|cpu| cpu.0.into()).max().unwrap_or(0)
}

fn cpu_info(hv: &Hv, info: &mut PcpuInfo) -> Result<(), Errno> {
    info.max_present = last(hv);
    match running(hv, info.xen_cpuid) {
        Some(cpu) => {
            info.flags = PCPU_FLAGS_ONLINE;
            info.apic_id = apic::id_of(cpu);
            info.acpi_id = machine::acpi_id(info.apic_id).unwrap_or(u32::MAX);
        }
        None => info.flags = PCPU_FLAGS_INVALID,
    }
    Ok(())
}

/// All CPUs are of one kind, as far as anybody is told.
fn cpu_version(hv: &Hv, version: &mut PcpuVersion) -> Result<(), Errno> {
    let (number, max_present) = (version.xen_cpuid, last(hv));
    *version = PcpuVersion {
        xen_cpuid: number,
        max_present,
        ..PcpuVersion::default()
    };
    if running(hv, number).is_none() {
        return Ok(());
    }
    let (vendor, signature) = (cpuid(0, 0), cpuid(1, 0).eax);
    let words = [vendor.ebx, vendor.edx, vendor.ecx];
    version.vendor_id.copy_from_slice(words.as_bytes());
    let (family, model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
    let extended = matches!(family, 6 | 0xf);
    version.family = match family {
        0xf => family + (signature >> 20 & 0xff),
        _ => family,
    };
    version.model = match extended {
        true => model | (signature >> 16 & 0xf) << 4,
        false => model,
    };
    version.stepping = signature & 0xf;
    Ok(())
}

fn online(hv: &Hv, cpu: CpuOnline) -> Result<i64, Errno> {
    running(hv, cpu.cpuid).map(|_| 0).ok_or(Errno::EINVAL)
}

fn offline(hv: &Hv, cpu: CpuOnline) -> Result<i64, Errno> {
    Err(match running(hv, cpu.cpuid) {
        Some(_) => Errno::EOPNOTSUPP,
        None => Errno::EINVAL,
    })
}

fn parking(parking: &mut CoreParking) -> Result<(), Errno> {
    match parking.kind {
        CORE_PARKING_GET => {
            parking.idle_nums = 0;
            Ok(())
        }
        CORE_PARKING_SET if parking.idle_nums == 0 => Ok(()),
        CORE_PARKING_SET => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// None concerns this hypervisor.
fn quirk(quirk: PlatformQuirk) -> Result<i64, Errno> {
    match quirk.quirk_id {
        1..=3 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// A file of microcode, from which every CPU loads what is for it.
fn load_microcode(caller: Caller<'_, X86_64>, update: MicrocodeUpdate) -> Result<i64, Errno> {
    /// All patches of a maker together have less.
    const MOST: usize = 16 << 20;
    let kind = cpu::microcode::kind();
    if !kind.can_load() {
        return Err(Errno::EINVAL);
    }
    let length = update.length as usize;
    let mut file = Vec::new();
    if length > MOST || file.try_reserve_exact(length).is_err() {
        return Err(Errno::ENOMEM);
    }
    file.resize(length, 0);
    if !file.is_empty() {
        caller.read_bytes(GuestVirt(update.data.address()), &mut file)?;
    }
    match microcode::find(&file, &kind) {
        Ok(Some(patch)) => cpu::microcode::load(caller.hv, &kind, &patch).map(|()| 0),
        Ok(None) => {
            log::info!("microcode: dom0's file has none for this CPU");
            Err(Errno::ENOENT)
        }
        Err(microcode::Malformed) => {
            log::info!("microcode: dom0's file is malformed");
            Err(Errno::EINVAL)
        }
    }
}

/// The image has no table of symbols: the first place is the end of it.
fn no_symbol(caller: Caller<'_, X86_64>, symbol: &mut SymbolData) -> Result<(), Errno> {
    if symbol.symnum != 0 {
        return Err(Errno::ERANGE);
    }
    if symbol.namelen != 0 {
        caller.write_bytes(GuestVirt(symbol.name.address()), &[0])?;
    }
    (symbol.namelen, symbol.address, symbol.kind) = (0, 0, 0);
    Ok(())
}

/// CPUs that were not there at the start cannot come.
fn add_cpu(cpu: CpuHotadd) -> Result<i64, Errno> {
    const NONE: u32 = u32::MAX;
    Err(if cpu.apic_id == NONE || cpu.acpi_id == NONE {
        Errno::EINVAL
    } else {
        Errno::EOPNOTSUPP
    })
}

/// Nor can memory. It would come in blocks of 128 MiB.
fn add_memory(memory: MemHotadd) -> Result<i64, Errno> {
    const BLOCK: u64 = 1 << 15;
    let is_some = memory.spfn < memory.epfn
        && memory.spfn.is_multiple_of(BLOCK)
        && memory.epfn.is_multiple_of(BLOCK);
    Err(if is_some {
        Errno::EOPNOTSUPP
    } else {
        Errno::EINVAL
    })
}
