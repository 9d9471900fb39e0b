//! What the boot loader left: the hypervisor's command line, dom0's kernel and ramdisk, and domains to be made at boot.
//!
//! The bindings are those of Xen (`misc/arm/device-tree/booting` of its documentation), on every architecture:
//! `multiboot,module` nodes and `xen,domain` nodes under `/chosen`, as U-Boot scripts and QEMU's guest-loader write them.
//! Where the loader itself gives a list of modules (Multiboot, PVH), `module-index` names one by its number in the list,
//! counted from 0, as Xen's hyperlaunch design has it; `reg` names one by its place.

use alloc::{string::String, vec::Vec};
use core::fmt;

use super::{
    fdt::{Node, Tree},
    range::PhysRange,
};

/// First word of an XSM policy, little-endian; a module of unspecified type that starts so is one.
const XSM_MAGIC: u32 = 0xf97c_ff8c;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A kernel.
    Kernel,
    /// An initial ramdisk.
    Ramdisk,
    /// A partial device tree of a domain.
    DeviceTree,
    /// An XSM policy; taken and not used.
    XsmPolicy,
    /// Of no use to the hypervisor.
    Other,
}

/// A file that the boot loader put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// What it is.
    pub kind: ModuleKind,
    /// Where it lies.
    pub range: PhysRange,
    /// Its own command line.
    pub bootargs: Option<&'a str>,
    /// The node that describes it.
    pub path: String,
}

/// The control domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dom0<'a> {
    /// Its kernel.
    pub kernel: Module<'a>,
    /// Its ramdisk.
    pub ramdisk: Option<Module<'a>>,
    /// Its command line.
    pub bootargs: &'a str,
}

impl<'a> Dom0<'a> {
    /// The modules that it uses.
    pub fn modules(&self) -> impl Iterator<Item = &Module<'a>> {
        core::iter::once(&self.kernel).chain(&self.ramdisk)
    }
}

/// Which of Xen's interfaces a domain is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enhanced {
    /// None.
    #[default]
    Disabled,
    /// All.
    Enabled,
    /// All but XenStore.
    NoXenstore,
}

/// A domain to be made at boot beside dom0 or without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSpec<'a> {
    /// The name of its node.
    pub name: &'a str,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Its kernel.
    pub kernel: Module<'a>,
    /// Its ramdisk.
    pub ramdisk: Option<Module<'a>>,
    /// A partial device tree for it.
    pub device_tree: Option<Module<'a>>,
    /// Its command line.
    pub bootargs: &'a str,
    /// Whether it gets an emulated UART on the hypervisor's console. ARM's is a PL011, hence the name.
    pub vpl011: bool,
    /// Number of shared peripheral interrupts, when given.
    pub nr_spis: Option<u32>,
    /// Whether guest-physical addresses are machine addresses.
    pub direct_map: bool,
    /// Which Xen interfaces it is told of.
    pub enhanced: Enhanced,
    /// How it runs, where the node says so and the architecture leaves a choice (`mode` of Xen's hyperlaunch design).
    pub mode: Option<DomainMode>,
    /// What it may do beyond itself, where the architecture lets others than dom0.
    pub capabilities: Capabilities,
}

impl<'a> DomainSpec<'a> {
    /// The modules that it uses.
    pub fn modules(&self) -> impl Iterator<Item = &Module<'a>> {
        [
            Some(&self.kernel),
            self.ramdisk.as_ref(),
            self.device_tree.as_ref(),
        ]
        .into_iter()
        .flatten()
    }
}

/// What a domain may do, as its node says (`capabilities` of Xen's booting document, from 4.20 on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// It controls other domains and the machine.
    #[must_use]
    pub const fn has_control(self) -> bool {
        self.0 & 1 != 0
    }

    /// It has the machine's devices.
    #[must_use]
    pub const fn has_hardware(self) -> bool {
        self.0 & 2 != 0
    }
}

/// How a domain runs, as its node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainMode(pub u32);

impl DomainMode {
    /// Paravirtual; else in the CPU's virtualization.
    #[must_use]
    pub const fn is_paravirtual(self) -> bool {
        self.0 & 1 != 0
    }

    /// It has emulated devices.
    #[must_use]
    pub const fn has_device_model(self) -> bool {
        self.0 & 2 != 0
    }

