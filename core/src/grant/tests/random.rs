//! Grants driven at random: against a plain model, and by threads.

use super::*;

/// What a small model expects of one grant of domain 1 for domain 2.
#[derive(Default)]
struct Model {
    open: bool,
    read_only: bool,
    live: Vec<(GrantHandle, u64, bool)>,
}

#[test]
fn random_maps_and_unmaps_agree_with_a_plain_model() {
    for seed in 1..40_u64 {
        let rig = Rig::new();
        let mut random = crate::memory::Random(seed * 0x9e37_79b9);
        let mut model = Model::default();
        for _ in 0..200 {
            step(&rig, &mut model, &mut random);
            let writers = model.live.iter().any(|mapping| mapping.2);
            let mut marks = EntryFlags::empty();
            marks.set(EntryFlags::READING, !model.live.is_empty());
            marks.set(EntryFlags::WRITING, writers);
            assert_eq!(rig.marks(1, 3), marks, "seed {seed}");
            let held = u64::from(!model.live.is_empty());
            assert_eq!(rig.references(1, 5), 1 + held, "seed {seed}");
        }
    }
}

fn step(rig: &Rig, model: &mut Model, random: &mut crate::memory::Random) {
    match random.below(4) {
        // The granter ends the access if it may, or opens it again with other rights.
        0 if model.live.is_empty() => {
            model.open = random.below(3) != 0;
            model.read_only = random.below(2) == 0;
            let flags = match model.read_only {
                true => EntryFlags::READONLY,
                false => EntryFlags::empty(),
            };
            let to = if model.open { 2 } else { 0 };
            rig.grant(1, 3, to, 5, flags);
        }
        0 | 1 => {
            let gfn = WINDOW + random.below(8);
            if model.live.iter().any(|mapping| mapping.1 == gfn) {
                return;
            }
            let write = random.below(2) == 0;
            let result = rig.map_at(2, 1, 3, gfn, if write { RW } else { RO });
            let fine = model.open && !(write && model.read_only);
            assert_eq!(result.is_ok(), fine);
            if let Ok(handle) = result {
                model.live.push((handle, gfn, write));
            }
        }
        2 if !model.live.is_empty() => {
            let at = random.below(model.live.len() as u64) as usize;
            let (handle, gfn, _) = model.live.swap_remove(at);
            rig.unmap_at(2, handle, gfn).unwrap();
        }
        _ => {
            let result = rig.copy(2, copy_in());
            assert_eq!(result.is_ok(), model.open);
        }
    }
}

#[test]
fn threads_that_map_unmap_and_copy_leave_nothing_behind() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    rig.grant(1, 4, 0, 5, EntryFlags::empty());
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let rig = &rig;
            scope.spawn(move || {
                let (mapper, gref) = if thread == 2 { (0, 4) } else { (2, 3) };
                let domain = &rig.domains[mapper];
                for round in 0..300 {
                    let map = MapGrantRef {
                        host_addr: (WINDOW + thread) * PAGE,
                        flags: if round % 2 == 0 { RW } else { RO },
                        gref: GrantRef(gref),
                        dom: DomId(1),
                        ..Default::default()
                    };
                    let (handle, _) = rig.hv.map_grant(domain, &map).unwrap();
                    let unmap = crate::grant::map::Unmap {
                        handle,
                        host_addr: map.host_addr,
                        new_addr: 0,
                    };
                    rig.hv.unmap_grant(domain, &unmap).unwrap();
                }
            });
        }
    });
    assert_eq!(rig.references(1, 5), 1);
    let word = rig
        .hv
        .hal
        .atomic16(mfn(&rig, 1, TABLE), 3 * 8, Load)
        .unwrap();
    assert_eq!(word, entry_type::PERMIT_ACCESS);
}
