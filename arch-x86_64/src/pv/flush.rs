//! Translations of PV guests that CPUs keep, and how they are made to forget them.
//!
//! A CPU keeps a domain's translations as long as it has one of the domain's address spaces loaded: a load of another root drops
//! all, and nothing of a guest's is global. Who needs a translation gone asks the CPUs that are in the domain and waits for them.
//! A CPU that is asked answers at the end of what it does, when it leaves a guest, or while it waits itself, for a lock
//! ([`xenolith_hal::sync::relax`]) or for others: so nobody waits for ever.
//!
//! A clock counts flushes. What was dropped before a CPU's last flush began is not in that CPU any more: it need not be asked.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use x86_64::{VirtAddr, instructions::tlb};
use xenolith_core::{Domain, sched::Work};
use xenolith_hal::{AtomicCpuMask, CpuId, CpuMask, DomId, MAX_CPUS, PAGE_SIZE, sync::relax};

use super::{
    isolation::cpu::{self as isolation, TAGGED},
    memory::Flush,
};
use crate::{
    X86_64, apic,
    cpu::percpu::{PerCpu, cpu_id},
};

/// The work bit of a CPU that is asked.
pub const WORK: u32 = Work::ARCH.bits();

#[repr(align(64))]
struct Mailbox {
    /// How often it was asked to flush.
    asked: AtomicU64,
    /// How many of these a flush has answered.
    answered: AtomicU64,
    /// The clock before its last flush.
    last: AtomicU64,
    /// What it was asked for since it looked last: a page, [`NOTHING`] or [`ALL`]. Said before it is asked; who asks while
    /// something stands there asks for all. A CPU that is asked and finds nothing forgets all, for somebody was
    /// served before he asked.
    page: AtomicU64,
}

/// What no page with [`PAGE`] is. That of a fresh mailbox is zero, so that the image has no mailboxes in it.
const NOTHING: u64 = 0;
const ALL: u64 = 1;
/// Beside a page's address.
const PAGE: u64 = 2;

static MAILBOXES: [Mailbox; MAX_CPUS] = [const {
    Mailbox {
        asked: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        last: AtomicU64::new(0),
        page: AtomicU64::new(NOTHING),
    }
}; MAX_CPUS];

static CLOCK: AtomicU64 = AtomicU64::new(1);

/// A domain's tables were given frames of a third one's: anybody may keep anybody's.
static MIXED: AtomicBool = AtomicBool::new(false);

/// See [`super::memory::Machine::mixes_domains`]; said before there is such an entry.
pub fn note_mixed() {
    MIXED.store(true, SeqCst);
}

/// The CPUs that have an address space of a PV guest loaded.
pub static IN_GUESTS: AtomicCpuMask = AtomicCpuMask::empty();

fn mailbox(cpu: CpuId) -> &'static Mailbox {
    &MAILBOXES[cpu.index() % MAX_CPUS]
}

/// The clock before a CPU's last flush.
#[must_use]
pub fn last(cpu: CpuId) -> &'static AtomicU64 {
    &mailbox(cpu).last
}

/// The executing CPU forgets the translation of a page.
#[inline(always)]
pub fn page(address: u64) {
    tlb::flush(VirtAddr::new_truncate(address));
    if TAGGED.load(Relaxed) {
        page_of_copies(address);
    }
}

/// The same for the copies of roots, which have numbers of their own.
#[cold]
#[inline(never)]
fn page_of_copies(address: u64) {
    if !isolation::chosen().single {
        return local();
    }
    const ONE_ADDRESS: u64 = 0;
    for number in isolation::NUMBERS {
        let what = [number, address];
        // SAFETY: forgets a translation, on a CPU that has the instruction.
        unsafe {
            core::arch::asm!(
                "invpcid {}, [{}]",
                in(reg) ONE_ADDRESS,
                in(reg) &raw const what,
                options(nostack, readonly),
            );
        }
    }
}

/// The time now. What is dropped now is forgotten by whoever flushes later.
#[inline(always)]
#[must_use]
pub fn stamp() -> u64 {
    CLOCK.load(SeqCst)
}

/// The executing CPU has just forgotten everything, or does so next: `forget` loads a root.
#[inline(always)]
pub fn with_root_load(forget: impl FnOnce()) {
    let begun = CLOCK.fetch_add(1, SeqCst) + 1;
    forget();
    mailbox(cpu_id()).last.store(begun, Relaxed);
}