    /// Its kernel is 64-bit code.
    #[must_use]
    pub const fn is_long(self) -> bool {
        self.0 & 4 != 0
    }
}

/// Everything that `/chosen` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootInfo<'a> {
    /// The hypervisor's own command line.
    pub command_line: &'a str,
    /// The control domain.
    pub dom0: Option<Dom0<'a>>,
    /// Other domains.
    pub domains: Vec<DomainSpec<'a>>,
    /// Modules that nobody uses: their memory is free.
    pub unused: Vec<Module<'a>>,
}

/// Why `/chosen` cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleError {
    /// Nothing to boot.
    Nothing,
    /// A module without usable `reg`.
    BadReg(String),
    /// A `module-index` beyond the loader's list, which has so many modules.
    NoModule(String, u32, usize),
    /// Two modules of one kind for one domain.
    Twice(String, &'static str, String),
    /// A domain lacks something.
    Missing(String, &'static str),
    /// A ramdisk, but no kernel to go with it.
    NoKernel(String),
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(
                f,
                "/chosen names no kernel: load one as a \"multiboot,kernel\" module for dom0, or describe a \"xen,domain\""
            ),
            Self::BadReg(node) => write!(
                f,
                "boot module {node}: reg is missing or malformed; write its module-index, or its address and size with the parent's #address-cells and #size-cells"
            ),
            Self::NoModule(node, index, count) => write!(
                f,
                "boot module {node}: module-index is {index}, and the loader gave {count} modules, counted from 0; correct it or load the file"
            ),
            Self::Twice(node, what, first) => write!(
                f,
                "boot module {node} is a second {what} beside {first}; remove one of them"
            ),
            Self::Missing(node, what) => {
                write!(f, "domain {node}: {what} is missing or malformed; add it")
            }
            Self::NoKernel(node) => write!(
                f,
                "boot module {node} is a ramdisk for dom0, but there is no \"multiboot,kernel\" module; load one"
            ),
        }
    }
}

impl<'a> BootInfo<'a> {
    /// Reads `/chosen`. `first_word` gives the first four bytes of a module, little-endian, if they can be read.
    pub fn from_tree(
        tree: &Tree<'a>,
        first_word: &dyn Fn(PhysRange) -> Option<u32>,
    ) -> Result<Self, ModuleError> {
        Self::with_modules(tree, &[], first_word)
    }

    /// The same, where the loader gave these modules and nodes may name them by number.
    pub fn with_modules(
        tree: &Tree<'a>,
        modules: &[PhysRange],
        first_word: &dyn Fn(PhysRange) -> Option<u32>,
    ) -> Result<Self, ModuleError> {
        let loaded = &Loaded {
            modules,
            first_word,
        };
        let Some(chosen) = tree.node("/chosen") else {
            return Err(ModuleError::Nothing);
        };
        let mut info = Self::default();
        let mut files = Files::collect(chosen, loaded)?;
        if files.ramdisk.is_none() {
            files.ramdisk = linux_initrd(chosen);
        }
        let kernel_has_bootargs = files.kernel.as_ref().is_some_and(|k| k.bootargs.is_some());
        match (files.kernel, files.ramdisk) {
            (Some(kernel), ramdisk) => {
                info.dom0 = Some(Dom0 {
                    bootargs: dom0_line(chosen, &kernel),
                    kernel,
                    ramdisk,
                });
            }
            (None, Some(ramdisk))
                if ramdisk.kind == ModuleKind::Ramdisk && ramdisk.path != LINUX_INITRD =>
            {
                return Err(ModuleError::NoKernel(ramdisk.path));
            }
            (None, _) => {}
        }
        info.unused = files.other;
        info.command_line = own_line(chosen, info.dom0.is_some(), kernel_has_bootargs);
        for node in chosen
            .children()
            .filter(|n| n.is_compatible(&["xen,domain"]))
        {
            let (domain, rest) = domain(node, loaded)?;
            info.domains.push(domain);
            info.unused.extend(rest);
        }
        if info.dom0.is_none() && info.domains.is_empty() {
            return Err(ModuleError::Nothing);
        }
        Ok(info)
    }

