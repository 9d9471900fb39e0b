//! Tests over small trees in the shape of real machines: QEMU's `virt` with both interrupt controllers, and a
//! system-on-chip with its devices on a bus and no interrupt parent at the root.

use alloc::{string::ToString, vec::Vec};

use super::*;
use proptest::prelude::*;
use xenolith_core::boot::{
    PhysRange, RangeSet,
    fdt::{Tree, Writer},
    memory::BootMemory,
    placement::{Bank, DomainPlan, Placed, Source},
};

fn node(w: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    w.begin(name);
    fill(w);
    w.end();
}

fn cells64(w: &mut Writer) {
    w.u32("#address-cells", 2);
    w.u32("#size-cells", 2);
}

fn common(w: &mut Writer, cpus: u32, ppi_flags: u32) {
    node(w, "cpus", |w| {
        w.u32("#address-cells", 1);
        w.u32("#size-cells", 0);
        for cpu in 0..cpus {
            node(w, &alloc::format!("cpu@{cpu}"), |w| {
                w.text("device_type", "cpu");
                w.text("compatible", "arm,cortex-a57");
                w.text("enable-method", "psci");
                w.u32("capacity-dmips-mhz", 1024);
                w.u32("reg", cpu);
                w.u32("phandle", 100 + cpu);
            });
        }
    });
    node(w, "psci", |w| {
        w.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
        w.text("method", "smc");
    });
    node(w, "timer", |w| {
        w.text("compatible", "arm,armv8-timer");
        w.u32("interrupt-parent", 1);
        w.cells(
            "interrupts",
            &[
                1, 13, ppi_flags, 1, 14, ppi_flags, 1, 11, ppi_flags, 1, 10, ppi_flags,
            ],
        );
    });
    node(w, "pmu", |w| w.text("compatible", "arm,armv8-pmuv3"));
    node(w, "memory@40000000", |w| {
        w.text("device_type", "memory");
        w.cells("reg", &[0, 0x4000_0000, 0, 0x8000_0000]);
    });
}

/// In the shape of QEMU's `virt`.
fn virt(version: GicVersion) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin("");
    w.u32("interrupt-parent", 1);
    cells64(&mut w);
    common(&mut w, 4, 4);
    node(&mut w, "intc@8000000", |w| {
        w.u32("phandle", 1);
        w.u32("#interrupt-cells", 3);
        w.flag("interrupt-controller");
        w.flag("ranges");
        cells64(w);
        w.cells("interrupts", &[1, 9, 4]);
        let second: &[u32] = match version {
            GicVersion::V2 => &[
                0, 0x801_0000, 0, 0x1_0000, 0, 0x803_0000, 0, 0x1_0000, 0, 0x804_0000, 0, 0x1_0000,
            ],
            GicVersion::V3 => &[0, 0x80a_0000, 0, 0xf6_0000],
        };
        let reg: Vec<u32> = [0, 0x800_0000, 0, 0x1_0000]
            .iter()
            .chain(second)
            .copied()
            .collect();
        w.cells("reg", &reg);
        w.text(
            "compatible",
            if version == GicVersion::V2 {
                "arm,cortex-a15-gic"
            } else {
                "arm,gic-v3"
            },
        );
        node(w, "its@8080000", |w| {
            w.text("compatible", "arm,gic-v3-its");
            w.u32("phandle", 2);
            w.cells("reg", &[0, 0x808_0000, 0, 0x2_0000]);
        });
    });
    for (name, at, irq) in [
        ("pl011@9000000", 0x900_0000, 1),
        ("pl031@9010000", 0x901_0000, 2),
    ] {
        node(&mut w, name, |w| {
            w.cells("reg", &[0, at, 0, 0x1000]);
            w.cells("interrupts", &[0, irq, 4]);
        });
    }
    for at in [0xa00_0000u32, 0xa00_0200] {
        node(&mut w, &alloc::format!("virtio_mmio@{at:x}"), |w| {
            w.cells("reg", &[0, at, 0, 0x200]);
            w.cells("interrupts", &[0, 16 + (at >> 9 & 1), 1]);
        });
    }
    node(&mut w, "pcie@10000000", |w| {
        w.text("device_type", "pci");
        w.u32("#address-cells", 3);
        w.u32("#size-cells", 2);
        w.u32("#interrupt-cells", 1);
        w.cells("reg", &[0x40, 0x1000_0000, 0, 0x1000_0000]);
        w.cells("msi-map", &[0, 2, 0, 0x1_0000]);
        w.cells("iommu-map", &[0, 9, 0, 0x1_0000]);
        w.cells(
            "ranges",
            &[
                0x100_0000,
                0,
                0,
                0,
                0x3eff_0000,
                0,
                0x1_0000,
                0x200_0000,
                0,
                0x1000_0000,
                0,
                0x1000_0000,
                0,
                0x2eff_0000,
                0x300_0000,
                0x80,
                0,
                0x80,
                0,
                0x80,
                0,
            ],
        );
        w.cells(
            "interrupt-map",
            &[0, 0, 0, 1, 1, 0, 0, 0, 3, 4, 0, 0, 0, 2, 1, 0, 0, 0, 4, 4],
        );
    });
    node(&mut w, "secret@b000000", |w| {
        w.cells("reg", &[0, 0xb00_0000, 0, 0x1000]);
        w.flag("xen,passthrough");
    });
    node(&mut w, "off@c000000", |w| {
        w.cells("reg", &[0, 0xc00_0000, 0, 0x1000]);
        w.text("status", "disabled");
    });
    node(&mut w, "aliases", |w| {
        w.text("serial0", "/pl011@9000000");
        w.text("gone", "/nowhere");
    });
    node(&mut w, "chosen", |w| {
        w.text("stdout-path", "serial0:115200");
        w.text("bootargs", "dom0_mem=512M");
        w.cells("kaslr-seed", &[1, 2]);
        node(w, "module@49000000", |w| {
            w.texts("compatible", &["multiboot,module", "multiboot,kernel"])
        });
    });
    w.finish()
}

