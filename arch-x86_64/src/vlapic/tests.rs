use std::{vec, vec::Vec};

use super::{registers::number, *};
use crate::msr::GeneralProtection;

const NOW: Nanos = Nanos(1_000_000);
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;

fn at(register: u32) -> u32 {
    register << 4
}

fn msr(register: u32) -> u32 {
    0x800 + register
}

/// Enabled in software, as a kernel leaves it.
fn enabled(id: u32) -> VLapic {
    let lapic = VLapic::new(id);
    lapic.write(at(number::SPURIOUS), 0x1ff, NOW);
    lapic
}

fn x2apic(id: u32) -> VLapic {
    let lapic = enabled(id);
    let base = lapic.read_msr(0x1b, NOW).unwrap();
    assert_eq!(
        lapic.write_msr(0x1b, base | 1 << 10, NOW),
        Ok(Effect::Mode(Mode::X2Apic))
    );
    lapic
}

#[test]
fn after_power_on_nothing_is_accepted_and_all_entries_are_masked() {
    let lapic = VLapic::new(0);
    assert_eq!(lapic.read_msr(0x1b, NOW), Ok(0xfee0_0900));
    assert!(!lapic.is_enabled());
    assert!(!lapic.accept(0x40, Trigger::Edge));
    assert_eq!(lapic.deliverable(), None);
    for entry in number::LVT_TIMER..=number::LVT_ERROR {
        assert_eq!(lapic.read(at(entry), NOW), MASKED);
    }
    assert_eq!(lapic.read(at(number::VERSION), NOW), 0x0005_0014);
    assert_eq!(lapic.read(at(number::SPURIOUS), NOW), 0xff);
    assert_eq!(lapic.read(at(number::DESTINATION_FORMAT), NOW), u32::MAX);
}

#[test]
fn the_highest_request_is_taken_first_and_holds_back_its_class() {
    let lapic = enabled(0);
    assert!(lapic.accept(0x41, Trigger::Edge));
    assert!(!lapic.accept(0x41, Trigger::Edge));
    assert!(lapic.accept(0xef, Trigger::Edge));
    assert_eq!(lapic.deliverable(), Some(0xef));
    lapic.acknowledge(0xef);
    assert_eq!(lapic.read(at(number::PROCESSOR_PRIORITY), NOW), 0xe0);
    assert_eq!(lapic.deliverable(), None);
    assert!(lapic.accept(0xee, Trigger::Edge));
    assert_eq!(lapic.deliverable(), None);
    assert!(lapic.accept(0xf1, Trigger::Edge));
    assert_eq!(lapic.deliverable(), Some(0xf1));
    lapic.acknowledge(0xf1);
    assert_eq!(
        lapic.write(at(number::END_OF_INTERRUPT), 0, NOW),
        Effect::None
    );
    assert_eq!(lapic.deliverable(), None);
    lapic.end_of_interrupt();
    assert_eq!(lapic.deliverable(), Some(0xee));
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let lapic = enabled(0);
    lapic.accept(0x5f, Trigger::Edge);
    lapic.set_tpr(5);
    assert_eq!((lapic.deliverable(), lapic.tpr()), (None, 5));
    assert_eq!(lapic.read(at(number::TASK_PRIORITY), NOW), 0x50);
    lapic.write(at(number::TASK_PRIORITY), 0x4f, NOW);
    assert_eq!(lapic.deliverable(), Some(0x5f));
}

#[test]
fn sets_read_as_eight_registers_each() {
    let lapic = enabled(0);
    lapic.accept(0x21, Trigger::Level);
    lapic.accept(0xff, Trigger::Edge);
    assert_eq!(lapic.read(at(number::REQUEST + 1), NOW), 2);
    assert_eq!(lapic.read(at(number::REQUEST + 7), NOW), 1 << 31);
    assert_eq!(lapic.read(at(number::TRIGGER_MODE + 1), NOW), 2);
    lapic.acknowledge(0xff);
    assert_eq!(lapic.read(at(number::IN_SERVICE + 7), NOW), 1 << 31);
    assert_eq!(lapic.read(at(number::REQUEST + 7), NOW), 0);
}