    /// Every module that some domain uses.
    #[must_use]
    pub fn modules(&self) -> Vec<&Module<'a>> {
        let dom0 = self
            .dom0
            .iter()
            .flat_map(|d| [Some(&d.kernel), d.ramdisk.as_ref()]);
        let others = self
            .domains
            .iter()
            .flat_map(|d| [Some(&d.kernel), d.ramdisk.as_ref(), d.device_tree.as_ref()]);
        dom0.chain(others).flatten().collect()
    }
}

/// Where the modules lie that the tree names, whatever they are: each is to be left alone before anything of it is read.
#[must_use]
pub fn places(tree: &Tree<'_>) -> Vec<PhysRange> {
    let Some(chosen) = tree.node("/chosen") else {
        return Vec::new();
    };
    let domains = chosen
        .children()
        .filter(|n| n.is_compatible(&["xen,domain"]));
    let dom0s = || chosen.children().filter(is_module);
    let modules = domains.flat_map(|parent| parent.children().filter(is_module));
    let mut places: Vec<PhysRange> = dom0s().chain(modules).filter_map(at).collect();
    // It counts for a dom0 without another ramdisk. Boot loaders name one both ways.
    let has_ramdisk = dom0s().any(|node| named_kind(node) == Some(ModuleKind::Ramdisk));
    if dom0s().next().is_some()
        && !has_ramdisk
        && let Some(initrd) = linux_initrd(chosen)
        && !places.iter().any(|place| place.overlaps(&initrd.range))
    {
        places.push(initrd.range);
    }
    places
}

/// Where a node says that a file lies.
fn at(node: Node<'_, '_>) -> Option<PhysRange> {
    let (start, size) = node.reg()?.first().copied()?;
    PhysRange::new(start, size)
}

/// Stands for the path of a ramdisk that `/chosen` gives as Linux would read it.
const LINUX_INITRD: &str = "/chosen (linux,initrd-start)";

/// A ramdisk that a boot loader gave in Linux's own way (`booti` with three arguments).
fn linux_initrd<'a>(chosen: Node<'_, 'a>) -> Option<Module<'a>> {
    let range = PhysRange::between(
        chosen.u64("linux,initrd-start")?,
        chosen.u64("linux,initrd-end")?,
    );
    (!range.is_empty()).then(|| Module {
        kind: ModuleKind::Ramdisk,
        range,
        bootargs: None,
        path: String::from(LINUX_INITRD),
    })
}

/// The hypervisor's line, by the rule of Xen's documentation. Without a dom0 `bootargs` has no other reader, so it is
/// ours then.
fn own_line<'a>(chosen: Node<'_, 'a>, has_dom0: bool, kernel_has_bootargs: bool) -> &'a str {
    if let Some(line) = chosen.text("xen,xen-bootargs") {
        return line;
    }
    if chosen.has("xen,dom0-bootargs") || kernel_has_bootargs || !has_dom0 {
        return chosen.text("bootargs").unwrap_or("");
    }
    ""
}

fn dom0_line<'a>(chosen: Node<'_, 'a>, kernel: &Module<'a>) -> &'a str {
    if let Some(line) = kernel.bootargs {
        return line;
    }
    chosen
        .text("xen,dom0-bootargs")
        .or_else(|| chosen.text("bootargs"))
        .unwrap_or("")
}

/// The modules below one node, by kind.
#[derive(Default)]
struct Files<'a> {
    kernel: Option<Module<'a>>,
    ramdisk: Option<Module<'a>>,
    device_tree: Option<Module<'a>>,
    other: Vec<Module<'a>>,
}

impl<'a> Files<'a> {
    fn collect(parent: Node<'_, 'a>, loaded: &Loaded<'_>) -> Result<Self, ModuleError> {
        let mut files = Self::default();
        let mut unspecified = 0;
        for node in parent.children().filter(is_module) {
            let range = loaded.range(node)?;
            let kind = named_kind(node).unwrap_or_else(|| {
                unspecified += 1;
                match unspecified {
                    1 => ModuleKind::Kernel,
                    _ if (loaded.first_word)(range) == Some(XSM_MAGIC) => ModuleKind::XsmPolicy,
                    2 => ModuleKind::Ramdisk,
                    _ => ModuleKind::Other,
                }
            });
            files.add(Module {
                kind,
                range,
                bootargs: node.text("bootargs").filter(|line| !line.is_empty()),
                path: node.path(),
            })?;
        }
        Ok(files)
    }