/// In the shape of a system-on-chip: GICv2 on a bus of 32-bit addresses.
fn soc() -> Vec<u8> {
    let mut w = Writer::new();
    w.begin("");
    cells64(&mut w);
    common(&mut w, 2, 0xf08);
    node(&mut w, "bus", |w| {
        w.text("compatible", "simple-bus");
        w.u32("#address-cells", 1);
        w.u32("#size-cells", 1);
        w.cells("ranges", &[0, 0, 0xf000_0000, 0x1000_0000]);
        node(w, "gic@9010000", |w| {
            w.text("compatible", "arm,gic-400");
            w.u32("phandle", 1);
            w.u32("#interrupt-cells", 3);
            w.u32("#address-cells", 0);
            w.flag("interrupt-controller");
            w.cells(
                "reg",
                &[
                    0x901_0000, 0x1_0000, 0x902_0000, 0x2_0000, 0x904_0000, 0x2_0000, 0x906_0000,
                    0x2_0000,
                ],
            );
            w.cells("interrupts", &[1, 9, 0xf04]);
        });
        node(w, "iommu@d800000", |w| {
            w.text("compatible", "arm,mmu-500");
            w.u32("phandle", 14);
            w.cells("reg", &[0xd80_0000, 0x2_0000]);
        });
        node(w, "serial@f000000", |w| {
            w.cells("reg", &[0xf00_0000, 0x100]);
            w.u32("interrupt-parent", 1);
            w.cells("interrupts", &[0, 21, 4]);
        });
        node(w, "neighbour@f000800", |w| {
            w.cells("reg", &[0xf00_0800, 0x100])
        });
        node(w, "dma@f100000", |w| {
            w.cells("reg", &[0xf10_0000, 0x1234]);
            w.cells("iommus", &[14, 5]);
            w.text(
                "a-name-that-is-longer-than-the-specification-allows",
                "kept",
            );
            w.cells("interrupts-extended", &[1, 0, 30, 2, 0, 1, 0, 31, 8]);
        });
    });
    node(&mut w, "reserved-memory", |w| {
        cells64(w);
        w.flag("ranges");
        node(w, "camera@50000000", |w| {
            w.cells("reg", &[0, 0x5000_0000, 0, 0x10_0000]);
        });
    });
    w.finish()
}

