//! Identification registers: all of them read, and what they claim fits a guest.

use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, read};

pub(crate) const CASES: &[Case] = &[
    ("id.all_64_bit_ones_read", all_read),
    ("id.all_32_bit_ones_read", all_32_bit_read),
    ("id.reserved_ones_read_zero", reserved),
    ("id.claims_fit_a_guest", claims),
    ("id.read_twice_alike", alike),
];

macro_rules! values {
    ($($name:literal),* $(,)?) => {
        $(match read!($name) {
            Ok(number) => value(concat!("id.", $name), number as i64),
            Err(fault) => ensure!(false, "{} faults: {:#x}", $name, fault.esr),
        })*
    };
}

fn all_read() -> Outcome {
    values!(
        "midr_el1",
        "mpidr_el1",
        "revidr_el1",
        "ctr_el0",
        "dczid_el0",
        "clidr_el1",
        "aidr_el1",
        "id_aa64pfr0_el1",
        "id_aa64pfr1_el1",
        "id_aa64dfr0_el1",
        "id_aa64dfr1_el1",
        "id_aa64afr0_el1",
        "id_aa64afr1_el1",
        "id_aa64isar0_el1",
        "id_aa64isar1_el1",
        "id_aa64mmfr0_el1",
        "id_aa64mmfr1_el1",
    );
    Ok(())
}

fn all_32_bit_read() -> Outcome {
    values!(
        "id_pfr0_el1",
        "id_pfr1_el1",
        "id_dfr0_el1",
        "id_afr0_el1",
        "id_mmfr0_el1",
        "id_mmfr1_el1",
        "id_mmfr2_el1",
        "id_mmfr3_el1",
        "id_isar0_el1",
        "id_isar1_el1",
        "id_isar2_el1",
        "id_isar3_el1",
        "id_isar4_el1",
        "id_isar5_el1",
        "mvfr0_el1",
        "mvfr1_el1",
        "mvfr2_el1",
    );
    Ok(())
}

fn reserved() -> Outcome {
    macro_rules! zero {
        ($($name:literal),*) => {
            $(match read!($name) {
                Ok(number) => expect!(number, 0, $name),
                Err(fault) => ensure!(false, "{} faults: {:#x}", $name, fault.esr),
            })*
        };
    }
    zero!(
        "s3_0_c0_c4_3",
        "s3_0_c0_c4_6",
        "s3_0_c0_c4_7",
        "s3_0_c0_c5_2",
        "s3_0_c0_c5_3",
        "s3_0_c0_c5_6",
        "s3_0_c0_c6_3",
        "s3_0_c0_c6_7",
        "s3_0_c0_c7_5",
        "s3_0_c0_c7_7",
        "s3_0_c0_c3_7"
    );
    Ok(())
}

fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

fn claims() -> Outcome {
    let (Ok(features), Ok(memory), Ok(debug)) = (
        read!("id_aa64pfr0_el1"),
        read!("id_aa64mmfr0_el1"),
        read!("id_aa64dfr0_el1"),
    ) else {
        ensure!(false, "they fault");
        return Ok(());
    };
    ensure!(
        field(features, 0) >= 1 && field(features, 4) >= 1,
        "no EL0 or EL1: {features:#x}"
    );
    value("id.el2_claimed", field(features, 8) as i64);
    value("id.el3_claimed", field(features, 12) as i64);
    value("id.amu_claimed", field(features, 44) as i64);
    value("id.sve_claimed", field(features, 32) as i64);
    value("id.pmu_claimed", field(debug, 8) as i64);
    value("id.physical_range", field(memory, 0) as i64);
    // 0, or 1 where addresses of 52 bits work with it (FEAT_LPA2).
    ensure!(
        field(memory, 28) <= 1,
        "no 4 KiB granule: {:#x}",
        field(memory, 28)
    );
    Ok(())
}

fn alike() -> Outcome {
    for _ in 0..100 {
        expect!(read!("id_aa64pfr0_el1").ok(), read!("id_aa64pfr0_el1").ok());
        expect!(read!("midr_el1").ok(), read!("midr_el1").ok());
    }
    Ok(())
}
