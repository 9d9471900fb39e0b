use super::*;

/// A host like QEMU's `qemu64,+svm,+npt`.
fn qemu64(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        1 => [0x0006_0fb1, 0x0300_0800, 0x8080_2009, 0x178b_fbfd],
        0x8000_0000 => [0x8000_000a, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        0x8000_0001 => [0x0006_0fb1, 0, 0x67, 0x2599_3fff],
        0x8000_0002 => [0x554d_4551, 0x7269_5620, 0x6c61_7574, 0x5550_4320],
        0x8000_0008 => [0x3028, 0, 3, 0],
        0x8000_000a => [1, 16, 0, 0x0d],
        _ => [0; 4],
    }
}

/// A host with everything, and nonsense in leaves that guests are not shown.
fn everything(leaf: u32, subleaf: u32) -> Leaf {
    match (leaf, subleaf) {
        (0, _) => [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        (4, 0) => [0x1c00_4121, 0x01c0_003f, 0x3f, 0],
        (4, 1) => [0x1c03_c163, 0x02c0_003f, 0x2fff, 6],
        (4, _) => [0; 4],
        (7, 0) => [1, u32::MAX, u32::MAX, u32::MAX],
        (0xd, 0) => [0x2ff, 0x440, 0xa88, 0],
        (0xd, 1) => [0xf, 0, 0x100, 0],
        (0xd, 2) => [256, 576, 0, 0],
        (0xd, 5) => [64, 1088, 0, 0],
        (0xd, 6) => [512, 1152, 2, 0],
        (0xd, 7) => [1024, 1664, 2, 0],
        (0xd, 9) => [8, 2688, 0, 0],
        (0x8000_0000, _) => [0x8000_0028, 0, 0, 0],
        (0x8000_0008, _) => [0x392e, u32::MAX, 0, 0],
        _ => [u32::MAX; 4],
    }
}

const ALL: Handled = Handled {
    xsave: true,
    tsc_aux: true,
    pcid: true,
    spec_ctrl: true,
};

fn domain(vcpus: u32) -> DomainFacts {
    DomainFacts {
        domain: 3,
        vcpus,
        time: xen::Time {
            tsc_khz: 1_000_000,
            host_khz: 2_000_000,
            offset: 0x1_0000_0002,
            multiplier: 0x8000_0000,
            shift: -1,
            reliable: true,
            incarnation: 0,
        },
        container: xen::Container {
            upcall_vector: true,
            ..Default::default()
        },
        invariant_tsc: false,
    }
}

fn vcpu(vcpu_id: u32) -> VcpuFacts {
    VcpuFacts {
        apic_id: vcpu_id * 2,
        vcpu_id,
        ..Default::default()
    }
}

/// What a domain on a small AMD host sees.
pub(crate) fn policy() -> Policy {
    Policy::maximum(qemu64, ALL).for_domain(&domain(4))
}

#[test]
fn a_small_amd_host_shows_what_it_has_without_svm() {
    let policy = policy();
    let read = |leaf| policy.cpuid(leaf, 0, &vcpu(2));
    assert_eq!(policy.vendor(), Vendor::Amd);
    assert_eq!(read(0), [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65]);
    let [signature, ids, c, d] = read(1);
    assert_eq!(signature, 0x0006_0fb1);
    assert_eq!(ids, 4 << 24 | 8 << 16 | 8 << 8);
    // SSE3, CX16, x2APIC, POPCNT, hypervisor; not MONITOR.
    assert_eq!(c, 1 | 1 << 13 | 1 << 21 | 1 << 23 | 1 << 31);
    assert_eq!(d & (1 << 9 | 1 << 28 | 1 << 26), 1 << 9 | 1 << 28 | 1 << 26);
    let [_, _, c, d] = read(0x8000_0001);
    assert_eq!(c & 1 << 2, 0, "SVM");
    assert_eq!(c & 0b11, 0b11, "LAHF, cores");
    assert_eq!(
        d & (1 << 29 | 1 << 20 | 1 << 11),
        1 << 29 | 1 << 20 | 1 << 11
    );
    assert_eq!(read(0x8000_0002), qemu64(0x8000_0002, 0));
    assert_eq!(read(0x8000_0008), [0x3028, 0, 3 << 12 | 3, 0]);
    assert_eq!(read(0x8000_000a), [0; 4]);
    assert_eq!(read(0xd), [0; 4]);
    assert_eq!(policy.physical_bits(), 40);
}

#[test]
fn what_is_not_handled_is_hidden_on_a_host_that_has_all() {
    let policy = Policy::maximum(everything, Handled::default()).for_domain(&domain(1));
    let read = |leaf, subleaf| policy.cpuid(leaf, subleaf, &vcpu(0));
    let c = read(1, 0)[2];
    for bit in [2, 3, 5, 6, 7, 8, 12, 15, 17, 24, 26, 27, 28, 29] {
        assert_eq!(c & 1 << bit, 0, "bit {bit}");
    }
    assert_eq!(read(1, 0)[3] & 1 << 28, 0, "one logical processor");
    assert_eq!(
        read(7, 0)[1] & (1 << 5 | 1 << 10 | 1 << 16 | 1 << 11 | 1 << 2),
        0
    );
    assert_eq!(read(7, 0)[2] & (1 << 3 | 1 << 22 | 1 << 16), 0);
    assert_eq!(read(7, 0)[3] & (1 << 26 | 1 << 27 | 1 << 31), 0);
    assert_eq!(read(0x8000_0001, 0)[3] & 1 << 27, 0);
    for leaf in [
        5,
        6,
        9,
        0xa,
        0xe,
        0x14,
        0x20,
        0x8000_0009,
        0x8000_0021,
        0x8fff_ffff,
        u32::MAX,
    ] {
        assert_eq!(read(leaf, 0), [0; 4], "{leaf:#x}");
    }
    assert_eq!(read(0, 0)[0], 0xd);
    assert_eq!(read(0x8000_0000, 0)[0], 0x8000_0008);
    assert_eq!(
        policy.cr4_valid() & (1 << 12 | 1 << 13 | 1 << 17 | 1 << 18 | 1 << 22),
        0
    );
    assert_eq!(policy.cr4_valid() & 1 << 20, 1 << 20);
    assert_eq!(policy.efer_valid(), 0x4d01);
}

#[test]
fn extended_states_have_the_sizes_of_those_that_are_on() {
    let policy = Policy::maximum(everything, ALL).for_domain(&domain(2));
    let read = |subleaf, xcr0| {
        let facts = VcpuFacts { xcr0, ..vcpu(0) };
        policy.cpuid(0xd, subleaf, &facts)
    };
    assert_eq!(read(0, 1), [0xe7, 576, 2688, 0]);
    assert_eq!(read(0, 7)[1], 832);
    assert_eq!(read(0, 0xe7)[1], 2688);
    assert_eq!(read(1, 0xe7), [7, 576 + 256 + 64 + 512 + 1024, 0, 0]);
    assert_eq!(read(2, 7), [256, 576, 0, 0]);
    assert_eq!(read(9, 7), [0; 4]);
    assert_eq!(read(u32::MAX, 7), [0; 4]);
    let valid = |xcr0| policy.xstate().is_valid_xcr0(xcr0);
    assert!(valid(1) && valid(3) && valid(7) && valid(0xe7));
    assert!(!valid(0) && !valid(2) && !valid(5) && !valid(0x27) && !valid(0xe3) && !valid(0x207));
}

#[test]
fn osxsave_follows_cr4() {
    let policy = Policy::maximum(everything, ALL).for_domain(&domain(2));
    let facts = VcpuFacts {
        cr4: 1 << 18,
        ..vcpu(1)
    };
    assert_ne!(policy.cpuid(1, 0, &facts)[2] & 1 << 27, 0);
    assert_eq!(policy.cpuid(1, 0, &vcpu(1))[2] & 1 << 27, 0);
}

#[test]
fn each_vcpu_is_a_core_of_one_package() {
    let policy = Policy::maximum(everything, ALL).for_domain(&domain(5));
    let read = |leaf, subleaf| policy.cpuid(leaf, subleaf, &vcpu(3));
    assert_eq!(read(0xb, 0), [1, 1, 0x100, 6]);
    assert_eq!(read(0xb, 1), [4, 5, 0x201, 6]);
    assert_eq!(read(0xb, 2), [0, 0, 2, 6]);
    assert_eq!(read(4, 0)[0], 0x121 | 1 << 14 | 7 << 26);
    assert_eq!(read(4, 1)[0], 0x163 | 15 << 14 | 7 << 26);
    assert_eq!(read(4, 2), [0; 4]);
}

#[test]
fn xen_shows_by_its_leaves() {
    let policy = Policy::maximum(everything, ALL).for_domain(&domain(2));
    let read = |leaf, subleaf| policy.cpuid(xen::FIRST + leaf, subleaf, &vcpu(1));
    assert_eq!(
        read(0, 0),
        [0x4000_0005, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]
    );
    assert_eq!(read(1, 0), [4 << 16 | 17, 0, 0, 0]);
    assert_eq!(read(2, 0), [1, 0x4000_0000, 0, 0]);
    assert_eq!(read(3, 0), [0b110, 0, 1_000_000, 0]);
    assert_eq!(read(3, 1), [2, 1, 0x8000_0000, u32::MAX]);
    assert_eq!(read(3, 2), [2_000_000, 0, 0, 0]);
    assert_eq!(read(4, 0), [1 << 3 | 1 << 4 | 1 << 6, 1, 3, 0]);
    assert_eq!(read(5, 0), [0; 4]);
    assert_eq!(read(0xff, 0), [0; 4]);
    assert_eq!(read(0x100, 0), [0; 4]);
}

#[test]
fn a_host_that_says_nonsense_does_no_harm() {
    let policy = Policy::maximum(|_, _| [u32::MAX; 4], ALL).for_domain(&domain(u32::MAX));
    let empty = Policy::maximum(|_, _| [0; 4], ALL).for_domain(&domain(0));
    for leaf in (0..64)
        .chain(0x4000_0000..0x4000_0040)
        .chain(0x8000_0000..0x8000_0040)
    {
        for subleaf in [0, 1, 2, 63, u32::MAX] {
            let facts = VcpuFacts {
                xcr0: u64::MAX,
                ..vcpu(1)
            };
            let _ = policy.cpuid(leaf, subleaf, &facts);
            let _ = empty.cpuid(leaf, subleaf, &facts);
        }
    }
}
