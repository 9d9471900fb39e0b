//! The hypercall page: one entry for each number, which a guest calls (`arch-x86/cpuid.h`, leaf 2; `xen.h`).

use xenolith_hal::{Gfn, Hal, P2m, P2mType, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};

use super::{exit::Context, hardware::Hardware, instruction};
use crate::{
    machine::{self, Virtualization},
    msr::GeneralProtection,
};

const ENTRY: usize = 32;
/// `iret` is for PV guests; calling it here is a mistake.
const IRET: usize = 23;

/// Fills the page that a guest names; the bits below the page number choose a page, and there is one.
pub fn write<H: Hardware>(cx: &Context<'_, H>, value: u64) -> Result<(), GeneralProtection> {
    if value & PAGE_MASK != 0 {
        return Err(GeneralProtection);
    }
    let domain = cx.vcpu.domain();
    let page = page();
    domain
        .p2m
        .with_entry(Gfn(value >> PAGE_SHIFT), |entry| {
            let entry = entry.filter(|entry| entry.kind == P2mType::RamRw)?;
            cx.hv().hal.write_frame(entry.mfn, 0, &page).ok()
        })
        .ok_or(GeneralProtection)?;
    // The first that a kernel does with us, most often: it tells which form its shared page has.
    cx.hv().latch_form(domain, !instruction::is_64_bit(cx.hw));
    Ok(())
}

fn page() -> [u8; PAGE_SIZE] {
    // INT3 wherever nothing is to be called.
    let mut page = [0xcc; PAGE_SIZE];
    let call = match machine::virtualization() {
        Some(Virtualization::Vmx(_)) => VMCALL,
        _ => VMMCALL,
    };
    for (number, entry) in page.chunks_exact_mut(ENTRY).enumerate() {
        if number == IRET {
            entry[..2].copy_from_slice(&[0x0f, 0x0b]); // UD2
            continue;
        }
        entry[0] = 0xb8; // MOV EAX, number
        entry[1..5].copy_from_slice(&(number as u32).to_le_bytes());
        entry[5..8].copy_from_slice(&call);
        entry[8] = 0xc3; // RET
    }
    page
}

const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
