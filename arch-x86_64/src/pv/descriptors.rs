//! The descriptor tables of PV guests: pages of theirs that only the hypervisor writes (`set_gdt`, `update_descriptor`,
//! `MMUEXT_SET_LDT`). A page that a table uses has the type that says so, and every descriptor in it was checked.

use arrayvec::ArrayVec;
use xenolith_abi::errno::Errno;
use xenolith_core::{DomainRef, guest::Caller, hypercall::Outcome};
use xenolith_hal::{GuestVirt, HostPhys, Mfn, PAGE_SIZE};

use super::{
    access,
    machine::ThisCpu,
    memory::{self, Stop},
    run::Stopped,
    switch, trap,
    vcpu::{DESCRIPTOR_PAGES, LocalFrames, PvVcpu},
};
use crate::{
    X86_64,
    cpu::{descriptors, percpu::PerCpu},
};

type Result<T = i64> = core::result::Result<T, Errno>;

// What gates may lead to is said where descriptors are checked.
const _: () = assert!(
    memory::descriptors::HYPERVISORS == descriptors::FIRST
        && memory::descriptors::CODE == descriptors::USER_CODE
);

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
    install(caller.domain(), pv, &frames, count)?;
    if let Some(gates) = PerCpu::try_current().and_then(|cpu| cpu.gates.get()) {
        switch::load_descriptors(gates, pv);
    }
    Ok(0)
}

/// Makes frames the vCPU's table, and lets go of those it had.
pub fn install(domain: &DomainRef<X86_64>, pv: &PvVcpu, frames: &[Mfn], count: u32) -> Result<()> {
    let mut held = ArrayVec::<Mfn, DESCRIPTOR_PAGES>::new();
    for frame in frames.iter().take(DESCRIPTOR_PAGES) {
        if let Err(errno) = take(domain, *frame) {
            held.iter().for_each(|frame| put(pv, *frame));
            return Err(errno);
        }
        held.push(*frame);
    }
    // SAFETY: the caller is the CPU that runs the vCPU, or holds it off every CPU.
    let old = core::mem::replace(unsafe { &mut *pv.descriptors.get() }, held);
    pv.descriptor_count.set(count);
    old.iter().for_each(|frame| put(pv, *frame));
    Ok(())
}

/// Holds a frame as a page of descriptors.
fn take(domain: &DomainRef<X86_64>, mfn: Mfn) -> Result<()> {
    let cpu = ThisCpu(PerCpu::try_current().ok_or(Errno::EINVAL)?);
    cpu.tables().hold_descriptors(mfn, domain.id())
}

fn put(pv: &PvVcpu, mfn: Mfn) {
    if let Some(cpu) = PerCpu::try_current() {
        ThisCpu(cpu).tables().drop_descriptors(mfn, &pv.space);
    }
}

/// `update_descriptor`: one descriptor, at a machine address.
pub fn update(caller: Caller<'_, X86_64>, pv: &PvVcpu, at: u64, value: u64) -> Outcome {
    let at = HostPhys(at);
    let cpu = PerCpu::try_current().filter(|_| at.0.is_multiple_of(8));
    let Some(cpu) = cpu.map(ThisCpu) else {
        return Errno::EINVAL.into();
    };
    let (owner, slot) = (caller.domain().id(), at.offset() / 8);
    match cpu
        .tables()
        .update_descriptor(at.frame(), slot, value, owner, &pv.space)
    {
        Ok(()) => Outcome::Done(0),
        Err(Stop::Failed(errno)) => errno.into(),
        Err(Stop::Preempted) => Outcome::Again([at.0, value, 0, 0, 0]),
    }
}

/// `MMUEXT_SET_LDT`: where the calling vCPU has local descriptors, and how many.
pub fn set_local(pv: &PvVcpu, base: u64, count: u32) -> Result<()> {
    const MOST: u32 = 8192;
    if count > MOST
        || !base.is_multiple_of(PAGE_SIZE as u64)
        || count != 0 && !access::is_guest(base)
    {
        return Err(Errno::EINVAL);
    }
    let own = PerCpu::try_current().filter(|cpu| pv.cpu() == Some(cpu.id));
    let gates = own.and_then(|cpu| cpu.gates.get());
    // No CPU has a page mapped any more when its frame may become something else.
    pv.local.set((base, count));
    let pages = take_local(pv);
    if let Some(gates) = gates {
        switch::load_local(gates, pv);
    }
    pages.iter().for_each(|(_, mfn)| put(pv, *mfn));
    Ok(())
}

/// The pages of local descriptors, which the vCPU has no more.
fn take_local(pv: &PvVcpu) -> LocalFrames {
    // SAFETY: the caller is the CPU that runs the vCPU, or holds it off every CPU.
    core::mem::take(unsafe { &mut *pv.local_frames.get() })
}

/// Lets go of every page of descriptors. The vCPU runs no more.
pub fn forget(pv: &PvVcpu) {
    take_local(pv).iter().for_each(|(_, mfn)| put(pv, *mfn));
    // SAFETY: the caller holds the vCPU off every CPU.
    let held = core::mem::take(unsafe { &mut *pv.descriptors.get() });
    held.iter().for_each(|frame| put(pv, *frame));
}

/// The CPU read a local descriptor at an offset whose page is not mapped: maps it. True when the guest can try again, or has an
/// exception now.
pub fn map_local(cx: &mut Stopped<'_>, offset: u64) -> bool {
    let (base, count) = cx.pv.local.get();
    if offset >= u64::from(count) * 8 {
        return false;
    }
    let address = base.wrapping_add(offset);
    // A page that cannot be such a table is as good as none. A program's tables need not have it.
    let held = cx
        .frame_of_kernel(address)
        .filter(|mfn| take(cx.vcpu.domain(), *mfn).is_ok());
    let Some(mfn) = held else {
        trap::give_page_fault(cx, address, 0);
        return true;
    };
    let page = offset as usize / PAGE_SIZE;
    // SAFETY: the vCPU is loaded on this CPU.
    let pages = unsafe { &mut *cx.pv.local_frames.get() };
    if pages.try_push((page, mfn)).is_err() {
        put(cx.pv, mfn);
        return false;
    }
    if let Some(gates) = cx.cpu.gates.get() {
        gates.map_local(page, mfn);
    }
    true
}
