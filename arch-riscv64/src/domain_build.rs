//! The device tree of a domain that is made at boot: harts, memory, an interrupt controller, and what Xen's interfaces need.
//!
//! Pure code. No public header states where things are for RISC-V guests: the places are those that QEMU's `virt` board has,
//! and a guest must read them from its tree.

use alloc::{format, vec::Vec};

use xenolith_arch_common::dom0::{TreeTooLarge, fitting};
use xenolith_core::boot::{PhysRange, fdt::Writer, placement::DomainPlan};

use crate::{guest::vuart, vplic};

mod devices;
mod dom0;
mod host;
pub mod isa;

pub use devices::{Device, devices};
pub use dom0::{Dom0Request, dom0_devices, dom0_tree, dom0_tree_room, fuzz_device_tree};
pub use host::{Host, HostError, UartOfHost, plics, source_of};
pub use isa::{Gives, guest_isa};

/// Where a domain's memory may be.
pub const GUEST_BANKS: [PhysRange; 1] = [PhysRange::between(0x8000_0000, 0x80_0000_0000)];
/// The interrupt controller's registers.
pub const PLIC: PhysRange = PhysRange::between(0x0c00_0000, 0x0c00_0000 + vplic::SIZE);
/// Where the guest may map its grant table.
pub const GRANT_REGION: PhysRange = PhysRange::between(0x3800_0000, 0x3900_0000);
/// The emulated UART.
pub const UART: PhysRange = PhysRange::between(0x1000_0000, 0x1000_0000 + vuart::SIZE);
/// Its source.
pub const UART_SOURCE: u32 = 10;
/// The source of the first vCPU's events; those of the machine's devices are below.
pub const EVENT_SOURCE: u32 = 96;
/// Sources are below this.
pub const SOURCES: u32 = 128;
/// vCPUs of a domain at most: each has a source for its events.
pub const MOST_VCPUS: u32 = SOURCES - EVENT_SOURCE;
const _: () = assert!(MOST_VCPUS as usize <= vplic::MOST_CONTEXTS);

/// Where a domain sees what is emulated for it, and which sources that has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Its interrupt controller.
    pub plic: PhysRange,
    /// The controller's sources are below this.
    pub sources: u32,
    /// The source of its first vCPU's events; the next vCPUs have the next ones.
    pub events: u32,
    /// Its UART and the UART's source, if it has one.
    pub uart: Option<(PhysRange, u32)>,
}

impl Places {
    /// Those of a domain that sees nothing of the machine.
    #[must_use]
    pub fn of_guests(uart: bool) -> Self {
        Self {
            plic: PLIC,
            sources: SOURCES,
            events: EVENT_SOURCE,
            uart: uart.then_some((UART, UART_SOURCE)),
        }
    }
}

const PLIC_PHANDLE: u32 = 1;
const FIRST_CPU_PHANDLE: u32 = 16;
/// Number of the external interrupt of a hart's S-mode.
const EXTERNAL: u32 = 9;

/// What the tree says.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Where its parts are.
    pub plan: &'r DomainPlan,
    /// Its command line.
    pub bootargs: &'r str,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Whether it has an emulated UART.
    pub uart: bool,
    /// Whether it is told of Xen's interfaces.
    pub hypervisor: bool,
    /// Ticks of `time` a second.
    pub timer_frequency: u32,
    /// What its harts can do, as the `riscv,isa` of a device tree says it.
    pub isa: &'r str,
    /// Which address translation they have, as `mmu-type` says it.
    pub mmu: &'r str,
    /// The machine's devices that it gets.
    pub devices: &'r [Device],
}

/// Bytes that [`tree`] may need: the plan's room for the tree.
#[must_use]
pub fn tree_room(vcpus: u32, bootargs: &str, isa: &str, devices: &[Device]) -> u64 {
    let each = 512u64.saturating_add(isa.len() as u64);
    u64::from(vcpus)
        .saturating_mul(each)
        .saturating_add(bootargs.len() as u64)
        .saturating_add(devices.len() as u64 * 512)
        .saturating_add(3072)
        .next_multiple_of(4096)
}

