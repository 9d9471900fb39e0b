//! Single constants and the guest's memory map beside their C names.

use super::numbers::{Table, enums};
use xenolith_abi::grant_table::{EntryFlags, entry_type};
use xenolith_abi::hvm::CallbackVia;
use xenolith_abi::memory::MemFlags;
use xenolith_abi::shared_info::TimeFlags;
use xenolith_abi::start_info::MemmapType;
use xenolith_abi::*;

pub(crate) fn facts(table: &mut Table<'_>) {
    constants(table);
    if table.headers.is_arm() {
        arm_constants(table);
    } else {
        x86_64_constants(table);
    }
}

fn constants(table: &mut Table<'_>) {
    table.constant("__XEN_LATEST_INTERFACE_VERSION__", INTERFACE_VERSION);
    table.constant("XEN_DOMCTL_INTERFACE_VERSION", domctl::INTERFACE_VERSION);
    table.constant("XEN_SYSCTL_INTERFACE_VERSION", sysctl::INTERFACE_VERSION);
    table.constant("XENPF_INTERFACE_VERSION", platform::INTERFACE_VERSION);
    table.constant("XEN_FLASK_INTERFACE_VERSION", xsm::INTERFACE_VERSION);

    table.constant("DOMID_FIRST_RESERVED", DomId::FIRST_RESERVED.0);
    table.constant("DOMID_SELF", DomId::SELF.0);
    table.constant("DOMID_IO", DomId::IO.0);
    table.constant("DOMID_XEN", DomId::XEN.0);
    table.constant("DOMID_COW", DomId::COW.0);
    table.constant("DOMID_INVALID", DomId::INVALID.0);
    table.constant("DOMID_IDLE", DomId::IDLE.0);
    table.constant("DOMID_MASK", DomId::MASK);

    table.constant("NR_VIRQS", virq::NR_VIRQS);
    table.constant("VIRQ_ARCH_0", virq::ARCH_FIRST);
    table.constant("BIND_PIRQ__WILL_SHARE", event_channel::BIND_PIRQ_WILL_SHARE);
    table.constant("EVTCHN_2L_NR_CHANNELS", event_channel::CHANNELS_2L);
    table.constant("EVTCHN_FIFO_NR_CHANNELS", event_channel::CHANNELS_FIFO);
    table.constant("EVTCHN_FIFO_PRIORITY_MAX", event_channel::FIFO_PRIORITY_MAX);
    table.constant(
        "EVTCHN_FIFO_PRIORITY_DEFAULT",
        event_channel::FIFO_PRIORITY_DEFAULT,
    );
    table.constant("EVTCHN_FIFO_PRIORITY_MIN", event_channel::FIFO_PRIORITY_MIN);
    table.constant("EVTCHN_FIFO_MAX_QUEUES", event_channel::FIFO_MAX_QUEUES);
    table.constant("EVTCHN_FIFO_LINK_BITS", event_channel::FIFO_LINK_BITS);
    let word = |flags: event_channel::EventWord| flags.0;
    table.constant(
        "EVTCHN_FIFO_LINK_MASK",
        word(event_channel::EventWord::LINK_MASK),
    );
    for (bit, flag) in [
        ("EVTCHN_FIFO_PENDING", event_channel::EventWord::PENDING),
        ("EVTCHN_FIFO_MASKED", event_channel::EventWord::MASKED),
        ("EVTCHN_FIFO_LINKED", event_channel::EventWord::LINKED),
        ("EVTCHN_FIFO_BUSY", event_channel::EventWord::BUSY),
    ] {
        table.constant(bit, flag.0.trailing_zeros());
    }

    table.constant(
        "GNTTAB_NR_RESERVED_ENTRIES",
        grant_table::NR_RESERVED_ENTRIES,
    );
    table.constant("GNTTAB_RESERVED_CONSOLE", grant_table::RESERVED_CONSOLE);
    table.constant("GNTTAB_RESERVED_XENSTORE", grant_table::RESERVED_XENSTORE);
    table.constant("GTF_invalid", entry_type::INVALID);
    table.constant("GTF_permit_access", entry_type::PERMIT_ACCESS);
    table.constant("GTF_accept_transfer", entry_type::ACCEPT_TRANSFER);
    table.constant("GTF_transitive", entry_type::TRANSITIVE);
    table.constant("GTF_type_mask", entry_type::MASK);
    table.constant("GTF_transfer_committed", EntryFlags::TRANSFER_COMMITTED);
    table.constant("GTF_transfer_completed", EntryFlags::TRANSFER_COMPLETED);
    table.constant(
        "4096 / sizeof(struct grant_entry_v1)",
        grant_table::EntryV1::PER_PAGE,
    );

    table.constant(
        "XENMAPIDX_grant_table_status",
        memory::MAPIDX_GRANT_TABLE_STATUS,
    );
    table.constant("XENMEM_RDM_ALL", memory::RDM_ALL);
    table.constant(
        "XENMEM_resource_grant_table_id_shared",
        memory::RESOURCE_GRANT_TABLE_SHARED,
    );
    table.constant(
        "XENMEM_resource_grant_table_id_status",
        memory::RESOURCE_GRANT_TABLE_STATUS,
    );
    let flags = MemFlags(3 << 8 | 40);
    table.constant(
        "XENMEMF_get_address_bits(XENMEMF_node(2) | 40)",
        flags.address_bits(),
    );
    table.constant(
        "XENMEMF_get_node(XENMEMF_node(2) | 40)",
        flags.node().unwrap_or(0),
    );

    table.constant("XENFEAT_NR_SUBMAPS", version::NR_FEATURE_SUBMAPS);
    table.constant("XEN_RUNSTATE_UPDATE", runstate::UPDATE);
    table.constant("XEN_PVCLOCK_TSC_STABLE_BIT", TimeFlags::TSC_STABLE.bits());
    table.constant("XEN_PVCLOCK_GUEST_STOPPED", TimeFlags::GUEST_STOPPED.bits());
    table.constant("XEN_PCI_MMCFG_RESERVED", physdev::PCI_MMCFG_RESERVED);

    table.constant("HVM_NR_PARAMS", hvm::NR_PARAMS);
    table.constant("HVM_PARAM_CALLBACK_IRQ_TYPE_MASK", hvm::CALLBACK_TYPE_MASK);
    table.constant("HVM_PARAM_CALLBACK_TYPE_GSI", CallbackVia::TYPE_GSI);
    table.constant(
        "HVM_PARAM_CALLBACK_TYPE_PCI_INTX",
        CallbackVia::TYPE_PCI_INTX,
    );

    table.constant("XENSTORE_RING_SIZE", xenstore::RING_SIZE as i64);
    table.constant("XENSTORE_PAYLOAD_MAX", xenstore::PAYLOAD_MAX as i64);
    table.constant("XENSTORE_ABS_PATH_MAX", xenstore::ABS_PATH_MAX as i64);
    table.constant("XENSTORE_REL_PATH_MAX", xenstore::REL_PATH_MAX as i64);
    table.constant(
        "XENSTORE_SERVER_FEATURE_RECONNECTION",
        xenstore::FEATURE_RECONNECTION,
    );
    table.constant("XENSTORE_SERVER_FEATURE_ERROR", xenstore::FEATURE_ERROR);
    table.constant("XENSTORE_CONNECTED", xenstore::CONNECTED);
    table.constant("XENSTORE_RECONNECT", xenstore::RECONNECT);
}

