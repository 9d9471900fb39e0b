//! Every wire struct beside its C form. A new struct is one line here.
//!
//! A line gives the Rust type, the C type and the fields, with the C name where it differs; padding follows a
//! semicolon. A field left out does not compile, so nothing escapes the comparison.

use super::headers::{Arch, Fact};
use xenolith_abi::shared_info::{SharedInfoLayout, VcpuTimeInfo};
use xenolith_abi::*;

fn size_of_field<T, F>(_: impl Fn(&T) -> &F) -> i64 {
    size_of::<F>() as i64
}

macro_rules! c_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $c:literal) => {
        $c
    };
}

macro_rules! layouts {
    ($facts:ident; $(
        $rust:path = $c:literal { $($field:ident $(= $cfield:literal)?),* $(; $($pad:ident),*)? }
    )*) => {$({
        let _every_field_is_listed = |value: $rust| {
            let $rust { $($field: _,)* $($($pad: _,)*)? } = value;
        };
        let name = stringify!($rust);
        $facts.push(Fact::new(format!("size of {name}"), concat!("sizeof(", $c, ")"), size_of::<$rust>() as i64));
        $facts.push(Fact::new(format!("alignment of {name}"), concat!("_Alignof(", $c, ")"), align_of::<$rust>() as i64));
        $(
            let field = c_name!($field $($cfield)?);
            $facts.push(Fact::new(
                format!("offset of {name}.{}", stringify!($field)),
                format!("offsetof({}, {field})", $c),
                core::mem::offset_of!($rust, $field) as i64,
            ));
            $facts.push(Fact::new(
                format!("size of {name}.{}", stringify!($field)),
                format!("sizeof((({} *)0)->{field})", $c),
                size_of_field(|value: &$rust| &value.$field),
            ));
        )*
    })*};
}

macro_rules! scalars {
    ($facts:ident; $($rust:ty = $c:literal,)*) => {$(
        let name = stringify!($rust);
        $facts.push(Fact::new(format!("size of {name}"), concat!("sizeof(", $c, ")"), size_of::<$rust>() as i64));
        $facts.push(Fact::new(format!("alignment of {name}"), concat!("_Alignof(", $c, ")"), align_of::<$rust>() as i64));
    )*};
}

pub(crate) fn facts(arch: Arch) -> Vec<Fact> {
    let mut facts = Vec::new();
    scalars(&mut facts);
    guest_calls(&mut facts);
    memory_calls(&mut facts);
    device_calls(&mut facts);
    shared_pages(&mut facts);
    match arch {
        Arch::Arm => arm_only(&mut facts),
        Arch::X86_64 => x86_64_only(&mut facts),
    }
    facts
}

fn scalars(facts: &mut Vec<Fact>) {
    scalars! { facts;
        DomId = "domid_t",
        Port = "evtchn_port_t",
        GrantRef = "grant_ref_t",
        GrantHandle = "grant_handle_t",
        GuestHandle<u64> = "XEN_GUEST_HANDLE(xen_pfn_t)",
        GuestHandle<u8> = "XEN_GUEST_HANDLE_64(uint8)",
        version::DomainHandle = "xen_domain_handle_t",
        [u8; version::EXTRAVERSION_LEN] = "xen_extraversion_t",
        [u8; version::CAPABILITIES_LEN] = "xen_capabilities_info_t",
        [u8; version::CHANGESET_LEN] = "xen_changeset_info_t",
        [u8; version::COMMANDLINE_LEN] = "xen_commandline_t",
    }
}