#[test]
fn the_end_of_a_level_is_told_and_that_of_an_edge_is_not() {
    let lapic = enabled(0);
    lapic.accept(0x30, Trigger::Level);
    lapic.acknowledge(0x30);
    assert_eq!(lapic.end_of_interrupt(), Effect::Eoi(0x30));
    assert_eq!(lapic.end_of_interrupt(), Effect::None);
    lapic.accept(0x30, Trigger::Edge);
    lapic.acknowledge(0x30);
    assert_eq!(lapic.end_of_interrupt(), Effect::None);
}

#[test]
fn software_disable_masks_all_entries_and_stops_the_timer() {
    let lapic = enabled(0);
    lapic.write(at(number::LVT_TIMER), 0x30, NOW);
    assert_eq!(
        lapic.write(at(number::SPURIOUS), 0xff, NOW),
        Effect::Timer(None)
    );
    assert_eq!(lapic.read(at(number::LVT_TIMER), NOW), 0x30 | MASKED);
    lapic.write(at(number::LVT_TIMER), 0x30, NOW);
    assert_eq!(lapic.read(at(number::LVT_TIMER), NOW), 0x30 | MASKED);
}

#[test]
fn a_one_shot_timer_fires_once() {
    let lapic = enabled(0);
    lapic.write(at(number::TIMER_DIVIDE), 0b1011, NOW);
    lapic.write(at(number::LVT_TIMER), 0xec, NOW);
    let end = NOW.plus(Nanos(10_000));
    assert_eq!(
        lapic.write(at(number::TIMER_INITIAL), 1000, NOW),
        Effect::Timer(Some(end))
    );
    let half = NOW.plus(Nanos(5_000));
    assert_eq!(lapic.read(at(number::TIMER_CURRENT), half), 500);
    assert_eq!(lapic.timer_fired(half), Some(end));
    assert_eq!(lapic.deliverable(), None);
    // Reading the count after its end does not swallow the interrupt.
    assert_eq!(lapic.read(at(number::TIMER_CURRENT), end), 0);
    assert_eq!(lapic.timer_fired(end), None);
    assert_eq!(lapic.deliverable(), Some(0xec));
    lapic.acknowledge(0xec);
    assert_eq!(lapic.timer_fired(end.plus(Nanos(99))), None);
    assert_eq!(lapic.deliverable(), None);
}

#[test]
fn a_periodic_timer_goes_on_and_does_not_make_up_for_what_it_missed() {
    let lapic = enabled(0);
    lapic.write(at(number::TIMER_DIVIDE), 0b0011, NOW);
    lapic.write(at(number::LVT_TIMER), 0xec | PERIODIC, NOW);
    let period = Nanos(1_600_000);
    lapic.write(at(number::TIMER_INITIAL), 10_000, NOW);
    let first = NOW.plus(period);
    assert_eq!(lapic.deadline(), Some(first));
    assert_eq!(lapic.timer_fired(first), Some(first.plus(period)));
    let late = Nanos(first.0 + 5 * period.0 + 3);
    assert_eq!(lapic.timer_fired(late), Some(Nanos(first.0 + 6 * period.0)));
    assert_eq!(lapic.read(at(number::TIMER_CURRENT), late), 10_000);
}

#[test]
fn a_period_of_nanoseconds_does_not_keep_the_host_busy() {
    let lapic = enabled(0);
    lapic.write(at(number::TIMER_DIVIDE), 0b1011, NOW);
    lapic.write(at(number::LVT_TIMER), 0xec | PERIODIC, NOW);
    lapic.write(at(number::TIMER_INITIAL), 1, NOW);
    let first = lapic.deadline().unwrap();
    assert!(lapic.timer_fired(first).unwrap() >= first.plus(Nanos::from_micros(50)));
}

#[test]
fn a_masked_timer_asks_for_no_wake_up_and_ends_silently() {
    let lapic = enabled(0);
    assert_eq!(
        lapic.write(at(number::TIMER_INITIAL), 100, NOW),
        Effect::Timer(None)
    );
    assert_eq!(lapic.read(at(number::TIMER_CURRENT), NOW), 100);
    let later = NOW.plus(Nanos::from_millis(1));
    assert_eq!(
        lapic.write(at(number::LVT_TIMER), 0xec, later),
        Effect::Timer(None)
    );
    assert_eq!(lapic.timer_fired(later), None);
    assert_eq!(lapic.deliverable(), None);
}

