//! The guest's clock: its `vcpu_info` says how to make nanoseconds from the time-stamp counter (`xen.h`,
//! `vcpu_time_info`).
//!
//! The counter runs at one rate for ever, and what a guest reads of it is CPU 0's on all CPUs, so the information is written
//! once for each place that the guest gives it. Where that may be off by a little, the guest is told to see to it that its time
//! does not go back.

use core::{mem::offset_of, sync::atomic::Ordering::Relaxed};

use xenolith_abi::shared_info::VcpuTimeInfo;
use xenolith_core::{Hypervisor, VcpuRef};
use xenolith_hal::{
    AtomicOp::{Load, Swap},
    Fault, Hal,
};

use crate::{X86_64, timer};

const TSC_STABLE: u32 = 1;

/// Writes the information where the guest looks for it now, unless it is there.
pub fn update(hv: &Hypervisor<X86_64>, vcpu: &VcpuRef<X86_64>) {
    let Some(area) = vcpu.domain().info_area(vcpu) else {
        return;
    };
    let place = area.mfn.base().0 | area.offset as u64;
    if vcpu.arch.time_place.swap(place, Relaxed) == place {
        return;
    }
    let offset = area.offset + X86_64::SHARED_INFO.vcpu.time;
    let stable = if timer::together() { TSC_STABLE } else { 0 };
    let rate = timer::rate();
    let now = timer::reference();
    let tell = || -> Result<(), Fault> {
        let hal = &hv.hal;
        let word = |at: usize, value: u32| hal.atomic32(area.mfn, offset + at, Swap(value));
        let long = |at: usize, value: u64| hal.atomic64(area.mfn, offset + at, Swap(value));
        let version = offset_of!(VcpuTimeInfo, version);
        let odd = hal.atomic32(area.mfn, offset + version, Load)? | 1;
        word(version, odd)?;
        let ticks = now.ticks.wrapping_add(vcpu.domain().arch.tsc_offset);
        long(offset_of!(VcpuTimeInfo, tsc_timestamp), ticks)?;
        long(offset_of!(VcpuTimeInfo, system_time), now.nanos.0)?;
        word(offset_of!(VcpuTimeInfo, tsc_to_system_mul), rate.factor)?;
        // Shift, flags, two bytes of nothing.
        let flags = stable << 8;
        word(
            offset_of!(VcpuTimeInfo, tsc_shift),
            u32::from(rate.shift as u8) | flags,
        )?;
        word(version, odd.wrapping_add(1))?;
        Ok(())
    };
    // A guest whose page is gone does not look at the time any more.
    let _ = tell();
}