fn guest_calls(facts: &mut Vec<Fact>) {
    layouts! { facts;
        event_channel::AllocUnbound = "struct evtchn_alloc_unbound" { dom, remote_dom, port }
        event_channel::BindInterdomain = "struct evtchn_bind_interdomain" { remote_dom, remote_port, local_port; _pad }
        event_channel::BindVirq = "struct evtchn_bind_virq" { virq, vcpu, port }
        event_channel::BindPirq = "struct evtchn_bind_pirq" { pirq, flags, port }
        event_channel::BindIpi = "struct evtchn_bind_ipi" { vcpu, port }
        event_channel::Close = "struct evtchn_close" { port }
        event_channel::SendEvent = "struct evtchn_send" { port }
        event_channel::Status = "struct evtchn_status" { dom, port, status, vcpu, peer = "u"; _pad }
        event_channel::StatusPeer = "__typeof__(((struct evtchn_status *)0)->u)" { first = "pirq", second = "interdomain.port" }
        event_channel::BindVcpu = "struct evtchn_bind_vcpu" { port, vcpu }
        event_channel::Unmask = "struct evtchn_unmask" { port }
        event_channel::Reset = "struct evtchn_reset" { dom }
        event_channel::InitControl = "struct evtchn_init_control" { control_gfn, offset, vcpu, link_bits, _pad }
        event_channel::ExpandArray = "struct evtchn_expand_array" { array_gfn }
        event_channel::SetPriority = "struct evtchn_set_priority" { port, priority }
        event_channel::ControlBlock = "struct evtchn_fifo_control_block" { ready, head; _rsvd }

        grant_table::EntryV1 = "struct grant_entry_v1" { flags, domid, frame }
        grant_table::EntryV2 = "union grant_entry_v2" { flags = "hdr.flags", domid = "hdr.domid", part = "full_page.pad0", frame = "full_page.frame" }
        grant_table::MapGrantRef = "struct gnttab_map_grant_ref" { host_addr, flags, gref = "ref", dom, status, handle, dev_bus_addr }
        grant_table::UnmapGrantRef = "struct gnttab_unmap_grant_ref" { host_addr, dev_bus_addr, handle, status; _pad }
        grant_table::SetupTable = "struct gnttab_setup_table" { dom, nr_frames, status, frame_list; _pad0, _pad1 }
        grant_table::DumpTable = "struct gnttab_dump_table" { dom, status }
        grant_table::Transfer = "struct gnttab_transfer" { mfn, domid, gref = "ref", status; _pad0, _pad1 }
        grant_table::CopyPtr = "struct gnttab_copy_ptr" { gref_or_gfn = "u", domid, offset; _pad }
        grant_table::GrantCopy = "struct gnttab_copy" { source, dest, len, flags, status; _pad }
        grant_table::QuerySize = "struct gnttab_query_size" { dom, nr_frames, max_nr_frames, status; _pad0, _pad1 }
        grant_table::UnmapAndReplace = "struct gnttab_unmap_and_replace" { host_addr, new_addr, handle, status; _pad }
        grant_table::SetVersion = "struct gnttab_set_version" { version }
        grant_table::GetStatusFrames = "struct gnttab_get_status_frames" { nr_frames, dom, status, frame_list }
        grant_table::GetVersion = "struct gnttab_get_version" { dom, pad, version }
        grant_table::SwapGrantRef = "struct gnttab_swap_grant_ref" { ref_a, ref_b, status; _pad }
        grant_table::CacheFlush = "struct gnttab_cache_flush" { addr_or_gref = "a", offset, length, op }

        sched::Shutdown = "struct sched_shutdown" { reason }
        sched::Poll = "struct sched_poll" { ports, nr_ports, timeout; _pad }
        sched::RemoteShutdown = "struct sched_remote_shutdown" { domain_id, reason; _pad }
        sched::Watchdog = "struct sched_watchdog" { id, timeout }
        sched::PinOverride = "struct sched_pin_override" { pcpu }

        runstate::RunstateInfo = "struct vcpu_runstate_info" { state, state_entry_time, time; _pad }
        vcpu::RegisterRunstateMemoryArea = "struct vcpu_register_runstate_memory_area" { addr }
        vcpu::SetPeriodicTimer = "struct vcpu_set_periodic_timer" { period_ns }
        vcpu::SetSingleshotTimer = "vcpu_set_singleshot_timer_t" { timeout_abs_ns, flags; _pad }
        vcpu::RegisterVcpuInfo = "struct vcpu_register_vcpu_info" { mfn, offset, rsvd }
        vcpu::GetPhysid = "struct vcpu_get_physid" { phys_id }
        vcpu::RegisterTimeMemoryArea = "struct vcpu_register_time_memory_area" { addr }

        hvm::HvmParam = "struct xen_hvm_param" { domid, pad, index, value }
        hvm::PagetableDying = "struct xen_hvm_pagetable_dying" { domid, pad, gpa }
        hvm::GetTime = "struct xen_hvm_get_time" { now }
        hvm::GetMemType = "struct xen_hvm_get_mem_type" { domid, mem_type, pad, pfn }

        multicall::MulticallEntry = "struct multicall_entry" { op, result, args }

        version::CompileInfo = "struct xen_compile_info" { compiler, compile_by, compile_domain, compile_date }
        version::PlatformParameters = "struct xen_platform_parameters" { virt_start }
        version::FeatureInfo = "struct xen_feature_info" { submap_idx, submap }
        version::BuildIdHeader = "struct xen_build_id" { len }
    }
}

