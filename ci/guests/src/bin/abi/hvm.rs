//! `hvm_op` parameters, `physdev_op`, `vm_assist`.

use xenolith_guests::arch;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENOSYS, ESRCH};
use xenolith_guests::xen::hvm::{Param, get_param, op, set_param};
use xenolith_guests::xen::{SELF, call, call_at, nr};
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("hvm.every_parameter_reads", every_parameter),
    ("hvm.parameters_that_are_not", bad_parameters),
    ("hvm.set_parameters", set_parameters),
    ("hvm.unknown", unknown),
    ("vm_assist.answers", vm_assist),
];

const PARAMETERS: u32 = 39;

fn every_parameter() -> Outcome {
    for index in 0..PARAMETERS {
        let (errno, number) = match get_param(index) {
            Ok(number) => (0, number),
            Err(errno) => (errno, 0),
        };
        value(format_args!("hvm.param_{index}_errno"), errno);
        if errno == 0 {
            value(format_args!("hvm.param_{index}"), number as i64);
        }
    }
    Ok(())
}

fn bad_parameters() -> Outcome {
    for index in [PARAMETERS, 40, 1000, u32::MAX] {
        expect!(get_param(index), Err(EINVAL), "get {index}");
        expect!(set_param(index, 0), EINVAL, "set {index}");
    }
    let mut param = Param {
        domain: 1234,
        pad: 0,
        index: 1,
        value: 0,
    };
    expect!(call(nr::HVM_OP, op::GET_PARAM, &mut param), ESRCH);
    expect!(call(nr::HVM_OP, op::SET_PARAM, &mut param), ESRCH);
    for address in [arch::UNMAPPED, arch::NON_CANONICAL] {
        expect!(call_at(nr::HVM_OP, op::GET_PARAM, address), EFAULT);
        expect!(call_at(nr::HVM_OP, op::SET_PARAM, address), EFAULT);
    }
    Ok(())
}

/// What a domain may say of itself; parameters that its own run depends on are left alone.
fn set_parameters() -> Outcome {
    for index in [3, 4, 7, 8, 13, 19, 30, 35, 38] {
        value(format_args!("hvm.set_param_{index}"), set_param(index, 0));
    }
    Ok(())
}

fn unknown() -> Outcome {
    for sub in [2, 3, 9, 10, 19, 23, 24, 25, 26, 99, 0x7fff_ffff] {
        let answer = call(nr::HVM_OP, sub, &mut [0u64; 8]);
        value(format_args!("hvm.op_{sub}"), answer);
    }
    Ok(())
}

fn vm_assist() -> Outcome {
    let assist = |command: u64, kind: u64| arch::hypercall(nr::VM_ASSIST, [command, kind, 0, 0, 0]);
    const RUNSTATE_UPDATE_FLAG: u64 = 5;
    expect!(assist(0, RUNSTATE_UPDATE_FLAG), 0, "enable");
    expect!(assist(1, RUNSTATE_UPDATE_FLAG), 0, "disable");
    for kind in [0, 1, 2, 3, 4, 6, 32, 63] {
        value(format_args!("vm_assist.enable_{kind}"), assist(0, kind));
    }
    expect!(assist(0, 64), EINVAL, "a type that is not");
    expect!(
        assist(2, RUNSTATE_UPDATE_FLAG),
        ENOSYS,
        "a command that is not"
    );
    let mut param = Param {
        domain: SELF,
        pad: 0,
        index: 0,
        value: 0,
    };
    ensure!(call(nr::HVM_OP, op::GET_PARAM, &mut param) <= 0);
    Ok(())
}
