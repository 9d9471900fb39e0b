//! `vcpu_op` as a PVH guest has it, time in the shared page, and what the loader left.

use core::sync::atomic::Ordering;

use xenolith_guests::arch::{self, regs, start_info, vcpu_op};
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EEXIST, EFAULT, ENOENT};
use xenolith_guests::xen::shared;
use xenolith_guests::{ensure, expect};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("start_info.memory_map", memory_map),
    ("start_info.acpi_tables", acpi),
    ("vcpu.initialise_refuses", initialise),
    ("vcpu.nmi_arrives", nmi),
    ("time.scale_fits_the_counter", time),
    ("time.wall_clock_is_set", wall_clock),
];

fn memory_map() -> Outcome {
    let info = start_info::start_info();
    value("start_info.version", i64::from(info.version));
    value("start_info.flags", i64::from(info.flags.bits()));
    value(
        "start_info.map_entries",
        i64::from(start_info::start_info_entries()),
    );
    ensure!(start_info::memory_map().count() > 0, "no memory map");
    let (asked, _) = start_info::asked_memory_map();
    value(
        "start_info.asked_entries",
        asked.map_or_else(|errno| errno, |count| count as i64),
    );
    let image = arch::image();
    let mut last = 0;
    let mut ram = 0;
    for entry in start_info::memory_map() {
        ensure!(entry.addr >= last, "not sorted at {:#x}", entry.addr);
        last = entry.addr + entry.size;
        ensure!((1..=7).contains(&entry.kind), "kind {}", entry.kind);
        if entry.kind == 1 {
            ram += entry.size;
        }
    }
    let holds = start_info::memory_map().any(|entry| {
        entry.kind == 1 && entry.addr <= image.start && image.end <= entry.addr + entry.size
    });
    ensure!(holds, "the image is not in RAM");
    value("start_info.ram_mib", (ram >> 20) as i64);
    Ok(())
}

fn acpi() -> Outcome {
    for signature in [b"APIC", b"FACP", b"MCFG", b"HPET", b"DMAR", b"IVRS"] {
        let name = core::str::from_utf8(signature).unwrap_or("?");
        value(
            format_args!("acpi.has_{name}"),
            i64::from(start_info::acpi_table(signature).is_some()),
        );
    }
    ensure!(start_info::acpi_table(b"APIC").is_some(), "no MADT");
    ensure!(start_info::acpi_table(b"DMAR").is_none() && start_info::acpi_table(b"IVRS").is_none());
    expect!(
        arch::apic_id_of(0),
        arch::apic::id(),
        "the first CPU of the MADT"
    );
    Ok(())
}

fn initialise() -> Outcome {
    expect!(arch::vcpu_initialise(0), EEXIST, "a vcpu that runs");
    expect!(
        arch::vcpu_call(vcpu_op::INITIALISE, 4000, arch::UNMAPPED),
        ENOENT,
        "no such vcpu"
    );
    let bad = arch::vcpu_call(vcpu_op::INITIALISE, 0, arch::UNMAPPED);
    value("vcpu.initialise_running_at_a_bad_pointer", bad);
    ensure!(bad == EFAULT || bad == EEXIST);
    expect!(arch::vcpu_call(vcpu_op::IS_UP, 0, 0), 1);
    expect!(arch::vcpu_call(vcpu_op::UP, 0, 0), 0, "a vcpu that is up");
    Ok(())
}

fn nmi() -> Outcome {
    let before = arch::this_cpu().nmis.load(Ordering::SeqCst);
    expect!(arch::vcpu_call(vcpu_op::SEND_NMI, 0, 0), 0);
    expect!(arch::this_cpu().nmis.load(Ordering::SeqCst), before + 1);
    Ok(())
}

/// `vcpu_time_info` at its place in the legacy `vcpu_info`.
fn time() -> Outcome {
    let info = shared::vcpu_info(0);
    let (version, multiplier, shift) = (
        arch::read32(info + 32),
        arch::read32(info + 32 + 24),
        arch::read8(info + 32 + 28) as i8,
    );
    expect!(version & 1, 0, "version");
    ensure!(version != 0 && multiplier != 0, "never written");
    let ticks = u128::from(arch::ticks_per_second());
    let shifted = if shift >= 0 {
        ticks << shift
    } else {
        ticks >> -shift
    };
    let nanoseconds = (shifted * u128::from(multiplier) >> 32) as u64;
    ensure!(
        nanoseconds.abs_diff(1_000_000_000) < 100_000,
        "a second of ticks is {nanoseconds} ns"
    );
    let kilohertz = regs::cpuid(arch::leaves() + 3, 0).ecx;
    ensure!(u64::from(kilohertz).abs_diff(arch::ticks_per_second() / 1000) < 100);
    Ok(())
}

fn wall_clock() -> Outcome {
    let page = shared::page();
    expect!(page.read::<u32>(0xc00) & 1, 0, "version");
    let seconds: u32 = page.read(0xc04);
    ensure!(seconds > 1_000_000_000, "{seconds} s since 1970");
    Ok(())
}
