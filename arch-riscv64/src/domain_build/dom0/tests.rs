//! Tests over small trees in the shape of real machines: QEMU's `virt`, and a system-on-chip with its devices on a bus of
//! 32-bit addresses, a hart that no kernel gets and no phandle at the PLIC.

use alloc::{format, string::ToString, vec::Vec};

use super::*;
use crate::domain_build::{HostError, fuzz_device_tree, plics, source_of};
use proptest::prelude::*;
use xenolith_core::boot::{
    memory::BootMemory,
    placement::{Bank, Placed, Source},
};

const PLIC: u32 = 9;
const FIRST_INTC: u32 = 20;

fn node(w: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    w.begin(name);
    fill(w);
    w.end();
}

fn cells(w: &mut Writer, address: u32, size: u32) {
    w.u32("#address-cells", address);
    w.u32("#size-cells", size);
}

fn cpus(w: &mut Writer, harts: core::ops::Range<u32>) {
    node(w, "cpus", |w| {
        cells(w, 1, 0);
        w.u32("timebase-frequency", 10_000_000);
        for hart in harts {
            node(w, &format!("cpu@{hart}"), |w| {
                w.text("device_type", "cpu");
                w.text("status", if hart == 7 { "disabled" } else { "okay" });
                w.u32("reg", hart);
                w.u32("phandle", 10 + hart);
                node(w, "interrupt-controller", |w| {
                    w.text("compatible", "riscv,cpu-intc");
                    w.u32("phandle", FIRST_INTC + hart);
                });
            });
        }
    });
}

fn device(w: &mut Writer, name: &str, kind: &str, at: u32, source: u32) {
    node(w, name, |w| {
        w.text("compatible", kind);
        w.cells(
            "reg",
            &[0, at, 0, if source == 10 { 0x100 } else { 0x1000 }],
        );
        w.u32("interrupt-parent", PLIC);
        w.cells("interrupts", &[source]);
    });
}

