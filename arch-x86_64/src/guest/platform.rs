//! What the control domain's kernel asks of a PC (`platform.h`): what the BIOS left, which CPUs there are, power management.
//!
//! The hypervisor manages no power but the machine's off switch, loads no microcode and takes no CPU out or in: such requests get
//! the answer of a Xen that was told not to.

use xenolith_abi::platform::{
    CORE_PARKING_GET, CORE_PARKING_SET, CoreParking, CpuOnline, FirmwareInfo, FirmwareKind,
    PCPU_FLAGS_INVALID, PCPU_FLAGS_ONLINE, PcpuInfo, PcpuVersion, PlatformOp, PlatformOpArg,
    PlatformQuirk, Settime32,
};
use xenolith_core::{Errno, Hypervisor, guest::Caller};
use xenolith_hal::{CpuId, Nanos};
use zerocopy::{FromBytes, IntoBytes};

use crate::{X86_64, apic, cpu::cpuid::cpuid, machine};

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
        PlatformOp::SetProcessorPminfo => power_states(op),
        PlatformOp::MicrocodeUpdate => {
            log::info!("dom0 wants to load microcode: that is for firmware to do");
            Err(Errno::EINVAL)
        }
        PlatformOp::CpuHotadd | PlatformOp::MemHotadd => Err(Errno::EOPNOTSUPP),
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
        FirmwareKind::KbdShiftFlags | FirmwareKind::DiskInfo | FirmwareKind::DiskMbrSignature => {
            Err(Errno::ENOENT)
        }
        FirmwareKind::VbeDdcInfo => Err(Errno::ESRCH),
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

/// What ACPI says of a CPU's states of power. The kind follows the CPU's number.
fn power_states(op: &PlatformOpArg) -> Result<i64, Errno> {
    const KINDS: u32 = 4;
    let [_, kind]: [u32; 2] = argument(op)?;
    Err(if kind < KINDS {
        Errno::ENOSYS
    } else {
        Errno::EINVAL
    })
}
