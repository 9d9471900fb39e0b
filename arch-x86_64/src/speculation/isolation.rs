//! What of `xpti=`, `pcid=`, `smep=` and `smap=` is done, spelled as Xen spells it: what PV guests find of the hypervisor in their
//! address spaces, and what the hypervisor does with theirs.

use super::{Facts, words::boolean};
use crate::cpuid::Leaf;

/// What the CPU has for address spaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// Numbers in the TLB.
    pub pcid: bool,
    /// INVPCID.
    pub invpcid: bool,
    /// Code of the user's never runs in ring 0.
    pub smep: bool,
    /// Data of the user's is touched in ring 0 only on purpose.
    pub smap: bool,
}

impl Paging {
    /// From CPUID.
    #[must_use]
    pub fn new(leaf: impl Fn(u32, u32) -> Leaf) -> Self {
        const PCID: u32 = 1 << 17;
        const SMEP: u32 = 1 << 7;
        const INVPCID: u32 = 1 << 10;
        const SMAP: u32 = 1 << 20;
        let [last, ..] = leaf(0, 0);
        let [_, _, ecx, _] = leaf(1, 0);
        let [_, ebx, ..] = if last >= 7 { leaf(7, 0) } else { [0; 4] };
        Self {
            pcid: ecx & PCID != 0,
            invpcid: ebx & INVPCID != 0,
            smep: ebx & SMEP != 0,
            smap: ebx & SMAP != 0,
        }
    }
}

/// Words of the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests<'a> {
    /// `xpti=`
    pub xpti: Option<&'a str>,
    /// `pcid=`
    pub pcid: Option<&'a str>,
    /// `smep=`
    pub smep: Option<&'a str>,
    /// `smap=`
    pub smap: Option<&'a str>,
}

/// What is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// dom0, if it is a PV guest, has page tables without the hypervisor.
    pub dom0: bool,
    /// Other PV guests have.
    pub domu: bool,
    /// Isolated guests' translations have numbers of their own in the TLB (PCID).
    pub tags: bool,
    /// A single one of them can be forgotten (INVPCID).
    pub single: bool,
    /// SMEP holds for the hypervisor.
    pub smep: bool,
    /// SMAP holds for the hypervisor.
    pub smap: bool,
}

/// A name and a value of it that was not understood.
type Refused<'a> = Option<(&'static str, &'a str)>;

/// A boolean, or a word that means one.
fn choose<'a>(
    name: &'static str,
    value: Option<&'a str>,
    otherwise: bool,
    word: impl Fn(&str) -> Option<bool>,
) -> (bool, Refused<'a>) {
    let Some(value) = value else {
        return (otherwise, None);
    };
    // What comes later wins.
    let mut chosen = otherwise;
    for part in value.split(',') {
        match boolean(part).or_else(|| word(part)) {
            Some(on) => chosen = on,
            None => return (otherwise, Some((name, value))),
        }
    }
    (chosen, None)
}

/// `xpti=`: dom0 and others.
fn which(value: &str, by_cpu: bool) -> Option<[bool; 2]> {
    let mut chosen = [by_cpu; 2];
    for part in value.split(',') {
        let (name, on) = match (part.split_once('='), part.strip_prefix("no-")) {
            (Some((name, value)), _) => (name, boolean(value)?),
            (None, Some(name)) => (name, false),
            (None, None) => (part, true),
        };
        let [dom0, domu] = &mut chosen;
        match name {
            "dom0" => *dom0 = on,
            "domu" => *domu = on,
            "default" if name == part => chosen = [by_cpu; 2],
            _ => chosen = [boolean(part)?; 2],
        }
    }
    Some(chosen)
}

impl Isolation {
    /// What the CPU needs, as far as it has it and the words leave it so; and the words that were not understood.
    #[must_use]
    pub fn new<'a>(
        cpu: &Facts,
        paging: &Paging,
        requests: &Requests<'a>,
    ) -> (Self, [Refused<'a>; 4]) {
        let by_cpu = cpu.needs_isolation();
        let asked = requests.xpti.map(|value| (value, which(value, by_cpu)));
        let ([dom0, domu], no_xpti) = match asked {
            None => ([by_cpu; 2], None),
            Some((_, Some(chosen))) => (chosen, None),
            Some((value, None)) => ([by_cpu; 2], Some(("xpti", value))),
        };
        let (pcid, no_pcid) = choose("pcid", requests.pcid, true, |word| match word {
            "xpti" | "xpti=yes" | "xpti=on" | "xpti=true" | "xpti=1" => Some(true),
            "noxpti" | "no-xpti" | "xpti=no" | "xpti=off" | "xpti=false" | "xpti=0" => Some(false),
            _ => None,
        });
        // Guests in hardware have theirs by their own tables.
        let for_hardware = |word: &str| (word == "hvm").then_some(false);
        let (smep, no_smep) = choose("smep", requests.smep, true, for_hardware);
        let (smap, no_smap) = choose("smap", requests.smap, true, for_hardware);
        let tags = pcid && paging.pcid && (dom0 || domu);
        let chosen = Self {
            dom0,
            domu,
            tags,
            single: tags && paging.invpcid,
            smep: smep && paging.smep,
            smap: smap && paging.smap,
        };
        (chosen, [no_xpti, no_pcid, no_smep, no_smap])
    }

    /// Whether any guest is isolated.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.dom0 || self.domu
    }
}