/// In the shape of QEMU's `virt`, with so many sources and such a window of the PLIC.
fn virt_with(ndev: u32, plic_size: u32) -> Vec<u8> {
    let mut w = Writer::new();
    w.begin("");
    cells(&mut w, 2, 2);
    w.text("compatible", "riscv-virtio");
    node(&mut w, "pmu", |w| w.text("compatible", "riscv,pmu"));
    node(&mut w, "flash@20000000", |w| {
        w.text("compatible", "cfi-flash");
        w.cells(
            "reg",
            &[0, 0x2000_0000, 0, 0x200_0000, 0, 0x2200_0000, 0, 0x200_0000],
        );
    });
    node(&mut w, "chosen", |w| {
        w.text("stdout-path", "/soc/serial@10000000");
        w.text("bootargs", "dom0_mem=512M");
        w.cells("rng-seed", &[1, 2]);
        node(w, "module@8a000000", |w| {
            w.texts("compatible", &["multiboot,kernel", "multiboot,module"])
        });
    });
    for (name, kind) in [("poweroff", "syscon-poweroff"), ("reboot", "syscon-reboot")] {
        node(&mut w, name, |w| {
            w.text("compatible", kind);
            w.u32("regmap", 30);
        });
    }
    node(&mut w, "platform-bus@4000000", |w| {
        w.texts("compatible", &["qemu,platform", "simple-bus"]);
        w.u32("interrupt-parent", PLIC);
        cells(w, 1, 1);
        w.cells("ranges", &[0, 0, 0x400_0000, 0x200_0000]);
    });
    node(&mut w, "memory@80000000", |w| {
        w.text("device_type", "memory");
        w.cells("reg", &[0, 0x8000_0000, 0, 0x8000_0000]);
    });
    cpus(&mut w, 0..4);
    node(&mut w, "reserved-memory", |w| {
        cells(w, 2, 2);
        w.flag("ranges");
        node(w, "mmode_resv0@80000000", |w| {
            w.cells("reg", &[0, 0x8000_0000, 0, 0x8_0000]);
        });
        node(w, "camera@90000000", |w| {
            w.cells("reg", &[0, 0x9000_0000, 0, 0x10_0000]);
            w.u32("phandle", 31);
        });
    });
    node(&mut w, "soc", |w| {
        cells(w, 2, 2);
        w.text("compatible", "simple-bus");
        w.flag("ranges");
        device(w, "rtc@101000", "google,goldfish-rtc", 0x10_1000, 11);
        device(w, "serial@10000000", "ns16550a", 0x1000_0000, 10);
        node(w, "test@100000", |w| {
            w.texts("compatible", &["sifive,test1", "sifive,test0", "syscon"]);
            w.cells("reg", &[0, 0x10_0000, 0, 0x1000]);
            w.u32("phandle", 30);
        });
        node(w, "pci@30000000", |w| {
            w.text("device_type", "pci");
            w.text("compatible", "pci-host-ecam-generic");
            cells(w, 3, 2);
            w.u32("#interrupt-cells", 1);
            w.cells("reg", &[0, 0x3000_0000, 0, 0x1000_0000]);
            w.cells("interrupt-map-mask", &[0x1800, 0, 0, 7]);
            w.cells(
                "interrupt-map",
                &[
                    0, 0, 0, 1, PLIC, 0x20, 0, 0, 0, 2, PLIC, 0x21, 0x800, 0, 0, 1, PLIC, 0x21,
                ],
            );
            w.cells(
                "ranges",
                &[
                    0x100_0000,
                    0,
                    0,
                    0,
                    0x300_0000,
                    0,
                    0x1_0000,
                    0x200_0000,
                    0,
                    0x4000_0000,
                    0,
                    0x4000_0000,
                    0,
                    0x4000_0000,
                    0x300_0000,
                    4,
                    0,
                    4,
                    0,
                    4,
                    0,
                ],
            );
        });
        for number in 1..3 {
            let at = 0x1000_0000 + number * 0x1000;
            device(w, &format!("virtio_mmio@{at:x}"), "virtio,mmio", at, number);
        }
        node(w, "plic@c000000", |w| {
            w.u32("phandle", PLIC);
            w.u32("riscv,ndev", ndev);
            w.cells("reg", &[0, 0xc00_0000, 0, plic_size]);
            let contexts = (FIRST_INTC..FIRST_INTC + 4).flat_map(|intc| [intc, 11, intc, 9]);
            w.cells("interrupts-extended", &contexts.collect::<Vec<_>>());
            w.flag("interrupt-controller");
            w.texts("compatible", PLICS);
            w.u32("#address-cells", 0);
            w.u32("#interrupt-cells", 1);
        });
        node(w, "clint@2000000", |w| {
            w.texts("compatible", &["sifive,clint0", "riscv,clint0"]);
            w.cells("reg", &[0, 0x200_0000, 0, 0x1_0000]);
            w.cells("interrupts-extended", &[FIRST_INTC, 3, FIRST_INTC, 7]);
        });
    });
    w.finish()
}

fn virt() -> Vec<u8> {
    virt_with(0x60, 0x60_0000)
}

