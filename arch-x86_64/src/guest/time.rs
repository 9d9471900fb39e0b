//! The guest's clock: its `vcpu_info` says how to make nanoseconds from the time-stamp counter (`xen.h`,
//! `vcpu_time_info`).
//!
//! The counter runs at one rate for ever, and what a translated guest reads of it is CPU 0's on all CPUs, so the information is
//! written once for each place that the guest gives it. A PV guest reads the counter of the CPU that it is on: where that is not
//! CPU 0's, the information is written again when its vCPU comes to another CPU. Where that may be off by a little, the guest is told to see to it that its time
//! does not go back.

use core::{mem::offset_of, sync::atomic::Ordering::Relaxed};

use xenolith_abi::{
    shared_info::{TimeFlags, VcpuTimeInfo},
    vcpu::RegisterTimeMemoryArea,
};
use xenolith_core::{Errno, Hypervisor, VcpuRef, event::InfoArea, guest::Caller};
use xenolith_hal::{
    AtomicOp::{Load, Swap},
    Fault, GuestVirt, Hal,
};
use zerocopy::IntoBytes;

use super::vcpu::ArchVcpu;
use crate::{X86_64, timer};

/// Writes the information where the guest looks for it now, unless it is there.
pub fn update(hv: &Hypervisor<X86_64>, vcpu: &VcpuRef<X86_64>) {
    let Some(area) = vcpu.domain().info_area(vcpu) else {
        return;
    };
    let place = area.mfn.base().0 | area.offset as u64;
    let arch = &vcpu.arch;
    let own = own_distance(hv, arch);
    let moved = arch.time_place.swap(place, Relaxed) != place;
    if arch.time_distance.swap(own, Relaxed) != own || moved {
        tell(hv, vcpu, area, own);
    }
}

#[inline(never)]
fn tell(hv: &Hypervisor<X86_64>, vcpu: &VcpuRef<X86_64>, area: InfoArea, own: i64) {
    let offset = area.offset + X86_64::SHARED_INFO.vcpu.time;
    let now = facts(vcpu, own);
    let tell = || -> Result<(), Fault> {
        let hal = &hv.hal;
        let word = |at: usize, value: u32| hal.atomic32(area.mfn, offset + at, Swap(value));
        let long = |at: usize, value: u64| hal.atomic64(area.mfn, offset + at, Swap(value));
        let version = offset_of!(VcpuTimeInfo, version);
        let odd = hal.atomic32(area.mfn, offset + version, Load)? | 1;
        word(version, odd)?;
        long(offset_of!(VcpuTimeInfo, tsc_timestamp), now.tsc_timestamp)?;
        long(offset_of!(VcpuTimeInfo, system_time), now.system_time)?;
        let factor = now.tsc_to_system_mul;
        word(offset_of!(VcpuTimeInfo, tsc_to_system_mul), factor)?;
        // Shift, flags, two bytes of nothing.
        let flags = u32::from(now.flags.bits()) << 8;
        word(
            offset_of!(VcpuTimeInfo, tsc_shift),
            u32::from(now.tsc_shift as u8) | flags,
        )?;
        word(version, odd.wrapping_add(1))?;
        Ok(())
    };
    // A guest whose page is gone does not look at the time any more.
    let _ = tell();
}

/// What has to be taken off the counter that the vCPU reads on this CPU. Translated guests read it with an offset that does so.
fn own_distance(hv: &Hypervisor<X86_64>, arch: &ArchVcpu) -> i64 {
    match arch.pv() {
        Some(_) => timer::ahead(hv.hal.cpu()),
        None => 0,
    }
}

/// The information, for a counter that is so many ticks ahead of CPU 0's.
fn facts(vcpu: &VcpuRef<X86_64>, ahead: i64) -> VcpuTimeInfo {
    let (rate, now) = (timer::rate(), timer::reference());
    let ticks = now.ticks.wrapping_add(vcpu.domain().arch.tsc_offset);
    VcpuTimeInfo {
        tsc_timestamp: ticks.wrapping_add_signed(ahead),
        system_time: now.nanos.0,
        tsc_to_system_mul: rate.factor,
        tsc_shift: rate.shift,
        flags: match timer::together() {
            true => TimeFlags::TSC_STABLE,
            false => TimeFlags::empty(),
        },
        ..VcpuTimeInfo::default()
    }
}

/// `VCPUOP_register_vcpu_time_memory_area`: a copy of the information for the guest's programs. What never changes is written
/// once; where it does change, there is no copy.
pub fn register_copy(
    caller: Caller<'_, X86_64>,
    vcpu: &VcpuRef<X86_64>,
    arg: GuestVirt,
) -> Result<i64, Errno> {
    let RegisterTimeMemoryArea { addr } = caller.read(arg)?;
    if !timer::together() {
        return Err(Errno::ENOSYS);
    }
    if addr.address() != 0 {
        let info = VcpuTimeInfo {
            version: 2,
            ..facts(vcpu, 0)
        };
        caller.write_bytes(GuestVirt(addr.address()), info.as_bytes())?;
    }
    Ok(0)
}
