use proptest::prelude::*;

use super::*;

const SOURCES: u32 = 128;

fn enable(plic: &mut VPlic, context: usize, source: u32, priority: u32) {
    plic.write(u64::from(source) * 4, priority);
    let at = ENABLE + context as u64 * ENABLE_STRIDE + u64::from(source / 32) * 4;
    let old = plic.read(at).0;
    plic.write(at, old | 1 << (source % 32));
}

fn claim_at(context: usize) -> u64 {
    CONTEXT + context as u64 * CONTEXT_STRIDE + 4
}

#[test]
fn a_source_is_claimed_once_and_comes_again_after_its_completion() {
    let mut plic = VPlic::new(2, SOURCES);
    enable(&mut plic, 1, 40, 1);
    assert_eq!(plic.raise(40), Touched::one(1));
    assert!(plic.line(1) && !plic.line(0));
    assert_eq!(plic.read(claim_at(0)).0, 0, "not enabled there");
    assert_eq!(plic.read(claim_at(1)).0, 40);
    assert!(!plic.line(1));
    // It comes again while it is served: that waits.
    plic.raise(40);
    assert!(!plic.line(1));
    assert_eq!(plic.read(claim_at(1)).0, 0);
    assert_eq!(plic.write(claim_at(0), 40).0, None, "not enabled there");
    assert_eq!(plic.write(claim_at(1), 40).0, Some(40));
    assert!(plic.line(1));
    assert_eq!(plic.read(claim_at(1)).0, 40);
}

#[test]
fn the_highest_priority_comes_first_and_the_lowest_number_among_equals() {
    let mut plic = VPlic::new(1, SOURCES);
    for (source, priority) in [(70, 2), (3, 2), (5, 3), (9, 0)] {
        enable(&mut plic, 0, source, priority);
        plic.raise(source);
    }
    let order: [u32; 4] = core::array::from_fn(|_| plic.read(claim_at(0)).0);
    assert_eq!(order, [5, 3, 70, 0], "priority 0 never comes");
}

#[test]
fn a_controller_has_as_many_sources_as_its_machine() {
    let mut plic = VPlic::new(2, 1023);
    enable(&mut plic, 1, 1023, 1);
    assert_eq!(plic.raise(1023), Touched::one(1));
    assert_eq!(plic.read(claim_at(1)).0, 1023);
    assert_eq!(plic.write(claim_at(1), 1023).0, Some(1023));
    assert_eq!(plic.raise(1024), Touched::NONE);
    assert_eq!(VPlic::new(1, 0).raise(32), Touched::NONE);
}

#[test]
fn a_completion_while_the_source_is_disabled_is_none_and_holds_it_back() {
    let mut plic = VPlic::new(1, SOURCES);
    enable(&mut plic, 0, 8, 1);
    plic.raise(8);
    assert_eq!(plic.read(claim_at(0)).0, 8);
    plic.write(ENABLE, 0);
    assert_eq!(plic.write(claim_at(0), 8), (None, Touched::NONE));
    enable(&mut plic, 0, 8, 1);
    plic.raise(8);
    assert!(!plic.line(0), "it is still being served");
    assert_eq!(plic.write(claim_at(0), 8).0, Some(8));
    assert_eq!(plic.write(claim_at(0), 8).0, None, "once");
    assert!(plic.line(0));
}

#[test]
fn the_threshold_holds_back() {
    let mut plic = VPlic::new(1, SOURCES);
    enable(&mut plic, 0, 3, 2);
    plic.raise(3);
    let threshold = claim_at(0) - 4;
    plic.write(threshold, 2);
    assert!(!plic.line(0));
    plic.write(threshold, 1);
    assert!(plic.line(0));
    assert_eq!(plic.read(threshold).0, 1);
    plic.write(threshold, 7);
    assert_eq!(plic.read(claim_at(0)).0, 3, "a claim may be made without");
}