#[test]
fn a_new_divisor_keeps_the_count() {
    let lapic = enabled(0);
    lapic.write(at(number::LVT_TIMER), 0xec, NOW);
    lapic.write(at(number::TIMER_DIVIDE), 0b1011, NOW);
    lapic.write(at(number::TIMER_INITIAL), 1000, NOW);
    assert_eq!(
        lapic.write(at(number::TIMER_DIVIDE), 0b1010, NOW),
        Effect::Timer(Some(NOW.plus(Nanos(1_280_000))))
    );
    assert_eq!(lapic.read(at(number::TIMER_CURRENT), NOW), 1000);
}

#[test]
fn modes_change_only_along_the_manuals_arrows() {
    const XAPIC: u64 = 0xfee0_0900;
    const X2APIC: u64 = 0xfee0_0d00;
    const OFF: u64 = 0xfee0_0100;
    let lapic = VLapic::new(0);
    let set = |value| lapic.write_msr(0x1b, value, NOW);
    assert_eq!(set(0xfee0_0500), Err(GeneralProtection));
    assert_eq!(set(X2APIC), Ok(Effect::Mode(Mode::X2Apic)));
    assert_eq!(set(X2APIC), Ok(Effect::None));
    assert_eq!(set(XAPIC), Err(GeneralProtection));
    assert_eq!(set(OFF), Ok(Effect::Mode(Mode::Disabled)));
    assert_eq!(set(X2APIC), Err(GeneralProtection));
    assert_eq!(set(XAPIC), Ok(Effect::Mode(Mode::XApic)));
    assert_eq!(set(XAPIC | 1), Err(GeneralProtection));
    assert_eq!(set(XAPIC | 1 << 60), Err(GeneralProtection));
    assert_eq!(set(0xfed0_0900), Err(GeneralProtection));
    assert_eq!(lapic.mode(), Mode::XApic);
}

#[test]
fn disabling_in_hardware_loses_all_registers() {
    let lapic = enabled(0);
    lapic.accept(0x40, Trigger::Edge);
    lapic.write_msr(0x1b, 0xfee0_0100, NOW).unwrap();
    assert_eq!(lapic.deliverable(), None);
    lapic.write_msr(0x1b, 0xfee0_0900, NOW).unwrap();
    assert!(!lapic.is_enabled());
    assert_eq!(lapic.read(at(number::SPURIOUS), NOW), 0xff);
}

#[test]
fn an_x2apic_has_its_whole_id_and_a_logical_id_made_from_it() {
    let lapic = x2apic(0x123);
    assert_eq!(lapic.read_msr(msr(number::ID), NOW), Ok(0x123));
    assert_eq!(
        lapic.read_msr(msr(number::LOGICAL_DESTINATION), NOW),
        Ok(0x0012_0008)
    );
    assert!(lapic.is_enabled());
}

#[test]
fn x2apic_registers_refuse_what_the_manual_refuses() {
    let xapic = enabled(0);
    assert_eq!(xapic.read_msr(msr(number::ID), NOW), Err(GeneralProtection));
    let lapic = x2apic(0);
    for register in [
        number::END_OF_INTERRUPT,
        number::SELF_IPI,
        number::DESTINATION_FORMAT,
        number::ARBITRATION_PRIORITY,
        number::REMOTE_READ,
        number::COMMAND_HIGH,
        0,
        0x2f,
        0xff,
    ] {
        assert_eq!(lapic.read_msr(msr(register), NOW), Err(GeneralProtection));
    }
    for (register, value) in [
        (number::ID, 0),
        (number::VERSION, 0),
        (number::LOGICAL_DESTINATION, 0),
        (number::PROCESSOR_PRIORITY, 0),
        (number::IN_SERVICE, 0),
        (number::TIMER_CURRENT, 0),
        (number::END_OF_INTERRUPT, 1),
        (number::ERROR_STATUS, 1),
        (number::TASK_PRIORITY, 0x100),
        (number::SPURIOUS, 0x1_01ff),
        (number::LVT_TIMER, 1 << 18),
        (number::TIMER_DIVIDE, 4),
        (number::COMMAND, 1 << 20),
        (number::TIMER_INITIAL, 1 << 32),
    ] {
        assert_eq!(
            lapic.write_msr(msr(register), value, NOW),
            Err(GeneralProtection),
            "{register:#x}"
        );
    }
    assert_eq!(
        lapic.write_msr(msr(number::SELF_IPI), 0x77, NOW),
        Ok(Effect::None)
    );
    assert_eq!(lapic.deliverable(), Some(0x77));
}