fn x86_64_constants(table: &mut Table<'_>) {
    table.constant("HVM_PARAM_CALLBACK_TYPE_VECTOR", CallbackVia::TYPE_LOCAL);
    table.constant("XEN_HVM_DEBUGCONS_IOPORT", x86_64::DEBUGCONS_PORT);
    table.constant("XEN_HVM_START_MAGIC_VALUE", start_info::MAGIC);
    enums! { table; MemmapType = "XEN_HVM_MEMMAP_TYPE_", }
    pv_constants(table);
}

fn pv_constants(table: &mut Table<'_>) {
    use pv_start_info::VgaConsoleInfo;
    use x86_64::ContextFlags;
    table.constant("MAX_GUEST_CMDLINE", pv_start_info::MAX_GUEST_CMDLINE as i64);
    table.constant("XEN_VGATYPE_TEXT_MODE_3", VgaConsoleInfo::TEXT_MODE_3);
    table.constant("XEN_VGATYPE_VESA_LFB", VgaConsoleInfo::VESA_LFB);
    table.constant("XEN_VGATYPE_EFI_LFB", VgaConsoleInfo::EFI_LFB);
    table.constant("FLAT_RING3_CS64", x86_64::FLAT_RING3_CS64);
    table.constant("FLAT_RING3_CS32", x86_64::FLAT_RING3_CS32);
    table.constant("FLAT_RING3_DS32", x86_64::FLAT_RING3_DS32);
    table.constant("FLAT_RING3_DS64", x86_64::FLAT_RING3_DS64);
    table.constant("FLAT_RING3_SS64", x86_64::FLAT_RING3_SS64);
    table.constant("FIRST_RESERVED_GDT_ENTRY", x86_64::FIRST_RESERVED_GDT_ENTRY);
    table.constant("__MACH2PHYS_VIRT_START", x86_64::MACH2PHYS_VIRT_START);
    table.constant("__HYPERVISOR_VIRT_START", x86_64::MACH2PHYS_VIRT_START);
    table.constant("__MACH2PHYS_VIRT_END", x86_64::MACH2PHYS_VIRT_END);
    table.constant("__HYPERVISOR_VIRT_END", x86_64::HYPERVISOR_VIRT_END);
    for (name, flag) in [
        ("VGCF_I387_VALID", ContextFlags::I387_VALID),
        ("VGCF_IN_KERNEL", ContextFlags::IN_KERNEL),
        (
            "VGCF_failsafe_disables_events",
            ContextFlags::FAILSAFE_DISABLES_EVENTS,
        ),
        (
            "VGCF_syscall_disables_events",
            ContextFlags::SYSCALL_DISABLES_EVENTS,
        ),
        ("VGCF_online", ContextFlags::ONLINE),
    ] {
        table.constant(name, flag.bits());
    }
    table.constant("VGCF_in_syscall", x86_64::IretContext::IN_SYSCALL);
    let flags = |flags| x86_64::TrapInfo {
        flags,
        ..x86_64::TrapInfo::default()
    };
    table.constant(
        "TI_GET_DPL((struct trap_info[]){{ .flags = 7 }})",
        flags(7).level(),
    );
    table.constant(
        "!!TI_GET_IF((struct trap_info[]){{ .flags = 4 }})",
        i64::from(flags(4).masks_events()),
    );
}

