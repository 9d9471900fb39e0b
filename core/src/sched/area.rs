//! The copy of a vCPU's runstate that its guest can read without a hypercall.
//!
//! The guest gives a virtual address; it is translated once, and the frames behind it are looked up at each update, so
//! that memory that the guest gave away meanwhile is never written. The area may cross the end of a frame. For a
//! paravirtual guest the machine frames are found once, and at each update it is seen whether they still are memory of its
//! own that it may write.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use xenolith_abi::{
    Wire,
    narrow::Form,
    runstate::{RunstateInfo, UPDATE},
};
use xenolith_hal::{AtomicOp, Fault, GuestPhys, GuestVirt, Hal, Mfn, P2m, P2mType, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::RunstateTimes;
use crate::{Hypervisor, VcpuRef};

const NONE: u64 = u64::MAX;
const SIZE: usize = size_of::<RunstateInfo>();
/// The field whose highest byte holds the update mark.
const MARKED: usize = core::mem::offset_of!(RunstateInfo, state_entry_time);
const MARK: u8 = (UPDATE >> 56) as u8;

/// Where the copy stands.
pub(crate) struct Area {
    /// Guest-physical address of the first byte; the machine's own address for a paravirtual guest.
    start: AtomicU64,
    /// Guest-physical address of the frame that holds the rest, where there is a rest.
    rest: AtomicU64,
}

impl Area {
    pub(crate) const fn none() -> Self {
        Self {
            start: AtomicU64::new(NONE),
            rest: AtomicU64::new(NONE),
        }
    }

    /// No copy is kept any more.
    pub(crate) fn forget(&self) {
        self.start.store(NONE, SeqCst);
    }

    /// A copy of `size` bytes is kept at a virtual address.
    pub(crate) fn register(
        &self,
        address: GuestVirt,
        size: usize,
        translate: impl Fn(GuestVirt) -> Result<GuestPhys, Fault>,
    ) -> Result<(), Fault> {
        let start = translate(address)?;
        let room = PAGE_SIZE - start.offset();
        if room < size {
            self.rest
                .store(translate(address.plus(room as u64))?.0, SeqCst);
        }
        self.start.store(start.0, SeqCst);
        Ok(())
    }

    /// The guest-physical address of the byte at an offset.
    fn at(&self, offset: usize) -> Option<GuestPhys> {
        let start = self.start.load(SeqCst);
        if start == NONE {
            return None;
        }
        let room = PAGE_SIZE - GuestPhys(start).offset();
        Some(GuestPhys(if offset < room {
            start + offset as u64
        } else {
            self.rest.load(SeqCst).wrapping_add((offset - room) as u64)
        }))
    }

    #[inline]
    pub(crate) fn is_registered(&self) -> bool {
        self.start.load(SeqCst) != NONE
    }
}

/// The form of the copy in a domain of 32-bit code.
fn form<H: Hal>(vcpu: &VcpuRef<H>) -> Option<&'static Form> {
    RunstateInfo::NARROW.filter(|_| vcpu.domain().is_narrow())
}

impl RunstateTimes {
    /// As the guest is told.
    pub fn to_wire(&self) -> RunstateInfo {
        RunstateInfo {
            state: self.kind as u32,
            state_entry_time: self.since.0,
            time: self.time.map(|time| time.0),
            ..RunstateInfo::default()
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Where a vCPU's time went.
    pub fn runstate(&self, vcpu: &VcpuRef<H>) -> RunstateTimes {
        vcpu.sched.runstate.read(self.hal.now())
    }

    /// Writes the guest's copy, if the guest keeps one. No run queue may be locked.
    #[inline]
    pub(crate) fn update_runstate_area(&self, vcpu: &VcpuRef<H>) {
        if vcpu.sched.area.is_registered() {
            // Memory that went away is the guest's own doing.
            let _ = self.write_runstate_area(vcpu);
        }
    }

    #[inline(never)]
    fn write_runstate_area(&self, vcpu: &VcpuRef<H>) -> Result<(), Fault> {
        let area = &vcpu.sched.area;
        let start = area.at(0).ok_or(Fault)?;
        let marked = vcpu
            .domain()
            .sched
            .runstate_update_flag
            .load(core::sync::atomic::Ordering::Relaxed);
        // Up to when the running state lasted is known to the guest itself: its copy counts up to the last change.
        let mut info = vcpu.sched.runstate.booked().to_wire();
        if marked {
            info.state_entry_time |= UPDATE;
            self.mark(vcpu, AtomicOp::Or(MARK))?;
        }
        let mut narrow = [0; SIZE];
        let bytes = match form(vcpu) {
            Some(form) => {
                form.narrow(info.as_bytes(), &mut narrow);
                narrow.get(..form.size).ok_or(Fault)?
            }
            None => info.as_bytes(),
        };
        let room = (PAGE_SIZE - start.offset()).min(bytes.len());
        let (head, tail) = bytes.split_at_checked(room).ok_or(Fault)?;
        self.write_own(vcpu, start, head)?;
        if !tail.is_empty() {
            self.write_own(vcpu, area.at(room).ok_or(Fault)?, tail)?;
        }
        if marked {
            self.mark(vcpu, AtomicOp::And(!MARK))?;
        }
        Ok(())
    }

    fn mark(&self, vcpu: &VcpuRef<H>, op: AtomicOp<u8>) -> Result<(), Fault> {
        let field = form(vcpu).and_then(|form| form.place(MARKED));
        let at = vcpu.sched.area.at(field.unwrap_or(MARKED) + 7);
        let at = at.ok_or(Fault)?;
        self.with_own(vcpu, at, |mfn, offset| {
            self.hal.atomic8(mfn, offset, op).map(|_| ())
        })
    }

    fn write_own(&self, vcpu: &VcpuRef<H>, at: GuestPhys, bytes: &[u8]) -> Result<(), Fault> {
        self.with_own(vcpu, at, |mfn, offset| {
            self.hal.write_frame(mfn, offset, bytes)
        })
    }

    /// Calls `f` with the machine frame behind an address of the domain's own memory, while it stays there.
    fn with_own(
        &self,
        vcpu: &VcpuRef<H>,
        at: GuestPhys,
        f: impl FnOnce(Mfn, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let domain = vcpu.domain();
        if domain.is_pv() {
            let mfn = Mfn(at.frame().0);
            let frame = self.get_writable(mfn, domain).ok_or(Fault)?;
            return f(frame.mfn(), at.offset());
        }
        domain.p2m.with_entry(at.frame(), |entry| match entry {
            Some(entry) if entry.kind == P2mType::RamRw => f(entry.mfn, at.offset()),
            _ => Err(Fault),
        })
    }
}