/// Behind what else is done.
impl core::fmt::Display for Isolation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let parts = [
            (self.dom0 && self.domu, "page tables of PV guests isolated"),
            (self.dom0 && !self.domu, "page tables of PV dom0 isolated"),
            (self.domu && !self.dom0, "page tables of PV domU isolated"),
            (self.tags && !self.single, "PCID"),
            (self.single, "PCID with INVPCID"),
            (self.smep, "SMEP"),
            (self.smap, "SMAP"),
        ];
        for (_, name) in parts.iter().filter(|(on, _)| *on) {
            write!(f, ", {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::Vendor;
    use std::string::ToString;

    fn facts(vendor: Vendor, capabilities: u64) -> Facts {
        Facts {
            vendor,
            intel: 1 << 29,
            amd: 0,
            amd_later: [0; 2],
            capabilities,
            transactions: false,
            family: 6,
        }
    }

    const ALL: Paging = Paging {
        pcid: true,
        invpcid: true,
        smep: true,
        smap: true,
    };

    fn chosen(vendor: Vendor, capabilities: u64, requests: Requests<'_>) -> Isolation {
        let (chosen, refused) = Isolation::new(&facts(vendor, capabilities), &ALL, &requests);
        assert_eq!(refused, [None; 4]);
        chosen
    }

    fn xpti(value: &str) -> [bool; 2] {
        let requests = Requests {
            xpti: Some(value),
            ..Requests::default()
        };
        let chosen = chosen(Vendor::Intel, 0, requests);
        [chosen.dom0, chosen.domu]
    }

    #[test]
    fn guests_are_isolated_where_the_cpu_reads_what_it_may_not() {
        const RDCL_NO: u64 = 1;
        assert!(chosen(Vendor::Intel, 0, Requests::default()).any());
        assert!(!chosen(Vendor::Intel, RDCL_NO, Requests::default()).any());
        assert!(!chosen(Vendor::Amd, 0, Requests::default()).any());
    }

    #[test]
    fn words_choose_who_is_isolated() {
        for (value, expected) in [
            ("yes", [true, true]),
            ("0", [false, false]),
            ("default", [true, true]),
            ("dom0=no", [false, true]),
            ("no,domu=1", [false, true]),
            ("no-domu", [true, false]),
            ("no,dom0,default", [true, true]),
        ] {
            assert_eq!(xpti(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told_and_changes_nothing() {
        let requests = Requests {
            xpti: Some("dom1=1"),
            pcid: Some("maybe"),
            smep: Some("pv"),
            smap: Some(""),
        };
        let (chosen, refused) = Isolation::new(&facts(Vendor::Intel, 0), &ALL, &requests);
        let names = refused.map(|refused| refused.map(|(name, _)| name));
        assert_eq!(
            names,
            [Some("xpti"), Some("pcid"), Some("smep"), Some("smap")]
        );
        assert!(chosen.dom0 && chosen.domu && chosen.single && chosen.smep && chosen.smap);
        for value in ["default=1", "no-default", "no-", "dom0=", ""] {
            assert_eq!(which(value, true), None, "{value}");
        }
    }

    #[test]
    fn numbers_are_for_isolated_guests_and_all_of_it_only_where_the_cpu_has_it() {
        let on = |pcid| Requests {
            xpti: Some("1"),
            pcid: Some(pcid),
            ..Requests::default()
        };
        assert!(chosen(Vendor::Amd, 0, on("xpti")).single);
        assert!(!chosen(Vendor::Amd, 0, on("noxpti")).tags);
        assert!(!chosen(Vendor::Amd, 0, Requests::default()).tags);
        let bare = Paging::default();
        let (chosen, _) = Isolation::new(&facts(Vendor::Amd, 0), &bare, &on("1"));
        assert_eq!(chosen.to_string(), ", page tables of PV guests isolated");
    }

    #[test]
    fn the_line_says_what_is_done() {
        let all = chosen(Vendor::Intel, 0, Requests::default());
        assert_eq!(
            all.to_string(),
            ", page tables of PV guests isolated, PCID with INVPCID, SMEP, SMAP"
        );
        let requests = Requests {
            smep: Some("no"),
            smap: Some("hvm"),
            xpti: Some("no,dom0"),
            pcid: Some("0"),
        };
        let some = chosen(Vendor::Amd, 0, requests);
        assert_eq!(some.to_string(), ", page tables of PV dom0 isolated");
    }
}
