//! The emulation over a machine of a few devices, kept in memory.

mod machine;

use std::vec::Vec;

use proptest::prelude::*;
use xenolith_core::{Errno, boot::PhysRange};

use super::*;
use machine::{BAR, DISK, Fake, HOST_BRIDGE, IOAPIC, MSI_AT, MSIX_AT, NETWORK, TABLE};

const COMMAND: u16 = register::COMMAND;

fn all(fake: &mut Fake) -> Functions {
    Functions::find(fake, |_| true, Wants::Messages)
}

/// A message to the local APIC with this number.
fn signal(id: u64, vector: u32) -> Signal {
    Signal {
        address: 0xfee0_0000 | id << 12,
        data: vector,
    }
}

fn set_msi(pci: &mut Functions, fake: &mut Fake, signal: Signal, control: u32) {
    pci.write(fake, DISK, MSI_AT + 4, 4, signal.address as u32);
    pci.write(fake, DISK, MSI_AT + 8, 4, (signal.address >> 32) as u32);
    pci.write(fake, DISK, MSI_AT + 12, 2, signal.data);
    pci.write(fake, DISK, MSI_AT + 2, 2, control);
}

fn set_entry(pci: &mut Functions, fake: &mut Fake, entry: u64, signal: Signal) {
    let at = TABLE + entry * 16;
    pci.memory_write(fake, at, 4, signal.address & 0xffff_ffff);
    pci.memory_write(fake, at + 4, 4, signal.address >> 32);
    pci.memory_write(fake, at + 8, 4, signal.data.into());
    pci.memory_write(fake, at + 12, 4, 0);
}

#[test]
fn functions_are_found_and_others_read_as_all_ones() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    assert_eq!(pci.count(), 4);
    assert_eq!(pci.read(&mut fake, NETWORK, 0, 4), 0x1234_8086);
    assert_eq!(pci.read(&mut fake, Bdf(0x70), 0, 4), u32::MAX);
    // Across words, and sizes that there are not.
    assert_eq!(pci.read(&mut fake, NETWORK, 3, 2), u32::MAX);
    assert_eq!(pci.read(&mut fake, NETWORK, 0x1000, 4), u32::MAX);
}

#[test]
fn the_device_sends_the_hypervisors_message_and_the_domain_reads_its_own() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    let wanted = signal(2, 0x41);
    set_msi(&mut pci, &mut fake, wanted, 1);
    assert_eq!(fake.sent(DISK, MSI_AT), Fake::physical(0));
    assert_eq!(fake.open, [Some(Arrival::Message(wanted))]);
    assert_eq!(fake.word(DISK, MSI_AT) >> 16 & 1, 1);
    assert_eq!(pci.read(&mut fake, DISK, MSI_AT + 4, 4), 0xfee0_2000);
    assert_eq!(pci.read(&mut fake, DISK, MSI_AT + 12, 2), 0x41);
    // One message, wide, enabled; the capability's number and the way to the next are the device's.
    assert_eq!(pci.read(&mut fake, DISK, MSI_AT, 4), 0x0081_0005);
    set_msi(&mut pci, &mut fake, wanted, 0);
    assert_eq!(fake.open, [None]);
    assert_eq!(fake.word(DISK, MSI_AT) >> 16 & 1, 0);
}

#[test]
fn a_domain_that_wants_numbers_sends_nothing_by_messages_of_its_own() {
    let mut fake = Fake::new();
    let mut pci = Functions::find(&mut fake, |_| true, Wants::Numbers);
    set_msi(&mut pci, &mut fake, signal(2, 0x41), 1);
    set_entry(&mut pci, &mut fake, 1, signal(4, 0x52));
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0x8000);
    assert!(fake.messages().is_empty());
    assert!(fake.open.is_empty());
}

