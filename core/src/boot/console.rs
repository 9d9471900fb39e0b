//! Which device the hypervisor's console is on, where a device tree names it.

use super::{
    cmdline::{Console, Options},
    fdt::{Node, Tree},
};

/// The UART that the command line (`dtuart`) or else the tree (`stdout-path`) names; `None` when neither does, when the
/// name leads nowhere, or when `console` asks for something else.
#[must_use]
pub fn device_tree_uart<'t, 'a>(tree: &'t Tree<'a>, options: &Options) -> Option<Node<'t, 'a>> {
    if !options.console.is_empty() && !options.console.contains(&Console::DeviceTree) {
        return None;
    }
    if let Some(name) = &options.dtuart {
        return tree.resolve(name);
    }
    let chosen = tree.node("/chosen")?;
    let name = chosen
        .text("stdout-path")
        .or_else(|| chosen.text("linux,stdout-path"))?;
    tree.resolve(name)
}