fn plan() -> DomainPlan {
    let bank = |start, end| Bank {
        guest: PhysRange::between(start, end),
        direct: true,
    };
    DomainPlan {
        banks: [
            bank(0x4820_0000, 0x5000_0000),
            bank(0x6000_0000, 0x7000_0000),
        ]
        .into(),
        kernel: Placed {
            at: PhysRange::between(0x4900_0000, 0x4b00_0000),
            source: Source::InPlace,
        },
        ramdisk: Some(Placed {
            at: PhysRange::between(0x4c00_0000, 0x4c12_3456),
            source: Source::InPlace,
        }),
        device_tree: PhysRange::between(0x4800_0000, 0x4801_0000),
        entry: 0x4900_0000,
    }
}

/// dom0's tree of a host's tree with its console hidden.
fn dom0_of(blob: &[u8], console: &str, vcpus: u32) -> (Vec<u8>, Devices) {
    let tree = Tree::parse(blob).unwrap();
    let host = Host::from_tree(&tree).unwrap();
    let console = tree.resolve(console).map(|n| n.id());
    let ram = BootMemory::from_tree(&tree).unwrap().ram;
    let devices = devices(&tree, &host, console, &ram);
    let request = Dom0Request {
        plan: &plan(),
        bootargs: "console=hvc0",
        vcpus,
        console,
        event_ppi: host.event_ppi(&tree),
        grant_region: PhysRange::between(0x4020_0000, 0x4120_0000),
        extended_regions: &[],
        reserved: &devices.reserved,
    };
    (dom0_tree(&tree, &host, &request).unwrap(), devices)
}

fn cells(tree: &Tree<'_>, path: &str, property: &str) -> Vec<u32> {
    tree.node(path).unwrap().cells(property).collect()
}

#[test]
fn the_machine_is_read_from_its_tree() {
    let blob = virt(GicVersion::V3);
    let tree = Tree::parse(&blob).unwrap();
    let host = Host::from_tree(&tree).unwrap();
    assert_eq!(
        (host.gic.version, host.gic.phandle, host.gic.maintenance),
        (GicVersion::V3, 1, Some(25))
    );
    assert_eq!(
        host.timer,
        TimerPpis {
            secure: 29,
            physical: 30,
            virt: 27,
            hypervisor: 26
        }
    );
    assert_eq!(
        (host.psci, host.cpus.len(), host.event_ppi(&tree)),
        (Some(Conduit::Smc), 4, 31)
    );
    assert_eq!(host.most_vcpus(), 123);
    let blob = soc();
    let tree = Tree::parse(&blob).unwrap();
    let host = Host::from_tree(&tree).unwrap();
    assert_eq!(
        host.gic.virtual_cpu_interface,
        Some(PhysRange::between(0xf906_0000, 0xf908_0000))
    );
}

