//! The descriptor tables of PV guests: pages of theirs that only the hypervisor writes (`set_gdt`, `update_descriptor`,
//! `MMUEXT_SET_LDT`). A page that a table uses has the type that says so, and every descriptor in it was checked.

use arrayvec::ArrayVec;
use xenolith_abi::errno::Errno;
use xenolith_core::{
    DomainRef, Hypervisor,
    guest::Caller,
    memory::{FrameType, Validation},
};
use xenolith_hal::{AtomicOp, GuestVirt, Hal, HostPhys, Mfn, PAGE_SIZE};

use super::{
    access,
    descriptor::Descriptor,
    run::Stopped,
    switch, trap,
    vcpu::{DESCRIPTOR_PAGES, PvVcpu},
};
use crate::{X86_64, cpu::percpu::PerCpu};

type Result<T = i64> = core::result::Result<T, Errno>;

/// Descriptors in a page.
const IN_PAGE: u32 = (PAGE_SIZE / 8) as u32;

/// `set_gdt`: frames with the calling vCPU's descriptors.
pub fn set_table(caller: Caller<'_, X86_64>, pv: &PvVcpu, list: GuestVirt, count: u32) -> Result {
    let pages = count.div_ceil(IN_PAGE) as usize;
    if pages > DESCRIPTOR_PAGES {
        return Err(Errno::EINVAL);
    }
    let mut frames = ArrayVec::<Mfn, DESCRIPTOR_PAGES>::new();
    for index in 0..pages as u64 {
        frames.push(Mfn(caller.read_at(list, index)?));
    }
    install(caller.hv, caller.domain(), pv, &frames, count)?;
    if let Some(gates) = PerCpu::try_current().and_then(|cpu| cpu.gates.get()) {
        switch::load_descriptors(gates, pv);
    }
    Ok(0)
}

/// Makes frames the vCPU's table, and lets go of those it had.
pub fn install(
    hv: &Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    pv: &PvVcpu,
    frames: &[Mfn],
    count: u32,
) -> Result<()> {
    let mut held = ArrayVec::<Mfn, DESCRIPTOR_PAGES>::new();
    for frame in frames.iter().take(DESCRIPTOR_PAGES) {
        if let Err(errno) = take(hv, domain, *frame) {
            held.iter().for_each(|frame| put(hv, *frame));
            return Err(errno);
        }
        held.push(*frame);
    }
    // SAFETY: the caller is the CPU that runs the vCPU, or holds it off every CPU.
    let old = core::mem::replace(unsafe { &mut *pv.descriptors.get() }, held);
    pv.descriptor_count.set(count);
    old.iter().for_each(|frame| put(hv, *frame));
    Ok(())
}

/// Holds a frame as a page of descriptors.
fn take(hv: &Hypervisor<X86_64>, domain: &DomainRef<X86_64>, mfn: Mfn) -> Result<()> {
    let frame = hv.get_frame(mfn, domain.id()).ok_or(Errno::EINVAL)?;
    let record = hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
    match record.get_type(FrameType::Descriptors) {
        Ok(Validation::Done) => {}
        Ok(Validation::Yours) => {
            if !check_page(hv, mfn) {
                record.put_type();
                return Err(Errno::EINVAL);
            }
            record.set_validated();
        }
        Ok(Validation::Pending) => {
            while !record.state().validated() && record.state().type_count() > 1 {
                core::hint::spin_loop();
            }
            if !record.state().validated() {
                record.put_type();
                return Err(Errno::EINVAL);
            }
        }
        Err(_) => return Err(Errno::EINVAL),
    }
    frame.keep();
    Ok(())
}

fn put(hv: &Hypervisor<X86_64>, mfn: Mfn) {
    if let Some(record) = hv.memory.record(mfn) {
        record.put_type();
    }
    hv.put_frame(mfn);
}

