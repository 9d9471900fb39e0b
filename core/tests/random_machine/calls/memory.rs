//! Random calls about memory.

use xenolith_abi::{
    Nr,
    handle::GuestHandle,
    memory::{
        AddToPhysmap, AddToPhysmapBatch, MapSpace, MemFlags, MemoryDomain, MemoryOp,
        RemoveFromPhysmap, Reservation,
    },
};
use xenolith_core::{DomId, VcpuRef};
use xenolith_sim::Sim;

use super::{Call, call};
use crate::{guest::GRANT_TABLE, machine::Machine};

impl Machine {
    /// The domain that a memory call names, and where it is in the list of the test.
    fn memory_target(&mut self, at: usize, own: DomId) -> (DomId, usize) {
        let domid = self.target(own);
        let known = self.doms.iter().position(|dom| dom.domain.id() == domid);
        (domid, known.unwrap_or(at))
    }

    pub(super) fn memory_call(&mut self, at: usize, vcpu: &VcpuRef<Sim>, arg: u64) -> Call {
        let own = vcpu.domain();
        let (domid, of) = self.memory_target(at, own.id());
        let call = |op: MemoryOp| call(Nr::MemoryOp, [op.number().into(), arg, 0, 0, 0]);
        match self.random.below(16) {
            kind @ 0..=6 => {
                let op = match kind {
                    0..=3 => MemoryOp::PopulatePhysmap,
                    4 | 5 => MemoryOp::DecreaseReservation,
                    _ => MemoryOp::IncreaseReservation,
                };
                self.reservation(op, (domid, of), vcpu, arg);
                call(op)
            }
            7..=10 => {
                let (space, idx, gpfn) = self.map_request(of);
                let op = AddToPhysmap {
                    domid,
                    size: 0,
                    space,
                    idx,
                    gpfn,
                };
                self.poke(vcpu, arg, &op);
                call(MemoryOp::AddToPhysmap)
            }
            11 | 12 => {
                self.batch(at, vcpu, arg);
                call(MemoryOp::AddToPhysmapBatch)
            }
            13 | 14 => {
                let gpfn = self.some_window(of);
                self.poke(
                    vcpu,
                    arg,
                    &RemoveFromPhysmap {
                        domid,
                        gpfn,
                        ..Default::default()
                    },
                );
                call(MemoryOp::RemoveFromPhysmap)
            }
            _ => {
                self.poke(vcpu, arg, &MemoryDomain { domid });
                call(MemoryOp::MaximumGpfn)
            }
        }
    }

    fn reservation(
        &mut self,
        op: MemoryOp,
        (domid, of): (DomId, usize),
        vcpu: &VcpuRef<Sim>,
        arg: u64,
    ) {
        let large = self.random.once_in(10);
        let extent_order = match (large, self.random.once_in(5)) {
            (true, _) => 9,
            (_, true) => 2,
            _ => 0,
        };
        let nr_extents = match large {
            true => 1,
            false => 1 + self.random.below(6),
        };
        for n in 0..nr_extents {
            let gfn = match (large, op) {
                (true, _) => 0x800 + (self.random.below(2) << 9),
                (_, MemoryOp::DecreaseReservation) if self.random.once_in(3) => {
                    0x800 + self.random.below(1024)
                }
                (_, MemoryOp::PopulatePhysmap) if self.random.once_in(3) => self.some_data(of),
                _ => self.some_window(of),
            };
            self.poke(vcpu, arg + 128 + n * 8, &gfn);
        }
        let mem_flags = match self.random.below(8) {
            0 => MemFlags(32),
            1 => MemFlags(self.random.next() as u32),
            _ => MemFlags(0),
        };
        let args = Reservation {
            extent_start: GuestHandle::new(arg + 128),
            nr_extents,
            extent_order,
            mem_flags,
            domid,
            ..Default::default()
        };
        self.poke(vcpu, arg, &args);
    }

    /// Space, index and place of a page to be put into a map.
    fn map_request(&mut self, of: usize) -> (u32, u64, u64) {
        let base = self.doms[of].base;
        match self.random.below(8) {
            0..=2 => {
                let place = match self.random.once_in(4) {
                    true => self.some_window(of),
                    false => base + GRANT_TABLE,
                };
                (MapSpace::GrantTable.number(), 0, place)
            }
            3 => {
                let most = if self.random.once_in(30) { 66 } else { 3 };
                let index = self.random.below(most);
                (MapSpace::GrantTable.number(), index, self.some_window(of))
            }
            4 | 5 => (MapSpace::SharedInfo.number(), 0, self.some_window(of)),
            _ => {
                let space = self.random.below(7) as u32;
                (space, self.random.below(3), self.some_window(of))
            }
        }
    }

    fn batch(&mut self, at: usize, vcpu: &VcpuRef<Sim>, arg: u64) {
        let foreign = self.any_dom().unwrap_or(at);
        let size = 1 + self.random.below(6);
        for n in 0..size {
            let (index, gfn) = (self.some_data(foreign), self.some_window(at));
            self.poke(vcpu, arg + 128 + n * 8, &index);
            self.poke(vcpu, arg + 256 + n * 8, &gfn);
        }
        let args = AddToPhysmapBatch {
            domid: DomId::SELF,
            space: MapSpace::GmfnForeign.number() as u16,
            size: size as u16,
            foreign_domid: self.doms[foreign].domain.id(),
            idxs: GuestHandle::new(arg + 128),
            gpfns: GuestHandle::new(arg + 256),
            errs: GuestHandle::new(arg + 384),
        };
        self.poke(vcpu, arg, &args);
    }
}