#[test]
fn a_machine_without_gic_timer_or_cpus_is_refused_in_one_line() {
    for (name, word) in [
        ("intc@8000000", "no GICv2"),
        ("timer", "armv8-timer"),
        ("cpus", "no CPU"),
    ] {
        let blob = virt(GicVersion::V3);
        let tree = Tree::parse(&blob).unwrap();
        let mut w = Writer::new();
        w.begin("");
        cells64(&mut w);
        for child in tree.root().children().filter(|c| c.name() != name) {
            node(&mut w, child.name(), |w| {
                child
                    .properties()
                    .iter()
                    .for_each(|p| w.property(p.name, p.value));
                for below in child.children() {
                    node(w, below.name(), |w| {
                        below
                            .properties()
                            .iter()
                            .for_each(|p| w.property(p.name, p.value))
                    });
                }
            });
        }
        let blob = w.finish();
        let error = Host::from_tree(&Tree::parse(&blob).unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn dom0_sees_its_memory_cpus_and_a_virtual_gic_v3() {
    let (blob, _) = dom0_of(&virt(GicVersion::V3), "serial0", 3);
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(
        cells(&tree, "/memory", "reg"),
        [
            0,
            0x4820_0000,
            0,
            0x7e0_0000,
            0,
            0x6000_0000,
            0,
            0x1000_0000
        ]
    );
    assert_eq!(tree.node("/cpus").unwrap().children().count(), 3);
    let cpu = tree.node("/cpus/cpu@2").unwrap();
    assert_eq!(
        (cpu.text("enable-method"), cpu.u32("reg"), cpu.phandle()),
        (Some("psci"), Some(2), Some(102))
    );
    assert!(cpu.is_compatible(&["arm,cortex-a57"]) && !cpu.has("capacity-dmips-mhz"));
    let psci = tree.node("/psci").unwrap();
    assert_eq!(psci.text("method"), Some("hvc"));
    let gic = tree.node("/intc@8000000").unwrap();
    assert_eq!(
        cells(&tree, "/intc", "reg"),
        [0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x6_0000]
    );
    assert_eq!((gic.phandle(), gic.children().count()), (Some(1), 0));
    assert_eq!(
        cells(&tree, "/timer", "interrupts"),
        [1, 13, 8, 1, 14, 8, 1, 11, 8]
    );
    let hypervisor = tree.node("/hypervisor").unwrap();
    assert!(hypervisor.is_compatible(&["xen,xen"]));
    assert_eq!(cells(&tree, "/hypervisor", "interrupts"), [1, 15, 8]);
    assert_eq!(
        cells(&tree, "/hypervisor", "reg"),
        [0, 0x4020_0000, 0, 0x100_0000]
    );
    assert!(tree.node("/pmu").is_none());
}

#[test]
fn dom0s_gic_v2_is_shown_at_the_machines_addresses_in_terms_of_its_bus() {
    let (blob, _) = dom0_of(&soc(), "/bus/serial@f000000", 2);
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(
        cells(&tree, "/bus/gic", "reg"),
        [0x901_0000, 0x1_0000, 0x902_0000, 0x2000]
    );
    assert_eq!(
        tree.node("/bus/gic").unwrap().u32("#address-cells"),
        Some(0)
    );
    assert_eq!(
        cells(&tree, "/timer", "interrupts"),
        [1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08]
    );
    assert_eq!(
        tree.node("/timer").unwrap().u32("interrupt-parent"),
        Some(1)
    );
}

#[test]
fn chosen_is_dom0s_own() {
    let (blob, _) = dom0_of(&virt(GicVersion::V2), "serial0", 1);
    let tree = Tree::parse(&blob).unwrap();
    let chosen = tree.node("/chosen").unwrap();
    assert_eq!(chosen.text("bootargs"), Some("console=hvc0"));
    assert_eq!(chosen.u64("linux,initrd-start"), Some(0x4c00_0000));
    assert_eq!(chosen.u64("linux,initrd-end"), Some(0x4c12_3456));
    assert!(!chosen.has("stdout-path") && chosen.has("kaslr-seed"));
    assert_eq!(chosen.children().count(), 0);
}

#[test]
fn what_the_hypervisor_keeps_is_gone_with_its_references() {
    let (blob, _) = dom0_of(&virt(GicVersion::V3), "serial0", 1);
    let tree = Tree::parse(&blob).unwrap();
    for path in ["/pl011@9000000", "/secret@b000000", "/intc/its@8080000"] {
        assert!(tree.node(path).is_none(), "{path}");
    }
    let pcie = tree.node("/pcie").unwrap();
    assert!(!pcie.has("msi-map") && !pcie.has("iommu-map") && pcie.has("interrupt-map"));
    assert!(!tree.node("/aliases").unwrap().has("gone"));
    let (blob, _) = dom0_of(&soc(), "/bus/serial@f000000", 1);
    let tree = Tree::parse(&blob).unwrap();
    assert!(tree.node("/bus/iommu").is_none());
    let dma = tree.node("/bus/dma").unwrap();
    assert!(!dma.has("iommus"));
    assert!(dma.has("a-name-that-is-longer-than-the-specification-allows"));
    assert!(tree.node("/reserved-memory/camera").is_some());
}

fn ranges(set: &RangeSet) -> Vec<(u64, u64)> {
    set.iter().map(|r| (r.start(), r.end())).collect()
}

#[test]
fn dom0_gets_the_registers_and_interrupts_of_what_it_sees() {
    let (_, devices) = dom0_of(&virt(GicVersion::V3), "serial0", 1);
    assert_eq!(
        ranges(&devices.mmio),
        [
            (0x901_0000, 0x901_1000),
            (0xa00_0000, 0xa00_1000),
            (0x40_1000_0000, 0x40_2000_0000)
        ]
    );
    assert_eq!(
        ranges(&devices.pci_windows),
        [
            (0x1000_0000, 0x3f00_0000),
            (0x80_0000_0000, 0x100_0000_0000)
        ]
    );
    let spis: Vec<_> = devices
        .interrupts
        .iter()
        .map(|s| (s.number, s.trigger == Trigger::Edge))
        .collect();
    assert_eq!(
        spis,
        [
            (34, false),
            (35, false),
            (36, false),
            (48, true),
            (49, true)
        ]
    );
}

#[test]
fn a_page_shared_with_the_console_stays_the_hypervisors() {
    let (_, devices) = dom0_of(&soc(), "/bus/serial@f000000", 1);
    assert_eq!(ranges(&devices.mmio), [(0xff10_0000, 0xff10_2000)]);
    assert_eq!(ranges(&devices.reserved), [(0x5000_0000, 0x5010_0000)]);
    let spis = devices.interrupts.iter();
    let spis: Vec<_> = spis.map(|s| (s.number, s.trigger)).collect();
    assert_eq!(spis, [(62, Trigger::Edge), (63, Trigger::Level)]);
}

#[test]
fn a_tree_that_does_not_fit_its_room_is_refused() {
    let blob = virt(GicVersion::V3);
    let tree = Tree::parse(&blob).unwrap();
    let room = dom0_tree_room(&tree, 4, "console=hvc0");
    let (made, _) = dom0_of(&blob, "serial0", 4);
    assert!(made.len() as u64 <= room);
    let mut small = plan();
    small.device_tree = PhysRange::between(0x4800_0000, 0x4800_0100);
    let request = DomuRequest {
        plan: &small,
        bootargs: "",
        vcpus: 1,
        gic: GuestGic::V2,
        pl011: false,
        hypervisor: false,
        timer_frequency: None,
    };
    let error = domu_tree(&request).unwrap_err().to_string();
    assert!(error.contains("do not fit the 256 planned"), "{error}");
}

#[test]
fn another_domains_tree_is_at_the_public_addresses() {
    for (gic, second) in [
        (GuestGic::V2, [0x300_2000, 0x2000]),
        (GuestGic::V3, [0x302_0000, 0x100_0000]),
    ] {
        let blob = domu_tree(&DomuRequest {
            plan: &plan(),
            bootargs: "console=ttyAMA0",
            vcpus: 18,
            gic,
            pl011: true,
            hypervisor: true,
            timer_frequency: None,
        })
        .unwrap();
        assert!(blob.len() as u64 <= domu_tree_room(18, "console=ttyAMA0"));
        let tree = Tree::parse(&blob).unwrap();
        let host = Host::from_tree(&tree);
        assert!(
            matches!(host, Err(HostError::Timer(_)) | Err(HostError::Gic(..))),
            "a guest has no EL2"
        );
        let reg = cells(&tree, "/interrupt-controller", "reg");
        assert_eq!(reg[4..], [0, second[0], 0, second[1]]);
        assert_eq!(
            tree.node("/cpus")
                .unwrap()
                .children()
                .last()
                .unwrap()
                .u32("reg"),
            Some(0x101)
        );
        assert_eq!(tree.resolve("/pl011").unwrap().physical_ranges(), [PL011]);
        assert_eq!(
            cells(&tree, "/hypervisor", "reg"),
            [0, 0x3800_0000, 0, 0x100_0000]
        );
    }
}

proptest! {
    #[test]
    fn damaged_host_trees_are_survived(
        shape in 0..3u8, damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut blob = match shape {
            0 => virt(GicVersion::V2),
            1 => virt(GicVersion::V3),
            _ => soc(),
        };
        for (at, value) in damage {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        fuzz_device_tree(&blob);
    }
}