fn memory_calls(facts: &mut Vec<Fact>) {
    layouts! { facts;
        memory::Reservation = "struct xen_memory_reservation" { extent_start, nr_extents, extent_order, mem_flags, domid; _pad }
        memory::Exchange = "struct xen_memory_exchange" { input = "in", output = "out", nr_exchanged }
        memory::MemoryDomain = "struct xen_memory_domain" { domid }
        memory::MachphysMfnList = "struct xen_machphys_mfn_list" { max_extents, extent_start, nr_extents; _pad0, _pad1 }
        memory::MachphysMapping = "struct xen_machphys_mapping" { v_start, v_end, max_mfn }
        memory::AddToPhysmap = "struct xen_add_to_physmap" { domid, size, space, idx, gpfn }
        memory::AddToPhysmapBatch = "struct xen_add_to_physmap_batch" { domid, space, size, foreign_domid = "u.foreign_domid", idxs, gpfns, errs }
        memory::RemoveFromPhysmap = "struct xen_remove_from_physmap" { domid, gpfn; _pad }
        memory::MemoryMap = "struct xen_memory_map" { nr_entries, buffer; _pad }
        memory::ForeignMemoryMap = "struct xen_foreign_memory_map" { domid, map; _pad }
        memory::PodTarget = "struct xen_pod_target" { target_pages, tot_pages, pod_cache_pages, pod_entries, domid; _pad }
        memory::ReservedDeviceMemory = "struct xen_reserved_device_memory" { start_pfn, nr_pages }
        memory::ReservedDeviceMemoryMap = "struct xen_reserved_device_memory_map" { flags, nr_entries, buffer, device = "dev.pci"; _pad }
        memory::AcquireResource = "struct xen_mem_acquire_resource" { domid, kind = "type", id, nr_frames, pad, frame, frame_list }
        memory::Vmemrange = "struct xen_vmemrange" { start, end, flags, nid }
        memory::VnumaTopologyInfo = "struct xen_vnuma_topology_info" { domid, pad, nr_vnodes, nr_vcpus, nr_vmemranges, vdistance, vcpu_to_vnode, vmemrange }
    }
}

