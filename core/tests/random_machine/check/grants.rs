//! The pins of a grant are its mappings: no call is under way between two steps, so no copy holds one.

use std::collections::BTreeMap;

use xenolith_abi::grant_table::EntryFlags;
use xenolith_core::{DomId, grant::entry::Access};
use xenolith_hal::Mfn;

use super::frames::Held;
use crate::machine::Machine;

/// What the mappings of one grant come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InUse {
    grantee: DomId,
    mfn: Mfn,
    readers: u32,
    writers: u32,
}

impl Machine {
    /// Gives what the pins of all grants hold.
    pub fn check_grants(&self) -> Held {
        let mut expected: BTreeMap<(DomId, u32), InUse> = BTreeMap::new();
        self.hv.domains.for_each(|mapper| {
            self.hv.dump_mappings(mapper, |mapping| {
                let grant = (mapping.granter, mapping.gref.0);
                let use_of = expected.entry(grant).or_insert(InUse {
                    grantee: mapper.id(),
                    mfn: mapping.mfn,
                    readers: 0,
                    writers: 0,
                });
                assert_eq!((use_of.grantee, use_of.mfn), (mapper.id(), mapping.mfn));
                match mapping.access {
                    Access::Read => use_of.readers += 1,
                    Access::Write => use_of.writers += 1,
                }
            });
        });
        let mut found = BTreeMap::new();
        for ((granter, gref), in_use) in &expected {
            let granter = self.hv.domains.get(*granter);
            let granter = granter.expect("a granter whose pages are mapped stays in the table");
            if granter.grants.facts().closed {
                found.insert((granter.id(), *gref), *in_use);
            }
        }
        self.hv.domains.for_each(|granter| {
            let dom = self.doms.iter().find(|d| d.domain.id() == granter.id());
            let polite = dom.is_some_and(|dom| dom.polite);
            self.hv.dump_grants(granter, |facts| {
                let in_use = InUse {
                    grantee: facts.grantee,
                    mfn: facts.mfn,
                    readers: facts.pins.readers(),
                    writers: facts.pins.writers(),
                };
                found.insert((granter.id(), facts.gref.0), in_use);
                if polite {
                    assert!(facts.flags.contains(EntryFlags::READING), "{facts}");
                    let written = facts.flags.contains(EntryFlags::WRITING);
                    assert_eq!(written, facts.pins.writers() != 0, "{facts}");
                }
            });
        });
        assert_eq!(found, expected, "pins and mappings differ");
        let mut pinned = Held::default();
        for in_use in expected.values() {
            pinned.reference(in_use.mfn);
            if in_use.writers != 0 {
                pinned.writer(in_use.mfn);
            }
        }
        pinned
    }
}
