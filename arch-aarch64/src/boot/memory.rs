//! From the memory map to a working allocator: direct map, frame records, page-table frames, heap.

use alloc::{boxed::Box, vec::Vec};

use xenolith_core::{
    boot::{PhysRange, RangeSet, memory::BootMemory},
    memory::{FrameRecord, Memory, Node, RamBank},
};
use xenolith_hal::{HostPhys, Mfn, NoMemory, PAGE_SHIFT, PAGE_SIZE};

use crate::mm::{direct, hyp};

/// RAM that the hypervisor takes beside the frame records: page tables of the direct map, the heap's first pieces, CPU
/// stacks.
const OWN: u64 = 8 << 20;
const BLOCK: u64 = 2 << 20;

/// Why memory could not be set up; one line for the console.
pub(super) type Error = &'static str;

/// The hypervisor's range of RAM: records first, tables and free frames behind.
pub(super) struct Own {
    pub(super) range: PhysRange,
    records: u64,
}

/// RAM that may be mapped: all but what firmware forbids, and the image, which has its own mapping.
fn mappable(memory: &BootMemory, image: PhysRange) -> RangeSet {
    let mut ram = memory.ram.clone();
    for reserved in memory.reserved.iter().filter(|r| r.no_map) {
        ram.remove(reserved.range);
    }
    ram.remove(image);
    ram
}

fn banks(memory: &BootMemory) -> Vec<(Mfn, u64)> {
    let whole = memory
        .ram
        .iter()
        .map(|bank| bank.aligned_inner(PAGE_SIZE as u64));
    whole
        .filter(|bank| !bank.is_empty())
        .map(|bank| (Mfn(bank.start() >> PAGE_SHIFT), bank.size() >> PAGE_SHIFT))
        .collect()
}

/// Chooses the hypervisor's own range, as high as possible so that dom0's banks stay whole, and maps RAM.
pub(super) fn map_ram(memory: &BootMemory, image: PhysRange) -> Result<Own, Error> {
    let frames: u64 = banks(memory).iter().map(|bank| bank.1).sum();
    let records = (frames * size_of::<FrameRecord>() as u64).next_multiple_of(PAGE_SIZE as u64);
    let size = (records + OWN).next_multiple_of(BLOCK);
    let range = memory.free().highest_fit(size, BLOCK).ok_or(
        "too little free RAM for the hypervisor's own tables: give the machine more memory",
    )?;
    let own = Own { range, records };

    // First the range that further page tables come from, then everything.
    let fail = |_: NoMemory| "out of page tables for the direct map";
    map_bank(range).map_err(fail)?;
    hyp::set_table_ram(HostPhys(range.start() + records)..HostPhys(range.end()));
    for bank in mappable(memory, image).iter() {
        map_bank(bank.aligned_inner(PAGE_SIZE as u64)).map_err(fail)?;
    }
    Ok(own)
}

fn map_bank(bank: PhysRange) -> Result<(), NoMemory> {
    if bank.is_empty() || bank.end() > crate::mm::layout::DIRECT_LIMIT {
        return Ok(());
    }
    hyp::map(
        direct::address(bank.base()),
        bank.base(),
        bank.size(),
        hyp::Attribute::Ram,
    )?;
    if !direct::add_bank(
        Mfn(bank.start() >> PAGE_SHIFT),
        Mfn(bank.end() >> PAGE_SHIFT),
    ) {
        log::warn!("too many pieces of RAM: {bank} is not used");
    }
    Ok(())
}

/// Makes the records and the allocator. Only the rest of the hypervisor's own range is free at first.
pub(super) fn start_allocator(memory: &BootMemory, own: &Own) -> Result<Memory, Error> {
    let start = Mfn(own.range.start() >> PAGE_SHIFT);
    for i in 0..own.records >> PAGE_SHIFT {
        direct::zero(start.plus(i), 0);
    }
    let mut at = direct::address(own.range.base());
    let banks: Vec<RamBank> = banks(memory)
        .into_iter()
        .map(|(first, count)| {
            // SAFETY: `map_ram` set aside zeroed, mapped RAM for all records of all banks; each bank takes its own
            // part of it once, and it stays for ever. An all-zero record is valid.
            let records =
                unsafe { core::slice::from_raw_parts(at as *const FrameRecord, count as usize) };
            at += count * size_of::<FrameRecord>() as u64;
            RamBank {
                first,
                records,
                node: Node(0),
            }
        })
        .collect();
    let allocator = Memory::new(&banks)
        .map_err(|_| "the memory nodes overlap, or are too many: mend the device tree")?;
    let rest = hyp::take_table_ram();
    // Tables are made on demand later too; a quarter of what is left stays for them, 1 MiB at most.
    let frames = (rest.end.0 - rest.start.0) >> PAGE_SHIFT;
    let for_tables = (frames / 4).min(256);
    let border = rest.start.0 + (for_tables << PAGE_SHIFT);
    hyp::set_table_ram(rest.start..HostPhys(border));
    allocator.release_at_boot(Mfn(border >> PAGE_SHIFT), frames - for_tables);
    Ok(allocator)
}

/// The image as a range.
pub(super) fn image() -> PhysRange {
    let range = hyp::image_range();
    PhysRange::between(range.start.0, range.end.0)
}

/// A value that lives for ever, outside the heap's accounting.
pub(super) fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// The bytes of something that was loaded into RAM.
///
/// # Safety
/// Nobody writes the range while the slice is used.
pub(super) unsafe fn bytes(range: PhysRange) -> &'static [u8] {
    let first = Mfn(range.start() >> PAGE_SHIFT);
    let last = Mfn(range.end().saturating_sub(1) >> PAGE_SHIFT);
    if range.is_empty() || !direct::is_ram(first) || !direct::is_ram(last) {
        return &[];
    }
    // SAFETY: the range was checked to be RAM when its module was; the caller keeps writers away.
    unsafe {
        core::slice::from_raw_parts(
            direct::address(range.base()) as *const u8,
            range.size() as usize,
        )
    }
}
