//! Who takes a message: the one place that knows all local APICs of a domain (Intel SDM, volume 3, 11.6.2).
//!
//! A domain's local APICs are given as a count and a function from index to APIC, so that the caller keeps them where it
//! likes. A vCPU's APIC id is twice its index in Xen's domains, which is tried before the search.

use core::sync::atomic::Ordering::Relaxed;

use super::{Delivery, Destination, Message, Mode, Trigger, VLapic};

impl VLapic {
    /// Whether a logical destination names this APIC.
    fn matches_logical(&self, destination: u32) -> bool {
        let own = self.logical_id.load(Relaxed);
        if self.mode() == Mode::X2Apic {
            return own >> 16 == destination >> 16 && own & destination & 0xffff != 0;
        }
        let (own, destination) = (own >> 24, destination & 0xff);
        let cluster_format = self.format.load(Relaxed) >> 28 == 0;
        if !cluster_format {
            return own & destination != 0;
        }
        let cluster = destination >> 4;
        (cluster == 0xf || cluster == own >> 4) && own & destination & 0xf != 0
    }

    /// Whether a physical destination names this APIC: an xAPIC compares eight bits.
    fn matches_physical(&self, destination: u32) -> bool {
        self.id == destination
            || (self.mode() == Mode::XApic && destination < 0x100 && self.id & 0xff == destination)
    }

    fn matches(&self, destination: Destination, own: bool) -> bool {
        if self.mode() == Mode::Disabled {
            return false;
        }
        match destination {
            Destination::Everyone => true,
            Destination::Others => !own,
            Destination::Own => own,
            Destination::Physical(id) => self.matches_physical(id),
            Destination::Logical(id) => self.matches_logical(id),
        }
    }
}

/// Calls `found` for each local APIC that a destination names. `sender` is the index of the APIC that sends, if one does.
pub fn resolve<'a>(
    destination: Destination,
    sender: Option<usize>,
    count: usize,
    get: impl Fn(usize) -> Option<&'a VLapic>,
    mut found: impl FnMut(usize, &'a VLapic),
) {
    let likely = match destination {
        Destination::Own => sender,
        Destination::Physical(id) => Some(id as usize / 2),
        _ => None,
    };
    if let Some(index) = likely
        && let Some(lapic) = get(index)
        && let Destination::Own | Destination::Physical(_) = destination
        && (sender == Some(index) && destination == Destination::Own
            || destination == Destination::Physical(lapic.id()))
    {
        if lapic.mode() != Mode::Disabled {
            found(index, lapic);
        }
        return;
    }
    for index in 0..count {
        if let Some(lapic) = get(index)
            && lapic.matches(destination, sender == Some(index))
        {
            found(index, lapic);
        }
    }
}

/// Takes a message to all whom it is for; `kick` is called for each vCPU that has something new to look at.
pub fn deliver<'a>(
    message: &Message,
    sender: Option<usize>,
    count: usize,
    get: impl Fn(usize) -> Option<&'a VLapic>,
    mut kick: impl FnMut(usize),
) {
    let Message {
        vector,
        delivery,
        trigger,
        destination,
    } = *message;
    if delivery == Delivery::LowestPriority {
        if let Some((index, lapic)) = lowest_priority(destination, sender, count, get)
            && lapic.accept(vector, trigger)
        {
            kick(index);
        }
        return;
    }
    resolve(destination, sender, count, get, |index, lapic| {
        if take(lapic, vector, delivery, trigger) {
            kick(index);
        }
    });
}

/// One APIC takes a message; true when that is news.
fn take(lapic: &VLapic, vector: u8, delivery: Delivery, trigger: Trigger) -> bool {
    match delivery {
        Delivery::Fixed | Delivery::LowestPriority => lapic.accept(vector, trigger),
        Delivery::Nmi => lapic.signals().post_nmi(),
        Delivery::Init => lapic.signals().post_init(),
        Delivery::StartUp => lapic.signals().post_start(vector),
        Delivery::Smi | Delivery::External => false,
    }
}

/// Among those that a destination names, the enabled one with the lowest priority; the first of equals after the sender
/// does not matter to guests, so it is the first by index.
fn lowest_priority<'a>(
    destination: Destination,
    sender: Option<usize>,
    count: usize,
    get: impl Fn(usize) -> Option<&'a VLapic>,
) -> Option<(usize, &'a VLapic)> {
    let mut best: Option<(usize, &VLapic)> = None;
    resolve(destination, sender, count, get, |index, lapic| {
        let lower =
            best.is_none_or(|(_, other)| lapic.processor_priority() < other.processor_priority());
        if lapic.is_enabled() && lower {
            best = Some((index, lapic));
        }
    });
    best
}
