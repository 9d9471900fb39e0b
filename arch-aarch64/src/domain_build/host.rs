//! What the machine has, as its device tree tells it: interrupt controller, timer, firmware interface, CPUs.
//!
//! The bindings are Linux's: `interrupt-controller/arm,gic` and `arm,gic-v3`, `timer/arm,arch_timer`, `arm/psci`,
//! `arm/cpus`. What a hypervisor cannot do without is an error that says so.

use alloc::{string::String, vec::Vec};
use core::fmt;

use super::FIRST_PPI;
use xenolith_core::boot::{
    PhysRange,
    fdt::{Node, NodeId, Tree},
};

const GIC_V2: &[&str] = &[
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,cortex-a9-gic",
    "arm,tc11mp-gic",
    "qcom,msm-qgic2",
];
const GIC_V3: &[&str] = &["arm,gic-v3"];
const TIMER: &[&str] = &["arm,armv8-timer", "arm,armv7-timer"];
const PSCI: &[&str] = &["arm,psci-1.0", "arm,psci-0.2"];

/// Size of one CPU's redistributor of a GICv3: two frames of 64 KiB.
pub(super) const REDISTRIBUTOR: u64 = 0x2_0000;
/// What a guest sees of a GICv2 CPU interface.
const CPU_INTERFACE: u64 = 0x2000;

/// Which interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicVersion {
    /// GICv2.
    V2,
    /// GICv3 or v4.
    V3,
}

/// The interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic {
    /// Which.
    pub version: GicVersion,
    /// Its node.
    pub node: NodeId,
    /// Its phandle; every tree with devices gives it one.
    pub phandle: u32,
    /// The distributor.
    pub distributor: PhysRange,
    /// GICv2: the CPU interface.
    pub cpu_interface: Option<PhysRange>,
    /// GICv2: the control interface of the hypervisor.
    pub hypervisor_interface: Option<PhysRange>,
    /// GICv2: the CPU interface that guests are given.
    pub virtual_cpu_interface: Option<PhysRange>,
    /// GICv3: the redistributor regions.
    pub redistributors: Vec<PhysRange>,
    /// GICv3: distance of two CPUs' redistributors, when it is not that of the architecture.
    pub redistributor_stride: Option<u64>,
    /// The maintenance interrupt's number.
    pub maintenance: Option<u32>,
    /// Cells of an interrupt specifier: 3, or 4 with interrupt partitions.
    pub interrupt_cells: usize,
}

/// What dom0 sees of the interrupt controller: windows at the machine's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualGic {
    /// The distributor, emulated.
    pub distributor: PhysRange,
    /// GICv2: the CPU interface, backed by the virtual CPU interface.
    pub cpu_interface: Option<PhysRange>,
    /// GICv3: the redistributors, emulated, 128 KiB for each vCPU in order.
    pub redistributors: Vec<PhysRange>,
}

/// How firmware is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC: only when a hypervisor is below.
    Hvc,
}

/// The generic timer's interrupts, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerPpis {
    /// Secure physical timer.
    pub secure: u32,
    /// Physical timer.
    pub physical: u32,
    /// Virtual timer.
    pub virt: u32,
    /// The hypervisor's timer.
    pub hypervisor: u32,
}

/// A CPU of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCpu<'a> {
    /// Its affinity as MPIDR_EL1 has it.
    pub mpidr: u64,
    /// Its `compatible`, raw.
    pub compatible: &'a [u8],
    /// Its phandle.
    pub phandle: Option<u32>,
    /// Whether it starts by PSCI.
    pub by_psci: bool,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// The interrupt controller.
    pub gic: Gic,
    /// The timer's interrupts.
    pub timer: TimerPpis,
    /// The timer's node.
    pub timer_node: NodeId,
    /// The frequency of the timer, where firmware leaves CNTFRQ_EL0 wrong.
    pub timer_frequency: Option<u32>,
    /// How PSCI is called; `None` when there is no PSCI 0.2 or newer: only the boot CPU can be used.
    pub psci: Option<Conduit>,
    /// CPUs in the order of the tree.
    pub cpus: Vec<HostCpu<'a>>,
}

