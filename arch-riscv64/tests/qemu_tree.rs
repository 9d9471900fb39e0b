//! What dom0 gets of the device tree that QEMU's `virt` machine really makes. Where `qemu-system-riscv64` is not installed there
//! is nothing to look at, and the test says so.

use std::{fs, path::PathBuf, process::Command};

use xenolith_arch_riscv64::domain_build::{
    Dom0Request, Host, dom0_devices, dom0_tree, dom0_tree_room,
};
use xenolith_core::boot::{
    PhysRange, cmdline,
    fdt::Tree,
    image::{Format, Kernel},
    memory::BootMemory,
    placement::{Load, Source, plan_dom0},
};

/// The tree of a `virt` machine with four harts.
fn dumped() -> Option<Vec<u8>> {
    let blob = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("virt.dtb");
    let status = Command::new("qemu-system-riscv64")
        .arg("-machine")
        .arg(format!("virt,aclint=on,dumpdtb={}", blob.display()))
        .args(["-cpu", "rv64", "-smp", "4", "-m", "1G"])
        .args(["-display", "none", "-nic", "none"])
        .status();
    match status {
        Ok(status) if status.success() => fs::read(blob).ok(),
        _ => {
            eprintln!("skipped: qemu-system-riscv64 is not there");
            None
        }
    }
}

fn image() -> Vec<u8> {
    let mut file = vec![0; 1 << 20];
    file[16..24].copy_from_slice(&(2u64 << 20).to_le_bytes());
    file[56..60].copy_from_slice(b"RSC\x05");
    file
}

#[test]
fn dom0_is_planned_on_qemus_machine() {
    let Some(blob) = dumped() else {
        return;
    };
    let tree = Tree::parse(&blob).unwrap();
    let console = tree.resolve("/soc/serial@10000000").unwrap().id();
    let host = Host::from_tree(&tree, Some(console), 4).unwrap();
    // Behind all sources that the machine says it has, whichever QEMU it is.
    let last = tree
        .node("/soc/plic")
        .and_then(|plic| plic.u32("riscv,ndev"));
    assert_eq!((host.cpus.len(), Some(host.events - 1)), (4, last));

    let mut memory = BootMemory::from_tree(&tree).unwrap();
    let kernel_at = PhysRange::new(0x8a00_0000, 1 << 20).unwrap();
    let hypervisor = PhysRange::between(0x8020_0000, 0x8060_0000);
    memory.occupy(hypervisor);
    memory.hold(kernel_at);
    let file = image();
    let kernel = Kernel::parse(&file, Format::Riscv64).unwrap();
    let isa = "rv64imafdc_sstc";
    let load = Load {
        kernel: &kernel,
        kernel_at,
        ramdisk_at: None,
        device_tree_size: dom0_tree_room(&tree, 4, "console=ttyS0", isa),
    };
    let (options, _) = cmdline::parse("dom0_mem=256M");
    let mut usable = memory.free();
    let frames = memory.freed_by(kernel_at);
    frames.iter().for_each(|range| usable.insert(range));
    let plan = plan_dom0(&usable, &options.dom0_mem, 0, &load).unwrap();
    assert_eq!(
        (plan.memory(), plan.kernel.source),
        (256 << 20, Source::InPlace)
    );

    let devices = dom0_devices(&tree, &host, &memory.ram);
    // Eight places for virtio devices, the clock and four lines of PCI; the console's source is not among them.
    assert_eq!(
        devices.interrupts,
        [1, 2, 3, 4, 5, 6, 7, 8, 11, 32, 33, 34, 35]
    );
    assert!(devices.withheld.is_empty());
    for bank in &plan.banks {
        assert!(!devices.mmio.overlaps(&bank.guest) && !devices.pci_windows.overlaps(&bank.guest));
    }
    let request = Dom0Request {
        plan: &plan,
        bootargs: "console=ttyS0",
        timer_frequency: 10_000_000,
        isa,
        mmu: "riscv,sv48",
        grant_region: hypervisor,
        reserved: &devices.reserved,
    };
    let blob = dom0_tree(&tree, &host, &request).unwrap();
    let own = Tree::parse(&blob).unwrap();
    let ram = BootMemory::from_tree(&own).unwrap().ram;
    assert!(plan.banks.iter().all(|bank| ram.contains(&bank.guest)));
    assert_eq!(ram.size(), plan.memory());
    // As a kernel reads it.
    let seen = Host::from_tree(&own, None, 4).unwrap();
    assert_eq!((seen.plic_at, seen.phandle), (host.plic_at, host.phandle));
    let gone = ["/soc/clint", "/soc/test", "/poweroff", "/pmu"];
    assert!(gone.into_iter().all(|path| own.node(path).is_none()));
}