fn arm_constants(table: &mut Table<'_>) {
    enums! { table; arm::Psci01 = "PSCI_", }
    table.constant("HVM_PARAM_CALLBACK_TYPE_PPI", CallbackVia::TYPE_LOCAL);
    table.constant(
        "HVM_PARAM_CALLBACK_TYPE_PPI_FLAG_MASK",
        arm::CALLBACK_PPI_FLAG_MASK,
    );
    table.constant(
        "HVM_PARAM_CALLBACK_TYPE_PPI_FLAG_LOW_LEVEL",
        arm::CALLBACK_PPI_FLAG_LOW_LEVEL,
    );
    table.constant("XEN_HYPERCALL_TAG", arm::HYPERCALL_TAG);
    table.constant("PSR_GUEST64_INIT", arm::PSR_GUEST64_INIT);
    table.constant("PSR_GUEST32_INIT", arm::PSR_GUEST32_INIT);
    table.constant("SCTLR_GUEST_INIT", arm::SCTLR_GUEST_INIT);
    table.constant("XEN_SMCCC_MAJOR_REVISION", arm::SMCCC_REVISION.0);
    table.constant("XEN_SMCCC_MINOR_REVISION", arm::SMCCC_REVISION.1);
    for (index, byte) in arm::SMCCC_UID.into_iter().enumerate() {
        table.constant(&format!("XEN_SMCCC_UID.a[{index}]"), byte);
    }
    for (index, byte) in arm::SSSC_SMCCC_UID.into_iter().enumerate() {
        table.constant(&format!("SSSC_SMCCC_UID.a[{index}]"), byte);
    }
    guest_map(table);
}

