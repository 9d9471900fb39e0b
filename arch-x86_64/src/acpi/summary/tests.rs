use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::super::{
    fadt::{Register, power_off_type},
    madt::{IoApic, LocalApic, Override},
    sums_to_zero,
};
use super::*;
use crate::domain_build::acpi_tables;

/// Physical memory with tables in it.
struct Machine {
    memory: Vec<u8>,
    tables: Vec<u32>,
}

const ROOT: usize = 0x100;

impl Machine {
    fn new() -> Self {
        Self {
            memory: vec![0; 0x400],
            tables: Vec::new(),
        }
    }

    /// Puts a table of this content behind its header into memory; returns its address.
    fn put(&mut self, signature: &[u8; 4], content: &[u8]) -> u32 {
        let at = self.memory.len();
        let mut table = signature.to_vec();
        table.extend(((HEADER + content.len()) as u32).to_le_bytes());
        table.resize(HEADER, 0);
        table.extend(content);
        table[9] = sum(&table);
        self.memory.extend(table);
        self.memory
            .resize(self.memory.len().next_multiple_of(16), 0);
        at as u32
    }

    fn list(&mut self, signature: &[u8; 4], content: &[u8]) {
        let at = self.put(signature, content);
        self.tables.push(at);
    }

    fn finish(&mut self) {
        let list: Vec<u8> = self.tables.iter().flat_map(|at| at.to_le_bytes()).collect();
        let list = self.put(b"RSDT", &list);
        let mut root = b"RSD PTR \0TESTER\0".to_vec();
        root.extend(list.to_le_bytes());
        root[8] = sum(&root);
        self.memory[ROOT..ROOT + 20].copy_from_slice(&root);
    }

    fn read(&self) -> Result<Acpi<'_>, &'static str> {
        let look = |at: u64, len: usize| {
            let at = usize::try_from(at).ok()?;
            self.memory.get(at..at.checked_add(len)?)
        };
        Acpi::read(ROOT as u64, &look)
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |s, b| s.wrapping_sub(*b))
}

const S5: &[u8] = b"\x10\x20_SB_\x08_S5_\x12\x06\x04\x0a\x05\x0b\x03\x00\x00\x00";

fn pc() -> Machine {
    let mut machine = Machine::new();
    let dsdt = machine.put(b"DSDT", S5);
    let mut fadt = vec![0; 244 - HEADER];
    let mut set = |at: usize, bytes: &[u8]| {
        fadt[at - HEADER..][..bytes.len()].copy_from_slice(bytes);
    };
    set(40, &dsdt.to_le_bytes());
    set(46, &9u16.to_le_bytes());
    set(56, &0x600u32.to_le_bytes());
    set(64, &0x604u32.to_le_bytes());
    set(76, &0x608u32.to_le_bytes());
    set(88, &[4, 2]);
    set(112, &(1u32 << 10 | 1 << 8).to_le_bytes());
    set(116, &[1, 8, 0, 0, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]);
    machine.list(b"FACP", &fadt);
    let mut madt = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    madt.extend([0, 8, 1, 1, 0, 0, 0, 0]);
    madt.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    madt.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    madt.extend([4, 6, 0xff, 0, 0, 1]);
    machine.list(b"APIC", &madt);
    let mut mcfg = vec![0; 8];
    mcfg.extend(0xb000_0000u64.to_le_bytes());
    mcfg.extend([0, 0, 0, 255, 0, 0, 0, 0]);
    machine.list(b"MCFG", &mcfg);
    machine.list(
        b"HPET",
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xd0, 0xfe, 0, 0, 0, 0],
    );
    machine.list(b"SSDT", &[]);
    let mut srat = vec![0; 12];
    srat.extend([2, 24, 0, 0, 1, 0, 0, 0, 44, 1, 0, 0, 1, 0, 0, 0]);
    srat.resize(12 + 24, 0);
    machine.list(b"SRAT", &srat);
    let mut dmar = vec![0; 12];
    dmar.extend([0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0]);
    machine.list(b"DMAR", &dmar);
    machine.finish();
    machine
}

#[test]
fn a_pc_s_tables_tell_everything_at_once() {
    let machine = pc();
    let acpi = machine.read().unwrap();
    assert_eq!(acpi.apic_ids().collect::<Vec<_>>(), [0, 300]);
    let second = LocalApic {
        uid: 1,
        id: 1,
        enabled: false,
    };
    assert_eq!(acpi.madt.cpus[1], second);
    let ioapic = IoApic {
        id: 0,
        at: 0xfec0_0000,
        first: 0,
    };
    assert_eq!(acpi.madt.ioapics, [ioapic]);
    let timer = Override {
        source: 0,
        gsi: 2,
        flags: 0,
    };
    assert_eq!(acpi.madt.overrides, [timer]);
    assert_eq!((acpi.madt.nmis[0].uid, acpi.madt.nmis[0].input), (None, 1));
    let fadt = acpi.fadt.unwrap();
    assert_eq!(
        (fadt.sci, fadt.pm1_event[0], fadt.pm1_control),
        (9, 0x600, [0x604, 0])
    );
    assert_eq!((fadt.timer, fadt.timer_is_32_bit), (0x608, true));
    assert_eq!(fadt.reset, Some((Register::Port(0xcf9), 6)));
    assert_eq!(acpi.power_off, Some(SleepType { a: 5, b: 3 }));
    assert_eq!(acpi.config_spaces[0].base, 0xb000_0000);
    assert_eq!(acpi.hpet, Some(0xfed0_0000));
    assert!(acpi.has(b"MCFG") && !acpi.has(b"IVRS"));
    assert_eq!(acpi.srat.unwrap().nodes.first(), Some(&1));
    assert_eq!(acpi.iommus.len(), 1);
    assert_eq!(acpi.iommus[0].units[0].start(), 0xfed9_0000);
}