/// Writes the tree; it goes to `plan.device_tree`.
pub fn tree(request: &Request<'_>) -> Result<Vec<u8>, TreeTooLarge> {
    let mut writer = Writer::new();
    writer.begin("");
    writer.texts("compatible", &["xen,xenvm-4.17", "xen,xenvm"]);
    writer.text("model", "XENVM-4.17");
    writer.u32("#address-cells", 2);
    writer.u32("#size-cells", 2);
    write_chosen(&mut writer, request);
    write_cpus(&mut writer, request);
    for bank in &request.plan.banks {
        writer.begin(&format!("memory@{:x}", bank.guest.start()));
        writer.text("device_type", "memory");
        writer.reg("reg", (2, 2), &[bank.guest]);
        writer.end();
    }
    writer.begin("soc");
    writer.text("compatible", "simple-bus");
    writer.u32("#address-cells", 2);
    writer.u32("#size-cells", 2);
    writer.flag("ranges");
    // Not at the root: the harts' own controllers would have it as their parent.
    writer.u32("interrupt-parent", PLIC_PHANDLE);
    write_plic(&mut writer, request.vcpus);
    if request.uart {
        writer.begin(&format!("serial@{:x}", UART.start()));
        writer.text("compatible", "ns16550a");
        writer.reg("reg", (2, 2), &[UART]);
        writer.cells("interrupts", &[UART_SOURCE]);
        writer.u32("clock-frequency", 3_686_400);
        writer.end();
    }
    for device in request.devices {
        write_device(&mut writer, device);
    }
    writer.end();
    if request.hypervisor {
        let sources: Vec<u32> = (0..request.vcpus).map(|vcpu| EVENT_SOURCE + vcpu).collect();
        writer.begin("hypervisor");
        writer.texts("compatible", &["xen,xen-4.17", "xen,xen"]);
        writer.reg("reg", (2, 2), &[GRANT_REGION]);
        writer.u32("interrupt-parent", PLIC_PHANDLE);
        writer.cells("interrupts", &sources);
        writer.end();
    }
    fitting(writer.finish(), request.plan)
}

fn write_device(writer: &mut Writer, device: &Device) {
    let names: Vec<&str> = device.compatible.iter().map(|name| name.as_str()).collect();
    writer.begin(&device.name);
    writer.texts("compatible", &names);
    writer.reg("reg", (2, 2), &[device.registers]);
    if !device.sources.is_empty() {
        writer.cells("interrupts", &device.sources);
    }
    writer.end();
}

fn write_chosen(writer: &mut Writer, request: &Request<'_>) {
    writer.begin("chosen");
    writer.text("bootargs", request.bootargs);
    if request.uart {
        writer.text("stdout-path", &format!("/soc/serial@{:x}", UART.start()));
    }
    if let Some(ramdisk) = request.plan.ramdisk {
        writer.u64("linux,initrd-start", ramdisk.at.start());
        writer.u64("linux,initrd-end", ramdisk.at.end());
    }
    writer.end();
}

fn write_cpus(writer: &mut Writer, request: &Request<'_>) {
    let cpus: Vec<Cpu> = (0..request.vcpus)
        .map(|vcpu| Cpu {
            phandle: None,
            controller: FIRST_CPU_PHANDLE + vcpu,
        })
        .collect();
    harts(
        writer,
        &cpus,
        request.timer_frequency,
        request.isa,
        request.mmu,
    );
}

/// References to a vCPU's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The phandle of its node, where something may refer to it.
    pub phandle: Option<u32>,
    /// That of its own interrupt controller.
    pub controller: u32,
}

fn harts(writer: &mut Writer, cpus: &[Cpu], timer_frequency: u32, isa: &str, mmu: &str) {
    writer.begin("cpus");
    writer.u32("#address-cells", 1);
    writer.u32("#size-cells", 0);
    writer.u32("timebase-frequency", timer_frequency);
    for (vcpu, cpu) in (0u32..).zip(cpus) {
        writer.begin(&format!("cpu@{vcpu:x}"));
        writer.text("device_type", "cpu");
        writer.text("compatible", "riscv");
        writer.text("status", "okay");
        writer.u32("reg", vcpu);
        writer.text("riscv,isa", isa);
        writer.text("mmu-type", mmu);
        if let Some(phandle) = cpu.phandle {
            writer.u32("phandle", phandle);
        }
        writer.begin("interrupt-controller");
        writer.text("compatible", "riscv,cpu-intc");
        writer.u32("#interrupt-cells", 1);
        writer.flag("interrupt-controller");
        writer.u32("phandle", cpu.controller);
        writer.end();
        writer.end();
    }
    writer.end();
}

fn write_plic(writer: &mut Writer, vcpus: u32) {
    let contexts: Vec<u32> = (0..vcpus)
        .flat_map(|vcpu| [FIRST_CPU_PHANDLE + vcpu, EXTERNAL])
        .collect();
    writer.begin(&format!("plic@{:x}", PLIC.start()));
    writer.texts("compatible", &["sifive,plic-1.0.0", "riscv,plic0"]);
    writer.u32("#address-cells", 0);
    writer.u32("#interrupt-cells", 1);
    writer.flag("interrupt-controller");
    writer.cells("interrupts-extended", &contexts);
    writer.reg("reg", (2, 2), &[PLIC]);
    writer.u32("riscv,ndev", SOURCES - 1);
    writer.u32("phandle", PLIC_PHANDLE);
    writer.end();
}

#[cfg(test)]
mod tests;
