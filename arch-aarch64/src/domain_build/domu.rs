//! The device tree of a domain that is made at boot and sees nothing of the machine: CPUs, memory, an interrupt
//! controller, a timer and what Xen's interfaces need, at the addresses of `public/arch-arm.h`.

use alloc::{format, vec::Vec};

use super::{
    GicVersion,
    dom0::{ppi, write_psci},
    vcpu_affinity,
};
use xenolith_arch_common::dom0::{TreeTooLarge, fitting};
use xenolith_core::boot::{PhysRange, fdt::Writer, placement::DomainPlan};

/// `GUEST_RAM0` and `GUEST_RAM1`: where a domain's memory may be.
pub const GUEST_BANKS: [PhysRange; 2] = [
    PhysRange::between(0x4000_0000, 0x1_0000_0000),
    PhysRange::between(0x2_0000_0000, 0x100_0000_0000),
];

/// The virtual interrupt controller of such a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestGic {
    /// Which kind.
    pub version: GicVersion,
    /// `GUEST_GICD` or `GUEST_GICV3_GICD`.
    pub distributor: PhysRange,
    /// `GUEST_GICC`, or `GUEST_GICV3_GICR0`.
    pub second: PhysRange,
}

impl GuestGic {
    /// The windows of a GICv2.
    pub const V2: Self = Self {
        version: GicVersion::V2,
        distributor: PhysRange::between(0x0300_1000, 0x0300_2000),
        second: PhysRange::between(0x0300_2000, 0x0300_4000),
    };
    /// The windows of a GICv3, with redistributors for 128 vCPUs.
    pub const V3: Self = Self {
        version: GicVersion::V3,
        distributor: PhysRange::between(0x0300_1000, 0x0301_1000),
        second: PhysRange::between(0x0302_0000, 0x0402_0000),
    };
}

/// `GUEST_GNTTAB`: where the guest may map its grant table.
pub const GRANT_REGION: PhysRange = PhysRange::between(0x3800_0000, 0x3900_0000);
/// `GUEST_PL011`: the emulated UART.
pub const PL011: PhysRange = PhysRange::between(0x2200_0000, 0x2200_1000);
/// `GUEST_VPL011_SPI`: its interrupt.
pub const PL011_SPI: u32 = 32;
/// `GUEST_EVTCHN_PPI`.
pub const EVENT_PPI: u32 = 31;
/// `GUEST_TIMER_PHYS_S_PPI`, `GUEST_TIMER_PHYS_NS_PPI`, `GUEST_TIMER_VIRT_PPI`.
pub const TIMER_PPIS: [u32; 3] = [29, 30, 27];

const GIC_PHANDLE: u32 = 65000;
const CLOCK_PHANDLE: u32 = 65001;

/// What the tree says.
#[derive(Clone, Copy, Debug)]
pub struct DomuRequest<'r> {
    /// Where its parts are.
    pub plan: &'r DomainPlan,
    /// Its command line.
    pub bootargs: &'r str,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Its interrupt controller.
    pub gic: GuestGic,
    /// Whether it has an emulated PL011.
    pub pl011: bool,
    /// Whether it is told of Xen's interfaces.
    pub hypervisor: bool,
    /// The timer's frequency, where firmware leaves CNTFRQ_EL0 wrong.
    pub timer_frequency: Option<u32>,
}

/// Bytes that [`domu_tree`] may need: the plan's room for the tree.
#[must_use]
pub fn domu_tree_room(vcpus: u32, bootargs: &str) -> u64 {
    let vcpus = u64::from(vcpus).saturating_mul(256);
    vcpus
        .saturating_add(bootargs.len() as u64)
        .saturating_add(3072)
        .next_multiple_of(4096)
}

