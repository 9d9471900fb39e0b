//! A local APIC lent to the CPU, which delivers its interrupts by itself while the guest runs (Intel SDM, volume 3, 30.1 and
//! 30.2: the virtual-APIC page and virtual-interrupt delivery).
//!
//! From [`VLapic::lend`] to [`VLapic::take_back`] the page holds what is requested and in service and the task priority, and
//! the guest changes them without an exit: it writes its task priority, ends interrupts, sends itself some. What arrives
//! meanwhile is added to the set of requests, as always, and goes into the page before the next entry. Only the CPU that
//! runs the vCPU lends and takes back, while the guest is stopped; it takes back before anybody looks who could act on
//! what is old, and before it lets go of the vCPU.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
};

use super::{Mode, VLapic, registers::number, vector_set::VectorSet};

/// The page: a register in the first four of each sixteen bytes, as an xAPIC has them in memory.
#[repr(C, align(4096))]
pub struct ApicPage([AtomicU32; 1024]);

/// What the CPU keeps beside the page: the guest interrupt status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The highest requested vector, or 0.
    pub requested: u8,
    /// The highest vector in service, or 0.
    pub in_service: u8,
}

impl Status {
    /// As the control structure has it.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u16 {
        u16::from_le_bytes([self.requested, self.in_service])
    }

    /// From there.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        let [requested, in_service] = bits.to_le_bytes();
        Self {
            requested,
            in_service,
        }
    }
}

/// Registers of a set.
const REGISTERS: u32 = 8;

impl ApicPage {
    fn register(&self, number: u32) -> Option<&AtomicU32> {
        self.0.get(number as usize * 4)
    }

    fn load(&self, number: u32) -> u32 {
        self.register(number).map_or(0, |word| word.load(Relaxed))
    }

    fn store(&self, number: u32, value: u32) {
        if let Some(word) = self.register(number) {
            word.store(value, Relaxed);
        }
    }

    /// The words of the set that begins at a register.
    fn set(&self, first: u32) -> [u64; 4] {
        core::array::from_fn(|word| {
            let at = first + 2 * word as u32;
            u64::from(self.load(at)) | u64::from(self.load(at + 1)) << 32
        })
    }

    /// Adds 64 vectors to a set, whose register `at` has the first of them.
    fn add(&self, at: u32, bits: u64) {
        for (at, bits) in [(at, bits as u32), (at + 1, (bits >> 32) as u32)] {
            if bits != 0 {
                self.store(at, self.load(at) | bits);
            }
        }
    }

    fn store_set(&self, first: u32, words: [u64; 4]) {
        for (at, word) in (first..first + REGISTERS).step_by(2).zip(words) {
            self.store(at, word as u32);
            self.store(at + 1, (word >> 32) as u32);
        }
    }
}

impl Default for ApicPage {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; 1024])
    }
}

