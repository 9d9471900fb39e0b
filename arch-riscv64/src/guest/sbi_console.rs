//! The debug console of a guest (SBI, "DBCN Extension"): what it writes goes where a domain's console writes go, what is typed
//! for it is read here.

use xenolith_hal::{GuestPhys, P2m, P2mType, PAGE_MASK, PAGE_SIZE};

use super::{
    exit::Context,
    regs::number::{A0, A1},
    sbi::{Answer, Error},
    uart,
};
use crate::mm::hyp::Direct;

/// Bytes that one call writes or reads at most; the guest calls again for the rest.
const MOST: usize = 256;

/// DBCN.
pub fn call(cx: &Context<'_>, function: u64) -> Answer {
    let x = &cx.regs.x;
    let (count, address) = (x[A0], x[A1]);
    match function {
        0 | 1 if x[A1 + 1] != 0 => Answer::Failed(Error::InvalidParam),
        0 => write(cx, count, GuestPhys(address)),
        1 => read(cx, count, GuestPhys(address)),
        2 => {
            uart::print(cx.hv(), cx.vcpu.domain(), &[count as u8]);
            Answer::Value(0)
        }
        _ => Answer::Failed(Error::NotSupported),
    }
}

/// Bytes from an address on that lie in its page and are not more than a call moves.
fn piece(count: u64, at: GuestPhys) -> usize {
    let in_page = PAGE_SIZE - (at.0 & PAGE_MASK) as usize;
    usize::try_from(count)
        .unwrap_or(MOST)
        .min(MOST)
        .min(in_page)
}

fn write(cx: &Context<'_>, count: u64, at: GuestPhys) -> Answer {
    let mut bytes = [0; MOST];
    let Some(bytes) = bytes.get_mut(..piece(count, at)) else {
        return Answer::Failed(Error::InvalidParam);
    };
    let copied = cx.vcpu.domain().p2m.with_entry(at.frame(), |entry| {
        let entry = entry.filter(|entry| entry.kind != P2mType::MmioDirect)?;
        Direct::read(entry.mfn, (at.0 & PAGE_MASK) as usize, bytes).ok()
    });
    if copied.is_none() {
        return Answer::Failed(Error::InvalidParam);
    }
    uart::print(cx.hv(), cx.vcpu.domain(), bytes);
    Answer::Value(bytes.len() as u64)
}

fn read(cx: &Context<'_>, count: u64, at: GuestPhys) -> Answer {
    let (console, domain) = (&cx.hv().console, cx.vcpu.domain());
    let typed = console.typed_for(domain);
    let waiting = typed.bytes();
    let bytes = waiting
        .get(..piece(count, at).min(waiting.len()))
        .unwrap_or_default();
    let copied = domain.p2m.with_entry(at.frame(), |entry| {
        let writable = |kind: P2mType| kind.writable() && kind != P2mType::MmioDirect;
        let entry = entry.filter(|entry| writable(entry.kind))?;
        Direct::write(entry.mfn, (at.0 & PAGE_MASK) as usize, bytes).ok()
    });
    if copied.is_none() {
        return Answer::Failed(Error::InvalidParam);
    }
    console.take_typed(&typed, bytes.len());
    Answer::Value(bytes.len() as u64)
}