/// Writes the tree; it goes to `plan.device_tree`.
pub fn domu_tree(request: &DomuRequest<'_>) -> Result<Vec<u8>, TreeTooLarge> {
    let mut writer = Writer::new();
    writer.begin("");
    writer.texts("compatible", &["xen,xenvm-4.17", "xen,xenvm"]);
    writer.text("model", "XENVM-4.17");
    writer.u32("#address-cells", 2);
    writer.u32("#size-cells", 2);
    writer.u32("interrupt-parent", GIC_PHANDLE);
    write_chosen(&mut writer, request);
    write_cpus(&mut writer, request.vcpus);
    write_memory(&mut writer, request.plan);
    write_psci(&mut writer);
    write_gic(&mut writer, &request.gic);
    write_timer(&mut writer, request);
    if request.hypervisor {
        writer.begin("hypervisor");
        writer.texts("compatible", &["xen,xen-4.17", "xen,xen"]);
        writer.reg("reg", (2, 2), &[GRANT_REGION]);
        writer.cells("interrupts", &ppi(EVENT_PPI, request.gic.version, 3));
        writer.end();
    }
    if request.pl011 {
        write_pl011(&mut writer);
    }
    fitting(writer.finish(), request.plan)
}

fn write_chosen(writer: &mut Writer, request: &DomuRequest<'_>) {
    writer.begin("chosen");
    writer.text("bootargs", request.bootargs);
    if request.pl011 {
        writer.text("stdout-path", &format!("/pl011@{:x}", PL011.start()));
    }
    if let Some(ramdisk) = request.plan.ramdisk {
        writer.u64("linux,initrd-start", ramdisk.at.start());
        writer.u64("linux,initrd-end", ramdisk.at.end());
    }
    writer.end();
}

fn write_cpus(writer: &mut Writer, vcpus: u32) {
    writer.begin("cpus");
    writer.u32("#address-cells", 1);
    writer.u32("#size-cells", 0);
    for vcpu in 0..vcpus {
        let affinity = vcpu_affinity(vcpu);
        writer.begin(&format!("cpu@{affinity:x}"));
        writer.text("device_type", "cpu");
        writer.text("compatible", "arm,armv8");
        writer.text("enable-method", "psci");
        writer.u32("reg", affinity as u32);
        writer.end();
    }
    writer.end();
}

fn write_memory(writer: &mut Writer, plan: &DomainPlan) {
    for bank in &plan.banks {
        writer.begin(&format!("memory@{:x}", bank.guest.start()));
        writer.text("device_type", "memory");
        writer.reg("reg", (2, 2), &[bank.guest]);
        writer.end();
    }
}

fn write_gic(writer: &mut Writer, gic: &GuestGic) {
    writer.begin(&format!(
        "interrupt-controller@{:x}",
        gic.distributor.start()
    ));
    writer.text(
        "compatible",
        match gic.version {
            GicVersion::V2 => "arm,gic-400",
            GicVersion::V3 => "arm,gic-v3",
        },
    );
    writer.u32("#address-cells", 0);
    writer.u32("#interrupt-cells", 3);
    writer.flag("interrupt-controller");
    writer.reg("reg", (2, 2), &[gic.distributor, gic.second]);
    writer.u32("phandle", GIC_PHANDLE);
    writer.end();
}

fn write_timer(writer: &mut Writer, request: &DomuRequest<'_>) {
    let cells: Vec<u32> = TIMER_PPIS
        .into_iter()
        .flat_map(|n| ppi(n, request.gic.version, 3))
        .collect();
    writer.begin("timer");
    writer.text("compatible", "arm,armv8-timer");
    writer.cells("interrupts", &cells);
    if let Some(frequency) = request.timer_frequency {
        writer.u32("clock-frequency", frequency);
    }
    writer.end();
}

/// With the fixed clock that the PrimeCell binding asks for.
fn write_pl011(writer: &mut Writer) {
    writer.begin("clock");
    writer.text("compatible", "fixed-clock");
    writer.u32("#clock-cells", 0);
    writer.u32("clock-frequency", 24_000_000);
    writer.u32("phandle", CLOCK_PHANDLE);
    writer.end();
    writer.begin(&format!("pl011@{:x}", PL011.start()));
    writer.texts("compatible", &["arm,pl011", "arm,primecell"]);
    writer.reg("reg", (2, 2), &[PL011]);
    writer.cells("interrupts", &[0, PL011_SPI - super::FIRST_SPI, 4]);
    writer.cells("clocks", &[CLOCK_PHANDLE, CLOCK_PHANDLE]);
    writer.texts("clock-names", &["uartclk", "apb_pclk"]);
    writer.end();
}