fn guest_map(table: &mut Table<'_>) {
    use arm::guest;
    let regions = [
        ("GUEST_VIRTIO_MMIO", "BASE", guest::VIRTIO_MMIO),
        ("GUEST_GICD", "BASE", guest::GICD),
        ("GUEST_GICC", "BASE", guest::GICC),
        ("GUEST_GICV3_GICD", "BASE", guest::GICV3_GICD),
        ("GUEST_GICV3_GICR0", "BASE", guest::GICV3_GICR0),
        ("GUEST_VPCI_ECAM", "BASE", guest::VPCI_ECAM),
        ("GUEST_ACPI", "BASE", guest::ACPI),
        ("GUEST_PL011", "BASE", guest::PL011),
        ("GUEST_VPCI_MEM", "ADDR", guest::VPCI_MEM),
        ("GUEST_GNTTAB", "BASE", guest::GNTTAB),
        ("GUEST_MAGIC", "BASE", guest::MAGIC),
        ("GUEST_RAM0", "BASE", guest::RAM0),
        ("GUEST_VPCI_PREFETCH_MEM", "ADDR", guest::VPCI_PREFETCH_MEM),
        ("GUEST_RAM1", "BASE", guest::RAM1),
    ];
    let mut map: Vec<(String, i64)> = Vec::new();
    for (name, base, region) in regions {
        map.push((format!("{name}_{base}"), region.base as i64));
        map.push((format!("{name}_SIZE"), region.size as i64));
    }
    let single = [
        (
            "GUEST_GICV3_RDIST_REGIONS",
            i64::from(guest::GICV3_RDIST_REGIONS),
        ),
        ("GUEST_RAM_BANKS", guest::RAM_BANKS as i64),
        ("GUEST_RAM_MAX", guest::RAM_MAX as i64),
        ("GUEST_MAX_VCPUS", i64::from(guest::MAX_VCPUS)),
        ("GUEST_TIMER_VIRT_PPI", i64::from(guest::TIMER_VIRT_PPI)),
        ("GUEST_TIMER_PHYS_S_PPI", i64::from(guest::TIMER_PHYS_S_PPI)),
        (
            "GUEST_TIMER_PHYS_NS_PPI",
            i64::from(guest::TIMER_PHYS_NS_PPI),
        ),
        ("GUEST_EVTCHN_PPI", i64::from(guest::EVTCHN_PPI)),
        ("GUEST_VPL011_SPI", i64::from(guest::VPL011_SPI)),
        (
            "GUEST_VIRTIO_MMIO_SPI_FIRST",
            i64::from(guest::VIRTIO_MMIO_SPI_FIRST),
        ),
        (
            "GUEST_VIRTIO_MMIO_SPI_LAST",
            i64::from(guest::VIRTIO_MMIO_SPI_LAST),
        ),
        ("GUEST_PHANDLE_GIC", i64::from(guest::PHANDLE_GIC)),
        (
            "GUEST_ROOT_ADDRESS_CELLS",
            i64::from(guest::ROOT_ADDRESS_CELLS),
        ),
        ("GUEST_ROOT_SIZE_CELLS", i64::from(guest::ROOT_SIZE_CELLS)),
    ];
    map.extend(single.map(|(name, value)| (name.to_owned(), value)));
    let names: Vec<_> = map
        .into_iter()
        .map(|(name, value)| (name.trim_start_matches("GUEST_").to_owned(), value))
        .collect();
    let aliases = [
        "RAM_BASE",
        "RAM_BANK_BASES",
        "RAM_BANK_SIZES",
        "PHANDLE_IOMMU",
        "VPCI_ADDR_TYPE_*",
    ];
    table.pair("GUEST_", &aliases, &names, &[]);
}
