//! PSCI and SMCCC: versions, features, refusals.

use xenolith_guests::arch::{self, psci, smccc};
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::{ensure, expect};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("psci.version", version),
    ("psci.features", features),
    ("psci.cpu_on_refuses_bad_arguments", cpu_on_refuses),
    ("psci.affinity_info", affinity_info),
    ("psci.suspend_returns_at_an_interrupt", suspend),
    ("psci.unknown_functions", unknown),
    ("smccc.version_and_features", smccc_version),
    ("smccc.vendor_uid", vendor_uid),
];

fn psci(function: u32, a: u64, b: u64, c: u64) -> i64 {
    i64::from(smccc(function, a, b, c) as i32)
}

fn version() -> Outcome {
    let version = psci(psci::VERSION, 0, 0, 0);
    value("psci.version", version);
    ensure!(version >= 0x1_0000);
    expect!(psci(psci::MIGRATE_INFO_TYPE, 0, 0, 0), 2);
    Ok(())
}

fn features() -> Outcome {
    for function in [
        psci::VERSION,
        psci::CPU_SUSPEND_64,
        psci::CPU_OFF,
        psci::CPU_ON_64,
        psci::CPU_ON_32,
        psci::AFFINITY_INFO_64,
        psci::MIGRATE_INFO_TYPE,
        psci::SYSTEM_OFF,
        psci::SYSTEM_RESET,
        psci::FEATURES,
        0x8000_0000,
    ] {
        let answer = psci(psci::FEATURES, u64::from(function), 0, 0);
        expect!(answer, 0, "features of {function:#x}");
    }
    for function in [
        psci::SYSTEM_SUSPEND_64,
        0x8400_0005,
        0x8400_001f,
        0xdead_beef,
    ] {
        let answer = psci(psci::FEATURES, u64::from(function), 0, 0);
        expect!(answer, psci::NOT_SUPPORTED, "features of {function:#x}");
    }
    Ok(())
}

fn cpu_on_refuses() -> Outcome {
    let entry = arch::secondary_entry();
    let own = arch::mpidr_of(0);
    expect!(
        psci(psci::CPU_ON_64, own, entry, 0),
        psci::ALREADY_ON,
        "itself"
    );
    for target in [0xff, 0xff00, 99] {
        expect!(
            psci(psci::CPU_ON_64, target, entry, 0),
            psci::INVALID_PARAMETERS,
            "target {target:#x}"
        );
    }
    for target in [0xff_0000, 0xff_0000_0000] {
        let answer = psci(psci::CPU_ON_64, target, entry, 0);
        value(format_args!("psci.cpu_on_of_{target:x}"), answer);
    }
    Ok(())
}

fn affinity_info() -> Outcome {
    let own = arch::mpidr_of(0);
    expect!(psci(psci::AFFINITY_INFO_64, own, 0, 0), 0, "itself");
    for index in 1..arch::cpu_count() {
        expect!(
            psci(psci::AFFINITY_INFO_64, arch::mpidr_of(index), 0, 0),
            1,
            "cpu {index}"
        );
    }
    for target in [99, 0xff00] {
        let answer = psci(psci::AFFINITY_INFO_64, target, 0, 0);
        value(format_args!("psci.affinity_info_of_{target:x}"), answer);
    }
    value(
        "psci.affinity_info_level_9",
        psci(psci::AFFINITY_INFO_64, own, 9, 0),
    );
    Ok(())
}

fn suspend() -> Outcome {
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    arch::timer_at(arch::now() + arch::ticks_per_second() / 1000);
    let answer = psci(psci::CPU_SUSPEND_64, 0, arch::secondary_entry(), 0);
    arch::irq_on();
    expect!(answer, 0);
    Ok(())
}

fn unknown() -> Outcome {
    for function in [
        0x8400_001f,
        0xc400_001f,
        0x8400_0005,
        0x8600_0000,
        0xbf00_0000,
    ] {
        expect!(
            psci(function, 0, 0, 0),
            psci::NOT_SUPPORTED,
            "function {function:#x}"
        );
    }
    Ok(())
}

fn smccc_version() -> Outcome {
    let version = psci(0x8000_0000, 0, 0, 0);
    ensure!(version >= 0x1_0001, "SMCCC version {version:#x}");
    value("smccc.version", version);
    for function in [
        0x8000_0000_u32,
        0x8000_0001,
        0x8000_8000,
        0x8000_7fff,
        0x8000_3fff,
    ] {
        let answer = psci(0x8000_0001, u64::from(function), 0, 0);
        value(format_args!("smccc.feature_{function:x}"), answer);
    }
    expect!(psci(0x8000_00ff, 0, 0, 0), -1, "unknown architecture call");
    Ok(())
}

/// The hypervisor's own service: its UID, revision and call count.
fn vendor_uid() -> Outcome {
    value("smccc.hypervisor_call_count", psci(0x8600_ff00, 0, 0, 0));
    value("smccc.hypervisor_uid_word_0", psci(0x8600_ff01, 0, 0, 0));
    value("smccc.hypervisor_revision", psci(0x8600_ff03, 0, 0, 0));
    value("smccc.standard_call_count", psci(0x8400_ff00, 0, 0, 0));
    value("smccc.standard_uid_word_0", psci(0x8400_ff01, 0, 0, 0));
    value("smccc.standard_revision", psci(0x8400_ff03, 0, 0, 0));
    Ok(())
}
