//! Register accesses as guests make them, sensible and otherwise.

use super::{Cpu, Rig, Size};
use crate::vgic::BadAccess;

#[test]
fn the_distributor_describes_itself() {
    let v3 = Rig::<true>::closed(4, 100);
    assert_eq!(
        v3.dist_read(0, 4) & 0x1f,
        3,
        "100 lines are rounded up to 128"
    );
    assert_eq!(v3.dist_read(0, 0xffe8) >> 4 & 0xf, 3);
    assert_eq!(v3.redist_read(0, 0, 0xffe8) >> 4 & 0xf, 3);
    let v2 = Rig::<false>::closed(4, 288);
    assert_eq!(v2.dist_read(0, 4) & 0xff, 8 | 3 << 5);
    assert_eq!(v2.dist_read(0, 0xfe8) >> 4 & 0xf, 2);
    assert_eq!(
        v2.dist_read(2, 0x800),
        0x0404_0404,
        "private interrupts name the reader"
    );
}

#[test]
fn what_is_written_is_read_back() {
    let rig = Rig::<true>::closed(2, 64);
    rig.dist_write(0, 0x104, 0xff);
    rig.dist_write(0, 0x184, 0x0f);
    assert_eq!(rig.dist_read(0, 0x104), 0xf0);
    assert_eq!(rig.dist_read(0, 0x184), 0xf0);
    rig.dist_write(0, 0x420, 0x1122_3344);
    assert_eq!(
        rig.dist_read(0, 0x420),
        0x1020_3040,
        "five bits of priority"
    );
    rig.dist_write(0, 0xc08, 0xaaaa_aaaa);
    assert_eq!(rig.dist_read(0, 0xc08), 0xaaaa_aaaa);
    assert_eq!(rig.dist_read(0, 0xc0c), 0);
    rig.redist_write(0, 1, 0x1_0100, 0xffff);
    assert_eq!(rig.redist_read(0, 1, 0x1_0180), 0xffff);
    assert_eq!(rig.redist_read(0, 0, 0x1_0180), 0);
    assert_eq!(rig.redist_read(0, 0, 0x14) & 6, 6, "asleep after reset");
    rig.redist_write(0, 0, 0x14, 0);
    assert_eq!(rig.redist_read(0, 0, 0x14), 0);
    rig.dist_write(0, 0, 0x13);
    assert_eq!(rig.dist_read(0, 0), 0x13);
}

#[test]
fn pending_and_active_state_can_be_read_while_in_list_registers() {
    let rig = Rig::<true>::new(1, 64);
    rig.domain.inject(0, 40, rig.note());
    rig.domain.inject(0, 3, rig.note());
    rig.enter(0);
    assert_eq!(rig.dist_read(0, 0x204), 1 << 8);
    assert_eq!(rig.redist_read(0, 0, 0x1_0200), 1 << 3);
    let taken = rig.take(0).unwrap();
    let offset = if taken == 3 { None } else { Some(0x304) };
    match offset {
        None => {
            assert_eq!(rig.redist_read(0, 0, 0x1_0300), 1 << 3);
            assert_eq!(rig.redist_read(0, 0, 0x1_0200), 0);
        }
        Some(offset) => assert_eq!(rig.dist_read(0, offset), 1 << 8),
    }
    rig.cpus[0].end(taken);
    assert_eq!(rig.redist_read(0, 0, 0x1_0300), 0);
    assert_eq!(rig.dist_read(0, 0x304), 0);
}

#[test]
fn wrong_widths_and_misaligned_accesses_fault() {
    let rig = Rig::<true>::new(1, 64);
    let read = |offset, size| rig.domain.dist_read(&rig.cpus[0], 0, offset, size, |_| {});
    assert_eq!(read(4, Size::Byte), Err(BadAccess));
    assert_eq!(read(5, Size::Word), Err(BadAccess));
    assert_eq!(read(0x104, Size::Double), Err(BadAccess));
    assert_eq!(read(0x402, Size::Half), Err(BadAccess));
    assert!(read(0x403, Size::Byte).is_ok());
    assert!(read(0x6104, Size::Word).is_ok());
    assert_eq!(read(0x9000, Size::Word), Ok(0), "nothing is there: zero");
}

/// Walks every offset in every width with several values; nothing may panic, and the guest still works after it.
fn every_access_is_answered<const V3: bool>() {
    let rig = Rig::<V3>::new(3, 1020);
    let sizes = [Size::Byte, Size::Half, Size::Word, Size::Double];
    let (dist, redist) = if V3 {
        (0x1_0000, 0x2_0000)
    } else {
        (0x1000, 0)
    };
    for size in sizes {
        for offset in 0..dist {
            let _ = rig.domain.dist_read(&rig.cpus[1], 1, offset, size, |_| {});
            for value in [0, u64::MAX] {
                let _ = rig
                    .domain
                    .dist_write(&rig.cpus[1], 1, offset, size, value, |_| {});
            }
        }
        for offset in 0..redist {
            for owner in [0, 2, 77] {
                let _ = rig
                    .domain
                    .redist_read(&rig.cpus[1], 1, owner, offset, size, |_| {});
                let _ =
                    rig.domain
                        .redist_write(&rig.cpus[1], 1, owner, offset, size, u64::MAX, |_| {});
            }
        }
        rig.enter(1);
    }
    let cpu: &Cpu<V3> = &rig.cpus[1];
    assert!(!cpu.maintenance());
}

#[test]
fn every_gicv3_access_is_answered() {
    every_access_is_answered::<true>();
}

#[test]
fn every_gicv2_access_is_answered() {
    every_access_is_answered::<false>();
}
