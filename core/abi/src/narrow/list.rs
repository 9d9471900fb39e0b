//! Which structures differ for 32-bit callers, and which do not.

use super::*;
use crate::{
    Port, event_channel as event, grant_table as grant, handle::GuestHandle, hvm, hvm_vcpu, memory,
    multicall::MulticallEntry, physdev, platform, runstate::RunstateInfo, sched, vcpu, version,
    x86_64,
};

impl<T> Wire for GuestHandle<T> {
    const NARROW: Option<&'static Form> = Long::NARROW;
}

impl Wire for Long {
    const NARROW: Option<&'static Form> = Some(&Form {
        size: 4,
        fields: &[Field {
            wide: 0,
            narrow: 0,
            wide_len: 8,
            narrow_len: 4,
        }],
    });
}

differs! {
    memory::Reservation { [long] extent_start, [long] nr_extents, extent_order, mem_flags, domid }
    memory::Exchange {
        [long] input.extent_start, [long] input.nr_extents, input.extent_order, input.mem_flags, input.domid,
        [long] output.extent_start, [long] output.nr_extents, output.extent_order, output.mem_flags, output.domid,
        [long] nr_exchanged,
    }
    memory::AddToPhysmap { domid, size, space, [long] idx, [long] gpfn }
    memory::AddToPhysmapBatch { domid, space, size, foreign_domid, [long] idxs, [long] gpfns, [long] errs }
    memory::RemoveFromPhysmap { domid, [long] gpfn }
    memory::MachphysMfnList { max_extents, [long] extent_start, nr_extents }
    memory::MachphysMapping { [long] v_start, [long] v_end, [long] max_mfn }
    memory::MemoryMap { nr_entries, [long] buffer }
    memory::ForeignMemoryMap { domid, map.nr_entries, [long] map.buffer }
    memory::PodTarget { target_pages, tot_pages, pod_cache_pages, pod_entries, domid }
    memory::ReservedDeviceMemoryMap { flags, nr_entries, [long] buffer, device }
    memory::AcquireResource { domid, kind, id, nr_frames, pad, frame, [long] frame_list }
    grant::Transfer { [long] mfn, domid, gref, status }
    grant::SetupTable { dom, nr_frames, status, [long] frame_list }
    grant::GetStatusFrames { nr_frames, dom, status, [long] frame_list }
    grant::GrantCopy {
        [long] source.gref_or_gfn, source.domid, source.offset,
        [long] dest.gref_or_gfn, dest.domid, dest.offset,
        len, flags, status,
    }
    sched::Poll { [long] ports, nr_ports, timeout }
    vcpu::RegisterRunstateMemoryArea { [long] addr }
    vcpu::RegisterTimeMemoryArea { [long] addr }
    vcpu::SetSingleshotTimer { timeout_abs_ns, flags }
    RunstateInfo { state, state_entry_time, time }
    version::PlatformParameters { [long] virt_start }
    physdev::SetIobitmap { [long] bitmap, nr_ports }
    physdev::Apic { [long] apic_physbase, reg, value }
    physdev::PirqEoiGmfn { [long] gmfn }
    physdev::MapPirq { domid, kind, index, pirq, bus, devfn, entry_nr, table_base }
    physdev::PciMmcfgReserved { address, segment, start_bus, end_bus, flags }
    x86_64::MmuextOp { cmd, [long] arg1, [long] arg2 }
    MulticallEntry { [long] op, [long] result, [long] args }
}

same! {
    u8, u16, u32, i32, u64, i64, Port,
    event::AllocUnbound, event::BindInterdomain, event::BindVirq, event::BindPirq, event::BindIpi, event::Close,
    event::SendEvent, event::Status, event::BindVcpu, event::Unmask, event::Reset, event::InitControl, event::ExpandArray,
    event::SetPriority,
    grant::MapGrantRef, grant::UnmapGrantRef, grant::UnmapAndReplace, grant::QuerySize, grant::SetVersion,
    grant::GetVersion, grant::SwapGrantRef, grant::CacheFlush,
    hvm::HvmParam, hvm::PagetableDying, hvm::GetTime, hvm::GetMemType, hvm::EvtchnUpcallVector,
    hvm_vcpu::VcpuHvmContext,
    memory::MemoryDomain, memory::VnumaTopologyInfo, memory::E820Entry,
    platform::PlatformOpArg,
    physdev::Eoi, physdev::IrqStatusQuery, physdev::SetIopl, physdev::Irq, physdev::UnmapPirq, physdev::ManagePci,
    physdev::SetupGsi, physdev::GetFreePirq, physdev::PciDevice, physdev::PciDeviceAdd,
    sched::Shutdown, sched::RemoteShutdown, sched::Watchdog, sched::PinOverride,
    vcpu::SetPeriodicTimer, vcpu::RegisterVcpuInfo,
    version::FeatureInfo, version::BuildIdHeader, version::CompileInfo,
    x86_64::MmuUpdate,
}
