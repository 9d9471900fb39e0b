//! The 32-bit forms of structures against the headers, as a 32-bit compiler lays them out.
//!
//! Nothing is run: each number is an assertion that the C compiler checks.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use xenolith_abi::{
    Wire, event_channel as event, grant_table as grant, hvm, hvm_vcpu, memory, multicall, platform,
    runstate, sched, vcpu, version, x86_64,
};

const INCLUDE: &str = "/usr/include/xen";
const HEADERS: &[&str] = &[
    "xen.h",
    "event_channel.h",
    "grant_table.h",
    "hvm/hvm_op.h",
    "hvm/hvm_vcpu.h",
    "memory.h",
    "platform.h",
    "sched.h",
    "vcpu.h",
    "version.h",
];

fn assertion(out: &mut String, c: &str, number: usize) {
    writeln!(
        out,
        "_Static_assert({c} == {number}, \"{c} is not {number}\");"
    )
    .unwrap();
}

macro_rules! differ {
    ($out:ident; $($rust:path = $c:literal { $($($field:ident).+ $(= $cfield:literal)?),* })*) => {$({
        let form = <$rust as Wire>::NARROW.expect("the table has it");
        assertion(&mut $out, concat!("sizeof(", $c, ")"), form.size);
        $(
            let name = stringify!($($field).+).replace(' ', "");
            $(let name = { drop(name); String::from($cfield) };)?
            let place = form.place(core::mem::offset_of!($rust, $($field).+)).expect("the table has it");
            assertion(&mut $out, &format!("offsetof({}, {name})", $c), place);
        )*
        let count = [$(stringify!($($field).+)),*].len();
        assert_eq!(form.fields.len(), count, "{} has fields that are not compared", $c);
    })*};
}

macro_rules! same {
    ($out:ident; $($rust:ty = $c:literal)*) => {$(
        assert!(<$rust as Wire>::NARROW.is_none());
        assertion(&mut $out, concat!("sizeof(", $c, ")"), size_of::<$rust>());
    )*};
}

fn different(out: &mut String) {
    let mut text = String::new();
    differ! { text;
        memory::Reservation = "struct xen_memory_reservation" { extent_start, nr_extents, extent_order, mem_flags, domid }
        memory::Exchange = "struct xen_memory_exchange" {
            input.extent_start = "in.extent_start", input.nr_extents = "in.nr_extents",
            input.extent_order = "in.extent_order", input.mem_flags = "in.mem_flags", input.domid = "in.domid",
            output.extent_start = "out.extent_start", output.nr_extents = "out.nr_extents",
            output.extent_order = "out.extent_order", output.mem_flags = "out.mem_flags", output.domid = "out.domid",
            nr_exchanged
        }
        memory::AddToPhysmap = "struct xen_add_to_physmap" { domid, size, space, idx, gpfn }
        memory::AddToPhysmapBatch = "struct xen_add_to_physmap_batch" {
            domid, space, size, foreign_domid = "u.foreign_domid", idxs, gpfns, errs
        }
        memory::RemoveFromPhysmap = "struct xen_remove_from_physmap" { domid, gpfn }
        memory::MachphysMfnList = "struct xen_machphys_mfn_list" { max_extents, extent_start, nr_extents }
        memory::MachphysMapping = "struct xen_machphys_mapping" { v_start, v_end, max_mfn }
        memory::MemoryMap = "struct xen_memory_map" { nr_entries, buffer }
        memory::ForeignMemoryMap = "struct xen_foreign_memory_map" {
            domid, map.nr_entries, map.buffer
        }
        memory::PodTarget = "struct xen_pod_target" {
            target_pages, tot_pages, pod_cache_pages, pod_entries, domid
        }
        memory::ReservedDeviceMemoryMap = "struct xen_reserved_device_memory_map" {
            flags, nr_entries, buffer, device = "dev"
        }
        memory::AcquireResource = "struct xen_mem_acquire_resource" {
            domid, kind = "type", id, nr_frames, pad, frame, frame_list
        }
        grant::Transfer = "struct gnttab_transfer" { mfn, domid, gref = "ref", status }
        grant::SetupTable = "struct gnttab_setup_table" { dom, nr_frames, status, frame_list }
        grant::GetStatusFrames = "struct gnttab_get_status_frames" { nr_frames, dom, status, frame_list }
        grant::GrantCopy = "struct gnttab_copy" {
            source.gref_or_gfn = "source.u", source.domid, source.offset,
            dest.gref_or_gfn = "dest.u", dest.domid, dest.offset, len, flags, status
        }
        sched::Poll = "struct sched_poll" { ports, nr_ports, timeout }
        vcpu::SetSingleshotTimer = "struct vcpu_set_singleshot_timer" { timeout_abs_ns, flags }
        runstate::RunstateInfo = "struct vcpu_runstate_info" { state, state_entry_time, time }
        version::PlatformParameters = "struct xen_platform_parameters" { virt_start }
        x86_64::MmuextOp = "struct mmuext_op" { cmd, arg1, arg2 }
        multicall::MulticallEntry = "struct multicall_entry" { op, result, args }
    }
    out.push_str(&text);
}

