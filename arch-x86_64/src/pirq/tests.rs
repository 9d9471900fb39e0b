//! The table of numbers, by example and against a plain model of lines.

use std::{collections::BTreeMap, vec::Vec};

use proptest::prelude::*;

use super::*;

const LINES: u32 = 24;
const COUNT: u32 = 32;
const CARD: Bdf = Bdf(0x18);

fn table() -> Table {
    let level_high = Line {
        level: true,
        active_low: false,
    };
    Table::new(COUNT, LINES, [(9, level_high)].into_iter())
}

#[test]
fn a_line_has_its_own_number_however_often_it_is_asked_for() {
    let mut table = table();
    assert_eq!(table.map_line(4, Some(4)), Ok(4));
    assert_eq!(table.map_line(4, Some(4)), Ok(4));
    assert_eq!(table.map_line(4, None), Ok(4));
    assert_eq!(table.map_line(4, Some(5)), Err(Errno::EEXIST));
    assert_eq!(table.map_line(5, Some(4)), Ok(4));
    assert_eq!(table.number_of(Source::Line(5)), None);
    assert_eq!(table.map_line(LINES, Some(LINES)), Err(Errno::EINVAL));
    assert_eq!(table.map_line(20, None), Ok(16));
    assert_eq!(table.number_of(Source::Line(20)), Some(16));
    // A number beyond the lines is as good as another, one beyond all is none.
    assert_eq!(table.map_line(21, Some(COUNT - 1)), Ok(COUNT - 1));
    assert_eq!(table.map_line(22, Some(COUNT)), Err(Errno::EINVAL));
}

#[test]
fn messages_get_numbers_that_no_line_wants() {
    let mut table = table();
    assert_eq!(table.map_message(CARD, Some(0), None), Ok(31));
    assert_eq!(table.map_message(CARD, Some(0), None), Err(Errno::EEXIST));
    let more: Vec<_> = (1..8)
        .map(|entry| table.map_message(CARD, Some(entry), None).unwrap())
        .collect();
    assert_eq!(more, [30, 29, 28, 27, 26, 25, 24]);
    assert_eq!(table.map_message(CARD, None, None), Err(Errno::ENOSPC));
    assert_eq!(table.reserve(Kind::Message), Err(Errno::ENOSPC));
    let gone = table.unmap(27).unwrap();
    assert_eq!(gone.source, Source::Message(CARD, Some(4)));
    assert_eq!(table.map_message(CARD, None, None), Ok(27));
}

#[test]
fn a_number_that_was_handed_out_is_its_askers() {
    let mut table = table();
    let number = table.reserve(Kind::Message).unwrap();
    assert_ne!(table.reserve(Kind::Message), Ok(number));
    assert_eq!(table.unmap(number), Err(Errno::EINVAL));
    assert_eq!(table.map_message(CARD, None, Some(number)), Ok(number));
    assert_eq!(table.reserve(Kind::Line), Ok(16));
    assert_eq!(table.map_line(20, None), Ok(17));
}

#[test]
fn a_level_is_ended_once_and_an_edge_never() {
    let mut table = table();
    for line in [4, 9] {
        table.map_line(line, Some(line)).unwrap();
        table.bind(line, false).unwrap();
    }
    assert!(table.needs_end(9) && !table.needs_end(4));
    assert_eq!((table.came(9), table.came(4)), (Some(9), Some(4)));
    assert_eq!(table.ended(9), Ok(Some(9)));
    assert_eq!(table.ended(9), Ok(None));
    assert_eq!(table.ended(4), Ok(None));
    assert_eq!(table.ended(5), Err(Errno::EINVAL));
    assert_eq!(table.ended(u32::MAX), Err(Errno::EINVAL));
}

#[test]
fn a_line_without_a_port_tells_nobody() {
    let mut table = table();
    assert_eq!(table.came(9), None);
    table.map_line(9, Some(9)).unwrap();
    assert_eq!(table.came(9), None);
    assert_eq!(table.bind(10, false), Err(Errno::EINVAL));
    assert_eq!(table.bind(9, true), Ok(Source::Line(9)));
    assert_eq!(table.bind(9, true), Err(Errno::EBUSY));
    assert_eq!(table.close(9), Some(Source::Line(9)));
    assert_eq!(table.came(9), None);
    assert!(!table.needs_end(9));
}

