//! The boot input over the device trees that QEMU's `virt` machine really makes, modules of its guest-loader included.
//! Where `qemu-system-aarch64` is not installed there is nothing to look at, and the tests say so.

use std::{fs, path::PathBuf, process::Command};

use xenolith_arch_aarch64::domain_build::{
    Dom0Request, GicVersion, Host, devices, dom0_tree, dom0_tree_room,
};
use xenolith_core::boot::{
    PhysRange, cmdline, console,
    fdt::Tree,
    image::{Format, Kernel},
    memory::BootMemory,
    modules::{BootInfo, places},
    placement::{Load, Source, plan_dom0},
};

/// The tree of a `virt` machine with a kernel of 1 MiB as a module at 0x49000000.
fn dumped(gic: u32) -> Option<Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (kernel, blob) = (
        dir.join(format!("kernel{gic}")),
        dir.join(format!("virt{gic}.dtb")),
    );
    fs::write(&kernel, image()).ok()?;
    let status = Command::new("qemu-system-aarch64")
        .arg("-machine")
        .arg(format!(
            "virt,virtualization=on,gic-version={gic},dumpdtb={}",
            blob.display()
        ))
        .args([
            "-cpu",
            "cortex-a57",
            "-smp",
            "4",
            "-m",
            "2G",
            "-append",
            "dom0_mem=512M",
            "-kernel",
        ])
        .arg(&kernel)
        .arg("-device")
        .arg(format!(
            "guest-loader,addr=0x49000000,kernel={},bootargs=console=hvc0",
            kernel.display()
        ))
        .status();
    match status {
        Ok(status) if status.success() => fs::read(blob).ok(),
        _ => {
            eprintln!("skipped: qemu-system-aarch64 is not there");
            None
        }
    }
}

fn image() -> Vec<u8> {
    let mut file = vec![0; 1 << 20];
    file[16..24].copy_from_slice(&(2u64 << 20).to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

fn from_tree_to_dom0(gic: u32) {
    let Some(blob) = dumped(gic) else {
        return;
    };
    let tree = Tree::parse(&blob).unwrap();
    let info = BootInfo::from_tree(&tree, &|_| None).unwrap();
    let (options, warnings) = cmdline::parse(info.command_line);
    assert!(warnings.is_empty());
    let host = Host::from_tree(&tree).unwrap();
    let version = if gic == 2 {
        GicVersion::V2
    } else {
        GicVersion::V3
    };
    assert_eq!((host.gic.version, host.cpus.len()), (version, 4));
    let uart = console::device_tree_uart(&tree, &options).unwrap();
    assert!(uart.is_compatible(&["arm,pl011"]));

    let mut memory = BootMemory::from_tree(&tree).unwrap();
    let hypervisor = PhysRange::new(0x4020_0000, 4 << 20).unwrap();
    let device_tree = PhysRange::new(0x4800_0000, tree.size() as u64).unwrap();
    memory
        .check_modules(&info.modules(), hypervisor, device_tree)
        .unwrap();
    memory.occupy(hypervisor);
    memory.hold(device_tree);
    places(&tree).into_iter().for_each(|at| memory.hold(at));

    let file = image();
    let kernel = Kernel::parse(&file, Format::Arm64).unwrap();
    let dom0 = info.dom0.as_ref().unwrap();
    assert_eq!(dom0.bootargs, "console=hvc0");
    let load = Load {
        kernel: &kernel,
        kernel_at: dom0.kernel.range,
        ramdisk_at: None,
        device_tree_size: dom0_tree_room(&tree, 4, dom0.bootargs),
    };
    let mut usable = memory.free();
    let kernel_frames = memory.freed_by(dom0.kernel.range);
    kernel_frames.iter().for_each(|range| usable.insert(range));
    let plan = plan_dom0(&usable, &options.dom0_mem, 0, &load).unwrap();
    assert_eq!(
        (plan.memory(), plan.kernel.source),
        (512 << 20, Source::InPlace)
    );

    let devices = devices(&tree, &host, Some(uart.id()), &memory.ram);
    assert_eq!(devices.interrupts.len(), 38);
    let made = dom0_tree(
        &tree,
        &host,
        &Dom0Request {
            plan: &plan,
            bootargs: dom0.bootargs,
            vcpus: 4,
            console: Some(uart.id()),
            event_ppi: host.event_ppi(&tree),
            grant_region: hypervisor,
            extended_regions: &[],
            reserved: &devices.reserved,
        },
    )
    .unwrap();
    let made = Tree::parse(&made).unwrap();
    assert!(made.node("/pl011").is_none() && made.node("/hypervisor").is_some());
    let kept = tree
        .nodes()
        .filter(|n| n.base_name() == "virtio_mmio")
        .count();
    assert_eq!(
        made.nodes()
            .filter(|n| n.base_name() == "virtio_mmio")
            .count(),
        kept
    );
}

#[test]
fn dom0_is_planned_on_qemus_machine_with_gic_v2() {
    from_tree_to_dom0(2);
}

#[test]
fn dom0_is_planned_on_qemus_machine_with_gic_v3() {
    from_tree_to_dom0(3);
}
