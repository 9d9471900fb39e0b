//! What guests are told of the machine's instruction set and address translation: what each hart has, as a vCPU may run on any.
//! The names are those of the properties `riscv,isa` and `mmu-type` of a device tree.

use alloc::{collections::BTreeSet, string::String, vec::Vec};

/// Extensions that need nothing of an environment but what guests have, and no register that is not switched.
const KNOWN: &[&str] = &[
    "zicsr",
    "zifencei",
    "zihintpause",
    "zihintntl",
    "zicond",
    "zimop",
    "zcmop",
    "zacas",
    "zawrs",
    "zabha",
    "zba",
    "zbb",
    "zbc",
    "zbs",
    "zbkb",
    "zbkc",
    "zbkx",
    "zfa",
    "zfh",
    "zfhmin",
    "zca",
    "zcb",
    "zcd",
];
/// Characters that say which base it is: `rv64`.
const BASE: usize = 4;
/// Its timer registers.
const SSTC: &str = "sstc";

/// What two harts have in common, in the order of the first.
#[must_use]
pub fn common(one: &str, other: &str) -> String {
    let (one, other) = (extensions(one), extensions(other));
    let mut isa = String::from("rv64");
    let both = |name: &&&str| other.contains(*name);
    for name in one.iter().filter(both) {
        if name.len() > 1 {
            isa.push('_');
        }
        isa.push_str(name);
    }
    isa
}

/// The extensions of one letter and then those of more; `g` stands for some of both.
fn extensions(isa: &str) -> Vec<&str> {
    const GENERAL: [&str; 7] = ["i", "m", "a", "f", "d", "zicsr", "zifencei"];
    let mut parts = isa.split('_');
    let letters = parts.next().and_then(|base| base.get(BASE..));
    let mut found = Vec::new();
    for letter in letters
        .unwrap_or_default()
        .split("")
        .filter(|l| !l.is_empty())
    {
        match letter {
            "g" => found.extend(GENERAL),
            _ => found.push(letter),
        }
    }
    found.extend(parts);
    // Those of one letter stand first.
    found.sort_by_key(|name| name.len() > 1);
    let mut seen = BTreeSet::new();
    found.retain(|name| seen.insert(*name));
    found
}

/// Whether a hart is said to have timer registers that a guest can have.
#[must_use]
pub fn has_sstc(isa: &str) -> bool {
    isa.split('_').any(|part| part == SSTC)
}

/// The address translation that needs the least of a hart; one that is not known counts for nothing.
#[must_use]
pub fn least_translation<'a>(one: &'a str, other: &'a str) -> &'a str {
    let bits = |name: &str| name.strip_prefix("riscv,sv")?.parse::<u32>().ok();
    match (bits(one), bits(other)) {
        (Some(first), Some(second)) if second < first => other,
        (None, Some(_)) => other,
        _ => one,
    }
}

/// What the machine can give a guest beside plain instructions.
#[derive(Clone, Copy, Debug)]
pub struct Gives {
    /// Its own timer register.
    pub sstc: bool,
    /// Floating point.
    pub fp: bool,
}

/// What guests are told of the instruction set: what is known here, and what the machine can give.
#[must_use]
pub fn guest_isa(machine: &str, gives: Gives) -> String {
    const LETTERS: &[&str] = &["i", "m", "a", "f", "d", "c", "b"];
    let is_known = |name: &&str| {
        let needs_fp = matches!(*name, "f" | "d" | "zcd") || name.starts_with("zf");
        (LETTERS.contains(name) || KNOWN.contains(name) || *name == SSTC && gives.sstc)
            && (gives.fp || !needs_fp)
    };
    let mut isa = String::from("rv64");
    for name in extensions(machine).into_iter().filter(is_known) {
        if name.len() > 1 {
            isa.push('_');
        }
        isa.push_str(name);
    }
    isa
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_harts_have_both_is_common() {
        let both = common(
            "rv64imafdch_zicsr_zba_sstc_zbb",
            "rv64imafdcv_zbb_zicsr_zbs",
        );
        assert_eq!(both, "rv64imafdc_zicsr_zbb");
        let same = "rv64imafdch_zicsr_zifencei_sstc";
        assert_eq!(common(same, same), same);
        assert_eq!(common("rv64gc", "rv64imac_zicsr"), "rv64imac_zicsr");
        assert_eq!(common("rv64imac_zicsr", "rv64gc"), "rv64imac_zicsr");
        for odd in ["", "rv", "\u{e9}\u{e9}\u{e9}", "____"] {
            assert_eq!(common(odd, "rv64gc"), "rv64", "{odd}");
        }
    }

    #[test]
    fn each_name_is_told_once() {
        let isa = "rv64gc_zicsr_zifencei_zba_zba";
        assert_eq!(common(isa, isa), "rv64imafdc_zicsr_zifencei_zba");
    }

    #[test]
    fn the_least_translation_is_told() {
        for (one, other, least) in [
            ("riscv,sv57", "riscv,sv39", "riscv,sv39"),
            ("riscv,sv39", "riscv,sv48", "riscv,sv39"),
            ("riscv,none", "riscv,sv48", "riscv,sv48"),
            ("riscv,sv48", "riscv,\u{e9}", "riscv,sv48"),
        ] {
            assert_eq!(least_translation(one, other), least);
        }
    }

    #[test]
    fn timer_registers_are_told_by_name() {
        assert!(has_sstc("rv64imac_zba_sstc"));
        assert!(!has_sstc("rv64imac_sstc2_zba"));
    }
}