/// What the machine's tree lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostError {
    /// No interrupt controller that is known.
    NoGic,
    /// The interrupt controller's node lacks something.
    Gic(String, &'static str),
    /// No generic timer.
    NoTimer,
    /// The timer's node lacks an interrupt.
    Timer(String),
    /// No CPU.
    NoCpus,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device tree: ")?;
        match self {
            Self::NoGic => write!(
                f,
                "no GICv2 (with virtualization) or GICv3 node; this machine cannot be used, or its tree lacks the node"
            ),
            Self::Gic(path, what) => write!(f, "{path} lacks {what}; correct its reg"),
            Self::NoTimer => write!(
                f,
                "no \"arm,armv8-timer\" node; add the generic timer with its four interrupts"
            ),
            Self::Timer(path) => write!(
                f,
                "{path} lacks the hypervisor's timer; list its four interrupts (secure, physical, virtual, hypervisor)"
            ),
            Self::NoCpus => write!(
                f,
                "no CPU under /cpus; add a node with device_type = \"cpu\" and reg for each"
            ),
        }
    }
}

impl<'a> Host<'a> {
    /// Reads the machine from its tree.
    pub fn from_tree(tree: &Tree<'a>) -> Result<Self, HostError> {
        let find = |any: &[&str]| {
            tree.nodes()
                .find(|n| n.is_compatible(any) && n.is_enabled())
        };
        let gic = find(GIC_V3)
            .map(gic_v3)
            .or_else(|| find(GIC_V2).map(gic_v2))
            .ok_or(HostError::NoGic)??;
        let timer_node = find(TIMER).ok_or(HostError::NoTimer)?;
        let psci = find(PSCI).and_then(|n| match n.text("method") {
            Some("smc") => Some(Conduit::Smc),
            Some("hvc") => Some(Conduit::Hvc),
            _ => None,
        });
        let cpus: Vec<_> = tree.node("/cpus").map(cpus).unwrap_or_default();
        if cpus.is_empty() {
            return Err(HostError::NoCpus);
        }
        Ok(Self {
            timer: timer(timer_node, &gic)?,
            gic,
            timer_node: timer_node.id(),
            timer_frequency: timer_node.u32("clock-frequency"),
            psci,
            cpus,
        })
    }

    /// What dom0 sees of the interrupt controller with so many vCPUs.
    #[must_use]
    pub fn virtual_gic(&self, vcpus: u32) -> VirtualGic {
        let wanted = u64::from(vcpus.max(1)).saturating_mul(REDISTRIBUTOR);
        let cut = |range: PhysRange, size: u64| {
            PhysRange::between(
                range.start(),
                range.start().saturating_add(size.min(range.size())),
            )
        };
        let redistributors = match self.gic.redistributors.first() {
            Some(first) if first.size() >= wanted => alloc::vec![cut(*first, wanted)],
            _ => self.gic.redistributors.clone(),
        };
        VirtualGic {
            distributor: self.gic.distributor,
            cpu_interface: self.gic.cpu_interface.map(|c| cut(c, CPU_INTERFACE)),
            redistributors,
        }
    }

    /// How many vCPUs dom0's interrupt controller has room for.
    #[must_use]
    pub fn most_vcpus(&self) -> u32 {
        match self.gic.version {
            GicVersion::V2 => 8,
            GicVersion::V3 => {
                let regions = self.gic.redistributors.iter();
                let room =
                    regions.fold(0u64, |sum, r| sum.saturating_add(r.size() / REDISTRIBUTOR));
                room.clamp(1, 4096) as u32
            }
        }
    }