#[test]
fn errors_show_after_a_write_of_the_status_and_raise_their_interrupt() {
    let lapic = enabled(0);
    lapic.write(at(number::LVT_ERROR), 0xfe, NOW);
    assert_eq!(
        lapic.write(at(number::COMMAND), 0x4_0003, NOW),
        Effect::None
    );
    assert_eq!(lapic.deliverable(), Some(0xfe));
    assert!(!lapic.accept(3, Trigger::Edge));
    assert_eq!(lapic.read(0x3f0, NOW), 0);
    assert_eq!(lapic.read(at(number::ERROR_STATUS), NOW), 0);
    lapic.write(at(number::ERROR_STATUS), 0, NOW);
    assert_eq!(lapic.read(at(number::ERROR_STATUS), NOW), 0xe0);
    lapic.write(at(number::ERROR_STATUS), 0, NOW);
    assert_eq!(lapic.read(at(number::ERROR_STATUS), NOW), 0);
}

#[test]
fn a_command_becomes_a_message() {
    let lapic = enabled(0);
    lapic.write(at(number::COMMAND_HIGH), 0x0200_0000, NOW);
    let message = |destination| Message {
        vector: 0xfb,
        delivery: Delivery::Fixed,
        trigger: Trigger::Edge,
        destination,
    };
    let send = |value| lapic.write(at(number::COMMAND), value, NOW);
    let physical = Destination::Physical(2);
    assert_eq!(send(0x40fb), Effect::Ipi(message(physical)));
    assert_eq!(send(0x48fb), Effect::Ipi(message(Destination::Logical(2))));
    assert_eq!(send(0xc_40fb), Effect::Ipi(message(Destination::Others)));
    assert_eq!(send(0x8_40fb), Effect::Ipi(message(Destination::Everyone)));
    assert_eq!(send(0x4_40fb), Effect::Ipi(message(Destination::Own)));
    // The end of an INIT, and a reserved mode.
    assert_eq!(send(0x8500), Effect::None);
    assert_eq!(send(0x4300), Effect::None);
    let lapic = x2apic(0);
    assert_eq!(
        lapic.write_msr(msr(number::COMMAND), 0x1_0000_00fb, NOW),
        Ok(Effect::Ipi(message(Destination::Physical(1))))
    );
    assert_eq!(
        lapic.write_msr(msr(number::COMMAND), 0xffff_ffff_0000_00fb, NOW),
        Ok(Effect::Ipi(message(Destination::Everyone)))
    );
    assert_eq!(
        lapic.read_msr(msr(number::COMMAND), NOW),
        Ok(0xffff_ffff_0000_00fb)
    );
}

#[test]
fn an_msi_is_taken_apart() {
    let message = Message::from_msi(0xfee0_2004, 0x8141).unwrap();
    assert_eq!(
        message,
        Message {
            vector: 0x41,
            delivery: Delivery::LowestPriority,
            trigger: Trigger::Level,
            destination: Destination::Logical(2),
        }
    );
    assert_eq!(Message::from_msi(0xfed0_0000, 0x41), None);
    assert_eq!(Message::from_msi(0xfee0_0000, 0x341), None);
}

fn targets(lapics: &[VLapic], destination: Destination, sender: Option<usize>) -> Vec<usize> {
    let mut found = vec![];
    resolve(
        destination,
        sender,
        lapics.len(),
        |index| lapics.get(index),
        |index, _| found.push(index),
    );
    found
}

