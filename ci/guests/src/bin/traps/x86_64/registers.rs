//! Model-specific registers that a guest gets, gets emulated, or does not get.

use xenolith_guests::arch::{self, Fault, regs};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, protection};

pub(crate) const CASES: &[Case] = &[
    ("msr.unknown_ones_fault", unknown),
    ("msr.of_the_hypervisor", hypervisor),
    ("msr.known_ones_read", known),
    ("msr.own_ones_keep_what_is_written", kept),
    ("msr.efer_rules", efer),
    ("msr.apic_base_rules", apic_base),
    ("msr.time_stamp_counter", counter),
    ("msr.memory_types", memory_types),
    ("msr.machine_check", machine_check),
    ("msr.non_canonical_values_fault", non_canonical),
];

fn read(index: u32) -> Result<u64, Fault> {
    let mut number = 0;
    match arch::fault_of(|| number = regs::rdmsr(index)) {
        None => Ok(number),
        Some(fault) => Err(fault),
    }
}

fn write(index: u32, value: u64) -> Option<Fault> {
    arch::fault_of(|| regs::wrmsr(index, value))
}

fn unknown() -> Outcome {
    for index in [
        0x100,
        0x1fff,
        0x4000_0500,
        0x7fff_ffff,
        0xc000_2fff,
        0xdead_beef,
        u32::MAX,
    ] {
        protection("read", read(index).err())?;
        protection("write", write(index, 0))?;
    }
    Ok(())
}

/// VMX capabilities; SVM's VM_HSAVE_PA.
fn hypervisor() -> Outcome {
    for index in [0x480, 0x481, 0x48b, 0xc001_0117] {
        value(
            format_args!("msr.{index:x}_read_faults"),
            i64::from(read(index).is_err()),
        );
        value(
            format_args!("msr.{index:x}_write_faults"),
            i64::from(write(index, 0x1000).is_some()),
        );
    }
    Ok(())
}

fn known() -> Outcome {
    for index in [
        0x10,
        0x17,
        0x1b,
        0x3a,
        0x48,
        0x8b,
        0xce,
        0xfe,
        0x10a,
        0x119,
        0x140,
        0x174,
        0x175,
        0x176,
        0x179,
        0x17a,
        0x186,
        0x198,
        0x1a0,
        0x1d9,
        0x1db,
        0x277,
        0x2ff,
        0x345,
        0x38d,
        0x600,
        0x606,
        0xc000_0080,
        0xc000_0081,
        0xc000_0082,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0103,
        0xc001_0000,
        0xc001_0010,
        0xc001_0015,
        0xc001_001a,
        0xc001_001f,
        0xc001_0055,
        0xc001_0058,
        0xc001_0063,
        0xc001_0064,
        0xc001_0114,
        0xc001_0140,
        0xc001_1004,
        0xc001_1020,
        0xc001_1022,
        0xc001_1023,
        0xc001_1029,
    ] {
        match read(index) {
            Ok(_) if matches!(index, 0x10 | 0xc000_0101) => {}
            Ok(number) => value(format_args!("msr.{index:x}"), number as i64),
            Err(fault) => value(format_args!("msr.{index:x}.fault"), fault.vector as i64),
        }
    }
    Ok(())
}

/// SYSENTER's, SYSCALL's, the FS base and the PAT: the guest's own.
fn kept() -> Outcome {
    for (index, number) in [
        (0x174, 0x8),
        (0x175, 0xffff_8000_0000_1000),
        (0x176, 0x1234_5678),
        (0xc000_0081, 0x0023_0008_0000_0000),
        (0xc000_0082, 0xffff_8000_0012_3456),
        (0xc000_0084, 0x4_7700),
        (0xc000_0100, 0x7fff_1234_5678),
        (0xc000_0102, 0xffff_8000_0000_0000),
        (0x277, 0x0007_0106_0007_0106),
    ] {
        let Ok(before) = read(index) else {
            ensure!(false, "{index:#x} does not read");
            return Ok(());
        };
        let fault = write(index, number);
        ensure!(
            fault.is_none(),
            "{index:#x} refuses {number:#x}: {fault:x?}"
        );
        for _ in 0..3 {
            xenolith_guests::xen::sched::yield_now();
        }
        expect!(read(index).ok(), Some(number), "{index:#x}");
        write(index, before);
    }
    Ok(())
}

