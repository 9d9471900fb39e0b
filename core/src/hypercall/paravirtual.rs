//! What paravirtual guests are told by calls that all guests make.

use xenolith_abi::{
    GuestHandle, Nr,
    hvm::{HvmOp, HvmParam},
    runstate::{RunstateInfo, UPDATE},
    vcpu::{RegisterRunstateMemoryArea, RegisterVcpuInfo, VcpuOp},
    version::{FeatureInfo, Features, VersionOp},
    vm_assist::Assist,
};
use xenolith_hal::{GuestVirt, Hal, P2m};
use xenolith_sim::Sim;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::{NoRows, Outcome, dispatch_with};
use crate::{DomainRef, Errno, Hypervisor, domain::DomainConfig, guest::Caller, testing};

const ARG: u64 = 0x1000;

struct Guest {
    hv: Hypervisor<Sim>,
    domain: DomainRef<Sim>,
}

impl Guest {
    fn new(id: u16) -> Self {
        let hv = testing::hypervisor(&Sim::small());
        let config = DomainConfig {
            vcpus: 40,
            ..testing::config(id)
        };
        let domain = testing::pv_with(&hv, config, 16);
        Self { hv, domain }
    }

    fn call<T: IntoBytes + Immutable>(
        &self,
        nr: Nr,
        args: [u64; 5],
        value: &T,
    ) -> Result<i64, Errno> {
        let (hv, vcpu) = (&self.hv, &testing::vcpu(&self.domain));
        testing::place(hv, vcpu, ARG, value);
        match dispatch_with::<_, NoRows>(Caller { hv, vcpu }, nr.number(), args) {
            Outcome::Done(result) => Errno::from_result(result as isize).map_or(Ok(result), Err),
            Outcome::Again(_) => panic!("not expected to be preempted"),
        }
    }

    fn read<T: xenolith_abi::Wire + zerocopy::FromBytes + IntoBytes>(&self, at: u64) -> T {
        let (hv, vcpu) = (&self.hv, &testing::vcpu(&self.domain));
        Caller { hv, vcpu }.read(GuestVirt(at)).unwrap()
    }

    fn features(&self) -> Features {
        let op = VersionOp::GetFeatures.number().into();
        self.call(Nr::XenVersion, [op, ARG, 0, 0, 0], &FeatureInfo::default())
            .unwrap();
        self.read::<FeatureInfo>(ARG).submap
    }

    fn assist(&self, cmd: u64, which: u64) -> Result<i64, Errno> {
        self.call(Nr::VmAssist, [cmd, which, 0, 0, 0], &0u8)
    }

    fn vcpu_op<T: IntoBytes + Immutable>(
        &self,
        op: VcpuOp,
        vcpu: u64,
        value: &T,
    ) -> Result<i64, Errno> {
        let args = [op.number().into(), vcpu, ARG, 0, 0];
        self.call(Nr::VcpuOp, args, value)
    }
}

#[test]
fn features_are_those_of_a_guest_that_knows_machine_frames() {
    let common = Features::MMU_PT_UPDATE_PRESERVE_AD
        | Features::HIGHMEM_ASSIST
        | Features::GNTTAB_MAP_AVAIL_BITS
        | Features::MEMORY_OP_VNODE_SUPPORTED
        | Features::DIRECT_MAPPED;
    assert_eq!(Guest::new(1).features(), common);
    assert_eq!(Guest::new(0).features(), common | Features::DOM0);
}

#[test]
fn every_behaviour_that_exists_is_switched_on_and_off() {
    let guest = Guest::new(1);
    for which in Assist::ALL {
        assert_eq!(guest.assist(0, which.number().into()), Ok(0));
        assert!(guest.domain.assists(*which), "{which:?}");
    }
    assert!(guest.features().contains(Features::PAE_PGDIR_ABOVE_4GB));
    for which in Assist::ALL {
        assert_eq!(guest.assist(1, which.number().into()), Ok(0));
        assert!(!guest.domain.assists(*which), "{which:?}");
    }
    assert!(!guest.features().contains(Features::PAE_PGDIR_ABOVE_4GB));
    for which in [6, 31, 33, 63, 64, u64::from(u32::MAX)] {
        assert_eq!(guest.assist(0, which), Err(Errno::EINVAL));
    }
    assert_eq!(guest.assist(2, 2), Err(Errno::ENOSYS));
}

#[test]
fn parameters_of_translated_guests_do_not_exist() {
    let guest = Guest::new(0);
    let param = HvmParam::new_zeroed();
    for op in [HvmOp::SetParam, HvmOp::GetParam] {
        let args = [op.number().into(), ARG, 0, 0, 0];
        let own = HvmParam {
            domid: xenolith_abi::DomId::SELF,
            ..param
        };
        assert_eq!(guest.call(Nr::HvmOp, args, &own), Err(Errno::EINVAL));
    }
}

#[test]
fn a_vcpu_info_stands_where_its_machine_frame_says() {
    let guest = Guest::new(1);
    let mfn = testing::mfn_at(&guest.domain, 5);
    let place = |mfn| RegisterVcpuInfo {
        mfn,
        offset: 64,
        rsvd: 0,
    };
    let op = VcpuOp::RegisterVcpuInfo;
    // A page of its own numbering is not a frame.
    assert_eq!(guest.vcpu_op(op, 0, &place(5)), Err(Errno::EINVAL));
    assert_eq!(guest.vcpu_op(op, 0, &place(mfn.0)), Ok(0));
    let vcpu = testing::vcpu(&guest.domain);
    assert_eq!(guest.domain.info_area(&vcpu).unwrap().mfn, mfn);
    let state = guest.hv.memory.record(mfn).unwrap().state();
    assert_eq!((state.count(), state.type_count()), (2, 1));
}

#[test]
fn the_copy_of_a_runstate_crosses_pages_and_never_hits_a_page_table() {
    let guest = Guest::new(1);
    let size = size_of::<RunstateInfo>() as u64;
    let at = 0x6000 - size / 2;
    let area = RegisterRunstateMemoryArea {
        addr: GuestHandle::new(at),
    };
    let op = VcpuOp::RegisterRunstateMemoryArea;
    guest.assist(0, 5).unwrap();
    assert_eq!(guest.vcpu_op(op, 0, &area), Ok(0));
    let copy: RunstateInfo = guest.read(at);
    assert_eq!(copy.state_entry_time & UPDATE, 0);
    let vcpu = testing::vcpu(&guest.domain);
    let runs = guest.hv.runstate(&vcpu).to_wire();
    assert_eq!(copy.state, runs.state);
    guest.assist(1, 5).unwrap();
    // The second page becomes a page table, the first is given away.
    let (first, second) = (
        testing::mfn_at(&guest.domain, 5),
        testing::mfn_at(&guest.domain, 6),
    );
    let fill = [0xee; 64];
    guest.hv.hal.write_frame(second, 0, &fill).unwrap();
    testing::make_table(&guest.hv, &guest.domain, second);
    guest.hv.update_runstate_area(&vcpu);
    let mut table = [0; 64];
    guest.hv.hal.read_frame(second, 0, &mut table).unwrap();
    assert_eq!(table, fill);
    guest
        .domain
        .p2m
        .unmap(xenolith_hal::Gfn(5), 1, &guest.hv.tables(&guest.domain))
        .unwrap();
    assert!(guest.hv.drop_allocation(&guest.domain, first));
    guest.hv.update_runstate_area(&vcpu);
    assert!(guest.hv.hal.ram().is_zero(first));
}