/// Checks every descriptor of a page that nobody can write any more, and puts right what can be.
fn check_page(hv: &Hypervisor<X86_64>, mfn: Mfn) -> bool {
    (0..PAGE_SIZE).step_by(8).all(|at| {
        let Ok(old) = hv.hal.atomic64(mfn, at, AtomicOp::Load) else {
            return false;
        };
        match Descriptor(old).checked() {
            None => false,
            Some(Descriptor(new)) if new == old => true,
            Some(Descriptor(new)) => hv.hal.atomic64(mfn, at, AtomicOp::Swap(new)).is_ok(),
        }
    })
}

/// `update_descriptor`: one descriptor, at a machine address.
pub fn update(caller: Caller<'_, X86_64>, at: u64, value: u64) -> Result {
    let Descriptor(value) = Descriptor(value).checked().ok_or(Errno::EINVAL)?;
    let at = HostPhys(at);
    if !at.0.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let hv = caller.hv;
    let frame = hv
        .get_frame(at.frame(), caller.domain().id())
        .ok_or(Errno::EINVAL)?;
    let record = hv.memory.record(frame.mfn()).ok_or(Errno::EINVAL)?;
    let kind = match record.state().frame_type() {
        FrameType::Descriptors if record.state().type_count() != 0 => FrameType::Descriptors,
        _ => FrameType::Writable,
    };
    match record.get_type(kind) {
        Ok(Validation::Done) => {}
        Ok(_) => {
            record.put_type();
            return Err(Errno::EINVAL);
        }
        Err(_) => return Err(Errno::EINVAL),
    }
    let done = hv
        .hal
        .atomic64(frame.mfn(), at.offset(), AtomicOp::Swap(value));
    record.put_type();
    done.map(|_| 0).map_err(|_| Errno::EINVAL)
}

/// `MMUEXT_SET_LDT`: where the calling vCPU has local descriptors, and how many.
pub fn set_local(pv: &PvVcpu, hv: &Hypervisor<X86_64>, base: u64, count: u32) -> Result<()> {
    const MOST: u32 = 8192;
    if count > MOST
        || !base.is_multiple_of(PAGE_SIZE as u64)
        || count != 0 && !access::is_guest(base)
    {
        return Err(Errno::EINVAL);
    }
    forget_local(pv, hv);
    pv.local.set((base, count));
    if let Some(gates) = PerCpu::try_current().and_then(|cpu| cpu.gates.get()) {
        switch::load_local(gates, pv);
    }
    Ok(())
}

/// Lets go of the pages of local descriptors.
pub fn forget_local(pv: &PvVcpu, hv: &Hypervisor<X86_64>) {
    // SAFETY: the caller is the CPU that runs the vCPU, or holds it off every CPU.
    let pages = unsafe { &mut *pv.local_frames.get() };
    for (_, mfn) in pages.drain(..) {
        put(hv, mfn);
    }
}

/// The CPU read a local descriptor at an offset whose page is not mapped: maps it. True when the guest can try again, or has an
/// exception now.
pub fn map_local(cx: &mut Stopped<'_>, offset: u64) -> bool {
    let (base, count) = cx.pv.local.get();
    if offset >= u64::from(count) * 8 {
        return false;
    }
    let address = base.wrapping_add(offset);
    let Some(mfn) = cx.frame_behind(address) else {
        trap::give_page_fault(cx, address, 0);
        return true;
    };
    let hv = cx.hv();
    if take(hv, cx.vcpu.domain(), mfn).is_err() {
        trap::protection_fault(cx, offset & !7 | 4);
        return true;
    }
    let page = offset as usize / PAGE_SIZE;
    // SAFETY: the vCPU is loaded on this CPU.
    let pages = unsafe { &mut *cx.pv.local_frames.get() };
    if pages.try_push((page, mfn)).is_err() {
        put(hv, mfn);
        return false;
    }
    if let Some(gates) = cx.cpu.gates.get() {
        gates.map_local(page, mfn);
    }
    true
}
