//! Places at which devices' messages arrive: a vector of one CPU each, and what the domain that owns the devices gets for it.
//!
//! A domain gets the message that it wrote, or the event of the number that it has for the message. A device is told an address and a vector from here and nothing else, so whatever a domain writes as its own message, the
//! machine's controllers see one of these vectors or none.

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use spin::Once;
use xenolith_core::Hypervisor;
use xenolith_hal::{CpuId, MAX_CPUS};

use super::{FIRST, LAST, OWNER, SYSTEM_CALL, first_message};
use crate::{
    X86_64, apic,
    cpu::percpu::{self, PerCpu},
    guest::interrupts,
    pci::{Arrival, Signal, Slot},
};

const COUNT: usize = (LAST - FIRST) as usize + 1;
const WINDOW: u64 = 0xfee0_0000;

/// What comes for each vector of a CPU, as [`pack`] has it; 0: nothing was asked for.
type Places = [AtomicU64; COUNT];

static PLACES: [Once<Box<Places>>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

const USED: u64 = 1 << 63;

const NUMBERED: u64 = 1 << 62;

fn pack(arrival: Arrival) -> u64 {
    match arrival {
        Arrival::Message(signal) => {
            USED | (signal.address & 0xf_ffff) << 16 | u64::from(signal.data & 0xffff)
        }
        Arrival::Number(number) => USED | NUMBERED | u64::from(number),
    }
}

fn unpack(packed: u64) -> Option<Arrival> {
    if packed & USED == 0 {
        return None;
    }
    Some(match packed & NUMBERED {
        0 => Arrival::Message(Signal {
            address: WINDOW | packed >> 16 & 0xf_ffff,
            data: packed as u32 & 0xffff,
        }),
        _ => Arrival::Number(packed as u16),
    })
}

fn place(cpu: CpuId, vector: u8) -> Option<&'static AtomicU64> {
    let places = PLACES.get(cpu.index())?.get()?;
    places.get(usize::from(vector.checked_sub(FIRST)?))
}

/// Finds a place, on the executing CPU if it has one, and what a device must send for it.
pub fn open(hv: &Hypervisor<X86_64>, arrival: Arrival) -> Option<(Slot, Signal)> {
    let own = percpu::cpu_id();
    let others = hv.sched.online_cpus();
    let others = others.iter().filter(|cpu| *cpu != own);
    let found = core::iter::once(own)
        .chain(others)
        .find_map(|cpu| open_on(cpu, arrival));
    if found.is_none() {
        log::warn!("no vector is left for a device's messages: it stays silent");
    }
    found
}

fn open_on(cpu: CpuId, arrival: Arrival) -> Option<(Slot, Signal)> {
    let id = apic::id_of(cpu);
    if id > apic::LAST_XAPIC_ID {
        return None;
    }
    let places = PLACES.get(cpu.index())?;
    places.call_once(|| Box::new([const { AtomicU64::new(0) }; COUNT]));
    let mut vectors = (first_message()..=LAST).filter(|vector| *vector != SYSTEM_CALL);
    let vector = vectors.find(|vector| {
        place(cpu, *vector).is_some_and(|place| {
            let free = place.compare_exchange(0, pack(arrival), SeqCst, Relaxed);
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

/// The domain gets something else in this place.
pub fn change(slot: Slot, arrival: Arrival) {
    if let Some(place) = of(slot) {
        place.store(pack(arrival), SeqCst);
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
    let arrival = place(cpu.id, vector).and_then(|place| unpack(place.load(SeqCst)));
    let owner = OWNER.lock().upgrade();
    let (Some(domain), Some(arrival)) = (owner, arrival) else {
        return;
    };
    match arrival {
        Arrival::Message(signal) => {
            if let Some(message) = signal.message() {
                interrupts::send(cpu.hv, &domain, None, &message);
            }
        }
        Arrival::Number(number) => cpu.hv.send_pirq(&domain, number.into()),
    }
}
