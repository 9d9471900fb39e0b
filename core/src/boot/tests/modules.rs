use super::super::{
    PhysRange,
    fdt::{Tree, Writer},
    modules::{BootInfo, Enhanced, ModuleKind},
};
use super::{machine, module};
use alloc::string::{String, ToString};

const KERNEL: &[&str] = &["multiboot,module", "multiboot,kernel"];
const RAMDISK: &[&str] = &["multiboot,module", "multiboot,ramdisk"];
const PLAIN: &[&str] = &["multiboot,module"];

/// What `/chosen` says, or the error, as text of what `show` picks.
fn info(chosen: impl FnOnce(&mut Writer), show: impl FnOnce(&BootInfo<'_>)) {
    let blob = machine(1 << 30, chosen);
    let tree = Tree::parse(&blob).unwrap();
    show(&BootInfo::from_tree(&tree, &|_| None).unwrap());
}

fn error(chosen: impl FnOnce(&mut Writer)) -> String {
    let blob = machine(1 << 30, chosen);
    let tree = Tree::parse(&blob).unwrap();
    BootInfo::from_tree(&tree, &|_| None)
        .unwrap_err()
        .to_string()
}

#[test]
fn modules_of_qemus_guest_loader_are_found_in_any_order() {
    info(
        |w| {
            w.text("bootargs", "dom0_mem=512M");
            module(w, RAMDISK, 0x5500_0000, 0x10_0000, None);
            module(w, KERNEL, 0x4900_0000, 0x40_0000, Some("console=hvc0"));
        },
        |info| {
            let dom0 = info.dom0.as_ref().unwrap();
            assert_eq!(info.command_line, "dom0_mem=512M");
            assert_eq!(dom0.bootargs, "console=hvc0");
            assert_eq!(dom0.kernel.range.start(), 0x4900_0000);
            assert_eq!(dom0.ramdisk.as_ref().unwrap().range.size(), 0x10_0000);
            assert_eq!(info.modules().len(), 2);
        },
    );
}

#[test]
fn cells_of_chosen_are_used_as_u_boot_scripts_set_them() {
    info(
        |w| {
            w.u32("#address-cells", 1);
            w.u32("#size-cells", 1);
            w.begin("dom0");
            w.texts("compatible", &["xen,linux-zimage", "xen,multiboot-module"]);
            w.cells("reg", &[0x4700_0000, 0x100_0000]);
            w.end();
        },
        |info| {
            assert_eq!(
                info.dom0.as_ref().unwrap().kernel.range.start(),
                0x4700_0000
            )
        },
    );
}

#[test]
fn modules_without_a_kind_are_kernel_then_ramdisk() {
    let blob = machine(1 << 30, |w| {
        for at in 0..4u32 {
            module(w, PLAIN, 0x4800_0000 + at * 0x10_0000, 0x1000, None);
        }
    });
    let tree = Tree::parse(&blob).unwrap();
    let plain = BootInfo::from_tree(&tree, &|_| None).unwrap();
    let dom0 = plain.dom0.unwrap();
    assert_eq!(dom0.kernel.range.start(), 0x4800_0000);
    assert_eq!(dom0.ramdisk.unwrap().range.start(), 0x4810_0000);
    assert_eq!(plain.unused.len(), 2);
    // A policy in second place is recognised by its first word; the ramdisk must then say what it is.
    let policy = BootInfo::from_tree(&tree, &|at| {
        (at.start() == 0x4810_0000).then_some(0xf97c_ff8c)
    })
    .unwrap();
    assert!(policy.dom0.unwrap().ramdisk.is_none());
    assert_eq!(policy.unused[0].kind, ModuleKind::XsmPolicy);
}

#[test]
fn the_command_lines_follow_xens_rule() {
    let lines =
        |ours: Option<&str>, dom0: Option<&str>, both: Option<&str>, kernel: Option<&str>| {
            let mut out = (String::new(), String::new());
            info(
                |w| {
                    for (name, value) in [
                        ("xen,xen-bootargs", ours),
                        ("xen,dom0-bootargs", dom0),
                        ("bootargs", both),
                    ] {
                        if let Some(value) = value {
                            w.text(name, value);
                        }
                    }
                    module(w, KERNEL, 0x4900_0000, 0x1000, kernel);
                },
                |info| {
                    let dom0 = info.dom0.as_ref().unwrap();
                    out = (info.command_line.into(), dom0.bootargs.into());
                },
            );
            out
        };
    let pair = |a: &str, b: &str| (String::from(a), String::from(b));
    assert_eq!(lines(Some("x"), Some("d"), Some("b"), None), pair("x", "d"));
    assert_eq!(lines(Some("x"), None, Some("b"), None), pair("x", "b"));
    assert_eq!(lines(None, Some("d"), Some("b"), None), pair("b", "d"));
    assert_eq!(lines(None, None, Some("b"), Some("k")), pair("b", "k"));
    assert_eq!(lines(None, None, Some("b"), None), pair("", "b"));
    assert_eq!(lines(Some("x"), Some("d"), None, Some("k")), pair("x", "k"));
}

#[test]
fn linuxs_own_ramdisk_properties_count_when_no_module_is_one() {
    info(
        |w| {
            w.cells("linux,initrd-start", &[0x4a00_0000]);
            w.cells("linux,initrd-end", &[0, 0x4a10_0000]);
            module(w, KERNEL, 0x4900_0000, 0x1000, None);
        },
        |info| {
            let ramdisk = info.dom0.as_ref().unwrap().ramdisk.as_ref().unwrap();
            assert_eq!(
                (ramdisk.range.start(), ramdisk.range.size()),
                (0x4a00_0000, 0x10_0000)
            );
        },
    );
}

fn domain(w: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    w.begin(name);
    w.text("compatible", "xen,domain");
    fill(w);
    w.end();
}

#[test]
fn domains_are_read_with_and_without_a_dom0() {
    info(
        |w| {
            w.text("bootargs", "loglvl=all");
            domain(w, "domU1", |w| {
                w.u32("#address-cells", 2);
                w.u32("#size-cells", 1);
                w.cells("memory", &[0, 131_072]);
                w.u32("cpus", 2);
                w.flag("vpl011");
                w.u32("mode", 5);
                w.text("xen,enhanced", "no-xenstore");
                w.begin("module@4a000000");
                w.texts("compatible", &["multiboot,kernel", "multiboot,module"]);
                w.cells("reg", &[0, 0x4a00_0000, 0x10_0000]);
                w.text("bootargs", "console=ttyAMA0");
                w.end();
            });
        },
        |info| {
            assert!(info.dom0.is_none());
            assert_eq!(info.command_line, "loglvl=all");
            let domain = &info.domains[0];
            assert_eq!(
                (domain.name, domain.cpus, domain.memory),
                ("domU1", 2, 128 << 20)
            );
            assert!(domain.vpl011 && !domain.direct_map);
            assert_eq!(domain.enhanced, Enhanced::NoXenstore);
            let mode = domain.mode.unwrap();
            assert!(mode.is_paravirtual() && mode.is_long() && !mode.has_device_model());
            assert_eq!(domain.bootargs, "console=ttyAMA0");
            assert_eq!(domain.kernel.range.size(), 0x10_0000);
        },
    );
}

#[test]
fn what_is_missing_is_named() {
    assert!(error(|_| {}).contains("names no kernel"));
    assert!(
        error(|w| module(w, RAMDISK, 0x4900_0000, 1, None))
            .contains("/chosen/module@0x49000000 is a ramdisk")
    );
    let twice = error(|w| {
        module(w, KERNEL, 0x4900_0000, 1, None);
        module(w, KERNEL, 0x4a00_0000, 1, None);
    });
    assert!(
        twice.contains("module@0x4a000000 is a second kernel beside /chosen/module@0x49000000"),
        "{twice}"
    );
    let no_reg = error(|w| {
        w.begin("module@0");
        w.texts("compatible", KERNEL);
        w.cells("reg", &[0, 0x4900_0000, 0]);
        w.end();
    });
    assert!(no_reg.contains("reg is missing or malformed"), "{no_reg}");
    let bare = error(|w| domain(w, "domU1", |_| {}));
    assert!(
        bare.contains("/chosen/domU1: a \"multiboot,kernel\" module is missing"),
        "{bare}"
    );
    let no_cpus = error(|w| domain(w, "domU1", |w| module(w, KERNEL, 0x4900_0000, 1, None)));
    assert!(no_cpus.contains("\"cpus\""), "{no_cpus}");
}

/// A domain whose kernel is named by its number in the loader's list.
fn numbered(w: &mut Writer, index: u32) {
    w.begin("guest");
    w.text("compatible", "xen,domain");
    w.u32("cpus", 1);
    w.u64("memory", 65536);
    w.begin("kernel");
    w.texts("compatible", KERNEL);
    w.u32("module-index", index);
    w.text("bootargs", "seed=1");
    w.end();
    w.end();
}

#[test]
fn a_module_may_be_named_by_its_number() {
    let list = [0x10_0000, 0x20_0000].map(|at| PhysRange::between(at, at + 0x1000));
    let blob = machine(1 << 30, |w| numbered(w, 1));
    let tree = Tree::parse(&blob).unwrap();
    let info = BootInfo::with_modules(&tree, &list, &|_| None).unwrap();
    assert!(info.dom0.is_none());
    assert_eq!(info.domains[0].kernel.range, list[1]);
    assert_eq!(info.domains[0].bootargs, "seed=1");
    assert_eq!(info.domains[0].memory, 64 << 20);
}

#[test]
fn a_number_beyond_the_list_is_refused() {
    let said = error(|w| numbered(w, 3));
    assert!(
        said.contains("module-index is 3, and the loader gave 0"),
        "{said}"
    );
}