impl VLapic {
    /// Whether the page holds the APIC's state now.
    #[inline(always)]
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.lent.load(Relaxed)
    }

    /// Whether it may be lent: its registers are MSRs, and it is on. In memory they would need a page of the guest's.
    #[inline]
    #[must_use]
    pub fn can_be_lent(&self) -> bool {
        self.mode() == Mode::X2Apic && self.is_enabled()
    }

    /// Puts the state into the page, which is the vCPU's own.
    pub fn lend(&self, page: &ApicPage) -> Status {
        let stale = self.page_stale.load(Relaxed);
        let in_service = self.in_service_top.load(Relaxed);
        if stale {
            page.store_set(number::REQUEST, [0; 4]);
        }
        if stale || in_service != 0 {
            page.store_set(number::IN_SERVICE, self.in_service.words());
        }
        page.store(
            number::TASK_PRIORITY,
            self.task_priority.load(Relaxed).into(),
        );
        self.lent.store(true, Relaxed);
        Status {
            requested: self.add(page),
            in_service,
        }
    }

    /// Adds what was requested since to the page. The highest of it, or 0.
    pub fn add(&self, page: &ApicPage) -> u8 {
        let mut highest = 0;
        for (index, bits) in (0u8..).zip(self.request.take()) {
            if bits != 0 {
                page.add(number::REQUEST + 2 * u32::from(index), bits);
                highest = index << 6 | bits.ilog2() as u8;
            }
        }
        highest
    }

    /// Vectors whose end concerns others.
    #[must_use]
    pub fn levels(&self) -> [u64; 4] {
        self.level.words()
    }

    /// Takes the state, which is lent, out of the page again.
    pub fn take_back(&self, page: &ApicPage, status: Status) {
        self.lent.store(false, Relaxed);
        if status.requested != 0 {
            self.request.insert_all(page.set(number::REQUEST));
            page.store_set(number::REQUEST, [0; 4]);
        }
        self.page_stale.store(status.in_service != 0, Relaxed);
        if status.in_service != self.in_service_top.load(Relaxed) || status.in_service != 0 {
            self.in_service.set_own(page.set(number::IN_SERVICE));
            self.in_service_top.store(status.in_service, Relaxed);
        }
        self.set_task_priority(page.load(number::TASK_PRIORITY) as u8);
    }

    /// As [`VLapic::deliverable`], wherever the state is. Right from any CPU while the guest is stopped.
    #[must_use]
    pub fn deliverable_with(&self, page: &ApicPage) -> Option<u8> {
        if !self.is_lent() {
            return self.deliverable();
        }
        let class = |words| VectorSet::highest_of(words) >> 4;
        let requested =
            VectorSet::highest_of(page.set(number::REQUEST)).max(self.request.highest());
        let task = page.load(number::TASK_PRIORITY) as u8 >> 4;
        let priority = class(page.set(number::IN_SERVICE)).max(task);
        (requested >> 4 > priority && self.accepting.load(SeqCst)).then_some(requested)
    }

    /// Whether the end of this vector concerns the IOAPICs.
    #[must_use]
    pub fn is_level(&self, vector: u8) -> bool {
        self.level.contains(vector)
    }
}

#[cfg(test)]
mod tests {
    //! The CPU's part is played as the manual has it: delivery of the highest request, and the end of an interrupt.

    use xenolith_hal::Nanos;

    use super::*;
    use crate::vlapic::{Effect, Trigger};

    fn word(page: &ApicPage, first: u32, vector: u8) -> &AtomicU32 {
        page.register(first + u32::from(vector) / 32).unwrap()
    }

    fn highest(page: &ApicPage, first: u32) -> u8 {
        let set = |vector: &u8| {
            let bits = word(page, first, *vector).load(Relaxed);
            bits >> (vector % 32) & 1 != 0
        };
        (0..=u8::MAX).rev().find(set).unwrap_or(0)
    }

    /// Delivers what the priorities let through; the vector.
    fn deliver(page: &ApicPage, status: &mut Status) -> Option<u8> {
        let vector = status.requested;
        let task = page.register(number::TASK_PRIORITY).unwrap().load(Relaxed) as u8;
        if vector >> 4 <= (task >> 4).max(status.in_service >> 4) {
            return None;
        }
        let bit = 1 << (vector % 32);
        word(page, number::REQUEST, vector).fetch_and(!bit, Relaxed);
        word(page, number::IN_SERVICE, vector).fetch_or(bit, Relaxed);
        status.in_service = vector;
        status.requested = highest(page, number::REQUEST);
        Some(vector)
    }

    fn end(page: &ApicPage, status: &mut Status) {
        let bit = 1 << (status.in_service % 32);
        word(page, number::IN_SERVICE, status.in_service).fetch_and(!bit, Relaxed);
        status.in_service = highest(page, number::IN_SERVICE);
    }

    fn x2apic() -> VLapic {
        let lapic = VLapic::new(0);
        lapic.write_msr(0x1b, 0xfee0_0d00, Nanos(0)).unwrap();
        lapic.write_msr(0x80f, 0x1ff, Nanos(0)).unwrap();
        assert!(lapic.can_be_lent());
        lapic
    }