#[test]
fn registers_that_do_not_exist_read_as_zero() {
    let mut plic = VPlic::new(1, SOURCES);
    for at in [
        0,
        SOURCES as u64 * 4,
        PENDING + 64,
        ENABLE + 0x40,
        ENABLE + ENABLE_STRIDE,
        claim_at(1),
        CONTEXT + 8,
        2,
    ] {
        plic.write(at, !0);
        assert_eq!(plic.read(at).0, 0, "{at:#x}");
    }
    plic.write(ENABLE, !0);
    assert_eq!(plic.read(ENABLE).0, !1, "source 0 is none");
    plic.write(PENDING, !0);
    assert_eq!(plic.read(PENDING).0, 0, "not the guest's to write");
    assert_eq!(plic.raise(0), Touched::NONE);
    assert_eq!(plic.raise(SOURCES), Touched::NONE);
}

#[test]
fn who_may_be_touched_is_told() {
    let mut plic = VPlic::new(MOST_CONTEXTS, SOURCES);
    for context in [0, 3, MOST_CONTEXTS - 1] {
        enable(&mut plic, context, 97, 1);
    }
    let touched = plic.raise(97);
    let last = Touched::one(MOST_CONTEXTS - 1).0;
    assert_eq!(touched, Touched(1 | 1 << 3 | last));
    assert_eq!(touched.without(0), Touched(1 << 3 | last));
    assert!(touched.has(3) && !touched.has(4));
    let word = ENABLE + 3 * ENABLE_STRIDE + 12;
    plic.write(word, 0);
    assert_eq!(plic.raise(97), Touched(1 | last));
    assert_eq!(plic.raise(98), Touched::NONE);
}

proptest! {
    #[test]
    fn a_line_changes_only_where_it_was_told(
        steps in prop::collection::vec((0u8..3, 0u32..8, 0usize..4, any::<u32>()), 1..200)
    ) {
        let mut plic = VPlic::new(3, SOURCES);
        for (step, source, context, value) in steps {
            let lines = |plic: &VPlic| [0, 1, 2].map(|context| plic.line(context));
            let before = lines(&plic);
            let (context_at, word) = (context as u64, u64::from(source) * 4);
            let touched = match (step, value % 5) {
                (0, _) => plic.raise(source),
                (1, _) => plic.read(claim_at(context)).1,
                (_, 0) => plic.write(word, value >> 8).1,
                (_, 1) => plic.write(ENABLE + context_at * ENABLE_STRIDE, value >> 8).1,
                (_, 2) => plic.write(claim_at(context) - 4, value >> 8).1,
                _ => plic.write(claim_at(context), source).1,
            };
            for (context, (before, after)) in before.into_iter().zip(lines(&plic)).enumerate() {
                prop_assert!(before == after || touched.has(context));
            }
        }
    }

    #[test]
    fn whatever_a_guest_does_every_claim_was_raised_and_completions_free(
        steps in prop::collection::vec((0u8..4, 0u64..SIZE + 16, any::<u32>()), 1..200)
    ) {
        let mut plic = VPlic::new(3, SOURCES);
        let mut open = std::collections::BTreeSet::new();
        for (step, offset, value) in steps {
            match step {
                0 => {
                    let (value, _) = plic.read(offset);
                    prop_assert!(offset % 4 == 0 || value == 0);
                    if value != 0 && offset >= CONTEXT && offset % CONTEXT_STRIDE == 4 {
                        prop_assert!(open.insert(value), "claimed twice");
                    }
                }
                1 => {
                    if let (Some(done), _) = plic.write(offset, value) {
                        prop_assert!(open.remove(&done));
                    }
                }
                2 => {
                    enable(&mut plic, value as usize % 3, value / 3 % SOURCES, 1 + value % 7);
                    plic.raise(value / 3 % SOURCES);
                }
                _ => {
                    let context = value as usize % 3;
                    let (line, claimed) = (plic.line(context), plic.read(claim_at(context)).0);
                    prop_assert!(!line || claimed != 0);
                    if claimed != 0 {
                        prop_assert!(open.insert(claimed), "claimed twice");
                    }
                }
            }
        }
    }
}