fn with_madt(entries: &[&[u8]]) -> Result<Vec<u32>, &'static str> {
    let mut machine = Machine::new();
    let entries = [&[0, 0, 0xe0, 0xfe, 1, 0, 0, 0], entries.concat().as_slice()].concat();
    machine.list(b"APIC", &entries);
    machine.finish();
    machine.read().map(|acpi| acpi.apic_ids().collect())
}

#[test]
fn only_cpus_that_are_enabled_count_and_each_once() {
    let ids = with_madt(&[
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0x80, 4, 9, 9],
        &[0, 8, 1, 4, 0, 0, 0, 0],
        &[9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        &[9, 16, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[9, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[10, 12, 5, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0],
    ]);
    assert_eq!(ids.unwrap(), [0, 300, 4]);
}

#[test]
fn the_nmi_of_an_x2apic_is_that_of_its_processor() {
    let mut table = vec![0; HEADER + 8];
    table.extend([10, 12, 5, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0]);
    table.extend([10, 12, 5, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let nmis = Madt::parse(&table).unwrap().nmis;
    let places: Vec<_> = nmis.iter().map(|nmi| (nmi.uid, nmi.input)).collect();
    assert_eq!(places, [(Some(300), 1), (None, 0)]);
}

#[test]
fn madt_entries_that_lie_about_their_size_are_refused() {
    for entry in [
        &[0u8, 0, 0, 0][..],
        &[0, 200, 0, 0],
        &[9, 4, 0, 0],
        &[10, 4, 0, 0],
    ] {
        assert!(with_madt(&[entry]).unwrap_err().contains("cut short"));
    }
}

#[test]
fn a_root_pointer_that_is_none_is_named() {
    let nothing = |_: u64, _: usize| None;
    let error = Acpi::read(0x1000, &nothing).unwrap_err();
    assert!(error.contains("root pointer"));
    let zeroes = |_: u64, len: usize| [0u8; 64].get(..len).map(|b| &*b.to_vec().leak());
    let error = Acpi::read(0x1000, &zeroes).unwrap_err();
    assert!(error.contains("root pointer"));
}

#[test]
fn a_name_that_is_only_mentioned_is_not_its_definition() {
    assert_eq!(
        power_off_type(b"_S5_\x12\x06\x04\x0a\x05\x0a\x05\x00\x00"),
        None
    );
    let both = [
        b"\x70_S5_\x60".as_slice(),
        b"\x08\\_S5_\x12\x05\x02\x01\x00",
    ]
    .concat();
    assert_eq!(power_off_type(&both), Some(SleepType { a: 1, b: 0 }));
    assert_eq!(power_off_type(b"\x08_S5_\x12\xc6"), None);
}

#[test]
fn dom0_sees_its_own_cpus_and_the_machine_s_other_tables() {
    let machine = pc();
    let host = machine.read().unwrap();
    let vcpus = [0, 2, 4, 600];
    let at = 0x2000u64;
    let tables = acpi_tables::build(&host, &vcpus, at);
    assert_eq!(tables.len(), acpi_tables::size(&host, &vcpus));
    let look = |address: u64, len: usize| {
        let own = address.checked_sub(at).map(|at| at as usize);
        own.and_then(|at| tables.get(at..at + len))
            .or_else(|| machine.memory.get(address as usize..address as usize + len))
    };
    assert!(sums_to_zero(&tables[..20]) && sums_to_zero(&tables[..36]));
    let dom0 = Acpi::read(at, &look).unwrap();
    assert_eq!(dom0.apic_ids().collect::<Vec<_>>(), vcpus);
    assert_eq!(dom0.madt.ioapics, host.madt.ioapics);
    assert_eq!(dom0.madt.overrides, host.madt.overrides);
    assert_eq!((dom0.fadt, dom0.power_off), (host.fadt, host.power_off));
    assert!(dom0.has(b"SSDT"));
    let hidden = [b"HPET", b"SRAT", b"DMAR", b"IVRS"];
    assert!(hidden.iter().all(|name| !dom0.has(name)));
    assert_eq!(dom0.config_spaces, host.config_spaces);
}

#[test]
fn configuration_of_buses_from_another_than_the_first_lies_behind_the_base() {
    let mut space = ConfigSpace {
        base: 0xb000_0000,
        segment: 0,
        first_bus: 2,
        last_bus: 3,
    };
    let range = PhysRange::between(0xb020_0000, 0xb040_0000);
    assert_eq!(space.range(), Some(range));
    space.last_bus = 1;
    assert_eq!(space.range(), None);
    (space.base, space.last_bus) = (u64::MAX, 255);
    assert_eq!(space.range(), None);
}

proptest! {
    #[test]
    fn damaged_tables_are_survived(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        mend in any::<bool>(),
    ) {
        let mut machine = pc();
        for (at, value) in damage {
            let at = at.index(machine.memory.len());
            machine.memory[at] = value;
        }
        if mend {
            for at in machine.tables.clone() {
                let at = at as usize;
                let size = u32::from_le_bytes(machine.memory[at + 4..at + 8].try_into().unwrap()) as usize;
                if let Some(table) = at.checked_add(size).and_then(|end| machine.memory.get_mut(at..end))
                    && table.len() > 10
                {
                    let missing = sum(table);
                    table[9] = table[9].wrapping_add(missing);
                }
            }
        }
        if let Ok(acpi) = machine.read() {
            let _ = acpi_tables::build(&acpi, &[0, 1], 0x1000);
        }
    }

    #[test]
    fn any_byte_code_is_survived(mut code in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = power_off_type(&code);
        code.splice(0..0, *b"\x08_S5_\x12");
        let _ = power_off_type(&code);
    }
}
