//! A model of the interrupt hardware: CPUs with four list registers each, a guest that acknowledges and ends
//! interrupts as a CPU interface would, and physical interrupts with their active state.

use core::cell::{Cell, RefCell};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};

use xenolith_hal::CpuId;

use crate::{
    gic::{
        Trigger, Version,
        regs::{GICH_LR, GICH_VMCR, ICH_LR, ICH_VMCR},
    },
    vgic::hw::{CpuInterface, Hardware, lr_priority},
};

pub(super) const LRS: usize = 4;

/// The hardware of one CPU; `V3` chooses the list register format.
#[derive(Default)]
pub(super) struct Cpu<const V3: bool> {
    lrs: [Cell<u64>; LRS],
    vmcr: Cell<u64>,
    underflow: Cell<bool>,
    presenting: Cell<bool>,
    pub(super) id: u16,
    /// Physical interrupts that are active, by the CPU that acknowledged them.
    pub(super) active: Rc<RefCell<BTreeSet<(u16, u32)>>>,
    pub(super) physical_enabled: RefCell<BTreeSet<u32>>,
    pub(super) routed: RefCell<BTreeMap<u32, u16>>,
    pub(super) lr_accesses: Cell<usize>,
}

impl<const V3: bool> Hardware for Cpu<V3> {
    const VERSION: Version = if V3 { Version::V3 } else { Version::V2 };

    fn lr_count(&self) -> usize {
        LRS
    }
    fn lr(&self, n: usize) -> u64 {
        self.lr_accesses.set(self.lr_accesses.get() + 1);
        self.lrs[n].get()
    }
    fn set_lr(&self, n: usize, value: u64) {
        self.lr_accesses.set(self.lr_accesses.get() + 1);
        if value & Self::HW != 0 {
            assert_ne!(
                value & (Self::PENDING | Self::ACTIVE),
                Self::PENDING | Self::ACTIVE,
                "a linked interrupt is not pending and active at once"
            );
        }
        self.lrs[n].set(value);
        let mut seen = BTreeSet::new();
        for lr in &self.lrs {
            if lr.get() & (Self::PENDING | Self::ACTIVE) != 0 {
                assert!(
                    seen.insert(Self::intid(lr.get())),
                    "an interrupt is in two list registers"
                );
            }
        }
    }
    fn empty_lrs(&self) -> u32 {
        (0..LRS)
            .filter(|n| self.lrs[*n].get() & (Self::PENDING | Self::ACTIVE) == 0)
            .fold(0, |mask, n| mask | 1 << n)
    }
    fn set_underflow(&self, on: bool) {
        self.underflow.set(on);
    }
    fn vmcr(&self) -> u64 {
        self.vmcr.get()
    }
    fn save_interface(&self, to: &mut CpuInterface) {
        to.vmcr = self.vmcr.get();
        self.presenting.set(false);
    }
    fn load_interface(&self, from: &CpuInterface, underflow: bool) {
        assert!(
            !self.presenting.get(),
            "the last vCPU's interface was saved first"
        );
        self.vmcr.set(from.vmcr);
        self.underflow.set(underflow);
        self.presenting.set(true);
    }
    fn enable(&self, intid: u32) {
        self.physical_enabled.borrow_mut().insert(intid);
    }
    fn disable(&self, intid: u32) {
        self.physical_enabled.borrow_mut().remove(&intid);
    }
    fn configure(&self, _: u32, _: Trigger) {}
    fn set_pending(&self, _: u32) {}
    fn route(&self, intid: u32, cpu: CpuId) {
        self.routed.borrow_mut().insert(intid, cpu.0);
    }
    fn finish_private(&self, intid: u32) {
        self.active.borrow_mut().remove(&(self.id, intid));
    }
    fn finish_shared(&self, intid: u32) {
        self.active
            .borrow_mut()
            .retain(|(_, active)| *active != intid);
    }
    fn set_active(&self, _: CpuId, intid: u32) {
        self.fire(intid);
    }
}

impl<const V3: bool> Cpu<V3> {
    /// This CPU acknowledges a physical interrupt.
    pub(super) fn fire(&self, intid: u32) {
        self.active.borrow_mut().insert((self.id, intid));
    }

