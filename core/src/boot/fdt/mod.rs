//! Flattened device trees: a reader that survives any bytes, and a writer.
//!
//! Both follow the Devicetree Specification 0.4, chapter 5. The tree is read once into an index, so that parents,
//! phandles and siblings are found without walking the blob again; nothing here recurses. Names longer than the
//! specification's 31 characters are taken as they are: boards ship them.

mod interrupt;
mod node;
mod read;
mod write;

pub use interrupt::Interrupt;
pub use node::Node;
pub use read::{NodeId, Property, Tree, TreeError, blob_size};
pub use write::Writer;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

const HEADER_SIZE: usize = 40;

/// Whether a comma-free base name (without unit address) of a node is `base`.
fn base_name(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}