fn efer() -> Outcome {
    let efer = regs::rdmsr(regs::msr::EFER);
    expect!(efer & 0x500, 0x500, "LME and LMA");
    expect!(efer >> 12 & 1, 0, "SVME is not shown");
    protection(
        "LME off while paging",
        write(regs::msr::EFER, efer & !0x100),
    )?;
    protection("a reserved bit", write(regs::msr::EFER, efer | 1 << 20))?;
    value(
        "msr.efer_svme_faults",
        i64::from(write(regs::msr::EFER, efer | 1 << 12).is_some()),
    );
    ensure!(write(regs::msr::EFER, efer | 1).is_none(), "SCE");
    expect!(regs::rdmsr(regs::msr::EFER), efer | 1);
    regs::wrmsr(regs::msr::EFER, efer);
    Ok(())
}

fn apic_base() -> Outcome {
    let base = regs::rdmsr(regs::msr::APIC_BASE);
    expect!(base >> 8 & 1, 1, "the first CPU");
    expect!(base & 0xf_ffff_f000, 0xfee0_0000, "place");
    protection("a reserved bit", write(regs::msr::APIC_BASE, base | 1))?;
    let moved = write(regs::msr::APIC_BASE, base & 0xfff | 0x1_0000_0000);
    value("msr.apic_base_moves_faults", i64::from(moved.is_some()));
    write(regs::msr::APIC_BASE, base);
    expect!(regs::rdmsr(regs::msr::APIC_BASE), base);
    Ok(())
}

fn counter() -> Outcome {
    let first = arch::now();
    let Ok(by_msr) = read(0x10) else {
        ensure!(false, "it does not read");
        return Ok(());
    };
    ensure!(by_msr >= first && arch::now() >= by_msr, "{first} {by_msr}");
    value("msr.tsc_adjust_faults", i64::from(read(0x3b).is_err()));
    let before = arch::now();
    if write(0x10, before + arch::ticks_per_second() * 10).is_none() {
        let after = arch::now();
        value(
            "msr.tsc_takes_a_write",
            i64::from(after > before + arch::ticks_per_second() * 9),
        );
    } else {
        value("msr.tsc_write_faults", 1);
    }
    Ok(())
}

fn memory_types() -> Outcome {
    let Ok(capabilities) = read(0xfe) else {
        value("msr.mtrr_faults", 1);
        return Ok(());
    };
    value("msr.mtrr_capabilities", capabilities as i64);
    protection("capabilities are read-only", write(0xfe, 0))?;
    for index in [0x200, 0x201, 0x250, 0x258, 0x259, 0x268, 0x26f, 0x2ff] {
        ensure!(read(index).is_ok(), "{index:#x}");
    }
    protection("a type that is none", write(0x2ff, 0xc02))?;
    // The CPU refuses it; QEMU takes it where the hypervisor does not look.
    let before = read(0x277).unwrap_or(0);
    value(
        "msr.reserved_type_of_the_pat_faults",
        i64::from(write(0x277, 0x02).is_some()),
    );
    write(0x277, before);
    Ok(())
}

fn machine_check() -> Outcome {
    let Ok(capabilities) = read(0x179) else {
        value("msr.mca_faults", 1);
        return Ok(());
    };
    let banks = (capabilities & 0xff) as u32;
    value("msr.mca_banks", i64::from(banks));
    for bank in 0..banks.min(32) {
        ensure!(read(0x401 + bank * 4).is_ok(), "status of bank {bank}");
    }
    value(
        "msr.mca_status_of_1_faults",
        i64::from(write(0x401, 1).is_some()),
    );
    ensure!(write(0x401, 0).is_none(), "status cannot be cleared");
    Ok(())
}

fn non_canonical() -> Outcome {
    for index in [0xc000_0100, 0xc000_0102, 0xc000_0082] {
        let before = read(index).unwrap_or(0);
        let fault = write(index, 0x0080_0000_0000_0000);
        value(
            format_args!("msr.{index:x}_non_canonical_faults"),
            i64::from(fault.is_some()),
        );
        write(index, before);
    }
    Ok(())
}