fn device_calls(facts: &mut Vec<Fact>) {
    layouts! { facts;
        physdev::Eoi = "struct physdev_eoi" { irq }
        physdev::PirqEoiGmfn = "struct physdev_pirq_eoi_gmfn" { gmfn }
        physdev::IrqStatusQuery = "struct physdev_irq_status_query" { irq, flags }
        physdev::SetIopl = "struct physdev_set_iopl" { iopl }
        physdev::SetIobitmap = "struct physdev_set_iobitmap" { bitmap, nr_ports; _pad }
        physdev::Apic = "struct physdev_apic" { apic_physbase, reg, value }
        physdev::Irq = "struct physdev_irq" { irq, vector }
        physdev::MapPirq = "struct physdev_map_pirq" { domid, kind = "type", index, pirq, bus, devfn, entry_nr, table_base; _pad0, _pad1 }
        physdev::UnmapPirq = "struct physdev_unmap_pirq" { domid, pirq; _pad }
        physdev::ManagePci = "struct physdev_manage_pci" { bus, devfn }
        physdev::ManagePci = "struct physdev_restore_msi" { bus, devfn }
        physdev::ManagePciExt = "struct physdev_manage_pci_ext" { bus, devfn, is_extfn, is_virtfn, physfn; _pad0, _pad1 }
        physdev::SetupGsi = "struct physdev_setup_gsi" { gsi, triggering, polarity; _pad }
        physdev::GetFreePirq = "struct physdev_get_free_pirq" { kind = "type", pirq }
        physdev::PciMmcfgReserved = "struct physdev_pci_mmcfg_reserved" { address, segment, start_bus, end_bus, flags }
        physdev::PciDeviceAdd = "struct physdev_pci_device_add" { seg, bus, devfn, flags, physfn; _pad }
        physdev::PciDevice = "struct physdev_pci_device" { seg, bus, devfn }
        physdev::DbgpOp = "struct physdev_dbgp_op" { op, bus, pci = "u.pci" }

        platform::PlatformOpArg = "struct xen_platform_op" { cmd, interface_version, body = "u" }
        platform::Settime64 = "struct xenpf_settime64" { secs, nsecs, mbz, system_time }
        platform::EnterAcpiSleep = "struct xenpf_enter_acpi_sleep" { val_a, val_b, sleep_state, flags }
        platform::FirmwareInfo = "struct xenpf_firmware_info" { kind = "type", index, body = "u" }
        platform::PcpuInfo = "struct xenpf_pcpuinfo" { xen_cpuid, max_present, flags, apic_id, acpi_id }
        platform::PcpuVersion = "struct xenpf_pcpu_version" { xen_cpuid, max_present, vendor_id, family, model, stepping }
        platform::CpuOnline = "struct xenpf_cpu_ol" { cpuid }
        platform::CoreParking = "struct xenpf_core_parking" { kind = "type", idle_nums }
        platform::PlatformQuirk = "struct xenpf_platform_quirk" { quirk_id }
        platform::Settime32 = "struct xenpf_settime32" { secs, nsecs, system_time }
        platform::CpuHotadd = "struct xenpf_cpu_hotadd" { apic_id, acpi_id, pxm }
        platform::MemHotadd = "struct xenpf_mem_hotadd" { spfn, epfn, pxm, flags }
        platform::MicrocodeUpdate = "struct xenpf_microcode_update" { data, length; pad }
        platform::ResourceEntry = "struct xenpf_resource_entry" { cmd = "u.cmd", rsvd, idx, val }
        platform::ResourceOp = "struct xenpf_resource_op" { nr_entries, cpu, entries }
        platform::SymbolData = "struct xenpf_symdata" { namelen, symnum, name, address, kind = "type"; pad }
        platform::AddMemtype = "struct xenpf_add_memtype" { mfn, nr_mfns, kind = "type", handle, reg; pad }
        platform::DelMemtype = "struct xenpf_del_memtype" { handle, reg }
        platform::ReadMemtype = "struct xenpf_read_memtype" { reg, mfn, nr_mfns, kind = "type"; pad, pad_2 }
        platform::PowerRegister = "struct xen_power_register" { space_id, bit_width, bit_offset, access_size, address }
        platform::IdleState = "struct xen_processor_cx" { reg, kind = "type", latency, power, dpcnt, dp; pad }
        platform::IdleStates = "struct xen_processor_power" { count, flags, states }
        platform::PerformanceRegister = "struct xen_pct_register" { descriptor, length, space_id, bit_width, bit_offset, reserved, address; pad }
        platform::PerformanceState = "struct xen_processor_px" { core_frequency, power, transition_latency, bus_master_latency, control, status }
        platform::Performance = "struct xen_processor_performance" { flags, platform_limit, control_register, status_register, state_count, states, domain_info, shared_type; pad, pad_2 }
    }
    facts.push(Fact::new(
        "offset of the optional words of PciDeviceAdd",
        "offsetof(struct physdev_pci_device_add, optarr)",
        physdev::PciDeviceAdd::OPTIONAL as i64,
    ));
    facts.push(Fact::new(
        "offset of the bytes of a build id",
        "offsetof(struct xen_build_id, buf)",
        size_of::<version::BuildIdHeader>() as i64,
    ));
}