#[test]
fn a_numbered_message_is_sent_while_the_domain_enables_it() {
    let mut fake = Fake::new();
    let mut pci = Functions::find(&mut fake, |_| true, Wants::Numbers);
    assert_eq!(pci.number(&mut fake, DISK, None, 99), Ok(()));
    assert_eq!(pci.number(&mut fake, NETWORK, Some(1), 98), Ok(()));
    assert_eq!(
        fake.open,
        [Some(Arrival::Number(99)), Some(Arrival::Number(98))]
    );
    assert!(fake.messages().is_empty());
    pci.write(&mut fake, DISK, MSI_AT + 2, 2, 1);
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0x8000);
    assert_eq!(fake.messages(), [Fake::physical(0), Fake::physical(1)]);
    // The place stays while the device rests.
    pci.write(&mut fake, DISK, MSI_AT + 2, 2, 0);
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0);
    assert!(fake.messages().is_empty());
    assert!(fake.open.iter().all(Option::is_some));
    pci.forget_number(&mut fake, DISK, None);
    pci.forget_number(&mut fake, NETWORK, Some(1));
    pci.write(&mut fake, DISK, MSI_AT + 2, 2, 1);
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0x8000);
    assert!(fake.messages().is_empty());
    assert!(fake.open.iter().all(Option::is_none));
}

#[test]
fn numbers_are_for_messages_that_exist_and_have_none() {
    let mut fake = Fake::new();
    let mut pci = Functions::find(&mut fake, |_| true, Wants::Numbers);
    assert_eq!(pci.number(&mut fake, DISK, None, 9), Ok(()));
    assert_eq!(pci.number(&mut fake, DISK, None, 8), Err(Errno::EEXIST));
    assert_eq!(pci.number(&mut fake, DISK, Some(0), 8), Err(Errno::ENODEV));
    assert_eq!(pci.number(&mut fake, NETWORK, None, 8), Err(Errno::ENODEV));
    assert_eq!(
        pci.number(&mut fake, NETWORK, Some(4), 8),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        pci.number(&mut fake, Bdf(0x70), None, 8),
        Err(Errno::ENODEV)
    );
    fake.full = true;
    assert_eq!(
        pci.number(&mut fake, NETWORK, Some(0), 8),
        Err(Errno::ENOSPC)
    );
    fake.full = false;
    assert_eq!(pci.number(&mut fake, NETWORK, Some(0), 8), Ok(()));
}

#[test]
fn a_device_that_was_reset_is_told_its_messages_again() {
    let mut fake = Fake::new();
    let mut pci = Functions::find(&mut fake, |_| true, Wants::Numbers);
    pci.number(&mut fake, DISK, None, 9).unwrap();
    pci.write(&mut fake, DISK, MSI_AT + 2, 2, 1);
    let before = fake.messages();
    for register in [4, 8, 12] {
        fake.config_write(DISK, MSI_AT + register, 4, 0);
    }
    fake.config_write(DISK, MSI_AT + 2, 2, 0);
    assert_eq!(pci.restore(&mut fake, DISK), Ok(()));
    assert_eq!(fake.messages(), before);
    assert_eq!(pci.restore(&mut fake, Bdf(0x70)), Err(Errno::ENODEV));
}

#[test]
fn a_message_that_is_no_interrupt_is_never_sent() {
    let ram = Signal {
        address: 0x1000,
        data: 0x41,
    };
    // Vectors below 16 are the CPU's; a reserved mode.
    for bad in [ram, signal(0, 8), signal(0, 0x341)] {
        let mut fake = Fake::new();
        let mut pci = all(&mut fake);
        set_msi(&mut pci, &mut fake, bad, 1);
        assert_eq!(fake.word(DISK, MSI_AT) >> 16 & 1, 0);
        set_entry(&mut pci, &mut fake, 0, bad);
        pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0x8000);
        assert_eq!(fake.memory_word(TABLE + 12), 1);
        assert!(fake.open.iter().all(Option::is_none));
    }
}

#[test]
fn a_table_in_memory_is_the_domains_own_and_the_devices_follows() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    let wanted = signal(4, 0x52);
    set_entry(&mut pci, &mut fake, 1, wanted);
    // Nothing is asked for before the device may send.
    assert_eq!(fake.memory_word(TABLE + 16 + 12), 1);
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0x8000);
    assert_eq!(fake.open, [Some(Arrival::Message(wanted))]);
    assert_eq!(
        fake.memory_word(TABLE + 16),
        Fake::physical(0).address as u32
    );
    assert_eq!(fake.memory_word(TABLE + 16 + 8), Fake::physical(0).data);
    assert_eq!(fake.memory_word(TABLE + 16 + 12), 0);
    assert_eq!(pci.memory_read(&mut fake, TABLE + 16, 4), wanted.address);
    assert_eq!(pci.memory_read(&mut fake, TABLE + 16, 8), wanted.address);
    assert_eq!(pci.memory_read(&mut fake, TABLE + 24, 8), 0x52);
    // Masked and moved to another CPU, with the same place here.
    pci.memory_write(&mut fake, TABLE + 28, 4, 1);
    assert_eq!(fake.memory_word(TABLE + 28), 1);
    set_entry(&mut pci, &mut fake, 1, signal(6, 0x53));
    assert_eq!(fake.open, [Some(Arrival::Message(signal(6, 0x53)))]);
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0);
    assert_eq!(fake.open, [None]);
    assert_eq!(fake.memory_word(TABLE + 28), 1);
}

