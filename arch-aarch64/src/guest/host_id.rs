//! Reads the host's identification registers by number.

use crate::cpu::regs::read;

macro_rules! table {
    ($crm:expr, $op2:expr, $($m:literal: $($o:literal)*;)*) => {
        match ($crm, $op2) {
            $($(($m, $o) => read!(concat!("S3_0_C0_C", stringify!($m), "_", stringify!($o))),)*)*
            _ => 0,
        }
    };
}

/// Register (3, 0, 0, crm, op2) of this CPU, 1 <= crm <= 7.
pub fn read_host(crm: u32, op2: u32) -> u64 {
    table!(crm, op2,
        1: 0 1 2 3 4 5 6 7;
        2: 0 1 2 3 4 5 6 7;
        3: 0 1 2 3 4 5 6 7;
        4: 0 1 2 3 4 5 6 7;
        5: 0 1 2 3 4 5 6 7;
        6: 0 1 2 3 4 5 6 7;
        7: 0 1 2 3 4 5 6 7;
    )
}
