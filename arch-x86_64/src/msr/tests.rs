use super::*;
use crate::cpuid::{Handled, Leaf, Policy};

fn amd(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        0x8000_0001 => [0, 0, 0, 0x2599_3fff | 1 << 27],
        0x8000_0008 => [0x3028, 1 << 12 | 1 << 14, 0, 0],
        _ => [0; 4],
    }
}

fn intel(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        7 => [0, 0, 0, 1 << 26 | 1 << 29 | 1 << 31],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        0x8000_0001 => [0, 0, 1, 1 << 11 | 1 << 20 | 1 << 27 | 1 << 29],
        _ => [0; 4],
    }
}

const HANDLED: Handled = Handled {
    xsave: false,
    tsc_aux: true,
    pcid: false,
    spec_ctrl: true,
};

fn policies(host: fn(u32, u32) -> Leaf) -> (Policy, MsrPolicy) {
    let cpuid = Policy::maximum(host, HANDLED);
    let host = HostMsrs {
        microcode_revision: 0x1234,
        arch_capabilities: u64::MAX,
    };
    let msrs = MsrPolicy::new(&cpuid, host);
    (cpuid, msrs)
}

const REFUSED: Result<u64, GeneralProtection> = Err(GeneralProtection);

#[test]
fn each_index_has_one_who_answers() {
    assert_eq!(classify(0x1b), Msr::LocalApic);
    assert_eq!(classify(0x830), Msr::LocalApic);
    assert_eq!(classify(0x10), Msr::Tsc);
    assert_eq!(classify(0xc000_0082), Msr::Register(Register::Lstar));
    assert_eq!(classify(0x4000_0000), Msr::HypercallPage);
    assert_eq!(classify(0xfe), Msr::Modelled);
    for unknown in [
        0x6e0,
        0x3b,
        0x79,
        0x408,
        0x210,
        0xda0,
        0xc001_0117,
        0xc001_0000,
        u32::MAX,
    ] {
        assert_eq!(classify(unknown), Msr::Unknown, "{unknown:#x}");
    }
}

#[test]
fn machine_check_banks_are_there_and_empty() {
    let (_, msrs) = policies(amd);
    let mut state = MsrState::default();
    assert_eq!(msrs.read(&state, 0x179), Ok(2));
    for index in 0x400..0x408 {
        assert_eq!(msrs.read(&state, index), Ok(0));
        assert_eq!(msrs.write(&mut state, index, 0), Ok(()));
    }
    assert_eq!(msrs.write(&mut state, 0x405, 1), Err(GeneralProtection));
    assert_eq!(msrs.read(&state, 0x408), REFUSED);
}

#[test]
fn a_vendors_own_msrs_are_not_on_the_others_cpu() {
    let state = MsrState::default();
    let (_, msrs) = policies(amd);
    assert_eq!(msrs.read(&state, 0x1a0), REFUSED);
    assert_eq!(msrs.read(&state, 0x10a), REFUSED);
    assert_eq!(msrs.read(&state, 0xc001_0015), Ok(1 << 24));
    assert_eq!(msrs.read(&state, 0xc001_0114), Ok(1 << 4));
    let (_, msrs) = policies(intel);
    assert_eq!(msrs.read(&state, 0x1a0), Ok(0x1801));
    assert_eq!(msrs.read(&state, 0x3a), Ok(1));
    assert_eq!(msrs.read(&state, 0xc001_0015), REFUSED);
    assert_eq!(msrs.read(&state, 0x8b), Ok(0x1234));
    let promises = msrs.read(&state, 0x10a).unwrap();
    assert_eq!(promises & 1 << 7, 0, "TSX_CTRL");
    assert_eq!(promises & 0b1001, 0b1001);
}

#[test]
fn registers_take_only_values_that_the_cpu_would() {
    use Register::*;
    let (cpuid, _) = policies(intel);
    let check = |register: Register, value| register.check(value, &cpuid);
    assert_eq!(
        check(Lstar, 0xffff_8000_0000_0000),
        Ok(0xffff_8000_0000_0000)
    );
    assert_eq!(check(Lstar, 0x8000_0000_0000), REFUSED);
    assert_eq!(check(KernelGsBase, 1 << 63), REFUSED);
    assert_eq!(check(SysenterEip, 1 << 63), REFUSED);
    assert_eq!(check(Sfmask, 1 << 32), REFUSED);
    assert_eq!(check(TscAux, 1 << 32), REFUSED);
    assert_eq!(check(Pat, 0x0007_0406_0007_0406), Ok(0x0007_0406_0007_0406));
    assert_eq!(check(Pat, 2), REFUSED);
    assert_eq!(check(Pat, 8 << 56), REFUSED);
    assert_eq!(check(SpecCtrl, 0b101), Ok(0b101));
    assert_eq!(check(SpecCtrl, 0b10), REFUSED);
    let (cpuid, _) = policies(amd);
    assert_eq!(SpecCtrl.check(1, &cpuid), Ok(1));
    assert_eq!(SysenterEip.check(1 << 40 | 5, &cpuid), Ok(5));
}

#[test]
fn efer_keeps_long_mode_while_paging_is_on() {
    let (cpuid, _) = policies(intel);
    let write = |old, new, paging| check_efer(old, new, paging, &cpuid);
    assert_eq!(write(0, 0x100, false), Ok(0x100));
    assert_eq!(write(0x500, 0x901, true), Ok(0xd01));
    assert_eq!(write(0x500, 0, true), REFUSED);
    assert_eq!(write(0, 1 << 12, false), REFUSED);
    assert_eq!(write(0, 1 << 14, false), REFUSED);
    assert_eq!(write(0, 0x500, false), Ok(0x100));
}

#[test]
fn any_index_and_value_does_no_harm() {
    for (_, msrs) in [policies(amd), policies(intel)] {
        let mut state = MsrState::default();
        for index in (0..0x2000)
            .chain(0xc000_0000..0xc000_0200)
            .chain(0xc001_0000..0xc001_2000)
        {
            for value in [0, 1, 6, u64::MAX] {
                let _ = msrs.read(&state, index);
                let _ = msrs.write(&mut state, index, value);
                assert!(classify(index) != Msr::Unknown || msrs.read(&state, index).is_err());
            }
        }
    }
}