/// In the shape of a system-on-chip.
fn soc() -> Vec<u8> {
    let mut w = Writer::new();
    w.begin("");
    cells(&mut w, 1, 1);
    cpus(&mut w, 7..10);
    node(&mut w, "memory", |w| {
        w.text("device_type", "memory");
        w.cells("reg", &[0x8000_0000, 0x4000_0000]);
    });
    node(&mut w, "bus", |w| {
        cells(w, 1, 1);
        w.cells("ranges", &[0, 0x1000_0000, 0x1000_0000]);
        node(w, "interrupts@c00000", |w| {
            w.text("compatible", "riscv,plic0");
            w.cells("reg", &[0xc0_0000, 0x30_0000]);
            w.u32("riscv,ndev", 53);
            w.u32("#interrupt-cells", 2);
            w.flag("interrupt-controller");
            w.flag("ranges");
            node(w, "serial@10000", |w| {
                w.text("compatible", "snps,dw-apb-uart");
                w.cells("reg", &[0x1_0000, 0x100]);
                w.u32("reg-shift", 2);
                w.u32("clock-frequency", 500_000);
                w.cells("interrupts", &[4, 4]);
            });
        });
        node(w, "neighbour@10800", |w| w.cells("reg", &[0x1_0800, 0x100]));
        node(w, "over-everything@0", |w| {
            w.cells("reg", &[0, 0x1000_0000])
        });
        node(w, "in-ram@70000000", |w| {
            w.cells("reg", &[0x7000_0000, 0x1000])
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
            bank(0x8020_0000, 0x8800_0000),
            bank(0xa000_0000, 0xa800_0000),
        ]
        .into(),
        kernel: Placed {
            at: PhysRange::between(0x8100_0000, 0x8300_0000),
            source: Source::InPlace,
        },
        ramdisk: Some(Placed {
            at: PhysRange::between(0x8400_0000, 0x8412_3456),
            source: Source::InPlace,
        }),
        device_tree: PhysRange::between(0x8700_0000, 0x8701_0000),
        entry: 0x8100_0000,
    }
}

/// dom0's tree of a host's tree with its console replaced.
fn dom0_of(blob: &[u8], console: &str, vcpus: u32) -> (Vec<u8>, Devices<u32>, Host) {
    let tree = Tree::parse(blob).unwrap();
    let console = tree.resolve(console).map(|node| node.id());
    let host = Host::from_tree(&tree, console, vcpus).unwrap();
    let ram = BootMemory::from_tree(&tree).unwrap().ram;
    let devices = dom0_devices(&tree, &host, &ram);
    let request = Dom0Request {
        plan: &plan(),
        bootargs: "console=ttyS0",
        timer_frequency: 10_000_000,
        isa: "rv64imafdc_sstc",
        mmu: "riscv,sv48",
        grant_region: PhysRange::between(0x8808_0000, 0x8818_0000),
        reserved: &devices.reserved,
    };
    let made = dom0_tree(&tree, &host, &request).unwrap();
    assert!(made.len() as u64 <= dom0_tree_room(&tree, vcpus, request.bootargs, request.isa));
    (made, devices, host)
}

const VIRT_CONSOLE: &str = "/soc/serial@10000000";

fn values(tree: &Tree<'_>, path: &str, property: &str) -> Vec<u32> {
    tree.node(path).unwrap().cells(property).collect()
}

fn ranges(set: &RangeSet) -> Vec<(u64, u64)> {
    set.iter().map(|r| (r.start(), r.end())).collect()
}

#[test]
fn dom0_sees_its_memory_and_a_context_of_the_plic_for_each_of_its_harts() {
    let (blob, _, host) = dom0_of(&virt(), VIRT_CONSOLE, 3);
    let tree = Tree::parse(&blob).unwrap();
    let camera = [0, 0x9000_0000, 0, 0x10_0000];
    assert_eq!(
        values(&tree, "/memory@80200000", "reg"),
        [
            &[0, 0x8020_0000, 0, 0x7e0_0000],
            &camera[..],
            &[0, 0xa000_0000, 0, 0x800_0000]
        ]
        .concat()
    );
    assert_eq!(tree.node("/cpus").unwrap().children().count(), 3);
    assert_eq!(tree.node("/cpus/cpu@2").unwrap().phandle(), Some(12));
    let plic = tree.node("/soc/plic@c000000").unwrap();
    assert_eq!(
        plic.physical_ranges(),
        [PhysRange::between(0xc00_0000, 0xc60_0000)]
    );
    let contexts = values(&tree, "/soc/plic@c000000", "interrupts-extended");
    assert_eq!(contexts.len(), 6);
    for (vcpu, pair) in (0u32..).zip(contexts.chunks(2)) {
        let hart = tree.by_phandle(pair[0]).unwrap().parent().unwrap();
        assert_eq!((hart.u32("reg"), pair[1]), (Some(vcpu), EXTERNAL));
    }
    // The machine's sources are 1 to 96: those of events are behind them.
    assert_eq!((host.events, host.sources), (97, 100));
    assert_eq!(plic.u32("riscv,ndev"), Some(99));
    assert_eq!(values(&tree, "/hypervisor", "interrupts"), [97, 98, 99]);
    let parent = tree.node("/hypervisor").unwrap().interrupt_parent();
    assert_eq!(parent.unwrap().id(), plic.id());
}

#[test]
fn the_console_is_an_emulated_uart_in_its_place() {
    let (blob, _, host) = dom0_of(&virt(), VIRT_CONSOLE, 1);
    let tree = Tree::parse(&blob).unwrap();
    let uart = tree.resolve(VIRT_CONSOLE).unwrap();
    assert!(uart.is_compatible(&["ns16550a"]) && uart.u32("clock-frequency").is_some());
    let at = PhysRange::between(0x1000_0000, 0x1000_0100);
    assert_eq!(uart.physical_ranges(), [at]);
    assert_eq!(host.places().uart, Some((at, 10)));
    assert_eq!(uart.interrupts().first().unwrap().cells(), [10]);
    let chosen = tree.node("/chosen").unwrap();
    assert_eq!(chosen.text("stdout-path"), Some(VIRT_CONSOLE));
    assert_eq!(chosen.text("bootargs"), Some("console=ttyS0"));
    assert_eq!(chosen.u64("linux,initrd-end"), Some(0x8412_3456));
    assert!(chosen.has("rng-seed") && chosen.children().count() == 0);

    let (blob, _, host) = dom0_of(&soc(), "/bus/interrupts/serial", 1);
    let tree = Tree::parse(&blob).unwrap();
    assert!(host.console.is_some_and(|uart| uart.source == 4));
    assert!(
        tree.node("/bus/interrupts/serial").is_none(),
        "below the PLIC nothing is shown"
    );
}

#[test]
fn what_the_hypervisor_or_firmware_keeps_is_gone() {
    let (blob, devices, _) = dom0_of(&virt(), VIRT_CONSOLE, 1);
    let tree = Tree::parse(&blob).unwrap();
    for path in [
        "/pmu",
        "/poweroff",
        "/reboot",
        "/soc/test@100000",
        "/soc/clint@2000000",
        "/reserved-memory/mmode_resv0@80000000",
    ] {
        assert!(tree.node(path).is_none(), "{path}");
    }
    assert!(tree.node("/reserved-memory/camera").is_some());
    assert_eq!(ranges(&devices.reserved), [(0x9000_0000, 0x9010_0000)]);
}

#[test]
fn dom0_gets_the_registers_windows_and_sources_of_what_it_sees() {
    let (blob, devices, _) = dom0_of(&virt(), VIRT_CONSOLE, 4);
    assert_eq!(
        ranges(&devices.mmio),
        [
            (0x10_1000, 0x10_2000),
            (0x1000_1000, 0x1000_3000),
            (0x2000_0000, 0x2400_0000),
            (0x3000_0000, 0x4000_0000)
        ]
    );
    assert_eq!(
        ranges(&devices.pci_windows),
        [
            (0x300_0000, 0x301_0000),
            (0x4000_0000, 0x8000_0000),
            (0x4_0000_0000, 0x8_0000_0000)
        ]
    );
    assert_eq!(devices.interrupts, [1, 2, 11, 0x20, 0x21]);
    assert_eq!(ranges(&devices.withheld), []);
    let tree = Tree::parse(&blob).unwrap();
    let bridge = tree.node("/soc/pci").unwrap();
    let plic = tree.node("/soc/plic").unwrap().id();
    let lines = bridge.interrupt_map();
    assert!(lines.len() == 3 && lines.iter().all(|line| line.controller == plic));
}

#[test]
fn pages_that_the_hypervisor_keeps_and_ram_are_no_devices() {
    let (_, devices, host) = dom0_of(&soc(), "/bus/interrupts/serial", 2);
    let (console, plic) = ((0x1001_0000, 0x1001_1000), (0x10c0_0000, 0x10f0_0000));
    assert_eq!(ranges(&devices.withheld), [console, plic]);
    assert_eq!(
        ranges(&devices.mmio),
        [
            (0x1000_0000, console.0),
            (console.1, plic.0),
            (plic.1, 0x2000_0000)
        ]
    );
    assert_eq!(host.plic_at, PhysRange::between(plic.0, plic.1));
    // Only harts that kernels get lend their phandles.
    let phandles: Vec<_> = host.cpus.iter().map(|cpu| cpu.phandle).collect();
    assert_eq!(phandles, [Some(18), Some(19)]);
}

/// Two controllers of which the first is switched off, and two UARTs, each at one of them.
fn two_plics() -> Vec<u8> {
    let mut w = Writer::new();
    w.begin("");
    cells(&mut w, 1, 1);
    for (number, status) in [(0, "disabled"), (1, "okay")] {
        node(&mut w, &format!("plic@{number}"), |w| {
            w.text("compatible", "riscv,plic0");
            w.text("status", status);
            w.cells("reg", &[0xc00_0000 + number * 0x100_0000, 0x60_0000]);
            w.u32("#interrupt-cells", 2);
            w.flag("interrupt-controller");
            w.u32("phandle", PLIC + number);
        });
        node(&mut w, &format!("serial@{number}"), |w| {
            w.u32("interrupt-parent", PLIC + number);
            w.cells("interrupts", &[5, 4, 6, 4]);
        });
    }
    w.finish()
}

#[test]
fn the_controller_that_is_on_is_driven_and_another_ones_sources_are_none_of_it() {
    let blob = two_plics();
    let tree = Tree::parse(&blob).unwrap();
    let driven: Vec<_> = plics(&tree).map(|plic| plic.path()).collect();
    assert_eq!(driven, ["/plic@1"]);
    let host = Host::from_tree(&tree, None, 1).unwrap();
    assert_eq!(Some(host.plic), plics(&tree).next().map(|plic| plic.id()));
    let source = |path| source_of(&tree.node(path).unwrap(), host.plic);
    // The first of several, whatever else the specifier says.
    assert_eq!((source("/serial@0"), source("/serial@1")), (None, Some(5)));
}

#[test]
fn what_is_reserved_in_one_way_and_free_in_another_is_not_dom0s() {
    let blob = virt();
    let tree = Tree::parse(&blob).unwrap();
    let host = Host::from_tree(&tree, None, 1).unwrap();
    let mut memory = BootMemory::from_tree(&tree).unwrap();
    let camera = (0x9000_0000, 0x9010_0000);
    let given = |memory: &BootMemory| {
        let mut devices = dom0_devices(&tree, &host, &memory.ram);
        devices.leave_to_hypervisor(memory);
        ranges(&devices.reserved)
    };
    assert_eq!(given(&memory), [camera]);
    let image = PhysRange::between(0x9000_0000, 0x9000_4000);
    memory.occupy(image);
    assert_eq!(given(&memory), [(image.end(), camera.1)]);
    memory.reserved.clear();
    assert_eq!(given(&memory), []);
}

#[test]
fn a_plic_without_phandle_gets_one_and_its_own_shape_of_specifiers() {
    let (blob, _, host) = dom0_of(&soc(), "none", 2);
    let tree = Tree::parse(&blob).unwrap();
    let plic = tree.by_phandle(host.phandle).unwrap();
    assert_eq!(plic.name(), "interrupts@c00000");
    assert_eq!(
        values(&tree, "/hypervisor", "interrupts"),
        [54, EDGE, 55, EDGE]
    );
    let hypervisor = tree.node("/hypervisor").unwrap();
    assert_eq!(hypervisor.interrupts().len(), 2);
    let parsed = Tree::parse(&blob).unwrap();
    let mut phandles: Vec<u32> = parsed.nodes().filter_map(|node| node.phandle()).collect();
    let count = phandles.len();
    phandles.sort_unstable();
    phandles.dedup();
    assert_eq!(phandles.len(), count, "each is one node's");
}

#[test]
fn events_never_have_a_source_of_a_device() {
    // A controller that is full as it says: the tree names few of its sources.
    let (_, devices, host) = dom0_of(&virt_with(1023, 0x60_0000), VIRT_CONSOLE, 4);
    assert_eq!((host.events, host.sources), (1020, 1024));
    assert!(!devices.interrupts.iter().any(|n| (1020..1024).contains(n)));
    // A window with room for two contexts.
    let blob = virt_with(0x60, 0x20_2000);
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(Host::from_tree(&tree, None, 8).unwrap().cpus.len(), 2);
}

#[test]
fn a_machine_that_has_no_room_is_refused_in_one_line() {
    let blob = virt_with(0x60, 0x1000);
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(Host::from_tree(&tree, None, 4), Err(HostError::PlicReg));
    let mut w = Writer::new();
    w.begin("");
    let blob = w.finish();
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(Host::from_tree(&tree, None, 4), Err(HostError::NoPlic));
    let mut w = Writer::new();
    w.begin("");
    cells(&mut w, 2, 2);
    node(&mut w, "plic", |w| {
        w.text("compatible", "riscv,plic0");
        w.u32("phandle", PLIC);
        w.u32("#interrupt-cells", 1);
        w.cells("reg", &[0, 0xc00_0000, 0, 0x60_0000]);
    });
    node(&mut w, "device", |w| {
        w.u32("interrupt-parent", PLIC);
        w.cells("interrupts", &(1..1024).collect::<Vec<_>>());
    });
    let blob = w.finish();
    let tree = Tree::parse(&blob).unwrap();
    let error = Host::from_tree(&tree, None, 4).unwrap_err();
    assert_eq!(error, HostError::NoSource);
    assert!(!error.to_string().contains('\n'));
}

proptest! {
    #[test]
    fn damaged_host_trees_are_survived(
        is_virt: bool, damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut blob = if is_virt { virt() } else { soc() };
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