fn shared_pages(facts: &mut Vec<Fact>) {
    layouts! { facts;
        VcpuTimeInfo = "struct vcpu_time_info" { version, pad0, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags, pad1 }
        console::XenconsInterface = "struct xencons_interface" { input = "in", output = "out", in_cons, in_prod, out_cons, out_prod }
        xenstore::Sockmsg = "struct xsd_sockmsg" { kind = "type", req_id, tx_id, len }
        xenstore::DomainInterface = "struct xenstore_domain_interface" { req, rsp, req_cons, req_prod, rsp_cons, rsp_prod, server_features, connection, error }
    }
}

fn arm_only(facts: &mut Vec<Fact>) {
    layouts! { facts;
        arm::ArchVcpuInfo = "struct arch_vcpu_info" { }
        arm::ArchSharedInfo = "struct arch_shared_info" { }
        arm::VcpuInfo = "struct vcpu_info" { evtchn_upcall_pending, pad0, evtchn_pending_sel, arch, time; _pad1 }
        arm::SharedInfo = "struct shared_info" { vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch }
    }
    shared_info_layout(facts, &arm::SHARED_INFO, "pad0");
}

fn x86_64_only(facts: &mut Vec<Fact>) {
    layouts! { facts;
        x86_64::ArchVcpuInfo = "struct arch_vcpu_info" { cr2, pad }
        x86_64::ArchSharedInfo = "struct arch_shared_info" { max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation }
        x86_64::VcpuInfo = "struct vcpu_info" { evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time; _pad }
        x86_64::SharedInfo = "struct shared_info" { vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch }
        x86_64::MmuUpdate = "struct mmu_update" { ptr, val }
        x86_64::MmuextOp = "struct mmuext_op" { cmd, arg1, arg2; _pad }
        x86_64::CpuUserRegs = "struct cpu_user_regs" { r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, error_code, entry_vector, rip, cs, saved_upcall_mask, rflags, rsp, ss, es, ds, fs, gs; _pad0, _pad1, _pad2, _pad3, _pad4, _pad5, _pad6 }
        x86_64::TrapInfo = "struct trap_info" { vector, flags, cs, address; _pad }
        x86_64::VcpuGuestContext = "struct vcpu_guest_context" { fpu_ctxt, flags, user_regs, trap_ctxt, ldt_base, ldt_ents, gdt_frames, gdt_ents, kernel_ss, kernel_sp, ctrlreg, debugreg, event_callback_eip, failsafe_callback_eip, syscall_callback_eip, vm_assist, fs_base, gs_base_kernel, gs_base_user }
        x86_64::IretContext = "struct iret_context" { rax, r11, rcx, flags, rip, cs, rflags, rsp, ss }
        pv_start_info::StartInfo = "struct start_info" { magic, nr_pages, shared_info, flags, store_mfn, store_evtchn, console, pt_base, nr_pt_frames, mfn_list, mod_start, mod_len, cmd_line, first_p2m_pfn, nr_p2m_frames; _pad0, _pad1 }
        pv_start_info::StartConsole = "__typeof__(((struct start_info *)0)->console)" { mfn = "domU.mfn", evtchn = "domU.evtchn"; _pad }
        pv_start_info::VgaConsoleInfo = "struct dom0_vga_console_info" { video_type, u; _pad }
        pv_start_info::TextMode3 = "__typeof__(((struct dom0_vga_console_info *)0)->u.text_mode_3)" { font_height, cursor_x, cursor_y, rows, columns }
        pv_start_info::VesaLfb = "__typeof__(((struct dom0_vga_console_info *)0)->u.vesa_lfb)" { width, height, bytes_per_line, bits_per_pixel, lfb_base, lfb_size, red_pos, red_size, green_pos, green_size, blue_pos, blue_size, rsvd_pos, rsvd_size, gbl_caps, mode_attrs, pad, ext_lfb_base }
        hvm::EvtchnUpcallVector = "struct xen_hvm_evtchn_upcall_vector" { vcpu, vector; _pad }
        hvm_vcpu::VcpuHvmContext = "struct vcpu_hvm_context" { mode, pad, cpu_regs }
        hvm_vcpu::VcpuHvmX86_32 = "struct vcpu_hvm_x86_32" { eax, ecx, edx, ebx, esp, ebp, esi, edi, eip, eflags, cr0, cr3, cr4, pad1, efer, cs_base, ds_base, ss_base, es_base, tr_base, cs_limit, ds_limit, ss_limit, es_limit, tr_limit, cs_ar, ds_ar, ss_ar, es_ar, tr_ar, pad2 }
        hvm_vcpu::VcpuHvmX86_64 = "struct vcpu_hvm_x86_64" { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, rip, rflags, cr0, cr3, cr4, efer }
        start_info::HvmStartInfo = "struct hvm_start_info" { magic, version, flags, nr_modules, modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr, memmap_entries, reserved }
        start_info::ModlistEntry = "struct hvm_modlist_entry" { paddr, size, cmdline_paddr, reserved }
        start_info::MemmapEntry = "struct hvm_memmap_table_entry" { addr, size, kind = "type", reserved }
    }
    for (name, mode) in [
        ("VCPU_HVM_MODE_32B", hvm_vcpu::VcpuHvmMode::Bits32),
        ("VCPU_HVM_MODE_64B", hvm_vcpu::VcpuHvmMode::Bits64),
    ] {
        facts.push(Fact::new(name, name, mode as i64));
    }
    let console = pv_start_info::StartConsole::of_dom0(0x1234, 0x5678);
    facts.push(Fact::new(
        "dom0's form of StartConsole",
        "((__typeof__(((struct start_info *)0)->console)){ .dom0 = { 0x1234, 0x5678 } }).domU.mfn",
        console.mfn as i64,
    ));
    shared_info_layout(facts, &x86_64::SHARED_INFO, "evtchn_upcall_mask");
}

