//! Boot modules in memory: the bytes of one, a kernel unpacked, and which module is whose.
//!
//! A device tree among them, known by its first word, describes domains beside dom0 and is nobody's otherwise; the
//! modules that it names are theirs. Where it does not name dom0's, the first of the rest is dom0's kernel, the next its
//! ramdisk. What belongs to other domains is taken to the end of RAM, for dom0 may get the memory where it lies.

use alloc::{format, string::String, vec::Vec};

use xenolith_arch_common::with_room;
use xenolith_core::boot::{
    PhysRange, RangeSet,
    bzimage::{self, BzImage},
    fdt::Tree,
    modules::{self, DomainSpec},
};
use xenolith_hal::PAGE_SIZE;

use super::{
    dom0::Files,
    info::{BootInfo, Module},
};
use crate::mm::hyp::Direct;

const PAGE: u64 = PAGE_SIZE as u64;
/// A device tree's first word.
const TREE: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();

/// A module's bytes, or those of what was unpacked.
pub(super) fn bytes(range: PhysRange) -> &'static [u8] {
    // SAFETY: the range is RAM in the direct map that nobody writes until its domain has been built.
    unsafe {
        core::slice::from_raw_parts(
            Direct::address(range.base()) as *const u8,
            range.size() as usize,
        )
    }
}

/// Free RAM as room to unpack in.
pub(super) fn room(range: PhysRange) -> &'static mut [u8] {
    // SAFETY: the range was taken out of free RAM for this one use, and the direct map covers it.
    unsafe {
        core::slice::from_raw_parts_mut(
            Direct::address(range.base()) as *mut u8,
            range.size() as usize,
        )
    }
}

/// Takes whole frames from the end of free RAM.
fn take(size: u64, free: &mut RangeSet) -> Option<PhysRange> {
    let size = size.max(1).checked_next_multiple_of(PAGE)?;
    let range = free.highest_fit(size, PAGE)?;
    free.remove(range);
    Some(range)
}

/// The kernel's ELF file: as it was loaded, or unpacked into free RAM.
pub(super) fn unpack(
    name: &str,
    file: PhysRange,
    free: &mut RangeSet,
) -> Result<PhysRange, String> {
    if !bzimage::is_bzimage(bytes(file)) {
        return Ok(file);
    }
    let packed = BzImage::parse(bytes(file)).map_err(|e| format!("{e}"))?;
    let mut take = |size| take(size, free);
    let places = take(packed.length.into())
        .zip(take(packed.work_size() as u64))
        .zip(take(packed.heap_size()));
    let ((out, work), heap) = places.ok_or_else(|| {
        format!("no free memory to unpack {name}'s kernel in: give the machine more RAM")
    })?;
    let elf = with_room(room(heap), || packed.unpack(room(out), room(work)));
    let elf = elf.map_err(|e| format!("{e}"))?;
    Ok(PhysRange::between(
        out.start(),
        out.start() + elf.len() as u64,
    ))
}

/// A module at a place of its own.
fn copy(name: &str, file: PhysRange, free: &mut RangeSet) -> Result<PhysRange, String> {
    let to = take(file.size(), free)
        .ok_or_else(|| format!("no free memory for {name}'s files: give the machine more RAM"))?;
    let to = PhysRange::between(to.start(), to.start() + file.size());
    room(to).copy_from_slice(bytes(file));
    Ok(to)
}

/// A domain beside dom0, with its files out of dom0's way.
pub(super) struct Other {
    pub(super) spec: DomainSpec<'static>,
    /// Its kernel as an ELF file.
    pub(super) kernel: PhysRange,
    pub(super) ramdisk: Option<PhysRange>,
}

/// Whose the modules are.
#[derive(Default)]
pub(super) struct Parts<'m> {
    pub(super) dom0: Option<Files<'m>>,
    pub(super) others: Vec<Other>,
    /// Free RAM in which the others' files now lie.
    pub(super) kept: RangeSet,
}