#[test]
fn what_else_is_in_the_page_of_a_table_is_the_devices() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    assert_eq!(pci.place(TABLE), Place::Table);
    assert_eq!(pci.place(BAR), Place::Registers);
    assert_eq!(pci.place(BAR + 0x4000), Place::Nothing);
    let behind = TABLE + 4 * 16;
    pci.memory_write(&mut fake, behind, 4, 7);
    assert_eq!(fake.memory_word(behind), 7);
    assert_eq!(pci.memory_read(&mut fake, behind, 4), 7);
    // Half in the table.
    pci.memory_write(&mut fake, behind - 4, 8, 0);
    assert_eq!(fake.memory_word(behind), 7);
    assert!(!pci.is_registers(&PhysRange::between(BAR, BAR + 0x4000)));
    assert!(pci.is_registers(&PhysRange::between(BAR, TABLE)));
}

#[test]
fn a_table_is_guarded_where_its_memory_moves_to() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    let memory = BAR + 0x10_0000;
    // Ignored while the device decodes.
    pci.write(&mut fake, NETWORK, 0x10, 4, memory as u32);
    assert_eq!(fake.word(NETWORK, 0x10), BAR as u32);
    pci.write(&mut fake, NETWORK, COMMAND, 2, 0);
    assert_eq!(pci.place(TABLE), Place::Nothing);
    assert!(
        fake.forgotten
            .contains(&PhysRange::between(BAR, BAR + 0x4000))
    );
    pci.write(&mut fake, NETWORK, 0x10, 4, u32::MAX);
    assert_eq!(pci.read(&mut fake, NETWORK, 0x10, 4), 0xffff_c000);
    pci.write(&mut fake, NETWORK, 0x10, 4, memory as u32);
    pci.write(&mut fake, NETWORK, COMMAND, 2, 6);
    let table = TABLE + 0x10_0000;
    assert_eq!(pci.place(table), Place::Table);
    assert!(
        fake.forgotten
            .contains(&PhysRange::between(table, table + 0x1000))
    );
    assert_eq!(fake.memory_word(table + 12), 1);
}

#[test]
fn a_device_decodes_nothing_where_ram_or_the_hypervisor_is() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    pci.write(&mut fake, NETWORK, COMMAND, 2, 0);
    for bad in [0, 0x10_0000, 0xfee0_0000u32, 0xffff_c000] {
        pci.write(&mut fake, NETWORK, 0x10, 4, bad);
        pci.write(&mut fake, NETWORK, COMMAND, 2, 7);
        assert_eq!(fake.word(NETWORK, COMMAND) & 2, 0, "{bad:#x}");
        assert_eq!(pci.place(bad.into()), Place::Nothing);
    }
}

#[test]
fn the_chipsets_own_registers_stay_as_they_are() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    let before = fake.word(HOST_BRIDGE, 0x60);
    pci.write(&mut fake, HOST_BRIDGE, 0x60, 4, !before);
    assert_eq!(fake.word(HOST_BRIDGE, 0x60), before);
    // A function that decodes registers of the hypervisor's, an interrupt controller.
    let before = fake.word(IOAPIC, 0x10);
    pci.write(&mut fake, IOAPIC, COMMAND, 2, 0);
    pci.write(&mut fake, IOAPIC, 0x10, 4, 0);
    assert_eq!(
        (fake.word(IOAPIC, COMMAND) & 2, fake.word(IOAPIC, 0x10)),
        (2, before)
    );
    assert_eq!(pci.place(before.into()), Place::Nothing);
}