    #[test]
    fn an_apic_comes_back_as_the_cpu_left_it() {
        let (lapic, page) = (x2apic(), ApicPage::default());
        lapic.accept(0x31, Trigger::Edge);
        lapic.accept(0x45, Trigger::Level);
        let mut status = lapic.lend(&page);
        assert_eq!((status.requested, status.in_service), (0x45, 0));
        assert_eq!(lapic.levels(), [0, 1 << 5, 0, 0]);
        assert_eq!(deliver(&page, &mut status), Some(0x45));
        assert_eq!(deliver(&page, &mut status), None);
        page.register(number::TASK_PRIORITY)
            .unwrap()
            .store(0x20, Relaxed);
        // What arrives meanwhile is a request like the one in the page.
        assert!(lapic.accept(0x80, Trigger::Edge));
        assert_eq!(lapic.deliverable_with(&page), Some(0x80));
        lapic.take_back(&page, status);
        assert_eq!((lapic.tpr(), lapic.deliverable()), (2, Some(0x80)));
        lapic.acknowledge(0x80);
        assert_eq!(lapic.end_of_interrupt(), Effect::None);
        assert_eq!(lapic.deliverable(), None);
        assert_eq!(lapic.end_of_interrupt(), Effect::Eoi(0x45));
        assert_eq!(lapic.deliverable(), Some(0x31));
    }

    #[test]
    fn each_interrupt_is_delivered_once_however_often_the_apic_is_lent() {
        let (lapic, page) = (x2apic(), ApicPage::default());
        let mut taken = 0;
        for turn in 0..1000u32 {
            let vector = (turn * 37 % 200) as u8 + 32;
            let fresh = lapic.accept(vector, Trigger::Edge);
            let mut status = lapic.lend(&page);
            assert_eq!(Status::from_bits(status.bits()), status);
            if turn % 3 == 0 {
                lapic.take_back(&page, status);
                assert_eq!(lapic.deliverable(), lapic.deliverable_with(&page));
                status = lapic.lend(&page);
            }
            assert_eq!((fresh, lapic.deliverable_with(&page)), (true, Some(vector)));
            assert_eq!(deliver(&page, &mut status), Some(vector));
            taken += 1;
            if turn % 2 == 0 {
                end(&page, &mut status);
                lapic.take_back(&page, status);
            } else {
                lapic.take_back(&page, status);
                lapic.end_of_interrupt();
            }
        }
        assert_eq!((taken, lapic.deliverable()), (1000, None));
        let status = lapic.lend(&page);
        assert_eq!(
            (status, highest(&page, number::IN_SERVICE)),
            (Status::default(), 0)
        );
    }

    #[test]
    fn what_arrives_can_be_added_to_a_lent_apic() {
        let (lapic, page) = (x2apic(), ApicPage::default());
        lapic.accept(0x31, Trigger::Edge);
        let mut status = lapic.lend(&page);
        lapic.accept(0x32, Trigger::Edge);
        lapic.accept(0x91, Trigger::Edge);
        assert_eq!((lapic.add(&page), lapic.highest_requested()), (0x91, 0));
        status.requested = status.requested.max(0x91);
        let mut taken = || {
            let vector = deliver(&page, &mut status);
            end(&page, &mut status);
            vector
        };
        let all = [taken(), taken(), taken()];
        assert_eq!(all, [Some(0x91), Some(0x32), Some(0x31)]);
        assert_eq!(lapic.add(&page), 0);
    }

    #[test]
    fn a_reset_forgets_what_is_in_the_page() {
        let (lapic, page) = (x2apic(), ApicPage::default());
        lapic.accept(0x31, Trigger::Edge);
        let mut status = lapic.lend(&page);
        deliver(&page, &mut status);
        lapic.init();
        assert!(!lapic.is_lent() && !lapic.can_be_lent());
        lapic.write_msr(0x80f, 0x1ff, Nanos(0)).unwrap();
        let status = lapic.lend(&page);
        assert_eq!(
            (status, highest(&page, number::IN_SERVICE)),
            (Status::default(), 0)
        );
    }
}
