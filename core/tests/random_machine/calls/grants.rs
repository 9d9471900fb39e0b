//! Random calls about grants.

use xenolith_abi::{
    GrantHandle, GrantRef, Nr,
    grant_table::{
        CacheFlags, CacheFlush, CopyFlags, CopyPtr, GrantCopy, GrantTableOp as Gt, MapFlags,
        MapGrantRef, QuerySize, SetVersion, SetupTable, SwapGrantRef, UnmapGrantRef,
    },
    handle::GuestHandle,
    memory::{AddToPhysmap, MapSpace, MemoryOp},
};
use xenolith_core::{DomId, VcpuRef};
use xenolith_hal::Hal;
use xenolith_sim::Sim;

use super::{Call, call};
use crate::{
    guest::GRANT_TABLE,
    machine::{BANKS, Machine},
    pv::frame_of,
};

impl Machine {
    /// A grant of some domain, to `own` if there is one.
    fn some_grant(&mut self, own: DomId) -> (DomId, GrantRef) {
        let Some(at) = self.any_dom() else {
            return (DomId(0), GrantRef(0));
        };
        let id = self.doms[at].domain.id();
        let mut found = Vec::new();
        if let Some(table) = self.grant_page(at) {
            let size = self.entry_size(at);
            for gref in 0..12_u32 {
                let mut entry = [0; 4];
                let read = self
                    .hv
                    .hal
                    .read_frame(table, gref as usize * size, &mut entry);
                let word = u32::from_le_bytes(entry);
                if read.is_ok() && word & 1 == 1 && (word >> 16) as u16 == own.0 {
                    found.push(GrantRef(gref));
                }
            }
        }
        let gref = self.random.pick(&found).copied();
        (id, gref.unwrap_or(GrantRef(self.random.below(1100) as u32)))
    }

    pub(super) fn grant_call(&mut self, at: usize, vcpu: &VcpuRef<Sim>, arg: u64) -> Call {
        let own = vcpu.domain();
        let count = 1 + self.random.below(4);
        let call = |op: Gt, count| call(Nr::GrantTableOp, [op.number().into(), arg, count, 0, 0]);
        match self.random.below(14) {
            0..=4 => {
                for n in 0..count {
                    let (dom, gref) = self.some_grant(own.id());
                    let flags = match self.random.below(8) {
                        0..=3 => MapFlags::HOST_MAP,
                        4..=6 => MapFlags::HOST_MAP | MapFlags::READONLY,
                        _ => MapFlags(self.random.below(64) as u32),
                    };
                    let host_addr = self.some_window(at) << 12;
                    let op = MapGrantRef {
                        host_addr,
                        flags,
                        gref,
                        dom,
                        ..Default::default()
                    };
                    self.poke(vcpu, arg + n * size_of::<MapGrantRef>() as u64, &op);
                }
                call(Gt::MapGrantRef, count)
            }
            5..=8 => {
                let mut mapped = Vec::new();
                self.hv
                    .dump_mappings(own, |facts| mapped.push((facts.handle, facts.gfn.0)));
                for n in 0..count {
                    let known = self.random.pick(&mapped).copied();
                    let (handle, gfn) = match known {
                        Some(known) if !self.random.once_in(12) => known,
                        _ => (
                            GrantHandle(self.random.below(300) as u32),
                            self.some_window(at),
                        ),
                    };
                    let op = UnmapGrantRef {
                        host_addr: gfn << 12,
                        handle,
                        ..Default::default()
                    };
                    self.poke(vcpu, arg + n * size_of::<UnmapGrantRef>() as u64, &op);
                }
                call(Gt::UnmapGrantRef, count)
            }
            9 | 10 => {
                for n in 0..count {
                    let op = self.copy_element(at, own.id());
                    self.poke(vcpu, arg + n * size_of::<GrantCopy>() as u64, &op);
                }
                call(Gt::Copy, count)
            }
            11 => {
                let op = SetupTable {
                    dom: self.target(own.id()),
                    nr_frames: self.random.below(4) as u32,
                    frame_list: GuestHandle::new(arg + 256),
                    ..Default::default()
                };
                self.poke(vcpu, arg, &op);
                call(Gt::SetupTable, 1)
            }
            12 => {
                let (ref_a, ref_b) = (self.random.below(14), self.random.below(14));
                let op = SwapGrantRef {
                    ref_a: GrantRef(ref_a as u32),
                    ref_b: GrantRef(ref_b as u32),
                    ..Default::default()
                };
                self.poke(vcpu, arg, &op);
                call(Gt::SwapGrantRef, 1)
            }
            13 if self.random.once_in(3) => {
                let version = 1 + self.random.below(2) as u32;
                self.poke(vcpu, arg, &SetVersion { version });
                call(Gt::SetVersion, 1)
            }
            _ if self.random.once_in(2) => {
                let op = CacheFlush {
                    addr_or_gref: (BANKS[0].0.0 + self.random.below(BANKS[0].1)) << 12,
                    offset: 0,
                    length: 64,
                    op: CacheFlags::CLEAN,
                };
                self.poke(vcpu, arg, &op);
                call(Gt::CacheFlush, 1)
            }
            _ => {
                let dom = self.target(own.id());
                self.poke(
                    vcpu,
                    arg,
                    &QuerySize {
                        dom,
                        ..Default::default()
                    },
                );
                call(Gt::QuerySize, 1)
            }
        }
    }

    fn copy_element(&mut self, at: usize, own: DomId) -> GrantCopy {
        let mut flags = CopyFlags::empty();
        let mut side = |m: &mut Self, flag| {
            let (domid, gref_or_gfn) = if m.random.once_in(2) {
                flags |= flag;
                let (dom, gref) = m.some_grant(own);
                (dom, gref.0.into())
            } else {
                let page = m.some_data(at);
                (DomId::SELF, frame_of(&m.doms[at].domain, page))
            };
            let offset = m.random.below(4096) as u16;
            CopyPtr {
                gref_or_gfn,
                domid,
                offset,
                ..Default::default()
            }
        };
        let source = side(self, CopyFlags::SOURCE_GREF);
        let dest = side(self, CopyFlags::DEST_GREF);
        let len = self.random.below(300) as u16;
        GrantCopy {
            source,
            dest,
            len,
            flags,
            ..Default::default()
        }
    }

    /// The call by which a guest gets to see the first frame of its grant table.
    pub fn show_grant_table(&mut self, at: usize, index: usize, vcpu: &VcpuRef<Sim>) -> Call {
        let arg = self.args_page(at, index);
        let op = AddToPhysmap {
            domid: DomId::SELF,
            size: 0,
            space: MapSpace::GrantTable.number(),
            idx: 0,
            gpfn: self.doms[at].base + GRANT_TABLE,
        };
        self.poke(vcpu, arg, &op);
        let cmd = MemoryOp::AddToPhysmap.number().into();
        call(Nr::MemoryOp, [cmd, arg, 0, 0, 0])
    }

    /// How many elements of a call that maps grants succeeded.
    pub fn count_mapped(&mut self, vcpu: &VcpuRef<Sim>, call: &Call) {
        if call.nr != Nr::GrantTableOp.number() || call.args[0] != 0 {
            return;
        }
        for n in 0..call.args[2] {
            let at = call.args[1] + n * size_of::<MapGrantRef>() as u64;
            let done = self.peek::<MapGrantRef>(vcpu, at);
            self.counts.mapped += u64::from(done.is_some_and(|op| op.status == 0));
        }
    }
}
