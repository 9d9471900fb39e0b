//! From the memory map to a working allocator: direct map, frame records, page-table frames, heap.

use alloc::{boxed::Box, vec::Vec};

use xenolith_core::{
    Hypervisor,
    boot::{PhysRange, RangeSet, memory::BootMemory, modules::BootInfo},
    memory::{FrameRecord, Memory, Node, RamBank},
};
use xenolith_hal::{Hal, HostPhys, Mfn, NoMemory, PAGE_SHIFT, PAGE_SIZE};

use crate::{Access, Direct, Paging, Tables, add_bank, is_ram};

/// RAM that the hypervisor takes beside the frame records: page tables of the direct map, the heap's first pieces, CPU
/// stacks.
const OWN: u64 = 8 << 20;
const BLOCK: u64 = 2 << 20;

/// Why memory could not be set up; one line for the console.
pub type Error = &'static str;

/// The hypervisor's range of RAM: records first, tables and free frames behind.
pub struct Own {
    /// All of it.
    pub range: PhysRange,
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

/// Leaves out RAM that has no place in the direct map; what it was.
pub fn leave_out_unreachable<P: Paging>(memory: &mut BootMemory) -> PhysRange {
    let end = memory.ram.iter().map(|bank| bank.end()).max().unwrap_or(0);
    let beyond = PhysRange::between(P::direct_end().min(end), end);
    memory.ram.remove(beyond);
    beyond
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

/// Chooses the hypervisor's own range, as high as possible so that dom0's banks stay whole, and maps RAM. What of it cannot be
/// used is RAM no more.
pub fn map_ram<P: Paging>(memory: &mut BootMemory, image: PhysRange) -> Result<Own, Error> {
    let frames: u64 = banks(memory).iter().map(|bank| bank.1).sum();
    let records = (frames * size_of::<FrameRecord>() as u64).next_multiple_of(PAGE_SIZE as u64);
    let size = (records + OWN).next_multiple_of(BLOCK);
    let range = memory.free().highest_fit(size, BLOCK).ok_or(
        "too little free RAM for the hypervisor's own tables: give the machine more memory",
    )?;
    let own = Own { range, records };

    // First the range that further page tables come from, then everything.
    let fail = |_: NoMemory| "out of page tables for the direct map";
    map_bank::<P>(memory, range).map_err(fail)?;
    Tables::<P>::set_table_ram(HostPhys(range.start() + records)..HostPhys(range.end()));
    for bank in mappable(memory, image).iter() {
        map_bank::<P>(memory, bank.aligned_inner(PAGE_SIZE as u64)).map_err(fail)?;
    }
    Ok(own)
}

fn map_bank<P: Paging>(memory: &mut BootMemory, bank: PhysRange) -> Result<(), NoMemory> {
    if bank.is_empty() || bank.end() > P::direct_end() {
        return Ok(());
    }
    Tables::<P>::map(
        Direct::<P>::address(bank.base()),
        bank.base(),
        bank.size(),
        Access::Ram,
    )?;
    if let Some(frames) = add_bank(
        Mfn(bank.start() >> PAGE_SHIFT),
        Mfn(bank.end() >> PAGE_SHIFT),
    )
        // The hypervisor's own range lies in a larger piece.
        && !is_ram(frames.start)
    {
        let left_out = PhysRange::between(frames.start.base().0, frames.end.base().0);
        memory.ram.remove(left_out);
        log::warn!("too many pieces of RAM: {left_out} is not used");
    }
    Ok(())
}

/// Makes the records and the allocator. Only the rest of the hypervisor's own range is free at first.
pub fn start_allocator<P: Paging>(memory: &BootMemory, own: &Own) -> Result<Memory, Error> {
    let start = Mfn(own.range.start() >> PAGE_SHIFT);
    for i in 0..own.records >> PAGE_SHIFT {
        Direct::<P>::zero(start.plus(i), 0);
    }
    let mut at = Direct::<P>::address(own.range.base());
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
    let allocator = Memory::new(&banks).map_err(
        |_| "the banks of RAM overlap, or are too many: mend the memory map that firmware gives",
    )?;
    let rest = Tables::<P>::take_table_ram();
    // Tables are made on demand later too; a quarter of what is left stays for them, 1 MiB at most.
    let frames = (rest.end.0 - rest.start.0) >> PAGE_SHIFT;
    let for_tables = (frames / 4).min(256);
    let border = rest.start.0 + (for_tables << PAGE_SHIFT);
    Tables::<P>::set_table_ram(rest.start..HostPhys(border));
    allocator.release_at_boot(Mfn(border >> PAGE_SHIFT), frames - for_tables);
    Ok(allocator)
}

/// The image as a range.
pub fn image<P: Paging>() -> PhysRange {
    let range = P::image().range();
    PhysRange::between(range.start.0, range.end.0)
}

/// A stack for a CPU, with an unmapped page below: the address of its top.
pub fn stack<P: Paging>(memory: &Memory, cpu: u64) -> Option<u64> {
    let order = (crate::paging::STACK_SIZE >> PAGE_SHIFT).trailing_zeros();
    let frames = memory.allocate(order, xenolith_core::memory::Place::ANY)?;
    Tables::<P>::map_stack(cpu, frames).ok()
}

/// One line for each bank of RAM and for each range that is not free to use.
pub fn report(memory: &BootMemory) {
    for bank in memory.ram.iter() {
        match bank.size() >> 20 {
            0 => log::info!("RAM {bank}, {} KiB", bank.size() >> 10),
            size => log::info!("RAM {bank}, {size} MiB"),
        }
    }
    for reserved in &memory.reserved {
        log::info!("RAM {} is reserved: {}", reserved.range, reserved.path);
    }
}

/// The bytes of something that was loaded; none where that is not in RAM.
///
/// # Safety
/// If it begins and ends in RAM, all of it is RAM. Nobody writes it while the bytes are in use.
pub unsafe fn bytes<P: Paging>(range: PhysRange) -> &'static [u8] {
    let first = Mfn(range.start() >> PAGE_SHIFT);
    let last = Mfn(range.end().saturating_sub(1) >> PAGE_SHIFT);
    if range.is_empty() || !P::is_ram(first) || !P::is_ram(last) {
        return &[];
    }
    let at = Direct::<P>::address(range.base()) as *const u8;
    // SAFETY: RAM, as the caller found and the check of its ends shows, is mapped for ever; the caller keeps writers away.
    unsafe { core::slice::from_raw_parts(at, range.size() as usize) }
}

/// The first four bytes of something that may lie anywhere.
pub fn first_word<P: Paging>(range: PhysRange) -> Option<u32> {
    let mut word = [0; 4];
    let offset = range.start() as usize % PAGE_SIZE;
    Direct::<P>::read(Mfn(range.start() >> PAGE_SHIFT), offset, &mut word).ok()?;
    Some(u32::from_le_bytes(word))
}

/// Gives the whole frames of some memory to the allocator.
#[inline(never)]
pub fn release<H: Hal>(hv: &Hypervisor<H>, memory: &RangeSet) {
    for range in memory.iter() {
        let inner = range.aligned_inner(PAGE_SIZE as u64);
        hv.memory
            .release_at_boot(Mfn(inner.start() >> PAGE_SHIFT), inner.size() >> PAGE_SHIFT);
    }
}

/// Says which modules that no domain uses are not where a module can be.
pub fn warn_of_unused(boot: &BootInfo<'_>, memory: &BootMemory, image: PhysRange, tree: PhysRange) {
    let used = boot.modules();
    for module in &boot.unused {
        if let Err(error) = memory.check_module(module, &used, image, tree) {
            log::warn!("{error} (no domain uses it)");
        }
    }
}

/// A value that lives for ever, outside the heap's accounting.
pub fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}