    /// A private interrupt that no device of the machine uses, for event channels; the highest, 31, if possible.
    #[must_use]
    pub fn event_ppi(&self, tree: &Tree<'_>) -> u32 {
        let mut used = 0u32;
        for node in tree.nodes() {
            for interrupt in node.interrupts() {
                if let (true, [1, number, ..]) =
                    (interrupt.controller == self.gic.node, interrupt.cells())
                {
                    used |= 1u32.checked_shl(*number).unwrap_or(0);
                }
            }
        }
        let free = (0..16).rev().find(|n| used >> n & 1 == 0);
        FIRST_PPI + free.unwrap_or(15)
    }
}

fn gic_common(node: Node<'_, '_>, version: GicVersion, distributor: PhysRange) -> Gic {
    let maintenance = node.interrupts().first().and_then(|i| match i.cells() {
        [1, number, ..] => number.checked_add(FIRST_PPI),
        _ => None,
    });
    Gic {
        version,
        node: node.id(),
        phandle: node.phandle().unwrap_or(0),
        distributor,
        cpu_interface: None,
        hypervisor_interface: None,
        virtual_cpu_interface: None,
        redistributors: Vec::new(),
        redistributor_stride: None,
        maintenance,
        interrupt_cells: node.u32("#interrupt-cells").unwrap_or(3) as usize,
    }
}

fn gic_v2(node: Node<'_, '_>) -> Result<Gic, HostError> {
    let ranges = node.physical_ranges();
    let lacks = |what| HostError::Gic(node.path(), what);
    let at = |index: usize, what| ranges.get(index).copied().ok_or_else(|| lacks(what));
    let mut gic = gic_common(node, GicVersion::V2, at(0, "the distributor")?);
    gic.cpu_interface = Some(at(1, "the CPU interface")?);
    gic.hypervisor_interface = Some(at(2, "the hypervisor's interface (GICH)")?);
    gic.virtual_cpu_interface = Some(at(3, "the virtual CPU interface (GICV)")?);
    Ok(gic)
}

fn gic_v3(node: Node<'_, '_>) -> Result<Gic, HostError> {
    let ranges = node.physical_ranges();
    let lacks = |what| HostError::Gic(node.path(), what);
    let distributor = *ranges.first().ok_or_else(|| lacks("the distributor"))?;
    let mut gic = gic_common(node, GicVersion::V3, distributor);
    let regions = node.u32("#redistributor-regions").unwrap_or(1).max(1) as usize;
    gic.redistributors = ranges.into_iter().skip(1).take(regions).collect();
    if gic.redistributors.is_empty() {
        return Err(lacks("the redistributors"));
    }
    gic.redistributor_stride = node.u64("redistributor-stride").filter(|s| *s != 0);
    Ok(gic)
}

fn timer(node: Node<'_, '_>, gic: &Gic) -> Result<TimerPpis, HostError> {
    let interrupts = node.interrupts();
    let names: Vec<&str> = node.texts("interrupt-names").collect();
    let number = |name: &str, position: usize| {
        let at = if names.is_empty() {
            position
        } else {
            names.iter().position(|n| *n == name)?
        };
        let interrupt = interrupts.get(at).filter(|i| i.controller == gic.node)?;
        match interrupt.cells() {
            [1, number, ..] if *number < 16 => number.checked_add(FIRST_PPI),
            _ => None,
        }
    };
    let lacks = || HostError::Timer(node.path());
    let physical = number("phys", 1).ok_or_else(lacks)?;
    Ok(TimerPpis {
        secure: number("sec-phys", 0).unwrap_or(physical),
        physical,
        virt: number("virt", 2).ok_or_else(lacks)?,
        hypervisor: number("hyp-phys", 3).ok_or_else(lacks)?,
    })
}

fn cpus<'a>(list: Node<'_, 'a>) -> Vec<HostCpu<'a>> {
    list.children()
        .filter(|n| n.text("device_type") == Some("cpu") && n.is_enabled())
        .filter_map(|n| {
            Some(HostCpu {
                mpidr: n.reg()?.first()?.0,
                compatible: n.property("compatible").unwrap_or_default(),
                phandle: n.phandle(),
                by_psci: n.text("enable-method") == Some("psci"),
            })
        })
        .collect()
}