impl<'m> Parts<'m> {
    /// Sorts the modules. What is wrong with the tree or with a file that it names is told, and the rest goes on.
    pub(super) fn new(boot: &BootInfo<'m>, free: &mut RangeSet) -> Self {
        let mut parts = Self::default();
        // Where a loader's word cannot be believed there is nothing to look at.
        let in_ram = |range: PhysRange| {
            let mut entries = boot.map.iter();
            !range.is_empty() && entries.any(|e| e.kind == 1 && e.range.contains(&range))
        };
        let is_tree = |m: &Module<'_>| in_ram(m.range) && bytes(m.range).starts_with(&TREE);
        let tree = boot.modules.iter().find(|m| is_tree(m)).copied();
        let mut named = Vec::new();
        if let Some(tree) = tree {
            named.push(tree.range);
            match described(tree.range, boot, free, &mut parts.kept) {
                Ok(info) => {
                    named.extend(info.modules().iter().map(|module| module.range));
                    parts.dom0 = info.dom0.as_ref().and_then(|dom0| named_dom0(dom0, boot));
                    for spec in info.domains {
                        // What is free, or the hypervisor's, is nobody's file.
                        let is_file =
                            |m: &modules::Module<'_>| in_ram(m.range) && loaded(m, boot).is_some();
                        if is_file(&spec.kernel) && spec.ramdisk.as_ref().is_none_or(is_file) {
                            parts.add(spec, free);
                        } else {
                            log::error!("{}: its files are no boot modules in RAM", spec.name);
                        }
                    }
                }
                Err(error) => log::error!("device tree of domains: {error}"),
            }
        }
        let mut rest = boot.modules.iter().filter(|m| !named.contains(&m.range));
        parts.dom0 = parts.dom0.or_else(|| {
            Some(Files {
                kernel: *rest.next()?,
                ramdisk: rest.next().copied(),
            })
        });
        parts
    }

    fn add(&mut self, spec: DomainSpec<'static>, free: &mut RangeSet) {
        let before = free.clone();
        let prepared = unpack(spec.name, spec.kernel.range, free).and_then(|kernel| {
            let kernel = if kernel == spec.kernel.range {
                copy(spec.name, kernel, free)?
            } else {
                kernel
            };
            let ramdisk = spec.ramdisk.as_ref();
            let ramdisk = ramdisk
                .map(|m| copy(spec.name, m.range, free))
                .transpose()?;
            Ok((kernel, ramdisk))
        });
        match prepared {
            Ok((kernel, ramdisk)) => {
                self.keep(kernel);
                ramdisk.into_iter().for_each(|range| self.keep(range));
                self.others.push(Other {
                    spec,
                    kernel,
                    ramdisk,
                });
            }
            Err(error) => log::error!("{}: {error}", spec.name),
        }
        // What was only worked in is free again.
        *free = before;
        self.kept.iter().for_each(|range| free.remove(range));
    }

    fn keep(&mut self, range: PhysRange) {
        self.kept.insert(range.page_outer().unwrap_or(range));
    }
}

/// The loader's own word for a module that the tree names.
fn loaded<'m>(module: &modules::Module<'_>, boot: &BootInfo<'m>) -> Option<Module<'m>> {
    let mut all = boot.modules.iter();
    all.find(|m| m.range == module.range).copied()
}

/// dom0's files, where the tree says which they are.
fn named_dom0<'m>(dom0: &modules::Dom0<'static>, boot: &BootInfo<'m>) -> Option<Files<'m>> {
    let kernel = loaded(&dom0.kernel, boot)?;
    let command_line = match dom0.bootargs {
        "" => kernel.command_line,
        line => line,
    };
    Some(Files {
        kernel: Module {
            command_line,
            ..kernel
        },
        ramdisk: dom0.ramdisk.as_ref().and_then(|m| loaded(m, boot)),
    })
}

/// What the tree says, read from a copy of it.
fn described(
    tree: PhysRange,
    boot: &BootInfo<'_>,
    free: &mut RangeSet,
    kept: &mut RangeSet,
) -> Result<modules::BootInfo<'static>, String> {
    let tree = copy("the device tree", tree, free)?;
    kept.insert(tree.page_outer().unwrap_or(tree));
    let tree = Tree::parse(bytes(tree)).map_err(|e| format!("{e}"))?;
    let ranges: Vec<PhysRange> = boot.modules.iter().map(|module| module.range).collect();
    modules::BootInfo::with_modules(&tree, &ranges, &|_| None).map_err(|e| format!("{e}"))
}