    /// Whether a physical interrupt is active, on this CPU if it is private.
    pub(super) fn is_active(&self, intid: u32) -> bool {
        self.active
            .borrow()
            .iter()
            .any(|(cpu, active)| *active == intid && (intid >= 32 || *cpu == self.id))
    }

    /// A CPU interface that lets every priority through.
    pub(super) fn open_vmcr() -> u64 {
        if V3 {
            (ICH_VMCR::ENABLE_GRP1::SET + ICH_VMCR::PRIORITY_MASK.val(0xf8)).value
        } else {
            u64::from((GICH_VMCR::ENABLE_GRP0::SET + GICH_VMCR::PRIORITY_MASK.val(0x1f)).value)
        }
    }

    pub(super) fn open(&self) {
        self.vmcr.set(Self::open_vmcr());
    }

    pub(super) fn set_mask(&self, mask: u8) {
        assert!(V3);
        self.vmcr
            .set((ICH_VMCR::ENABLE_GRP1::SET + ICH_VMCR::PRIORITY_MASK.val(u64::from(mask))).value);
    }

    fn intid(lr: u64) -> u32 {
        if V3 {
            ICH_LR::INTID.read(lr) as u32
        } else {
            GICH_LR::INTID.read(lr) as u32
        }
    }

    /// The sender of a GICv2 software interrupt that is active now.
    pub(super) fn sender(&self, intid: u32) -> u8 {
        let lr = self.find(intid, Self::ACTIVE).expect("active");
        GICH_LR::CPU.read(self.lrs[lr].get()) as u8
    }

    fn find(&self, intid: u32, state: u64) -> Option<usize> {
        (0..LRS).find(|n| {
            let lr = self.lrs[*n].get();
            lr & state != 0 && Self::intid(lr) == intid
        })
    }

    fn running_priority(&self) -> u8 {
        self.lrs
            .iter()
            .map(Cell::get)
            .filter(|lr| lr & Self::ACTIVE != 0)
            .map(|lr| lr_priority(Self::VERSION, lr))
            .min()
            .unwrap_or(u8::MAX)
    }

    /// The guest reads its acknowledge register: the best pending interrupt that beats what is active.
    pub(super) fn acknowledge(&self) -> Option<(u32, u8)> {
        let running = self.running_priority();
        let (n, priority) = (0..LRS)
            .filter(|n| self.lrs[*n].get() & Self::PENDING != 0)
            .filter(|n| self.lrs[*n].get() & Self::ACTIVE == 0)
            .map(|n| (n, lr_priority(Self::VERSION, self.lrs[n].get())))
            .filter(|(_, priority)| *priority < running)
            .min_by_key(|(_, priority)| *priority)?;
        let lr = self.lrs[n].get();
        self.lrs[n].set(lr & !Self::PENDING | Self::ACTIVE);
        Some((Self::intid(lr), priority))
    }

    /// The guest ends an interrupt. True when the maintenance interrupt is asserted by it.
    pub(super) fn end(&self, intid: u32) {
        let n = self
            .find(intid, Self::ACTIVE)
            .expect("the guest ends what it acknowledged");
        let lr = self.lrs[n].get();
        self.lrs[n].set(lr & !Self::ACTIVE);
        if lr & Self::HW != 0 {
            assert!(
                self.active.borrow_mut().remove(&(self.id, intid)),
                "the physical interrupt {intid} was active and acknowledged here"
            );
        }
    }

    /// Whether the list registers assert the maintenance interrupt now.
    pub(super) fn maintenance(&self) -> bool {
        let values: Vec<u64> = self.lrs.iter().map(Cell::get).collect();
        let ended = values
            .iter()
            .any(|lr| lr & (Self::PENDING | Self::ACTIVE | Self::HW) == 0 && lr & Self::EOI != 0);
        let valid = values
            .iter()
            .filter(|lr| **lr & (Self::PENDING | Self::ACTIVE) != 0)
            .count();
        ended || self.underflow.get() && valid <= 1
    }

    /// What is pending in the list registers.
    pub(super) fn waiting(&self) -> Vec<(u32, u8)> {
        self.lrs
            .iter()
            .map(Cell::get)
            .filter(|lr| lr & Self::PENDING != 0)
            .map(|lr| (Self::intid(lr), lr_priority(Self::VERSION, lr)))
            .collect()
    }
}
