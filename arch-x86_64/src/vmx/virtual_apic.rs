//! The guest's local APIC in the CPU's hands: virtual-interrupt delivery (Intel SDM, volume 3, chapter 30).
//!
//! It is used for an x2APIC that is on. Task priority, end of interrupt and interrupts to oneself are then registers that
//! the guest reaches without an exit; all others exit and are the model's, which first takes the state back. Interrupts
//! that arrive while the guest runs come with the next entry, which their sender causes.

use xenolith_hal::{HostPhys, Mfn};

use super::{
    controls::{Primary, Secondary},
    fields as f,
    instructions::{read, write},
};
use crate::{
    mm::hyp::Direct,
    vlapic::{ApicPage, Status, VLapic},
};

/// Moves to and from CR8, which exit unless the CPU has the APIC.
const CR8: Primary = Primary::CR8_LOAD.union(Primary::CR8_STORE);

/// A frame that holds the page of one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct PageFrame(Mfn);

impl PageFrame {
    /// Clears the frame for its use.
    ///
    /// # Safety
    /// The frame is RAM of the hypervisor's, and stays this vCPU's alone for as long as anything of the vCPU is used.
    pub unsafe fn new(frame: Mfn) -> Self {
        Direct::zero(frame, 0);
        Self(frame)
    }

    /// The page.
    pub fn page(&self) -> &ApicPage {
        // SAFETY: the frame was cleared, which is a page of zeroes, and is used for nothing else, as `new` was promised. The
        // CPU changes it only where atomic words are.
        unsafe { &*(Direct::address(self.0.base()) as *const ApicPage) }
    }
}

/// What a vCPU keeps for it, beside the page.
#[derive(Debug)]
pub struct VirtualApic {
    frame: PageFrame,
    /// MSR bitmaps: without it, and with it.
    maps: [HostPhys; 2],
    on: bool,
    levels: [u64; 4],
}

impl VirtualApic {
    /// Of a vCPU that does without until its APIC can be lent.
    pub fn new(frame: PageFrame, maps: [HostPhys; 2]) -> Self {
        Self {
            frame,
            maps,
            on: false,
            levels: [0; 4],
        }
    }

    /// Fills what never changes of the current control structure.
    pub fn write_fields(&self) {
        write(f::VIRTUAL_APIC_ADDRESS, self.frame.0.base().0);
        write(f::TPR_THRESHOLD, 0);
        for field in f::EOI_EXITS {
            write(field, 0);
        }
    }

    /// Just before an entry: lends the APIC to the CPU if that can be, and has the controls say so.
    #[inline(never)]
    pub fn lend(&mut self, lapic: &VLapic, primary: &mut Primary, secondary: &mut Secondary) {
        let on = lapic.can_be_lent();
        if on != self.on {
            self.on = on;
            primary.set(CR8, !on);
            primary.set(Primary::TPR_SHADOW, on);
            secondary.set(Secondary::VIRTUAL_APIC, on);
            write(f::PRIMARY_CONTROLS, primary.bits());
            write(f::SECONDARY_CONTROLS, secondary.bits());
            let [without, with] = self.maps;
            write(f::MSR_BITMAP, if on { with.0 } else { without.0 });
        }
        if !on {
            return;
        }
        let status = lapic.lend(self.frame.page());
        write(f::GUEST_INTERRUPT_STATUS, status.bits());
        self.tell_of_levels(lapic);
    }

    /// Just before an entry: gives the CPU, which has the APIC, what was requested since.
    #[inline(never)]
    pub fn add(&mut self, lapic: &VLapic) {
        let highest = lapic.add(self.frame.page());
        let mut status = Status::from_bits(read(f::GUEST_INTERRUPT_STATUS));
        if highest > status.requested {
            status.requested = highest;
            write(f::GUEST_INTERRUPT_STATUS, status.bits());
        }
        self.tell_of_levels(lapic);
    }

    fn tell_of_levels(&mut self, lapic: &VLapic) {
        let levels = lapic.levels();
        if levels != self.levels {
            self.levels = levels;
            for (field, word) in f::EOI_EXITS.into_iter().zip(levels) {
                write(field, word);
            }
        }
    }

    /// Takes the APIC back, which is lent. The control structure is the current one.
    pub fn take_back(&self, lapic: &VLapic) {
        let status = Status::from_bits(read(f::GUEST_INTERRUPT_STATUS));
        lapic.take_back(self.frame.page(), status);
    }
}