#[test]
fn destinations_name_whom_they_should() {
    use Destination::{Everyone, Logical, Others, Own, Physical};
    let lapics: Vec<_> = (0..4).map(|index| enabled(index * 2)).collect();
    for (index, lapic) in lapics.iter().enumerate() {
        lapic.write(at(number::LOGICAL_DESTINATION), 1 << (24 + index), NOW);
    }
    assert_eq!(targets(&lapics, Physical(4), None), [2]);
    assert_eq!(targets(&lapics, Physical(3), None), []);
    assert_eq!(targets(&lapics, Own, Some(1)), [1]);
    assert_eq!(targets(&lapics, Others, Some(1)), [0, 2, 3]);
    assert_eq!(targets(&lapics, Everyone, Some(1)), [0, 1, 2, 3]);
    assert_eq!(targets(&lapics, Logical(0b1010), None), [1, 3]);
    assert_eq!(targets(&lapics, Logical(0xff), None), [0, 1, 2, 3]);
    assert_eq!(targets(&lapics, Own, None), []);
}

#[test]
fn ids_that_are_not_twice_the_index_are_found_too() {
    let lapics: Vec<_> = [0, 1, 7, 300].map(enabled).into();
    assert_eq!(targets(&lapics, Destination::Physical(7), None), [2]);
    assert_eq!(targets(&lapics, Destination::Physical(1), None), [1]);
    assert_eq!(targets(&lapics, Destination::Physical(300), None), [3]);
    // An xAPIC has eight bits of id only.
    assert_eq!(targets(&lapics, Destination::Physical(44), None), [3]);
}

#[test]
fn clusters_match_by_cluster_and_member() {
    let lapics: Vec<_> = (0..3).map(|index| enabled(index * 2)).collect();
    for (lapic, logical) in lapics.iter().zip([0x11, 0x12, 0x21]) {
        lapic.write(at(number::DESTINATION_FORMAT), 0, NOW);
        lapic.write(at(number::LOGICAL_DESTINATION), logical << 24, NOW);
    }
    let logical = |id| targets(&lapics, Destination::Logical(id), None);
    assert_eq!(logical(0x13), [0, 1]);
    assert_eq!(logical(0x21), [2]);
    assert_eq!(logical(0xf1), [0, 2]);
    let lapics: Vec<_> = (0..20).map(|index| x2apic(index * 2)).collect();
    let logical = |id| targets(&lapics, Destination::Logical(id), None);
    assert_eq!(logical(0x0001_0005), [8, 9]);
    assert_eq!(logical(0x0003_ffff), []);
}

#[test]
fn the_lowest_priority_takes_the_message_alone() {
    let lapics: Vec<_> = (0..3).map(|index| enabled(index * 2)).collect();
    lapics[0].set_tpr(8);
    lapics[2].set_tpr(1);
    lapics[1].write(at(number::SPURIOUS), 0xff, NOW);
    let message = Message {
        vector: 0x91,
        delivery: Delivery::LowestPriority,
        trigger: Trigger::Edge,
        destination: Destination::Everyone,
    };
    let mut kicked = vec![];
    let get = |index| lapics.get(index);
    deliver(&message, None, 3, get, |index| kicked.push(index));
    assert_eq!(kicked, [2]);
    assert_eq!(lapics[2].deliverable(), Some(0x91));
    assert_eq!(lapics[0].highest_requested(), 0);
}

#[test]
fn a_start_up_counts_only_after_an_init_and_once() {
    let lapics = [enabled(0), enabled(2)];
    let send = |delivery, vector| {
        let message = Message {
            vector,
            delivery,
            trigger: Trigger::Edge,
            destination: Destination::Physical(2),
        };
        let mut kicked = vec![];
        let get = |index| lapics.get(index);
        deliver(&message, Some(0), 2, get, |index| kicked.push(index));
        !kicked.is_empty()
    };
    let signals = lapics[1].signals();
    assert!(signals.is_waiting_for_start());
    assert!(!lapics[0].signals().is_waiting_for_start());
    // Nothing has run there since its reset: its APIC is left as it is.
    assert!(!send(Delivery::Init, 0));
    assert!(send(Delivery::StartUp, 0x9a));
    assert!(!send(Delivery::StartUp, 0x9b));
    let pending = signals.take();
    assert_eq!((pending.init, pending.start), (false, Some(0x9a)));
    assert!(!signals.is_waiting_for_start());
    assert!(!send(Delivery::StartUp, 0x9c));
    assert!(send(Delivery::Nmi, 0));
    assert!(!send(Delivery::Nmi, 0));
    assert!(signals.take().nmi);
    assert!(send(Delivery::Init, 0));
    assert_eq!(
        signals.take(),
        Pending {
            init: true,
            ..Pending::default()
        }
    );
    assert!(signals.is_waiting_for_start());
    assert!(send(Delivery::Nmi, 0));
    assert!(!signals.is_pending() || signals.take() == Pending::default());
    assert!(send(Delivery::StartUp, 1));
    assert!(signals.take().nmi);
    assert!(!signals.is_pending());
}