#[test]
fn a_number_that_goes_while_a_port_is_bound_waits_for_its_closing() {
    let mut table = table();
    table.map_line(9, Some(9)).unwrap();
    table.bind(9, false).unwrap();
    assert!(table.unmap(9).unwrap().bound);
    assert_eq!(table.came(9), None);
    assert_eq!(table.map_line(9, Some(9)), Err(Errno::EEXIST));
    assert_eq!(table.close(9), None);
    assert_eq!(table.map_line(9, Some(9)), Ok(9));
}

#[test]
fn a_line_in_use_signals_as_it_did() {
    let mut table = table();
    assert_eq!(table.line(16), Ok(Line::PCI));
    assert_eq!(table.line(1), Ok(Line::OLD));
    assert_eq!(table.set_line(16, Line::OLD), Ok(()));
    table.map_line(16, Some(16)).unwrap();
    table.bind(16, false).unwrap();
    assert_eq!(table.set_line(16, Line::PCI), Err(Errno::EEXIST));
    assert_eq!(table.line(16), Ok(Line::OLD));
    assert_eq!(table.set_line(LINES, Line::PCI), Err(Errno::EINVAL));
    assert_eq!(table.set_up_line(17, Line::OLD), Ok(()));
    assert_eq!(table.set_up_line(17, Line::OLD), Err(Errno::EEXIST));
    assert_eq!(table.set_up_line(LINES, Line::OLD), Err(Errno::EINVAL));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map(u32),
    MapMessage(u16),
    Unmap(u32),
    Bind(u32),
    Close(u32),
    Came(u32),
    Ended(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let line = 0..LINES;
    let number = || 0..COUNT + 2;
    prop_oneof![
        line.clone().prop_map(Step::Map),
        (0..12u16).prop_map(Step::MapMessage),
        number().prop_map(Step::Unmap),
        number().prop_map(Step::Bind),
        number().prop_map(Step::Close),
        line.prop_map(Step::Came),
        number().prop_map(Step::Ended),
    ]
}

proptest! {
    /// The machine's side as the caller keeps it: which lines are open, which are masked because they were taken. A line is
    /// never open without a port, never masked for good while its port is bound and the domain ends what it is told of.
    #[test]
    fn lines_are_open_while_a_port_is_bound_and_masked_from_taking_to_end(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut table = table();
        // Open lines, and whether each is masked.
        let mut open: BTreeMap<u32, bool> = BTreeMap::new();
        let mut bound: BTreeMap<u32, Source> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Map(line) => {
                    let _ = table.map_line(line, Some(line));
                }
                Step::MapMessage(entry) => {
                    if let Ok(number) = table.map_message(CARD, Some(entry), None) {
                        prop_assert!(number >= LINES);
                    }
                }
                Step::Unmap(number) => {
                    if let Ok(gone) = table.unmap(number) {
                        prop_assert_eq!(gone.bound, bound.contains_key(&number));
                        if let Source::Line(line) = gone.source {
                            open.remove(&line);
                        }
                        prop_assert_eq!(table.number_of(gone.source), None);
                    }
                }
                Step::Bind(number) => {
                    if let Ok(source) = table.bind(number, false) {
                        prop_assert_eq!(bound.insert(number, source), None);
                        if let Source::Line(line) = source {
                            prop_assert_eq!(open.insert(line, false), None);
                        }
                    }
                }
                Step::Close(number) => {
                    bound.remove(&number);
                    if let Some(Source::Line(line)) = table.close(number) {
                        open.remove(&line);
                    }
                }
                Step::Came(line) => {
                    if let Some(masked) = open.get_mut(&line).filter(|masked| !**masked) {
                        *masked = table.line(line).unwrap().level;
                        prop_assert_eq!(table.came(line), Some(line));
                    }
                }
                Step::Ended(number) => {
                    let masked = open.get(&number).copied();
                    if let Ok(line) = table.ended(number) {
                        prop_assert_eq!(line.is_some(), masked == Some(true));
                        if let Some(line) = line {
                            open.insert(line, false);
                        }
                    }
                }
            }
            prop_assert_eq!(table.bound().collect::<Vec<_>>(), bound.keys().copied().collect::<Vec<_>>());
            for (number, source) in &bound {
                if let Source::Line(line) = source
                    && open.contains_key(line)
                {
                    prop_assert_eq!(table.needs_end(*number), table.line(*line).unwrap().level);
                }
            }
        }
    }
}
