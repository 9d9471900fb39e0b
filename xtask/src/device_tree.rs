//! Completes a board's device tree with the boot modules, as a boot loader on the board would.
//!
//! The bindings are those of Xen: nodes `multiboot,module` under `/chosen`. The tree is edited as source text, with the
//! device tree compiler on both ends: a later node of the same name adds to the earlier one.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::emulator::Dom0;
use crate::fetch::Debian;
use crate::layout::{Layout, Place};
use crate::{paths, process};

/// A device tree as source text, in the parts that make the whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    /// The machine's own tree.
    pub(crate) machine: String,
    /// What is added behind the modules' nodes, and so changes them.
    pub(crate) amendments: String,
}

impl Tree {
    /// The tree of a board from Debian's kernel package, with its corrections.
    pub(crate) fn from_kernel_package(arch: Arch, file: &str, corrections: &str) -> Result<Tree> {
        let original = decompile(&Debian::fetch(arch)?.device_tree(file)?)?;
        Ok(Tree {
            machine: format!("{original}\n{corrections}\n"),
            amendments: String::new(),
        })
    }

    /// Writes the binary form, with the modules of dom0 if there is one, to `output`.
    pub(crate) fn write(&self, dom0: Option<(&Dom0, &Layout)>, output: &Path) -> Result<()> {
        let modules = dom0.map_or(String::new(), |(dom0, layout)| chosen(dom0, layout));
        compile(
            &format!("{}\n{modules}\n{}", self.machine, self.amendments),
            output,
        )
    }
}

/// The source text of a binary device tree.
pub(crate) fn decompile(tree: &Path) -> Result<String> {
    process::output(
        Command::new("dtc")
            .args(["-q", "-I", "dtb", "-O", "dts"])
            .arg(tree),
    )
    .with_context(|| format!("cannot read the device tree {}", paths::shown(tree)))
}

/// Writes the binary form of a device tree's source text.
pub(crate) fn compile(source: &str, output: &Path) -> Result<()> {
    let text = output.with_extension("dts");
    paths::write(&text, source.as_bytes())?;
    process::output(
        Command::new("dtc")
            .args(["-q", "-I", "dts", "-O", "dtb", "-o"])
            .arg(output)
            .arg(&text),
    )
    .map(drop)
}

fn modules(dom0: &Dom0, layout: &Layout) -> String {
    let mut nodes = node("multiboot,kernel", layout.kernel, &dom0.words);
    if let Some(place) = layout.initrd {
        nodes.push_str(&node("multiboot,ramdisk", place, ""));
    }
    nodes
}

/// The first domain, with control, of so many processors and MiB, where there is no dom0 of another kind.
pub(crate) fn first_domain(dom0: &Dom0, layout: &Layout, cpus: u32, memory: u64) -> String {
    let (nodes, kib) = (modules(dom0, layout), memory << 10);
    format!(
        "/ {{ chosen {{ domU0 {{\n  compatible = \"xen,domain\";\n  #address-cells = <2>;\n  #size-cells = <2>;\n  \
         cpus = <{cpus}>;\n  memory = <0x0 {kib:#x}>;\n  vpl011;\n  xen,enhanced = \"enabled\";\n  capabilities = <3>;\n{nodes}}}; }}; }};\n"
    )
}

fn chosen(dom0: &Dom0, layout: &Layout) -> String {
    let nodes = modules(dom0, layout);
    format!("/ {{\n chosen {{\n  #address-cells = <2>;\n  #size-cells = <2>;\n{nodes} }};\n}};\n")
}

/// The node of one boot module.
pub(crate) fn node(kind: &str, place: Place, words: &str) -> String {
    let Place { address, size } = place;
    let words = words_property(words);
    format!(
        "  module@{address:x} {{\n   compatible = \"{kind}\", \"multiboot,module\";\n   reg = <{:#x} {:#x} {:#x} {:#x}>;\n{words}  }};\n",
        address >> 32,
        address & 0xffff_ffff,
        size >> 32,
        size & 0xffff_ffff
    )
}

/// The node of a boot module that is named by its number in the loader's list.
pub(crate) fn numbered_node(kind: &str, index: usize, words: &str) -> String {
    let words = words_property(words);
    format!(
        "  module@{index} {{\n   compatible = \"{kind}\", \"multiboot,module\";\n   module-index = <{index}>;\n{words}  }};\n"
    )
}

fn words_property(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!("   bootargs = {};\n", quoted(words))
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_node_has_its_address_in_two_cells() {
        let text = node(
            "multiboot,kernel",
            Place {
                address: 0x8_4000_0000,
                size: 0x10,
            },
            "a \"b\"",
        );
        assert!(text.contains("module@840000000 {"), "{text}");
        assert!(text.contains("reg = <0x8 0x40000000 0x0 0x10>;"), "{text}");
        assert!(text.contains(r#"bootargs = "a \"b\"";"#), "{text}");
    }
}