    fn add(&mut self, module: Module<'a>) -> Result<(), ModuleError> {
        let (place, what) = match module.kind {
            ModuleKind::Kernel => (&mut self.kernel, "kernel"),
            ModuleKind::Ramdisk => (&mut self.ramdisk, "ramdisk"),
            ModuleKind::DeviceTree => (&mut self.device_tree, "device tree"),
            ModuleKind::XsmPolicy | ModuleKind::Other => {
                self.other.push(module);
                return Ok(());
            }
        };
        if let Some(first) = place {
            return Err(ModuleError::Twice(module.path, what, first.path.clone()));
        }
        *place = Some(module);
        Ok(())
    }
}

fn is_module(node: &Node<'_, '_>) -> bool {
    node.is_compatible(&["multiboot,module", "xen,multiboot-module"])
}

fn named_kind(node: Node<'_, '_>) -> Option<ModuleKind> {
    node.texts("compatible").find_map(|name| match name {
        "multiboot,kernel" | "xen,linux-zimage" => Some(ModuleKind::Kernel),
        "multiboot,ramdisk" | "xen,linux-initrd" => Some(ModuleKind::Ramdisk),
        "multiboot,device-tree" => Some(ModuleKind::DeviceTree),
        "xen,xsm-policy" => Some(ModuleKind::XsmPolicy),
        _ => None,
    })
}

/// What is in memory beside the tree.
struct Loaded<'l> {
    /// The loader's list, where it gave one.
    modules: &'l [PhysRange],
    first_word: &'l dyn Fn(PhysRange) -> Option<u32>,
}

impl Loaded<'_> {
    /// Where a node's module lies.
    fn range(&self, node: Node<'_, '_>) -> Result<PhysRange, ModuleError> {
        if let Some(index) = node.u32("module-index") {
            let found = usize::try_from(index)
                .ok()
                .and_then(|i| self.modules.get(i));
            return found
                .copied()
                .ok_or_else(|| ModuleError::NoModule(node.path(), index, self.modules.len()));
        }
        at(node).ok_or_else(|| ModuleError::BadReg(node.path()))
    }
}

fn domain<'a>(
    node: Node<'_, 'a>,
    loaded: &Loaded<'_>,
) -> Result<(DomainSpec<'a>, Vec<Module<'a>>), ModuleError> {
    let missing = |what| ModuleError::Missing(node.path(), what);
    let files = Files::collect(node, loaded)?;
    let kernel = files
        .kernel
        .ok_or_else(|| missing("a \"multiboot,kernel\" module"))?;
    let cpus = node
        .u32("cpus")
        .filter(|n| *n > 0)
        .ok_or_else(|| missing("\"cpus\" (a number above 0)"))?;
    let memory = node
        .u64("memory")
        .and_then(|kib| kib.checked_mul(1024))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| missing("\"memory\" (KiB, two cells)"))?;
    let enhanced = match node.property("xen,enhanced") {
        None => Enhanced::Disabled,
        Some([]) => Enhanced::Enabled,
        Some(_) => match node.text("xen,enhanced") {
            Some("enabled") => Enhanced::Enabled,
            Some("no-xenstore") => Enhanced::NoXenstore,
            Some("disabled") => Enhanced::Disabled,
            _ => {
                return Err(missing(
                    "\"xen,enhanced\" (enabled, disabled or no-xenstore)",
                ));
            }
        },
    };
    let spec = DomainSpec {
        name: node.name(),
        cpus,
        memory,
        bootargs: kernel
            .bootargs
            .or_else(|| node.text("bootargs"))
            .unwrap_or(""),
        kernel,
        ramdisk: files.ramdisk,
        device_tree: files.device_tree,
        vpl011: node.has("vpl011"),
        nr_spis: node.u32("nr_spis"),
        direct_map: node.has("direct-map"),
        enhanced,
        mode: node.u32("mode").map(DomainMode),
        capabilities: Capabilities(node.u32("capabilities").unwrap_or(0)),
    };
    Ok((spec, files.other))
}
