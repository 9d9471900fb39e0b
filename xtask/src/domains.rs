//! Domains beside dom0 or without one, described in the device tree as Xen's documentation says ("dom0less"): nodes
//! `xen,domain` under `/chosen`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::boards::Modules;
use crate::emulator::{self, Boot, Machine};
use crate::layout::{BOUNDARY, Place};
use crate::{device_tree, paths};

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

/// Adds domains to a machine, which may have a dom0. Each has an emulated UART, whose output the hypervisor shows; on
/// x86-64 it prints by hypercall.
pub(crate) fn add(machine: &mut Machine, domains: &[Domain], name: &str) -> Result<()> {
    if let Modules::Multiboot = machine.board.modules {
        return add_to_list(machine, domains, name);
    }
    // On ARM a guest knows where Xen's interfaces are, told or not.
    let further = match machine.board.arch {
        Arch::Riscv64 => "  vpl011;\n  xen,enhanced = \"enabled\";\n",
        _ => "  vpl011;\n",
    };
    let mut end = machine.modules_end()?;
    let mut tree = machine.own_tree(name)?;
    for (number, domain) in domains.iter().enumerate() {
        let size = emulator::size(&domain.kernel)?;
        let place = Place {
            address: (end + BOUNDARY).next_multiple_of(BOUNDARY),
            size,
        };
        let module = device_tree::node("multiboot,kernel", place, &domain.words);
        let text = node(number + 1, domain, further, &module);
        tree.amendments.push_str(&text);
        machine.extra.extend([
            "-device".to_string(),
            emulator::loader(place.address, &domain.kernel),
        ]);
        end = place.end();
    }
    machine.tree = Some(tree);
    Ok(())
}

/// Where the loader takes a list of modules, a tree is one of them, and names the domains' kernels by their numbers.
fn add_to_list(machine: &mut Machine, domains: &[Domain], name: &str) -> Result<()> {
    let Boot::Direct(files) = &machine.boot else {
        bail!("only a direct boot takes further files");
    };
    let dom0 = files.dom0.as_ref();
    let tree = dom0.map_or(0, |dom0| 1 + usize::from(dom0.initrd.is_some()));
    let mut text =
        String::from("/dts-v1/;\n/ { #address-cells = <2>; #size-cells = <2>; chosen { }; };\n");
    for (number, domain) in (1..).zip(domains) {
        let module = device_tree::numbered_node("multiboot,kernel", tree + number, &domain.words);
        text.push_str(&node(number, domain, "", &module));
    }
    let file = paths::work().join(format!("{name}-domains.dtb"));
    paths::make_dir(&paths::work())?;
    device_tree::compile(&text, &file)?;
    machine.more_modules.push(file);
    let kernels = domains.iter().map(|domain| domain.kernel.clone());
    machine.more_modules.extend(kernels);
    Ok(())
}

/// The memory of a domain is told in KiB.
fn node(number: usize, domain: &Domain, uart: &str, module: &str) -> String {
    let tables = domain
        .tables
        .map(|mib| format!("  xen,domain-p2m-mem-mb = <{mib}>;\n"))
        .unwrap_or_default();
    format!(
        "/ {{ chosen {{ domU{number} {{\n  compatible = \"xen,domain\";\n  #address-cells = <2>;\n  #size-cells = <2>;\n  \
         cpus = <{}>;\n  memory = <0x0 {:#x}>;\n{uart}{tables}{module}}}; }}; }};\n",
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
        let place = Place {
            address: 0x5000_0000,
            size: 0x1000,
        };
        let module = device_tree::node("multiboot,kernel", place, &domain.words);
        let text = node(1, &domain, "", &module);
        assert!(
            text.contains("cpus = <2>;") && text.contains("memory = <0x0 0x10000>;"),
            "{text}"
        );
        assert!(
            text.contains("module@50000000") && text.contains("seed=1"),
            "{text}"
        );
    }

    #[test]
    fn a_module_of_a_list_is_named_by_its_number() {
        let text = device_tree::numbered_node("multiboot,kernel", 3, "");
        assert!(text.contains("module-index = <3>;") && !text.contains("bootargs"));
    }
}
