//! Places at which devices' messages arrive: a vector of one CPU each, and what the domain that owns the devices gets for it.
//!
//! A device is told an address and a vector from here and nothing else, so whatever a domain writes as its own message, the
//! machine's controllers see one of these vectors or none.

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use spin::Once;
use xenolith_core::Hypervisor;
use xenolith_hal::{CpuId, MAX_CPUS};

use super::{FIRST, LAST, OWNER, first_message};
use crate::{
    X86_64, apic,
    cpu::percpu::{self, PerCpu},
    guest::interrupts,
    pci::{Signal, Slot},
};

const COUNT: usize = (LAST - FIRST) as usize + 1;
const WINDOW: u64 = 0xfee0_0000;

/// What comes for each vector of a CPU, as [`pack`] has it; 0: nothing was asked for.
type Places = [AtomicU64; COUNT];

static PLACES: [Once<Box<Places>>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

const USED: u64 = 1 << 63;

fn pack(signal: Signal) -> u64 {
    USED | (signal.address & 0xf_ffff) << 16 | u64::from(signal.data & 0xffff)
}

fn unpack(packed: u64) -> Option<Signal> {
    (packed & USED != 0).then_some(Signal {
        address: WINDOW | packed >> 16 & 0xf_ffff,
        data: packed as u32 & 0xffff,
    })
}

fn place(cpu: CpuId, vector: u8) -> Option<&'static AtomicU64> {
    let places = PLACES.get(cpu.index())?.get()?;
    places.get(usize::from(vector.checked_sub(FIRST)?))
}

/// Finds a place, on the executing CPU if it has one, and what a device must send for it.
pub fn open(hv: &Hypervisor<X86_64>, signal: Signal) -> Option<(Slot, Signal)> {
    let own = percpu::cpu_id();
    let others = hv.sched.online_cpus();
    let others = others.iter().filter(|cpu| *cpu != own);
    let found = core::iter::once(own)
        .chain(others)
        .find_map(|cpu| open_on(cpu, signal));
    if found.is_none() {
        log::warn!("no vector is left for a device's messages: it stays silent");
    }
    found
}

fn open_on(cpu: CpuId, signal: Signal) -> Option<(Slot, Signal)> {
    let id = apic::id_of(cpu);
    if id > apic::LAST_XAPIC_ID {
        return None;
    }
    let places = PLACES.get(cpu.index())?;
    places.call_once(|| Box::new([const { AtomicU64::new(0) }; COUNT]));
    let vector = (first_message()..=LAST).find(|vector| {
        place(cpu, *vector).is_some_and(|place| {
            let free = place.compare_exchange(0, pack(signal), SeqCst, Relaxed);
            free.is_ok()
        })
    })?;
    let slot = Slot(u32::from(cpu.0) << 8 | u32::from(vector));
    let sent = Signal {
        address: WINDOW | u64::from(id) << 12,
        data: vector.into(),
    };
    Some((slot, sent))
}

fn of(slot: Slot) -> Option<&'static AtomicU64> {
    place(CpuId((slot.0 >> 8) as u16), slot.0 as u8)
}

/// The domain gets another message in this place.
pub fn change(slot: Slot, signal: Signal) {
    if let Some(place) = of(slot) {
        place.store(pack(signal), SeqCst);
    }
}

/// Nothing comes in this place any more; what is under way is lost.
pub fn close(slot: Slot) {
    if let Some(place) = of(slot) {
        place.store(0, SeqCst);
    }
}

/// A message came; interrupts are masked, and no lock is held.
pub(super) fn taken(vector: u8) {
    let Some(cpu) = PerCpu::try_current() else {
        return;
    };
    let signal = place(cpu.id, vector).and_then(|place| unpack(place.load(SeqCst)));
    let message = signal.and_then(|signal| signal.message());
    let owner = OWNER.lock().upgrade();
    if let (Some(domain), Some(message)) = (owner, message) {
        interrupts::send(cpu.hv, &domain, None, &message);
    }
}
