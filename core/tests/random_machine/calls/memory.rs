//! Random calls about memory.

use xenolith_abi::{
    Nr,
    handle::GuestHandle,
    memory::{
        AddToPhysmap, AddToPhysmapBatch, Exchange, MapSpace, MemFlags, MemoryDomain, MemoryOp,
        RemoveFromPhysmap, Reservation,
    },
};
use xenolith_core::{DomId, VcpuRef};
use xenolith_sim::Sim;

use super::{Call, call};
use crate::{guest::GRANT_TABLE, machine::Machine, pv::frame_of};

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
        if self.doms[of].domain.is_pv() && self.random.once_in(3) {
            self.exchange((domid, of), vcpu, arg);
            return call(MemoryOp::Exchange);
        }
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
                (false, MemoryOp::DecreaseReservation) if self.doms[of].domain.is_pv() => {
                    self.some_machine_frame(of)
                }
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

    /// A frame by which a call may name memory of a paravirtual domain.
    fn some_machine_frame(&mut self, of: usize) -> u64 {
        match self.random.below(8) {
            0 => self.some_window(of),
            1 => self.doms[of].domain.shared_info.0,
            2..=4 => {
                let page = self.some_window(of);
                frame_of(&self.doms[of].domain, page)
            }
            5 => self.some_own_frame(of).map_or(0, |mfn| mfn.0),
            _ => self.some_idle_frame(of).map_or(0, |mfn| mfn.0),
        }
    }

    fn exchange(&mut self, (domid, of): (DomId, usize), vcpu: &VcpuRef<Sim>, arg: u64) {
        let (given_order, order) = match self.random.below(6) {
            0 => (0, 2),
            1 => (1, 0),
            2 => (self.random.below(4) as u32, self.random.below(4) as u32),
            _ => (0, 0),
        };
        let frames = (1 << given_order.max(order)) * (1 + self.random.below(4));
        let list = |at, order, frames: u64| Reservation {
            extent_start: GuestHandle::new(at),
            nr_extents: frames >> order,
            extent_order: order,
            domid,
            ..Default::default()
        };
        let args = Exchange {
            input: list(arg + 128, given_order, frames),
            output: list(arg + 384, order, frames),
            nr_exchanged: 0,
        };
        for n in 0..(frames >> given_order).min(32) {
            let frame = match self.random.once_in(10) {
                true => self.some_machine_frame(of),
                false => self.some_idle_frame(of).map_or(0, |mfn| mfn.0),
            };
            self.poke(vcpu, arg + 128 + n * 8, &frame);
        }
        for n in 0..(frames >> order).min(32) {
            let pfn = 0x2000 + self.random.below(512);
            self.poke(vcpu, arg + 384 + n * 8, &pfn);
        }
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
            let (page, gfn) = (self.some_data(foreign), self.some_window(at));
            let index = frame_of(&self.doms[foreign].domain, page);
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