/// The offsets that the core works with, against the header and not only against our structs.
fn shared_info_layout(facts: &mut Vec<Fact>, layout: &SharedInfoLayout, mask: &str) {
    let vcpu = &layout.vcpu;
    let page = [
        ("vcpu_info", layout.vcpu_info),
        ("evtchn_pending", layout.evtchn_pending),
        ("evtchn_mask", layout.evtchn_mask),
        ("wc_version", layout.wc_version),
        ("wc_sec", layout.wc_sec),
        ("wc_nsec", layout.wc_nsec),
        ("wc_sec_hi", layout.wc_sec_hi),
        ("arch", layout.arch),
    ];
    for (field, offset) in page {
        let c = format!("offsetof(struct shared_info, {field})");
        facts.push(Fact::new(
            format!("SharedInfoLayout.{field}"),
            c,
            offset as i64,
        ));
    }
    let inside = [
        ("evtchn_upcall_pending", vcpu.evtchn_upcall_pending),
        (mask, vcpu.evtchn_upcall_mask),
        ("evtchn_pending_sel", vcpu.evtchn_pending_sel),
        ("arch", vcpu.arch),
        ("time", vcpu.time),
    ];
    for (field, offset) in inside {
        let c = format!("offsetof(struct vcpu_info, {field})");
        facts.push(Fact::new(
            format!("VcpuInfoLayout.{field}"),
            c,
            offset as i64,
        ));
    }
    let sizes = [
        ("sizeof(struct shared_info)", layout.size),
        ("sizeof(struct vcpu_info)", vcpu.size),
        ("sizeof(struct vcpu_info)", layout.vcpu_info_stride),
        ("XEN_LEGACY_MAX_VCPUS", layout.vcpu_info_count),
    ];
    for (c, size) in sizes {
        facts.push(Fact::new("SharedInfoLayout", c, size as i64));
    }
}