#[test]
fn capabilities_that_move_memory_are_neither_seen_nor_written() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    // The first in the list is a serial number, the second resizes base addresses.
    assert_eq!(pci.read(&mut fake, NETWORK, 0x100, 4), 0x1400_0003);
    assert_eq!(pci.read(&mut fake, NETWORK, 0x140, 4), 0);
    pci.write(&mut fake, NETWORK, 0x148, 4, 5);
    assert_eq!(fake.word(NETWORK, 0x148), 0);
    pci.write(&mut fake, NETWORK, 0x104, 4, 5);
    assert_eq!(fake.word(NETWORK, 0x104), 5);
}

#[test]
fn nothing_is_sent_once_the_domain_is_gone() {
    let mut fake = Fake::new();
    let mut pci = all(&mut fake);
    set_msi(&mut pci, &mut fake, signal(0, 0x41), 1);
    set_entry(&mut pci, &mut fake, 0, signal(0, 0x42));
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0x8000);
    pci.close(&mut fake);
    assert!(fake.open.iter().all(Option::is_none));
    assert_eq!(fake.word(DISK, MSI_AT) >> 16 & 1, 0);
    assert_eq!(fake.word(NETWORK, MSIX_AT) >> 31, 0);
    assert_eq!(fake.word(NETWORK, COMMAND) & 4, 0);
}

#[test]
fn a_device_for_which_no_vector_is_left_stays_silent() {
    let mut fake = Fake::new();
    fake.full = true;
    let mut pci = all(&mut fake);
    set_msi(&mut pci, &mut fake, signal(0, 0x41), 1);
    assert_eq!(fake.word(DISK, MSI_AT) >> 16 & 1, 0);
    set_entry(&mut pci, &mut fake, 0, signal(0, 0x42));
    pci.write(&mut fake, NETWORK, MSIX_AT + 2, 2, 0x8000);
    assert_eq!(fake.memory_word(TABLE + 12), 1);
}

/// What a hostile domain does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Config(u8, u16, u8, u32),
    Memory(u64, u8, u64),
}

fn a_step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        any::<u32>(),
        Just(u32::MAX),
        Just(0),
        Just(BAR as u32),
        Just(0xfee0_1000),
        Just(0x8000_8000),
        0u32..8,
    ];
    let size = prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
    // Mostly where something is.
    let register = prop_oneof![0u16..0x70, 0x100u16..0x160, any::<u16>()];
    let config = (0u8..4, register, size.clone(), value);
    let memory = (0u64..0x5000, size, any::<u64>());
    prop_oneof![
        config.prop_map(|(who, register, size, value)| Step::Config(who, register, size, value)),
        memory.prop_map(|(at, size, value)| Step::Memory(BAR + at, size, value)),
    ]
}

proptest! {
    #[test]
    fn whatever_a_domain_writes_devices_send_only_what_was_chosen_for_them(
        steps in proptest::collection::vec(a_step(), 1..200)
    ) {
        let mut fake = Fake::new();
        let mut pci = all(&mut fake);
        for step in steps {
            match step {
                Step::Config(who, register, size, value) => {
                    let at = [HOST_BRIDGE, DISK, NETWORK, IOAPIC][usize::from(who)];
                    pci.write(&mut fake, at, register, size, value);
                    let _ = pci.read(&mut fake, at, register, size);
                }
                Step::Memory(address, size, value) => match pci.place(address) {
                    Place::Table => {
                        pci.memory_write(&mut fake, address, size.into(), value);
                        let _ = pci.memory_read(&mut fake, address, size.into());
                    }
                    // What is mapped is written by the domain itself.
                    Place::Registers => fake.memory_write(address & !7, 4, value),
                    Place::Nothing => {}
                },
            }
            let messages: Vec<Signal> = fake.messages();
            for message in messages {
                let mine = (0..fake.open.len()).any(|n| Fake::physical(n) == message && fake.open[n].is_some());
                prop_assert!(mine, "{:x?} after {:x?}", message, step);
            }
            prop_assert_eq!(fake.word(IOAPIC, COMMAND) & 2, 2);
        }
        pci.close(&mut fake);
        prop_assert!(fake.messages().is_empty());
        prop_assert!(fake.open.iter().all(Option::is_none));
    }
}