fn alike(out: &mut String) {
    let mut text = String::new();
    same! { text;
        event::AllocUnbound = "struct evtchn_alloc_unbound"
        event::BindInterdomain = "struct evtchn_bind_interdomain"
        event::BindVirq = "struct evtchn_bind_virq"
        event::BindPirq = "struct evtchn_bind_pirq"
        event::BindIpi = "struct evtchn_bind_ipi"
        event::Status = "struct evtchn_status"
        event::InitControl = "struct evtchn_init_control"
        event::ExpandArray = "struct evtchn_expand_array"
        grant::MapGrantRef = "struct gnttab_map_grant_ref"
        grant::UnmapGrantRef = "struct gnttab_unmap_grant_ref"
        grant::UnmapAndReplace = "struct gnttab_unmap_and_replace"
        grant::QuerySize = "struct gnttab_query_size"
        grant::SwapGrantRef = "struct gnttab_swap_grant_ref"
        grant::CacheFlush = "struct gnttab_cache_flush"
        hvm::HvmParam = "struct xen_hvm_param"
        hvm::PagetableDying = "struct xen_hvm_pagetable_dying"
        hvm::GetTime = "struct xen_hvm_get_time"
        hvm::GetMemType = "struct xen_hvm_get_mem_type"
        hvm::EvtchnUpcallVector = "struct xen_hvm_evtchn_upcall_vector"
        hvm_vcpu::VcpuHvmContext = "struct vcpu_hvm_context"
        memory::VnumaTopologyInfo = "struct xen_vnuma_topology_info"
        platform::PlatformOpArg = "struct xen_platform_op"
        sched::RemoteShutdown = "struct sched_remote_shutdown"
        sched::Watchdog = "struct sched_watchdog"
        vcpu::SetPeriodicTimer = "struct vcpu_set_periodic_timer"
        vcpu::RegisterVcpuInfo = "struct vcpu_register_vcpu_info"
        version::FeatureInfo = "struct xen_feature_info"
        version::CompileInfo = "struct xen_compile_info"
    }
    out.push_str(&text);
}

fn shared_page(out: &mut String) {
    let layout = xenolith_abi::x86_32::SHARED_INFO;
    let vcpu = layout.vcpu;
    let shared = [
        ("vcpu_info", layout.vcpu_info),
        ("evtchn_pending", layout.evtchn_pending),
        ("evtchn_mask", layout.evtchn_mask),
        ("wc_version", layout.wc_version),
        ("wc_sec", layout.wc_sec),
        ("wc_nsec", layout.wc_nsec),
        ("arch.wc_sec_hi", layout.wc_sec_hi),
        ("arch", layout.arch),
    ];
    for (field, offset) in shared {
        assertion(
            out,
            &format!("offsetof(struct shared_info, {field})"),
            offset,
        );
    }
    let info = [
        ("evtchn_upcall_pending", vcpu.evtchn_upcall_pending),
        ("evtchn_upcall_mask", vcpu.evtchn_upcall_mask),
        ("evtchn_pending_sel", vcpu.evtchn_pending_sel),
        ("arch", vcpu.arch),
        ("time", vcpu.time),
    ];
    for (field, offset) in info {
        assertion(out, &format!("offsetof(struct vcpu_info, {field})"), offset);
    }
    assertion(out, "sizeof(struct vcpu_info)", layout.vcpu_info_stride);
    assertion(out, "sizeof(struct shared_info)", layout.size);
    let words = "sizeof(((struct shared_info *)0)->evtchn_pending) * 8";
    assertion(out, words, layout.ports as usize);
}

#[test]
fn narrow_forms_agree_with_the_headers() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("narrow");
    fs::create_dir_all(&dir).unwrap();
    let public = dir.join("public");
    if !public.exists() {
        std::os::unix::fs::symlink(INCLUDE, &public).unwrap();
    }
    let mut text =
        String::from("#include <stddef.h>\n#include <stdint.h>\n#define __XEN_TOOLS__ 1\n");
    for header in HEADERS {
        writeln!(text, "#include \"public/{header}\"").unwrap();
    }
    different(&mut text);
    alike(&mut text);
    shared_page(&mut text);
    let source = dir.join("narrow.c");
    fs::write(&source, text).unwrap();
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(cc)
        .args([
            "-m32",
            "-ffreestanding",
            "-std=gnu11",
            "-w",
            "-fsyntax-only",
            "-I",
        ])
        .args([&dir, &source])
        .output()
        .expect("this test needs the packages `libxen-dev gcc`");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
}
