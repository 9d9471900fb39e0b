use xenolith_core::boot::{
    fdt::Tree,
    placement::{Bank, Placed, Source},
};

use super::*;

fn plan() -> DomainPlan {
    let memory = PhysRange::between(0x8000_0000, 0x8800_0000);
    DomainPlan {
        banks: alloc::vec![Bank {
            guest: memory,
            direct: false,
        }],
        kernel: Placed {
            at: PhysRange::between(0x8000_0000, 0x8020_0000),
            source: Source::InPlace,
        },
        ramdisk: Some(Placed {
            at: PhysRange::between(0x8700_0000, 0x8710_0000),
            source: Source::InPlace,
        }),
        device_tree: PhysRange::between(0x8720_0000, 0x8720_4000),
        entry: 0x8000_0000,
    }
}

fn request(plan: &DomainPlan) -> Request<'_> {
    Request {
        plan,
        bootargs: "console=hvc0 quiet",
        vcpus: 3,
        uart: true,
        hypervisor: true,
        timer_frequency: 10_000_000,
        isa: "rv64imafdc_sstc",
        mmu: "riscv,sv57",
        devices: &[],
    }
}

#[test]
fn the_tree_tells_what_there_is() {
    let plan = plan();
    let blob = tree(&request(&plan)).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    let chosen = tree.node("/chosen").unwrap();
    assert_eq!(chosen.text("bootargs"), Some("console=hvc0 quiet"));
    assert_eq!(chosen.u64("linux,initrd-end"), Some(0x8710_0000));
    let cpus = tree.node("/cpus").unwrap();
    assert_eq!(cpus.children().count(), 3);
    assert_eq!(cpus.u32("timebase-frequency"), Some(10_000_000));
    let memory = tree.node("/memory@80000000").unwrap();
    assert_eq!(memory.physical_ranges(), [plan.banks[0].guest]);
    // Each context of the controller is the S-mode of one hart, in their order.
    let plic = tree.node("/soc/plic@c000000").unwrap();
    assert_eq!(plic.physical_ranges(), [PLIC]);
    let cells: Vec<u32> = plic.cells("interrupts-extended").collect();
    for (vcpu, pair) in cells.chunks(2).enumerate() {
        let hart = tree.by_phandle(pair[0]).unwrap().parent().unwrap();
        assert_eq!((hart.u32("reg"), pair[1]), (Some(vcpu as u32), EXTERNAL));
    }
    let uart = tree.resolve(chosen.text("stdout-path").unwrap()).unwrap();
    assert_eq!(uart.physical_ranges(), [UART]);
    assert_eq!(uart.u32("interrupts"), Some(UART_SOURCE));
    let node = tree.node("/hypervisor").unwrap();
    let sources: Vec<u32> = node.cells("interrupts").collect();
    assert_eq!(sources, [EVENT_SOURCE, EVENT_SOURCE + 1, EVENT_SOURCE + 2]);
}

#[test]
fn the_room_suffices_for_as_many_vcpus_as_there_can_be() {
    let plan = DomainPlan {
        device_tree: PhysRange::new(0x8720_0000, tree_room(MOST_VCPUS, "x", "rv64imafdc", &[]))
            .unwrap(),
        ..plan()
    };
    let request = Request {
        vcpus: MOST_VCPUS,
        ..request(&plan)
    };
    assert!(tree(&request).is_ok());
}

#[test]
fn a_tree_that_does_not_fit_is_an_error() {
    let plan = DomainPlan {
        device_tree: PhysRange::between(0x8720_0000, 0x8720_0100),
        ..plan()
    };
    assert!(tree(&request(&plan)).is_err());
}

#[test]
fn guests_are_told_of_what_they_can_use() {
    let machine = "rv64imafdcvh_zicntr_zicsr_zifencei_zihintpause_zawrs_zba_zbb_zbs_zcmt_sstc_ssnpm_svinval_zvfh_smaia";
    assert_eq!(
        guest_isa(machine, gives(true, true)),
        "rv64imafdc_zicsr_zifencei_zihintpause_zawrs_zba_zbb_zbs_sstc"
    );
    assert_eq!(
        guest_isa("rv64imafdch_sstc", gives(false, true)),
        "rv64imafdc"
    );
    assert_eq!(guest_isa("", gives(false, true)), "rv64");
    // Registers wider than what is switched are nobody's.
    assert_eq!(guest_isa("rv64imafdqc", gives(true, true)), "rv64imafdc");
    assert_eq!(
        guest_isa("rv64gc_zfa_zcd_zba", gives(true, false)),
        "rv64imac_zicsr_zifencei_zba"
    );
}

fn gives(sstc: bool, fp: bool) -> Gives {
    Gives { sstc, fp }
}