#[test]
fn a_halt_with_interrupts_off_ends_by_init_or_nmi_alone() {
    let lapic = enabled(0);
    let signals = lapic.signals();
    signals.halt_deaf();
    lapic.accept(0x31, Trigger::Edge);
    assert!(signals.wants_look() && !signals.is_pending());
    assert_eq!(signals.take(), Pending::default());
    assert!(signals.is_deaf());
    assert!(signals.post_nmi());
    assert!(signals.take().nmi);
    assert!(!signals.is_deaf() && !signals.wants_look());
    // An INIT that came before the halt is not forgotten over it.
    assert!(signals.post_init());
    signals.halt_deaf();
    assert!(signals.take().init);
    assert!(!signals.is_deaf() && signals.is_waiting_for_start());
}

#[test]
fn a_hypercall_gives_registers_once_and_only_to_a_vcpu_that_waits() {
    assert!(!enabled(0).signals().give_registers());
    let lapic = enabled(2);
    let signals = lapic.signals();
    assert!(signals.give_registers());
    assert!(!signals.give_registers() && !signals.post_start(8));
    assert!(!signals.is_waiting_for_start() && signals.wants_look());
    assert!(signals.take().given);
    assert!(!signals.wants_look());
    // An INIT takes registers back that were not used.
    assert!(signals.post_init() && signals.take().init);
    assert!(signals.give_registers() && signals.post_init());
    let pending = signals.take();
    assert!(pending.init && !pending.given);
    assert!(signals.is_waiting_for_start());
}

#[test]
fn what_only_the_task_priority_holds_back_is_told_with_its_class() {
    let lapic = enabled(0);
    lapic.set_tpr(5);
    assert_eq!(lapic.held_by_task_priority(), None);
    lapic.accept(0x51, Trigger::Edge);
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(lapic.held_by_task_priority(), Some(5));
    lapic.set_tpr(4);
    assert_eq!(lapic.deliverable(), Some(0x51));
    assert_eq!(lapic.held_by_task_priority(), None);
    lapic.acknowledge(0x51);
    lapic.accept(0x52, Trigger::Edge);
    lapic.set_tpr(15);
    // Its own class is being handled: lowering the task priority would not let it through.
    assert_eq!(lapic.held_by_task_priority(), None);
    lapic.end_of_interrupt();
    assert_eq!(lapic.held_by_task_priority(), Some(5));
}

#[test]
fn any_access_to_the_page_and_the_msrs_does_no_harm() {
    let (xapic, x2apic) = (enabled(0), x2apic(2));
    let values = [0, 1, 0xff, 0x1ff, 0x4_4030, u32::MAX, 0x8000_0000];
    for offset in 0..0x1000 {
        for value in values {
            let _ = xapic.read(offset, NOW);
            let _ = xapic.write(offset, value, NOW);
            let index = 0x800 + (offset & 0xff);
            let _ = x2apic.read_msr(index, NOW);
            let _ = x2apic.write_msr(index, u64::from(value) << (offset & 32), NOW);
            xapic.timer_fired(Nanos(u64::MAX));
            x2apic.timer_fired(Nanos(0));
        }
    }
}

#[test]
fn priorities_sets_and_the_switch_hang_on_what_the_guest_does_unseen() {
    // TPR to ISR, TMR and IRR, the interrupt to oneself.
    assert!((0x808..0x828).chain([0x83f]).all(hangs_on_the_unseen));
    let others = [0x802, 0x803].into_iter().chain(0x828..0x83f);
    assert!(!others.chain(0x840..=0x8ff).any(hangs_on_the_unseen));
    assert!(hangs_on_the_unseen(0x1b));
}
