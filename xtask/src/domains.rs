//! Domains beside dom0 or without one, described in the device tree as Xen's documentation says ("dom0less"): nodes
//! `xen,domain` under `/chosen`.

use std::path::PathBuf;

use anyhow::Result;

use crate::device_tree;
use crate::emulator::{self, Machine};
use crate::layout::{BOUNDARY, Place};

/// A domain that the hypervisor starts at boot.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    /// Its kernel.
    pub(crate) kernel: PathBuf,
    /// Its command line.
    pub(crate) words: String,
    /// Virtual CPUs.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory: u64,
    /// Memory in MiB that Xen sets aside for the domain's second-level tables, if it shall not choose.
    pub(crate) tables: Option<u64>,
}

/// Adds domains to a machine, which may have a dom0. Each has an emulated UART, whose output the hypervisor shows.
pub(crate) fn add(machine: &mut Machine, domains: &[Domain], name: &str) -> Result<()> {
    let mut end = machine.modules_end()?;
    let mut tree = machine.own_tree(name)?;
    for (number, domain) in domains.iter().enumerate() {
        let size = emulator::size(&domain.kernel)?;
        let place = Place {
            address: (end + BOUNDARY).next_multiple_of(BOUNDARY),
            size,
        };
        tree.amendments.push_str(&node(number + 1, domain, place));
        machine.extra.extend([
            "-device".to_string(),
            emulator::loader(place.address, &domain.kernel),
        ]);
        end = place.end();
    }
    machine.tree = Some(tree);
    Ok(())
}

/// The memory of a domain is told in KiB.
fn node(number: usize, domain: &Domain, place: Place) -> String {
    let module = device_tree::node("multiboot,kernel", place, &domain.words);
    let tables = domain
        .tables
        .map(|mib| format!("  xen,domain-p2m-mem-mb = <{mib}>;\n"))
        .unwrap_or_default();
    format!(
        "/ {{ chosen {{ domU{number} {{\n  compatible = \"xen,domain\";\n  #address-cells = <2>;\n  #size-cells = <2>;\n  \
         cpus = <{}>;\n  memory = <0x0 {:#x}>;\n  vpl011;\n{tables}{module}}}; }}; }};\n",
        domain.cpus,
        domain.memory << 10
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domains_memory_is_told_in_kib() {
        let domain = Domain {
            kernel: "k".into(),
            words: "seed=1".into(),
            cpus: 2,
            memory: 64,
            tables: None,
        };
        let text = node(
            1,
            &domain,
            Place {
                address: 0x5000_0000,
                size: 0x1000,
            },
        );
        assert!(
            text.contains("cpus = <2>;") && text.contains("memory = <0x0 0x10000>;"),
            "{text}"
        );
        assert!(
            text.contains("module@50000000") && text.contains("seed=1"),
            "{text}"
        );
    }
}