/// The executing CPU forgets what it keeps of the present guest.
#[inline(always)]
pub fn local() {
    with_root_load(|| {
        // SAFETY: loads the root that is loaded.
        unsafe {
            core::arch::asm!(
                "mov {root}, cr3",
                "mov cr3, {root}",
                root = out(reg) _,
                options(nostack, preserves_flags)
            );
        }
    });
}

/// Answers, if somebody waits for the executing CPU.
#[inline]
pub fn answer() {
    let own = mailbox(cpu_id());
    let asked = own.asked.load(SeqCst);
    if asked != own.answered.load(Relaxed) {
        // Who asks from here on is not answered by this flush.
        match own.page.swap(NOTHING, SeqCst) {
            NOTHING | ALL => local(),
            address => page(address & !PAGE),
        }
        own.answered.store(asked, SeqCst);
    }
}

/// As [`answer`], for a CPU that looks at its work. Whether it was asked for something, which need not be a flush.
#[inline]
pub fn answer_work(cpu: &PerCpu) -> bool {
    let asked = cpu.work.load(SeqCst) & WORK != 0;
    if asked {
        cpu.work.fetch_and(!WORK, SeqCst);
        answer();
    }
    asked
}

/// Makes CPUs forget, and waits until they have. The caller holds no lock of `spin` itself.
pub fn cpus(cpu: &PerCpu, mask: &CpuMask, what: Flush) {
    let own = cpu.id;
    if mask.contains(own) {
        match what {
            Flush::All => local(),
            Flush::Page(address) => page(address.0),
        }
    }
    let wanted = match what {
        Flush::All => ALL,
        Flush::Page(address) => address.0 & !(PAGE_SIZE as u64 - 1) | PAGE,
    };
    for other in mask.iter().filter(|other| *other != own) {
        let asked = &mailbox(other).page;
        let first = asked.compare_exchange(NOTHING, wanted, SeqCst, SeqCst);
        if first.is_err() {
            asked.store(ALL, SeqCst);
        }
        mailbox(other).asked.fetch_add(1, SeqCst);
        cpu.hv.sched.work(other).fetch_or(WORK, SeqCst);
        apic::kick(other);
    }
    for other in mask.iter().filter(|other| *other != own) {
        // What others asked meanwhile is waited for too: at most one flush more.
        let ticket = mailbox(other).asked.load(SeqCst);
        while mailbox(other).answered.load(SeqCst) < ticket {
            answer();
            relax();
        }
    }
}

/// Makes those CPUs forget that are in a PV guest and may still keep a translation to a frame of `owner`'s that was dropped at
/// `stamp`.
pub fn older(cpu: &PerCpu, owner: Option<DomId>, stamp: u64) {
    if !IN_GUESTS.is_only(cpu.id) {
        older_of_many(cpu, owner, stamp);
    } else if mailbox(cpu.id).last.load(SeqCst) <= stamp {
        local();
    }
}

#[inline(never)]
fn older_of_many(cpu: &PerCpu, owner: Option<DomId>, stamp: u64) {
    let mut mask = IN_GUESTS.load();
    for other in IN_GUESTS.load().iter() {
        if mailbox(other).last.load(SeqCst) > stamp {
            mask.remove(other);
        }
    }
    if mask.is_empty() {
        return;
    }
    if let Some(keepers) = owner.and_then(|owner| keepers(cpu, owner)) {
        mask = mask.and(&keepers);
    }
    if !mask.is_empty() {
        cpus(cpu, &mask, Flush::All);
    }
}

/// The CPUs that may keep translations to frames of a domain's, if that is known.
///
/// A CPU is in a domain's set before it loads a root of its, and leaves it behind the load of another, which forgets. Tables lead to
/// their own domain's frames; those of the control domain, the only privileged one, to anybody's. Who maps by grant flushes its CPUs
/// before the granter's frame is let go, so that nothing is left when the frame rests.
fn keepers(cpu: &PerCpu, owner: DomId) -> Option<CpuMask> {
    const CONTROL: DomId = DomId(0);
    let domains = &cpu.hv.domains;
    let owner = domains.get(owner)?;
    // Behind the change that the flush is for.
    if MIXED.load(SeqCst) {
        return None;
    }
    let mut keepers = present(&owner);
    if let Some(control) = domains.get(CONTROL) {
        for cpu in present(&control).iter() {
            keepers.insert(cpu);
        }
    }
    Some(keepers)
}

/// The CPUs that have an address space of a domain's loaded.
pub fn present(domain: &Domain<X86_64>) -> CpuMask {
    let pv = domain.arch.pv.as_ref();
    pv.map_or(CpuMask::EMPTY, |pv| pv.present.load())
}
