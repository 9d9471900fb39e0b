//! The platform-level interrupt controller, found in the device tree. RISC-V PLIC specification 1.0.0.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::cpu::{MAX_CPUS, cpu_index, hart_of};
use super::{cells, read32, write32};

/// Register blocks (byte offsets).
#[allow(missing_docs)]
pub mod reg {
    pub const PRIORITY: u64 = 0;
    pub const PENDING: u64 = 0x1000;
    pub const ENABLE: u64 = 0x2000;
    pub const ENABLE_STRIDE: u64 = 0x80;
    pub const CONTEXT: u64 = 0x20_0000;
    pub const CONTEXT_STRIDE: u64 = 0x1000;
    /// In a context.
    pub const THRESHOLD: u64 = 0;
    /// In a context.
    pub const CLAIM: u64 = 4;
}

/// External interrupts of supervisor mode, as `interrupts-extended` numbers them.
const SUPERVISOR: u32 = 9;
const SOURCES: usize = 1024;
const NO_CONTEXT: u64 = u64::MAX;

static BASE: AtomicU64 = AtomicU64::new(0);
static LAST_SOURCE: AtomicU32 = AtomicU32::new(0);
static CONTEXTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(NO_CONTEXT) }; MAX_CPUS];
static HANDLERS: [AtomicUsize; SOURCES] = [const { AtomicUsize::new(0) }; SOURCES];

/// Address of a register outside the contexts; the controller's own with offset 0.
pub fn register(offset: u64) -> u64 {
    BASE.load(Ordering::Relaxed) + offset
}

/// The highest source that the device tree speaks of.
pub fn last_source() -> u32 {
    LAST_SOURCE.load(Ordering::Relaxed)
}

/// Number of CPU `index`'s context.
pub fn context_of(index: usize) -> u64 {
    CONTEXTS[index].load(Ordering::Relaxed)
}

/// Address of a register of CPU `index`'s context.
pub fn context(index: usize, offset: u64) -> u64 {
    register(reg::CONTEXT + context_of(index) * reg::CONTEXT_STRIDE + offset)
}

/// Address of the word with `source`'s enable bit for CPU `index`.
pub fn enable_word(index: usize, source: u32) -> u64 {
    let word = u64::from(source / 32) * 4;
    register(reg::ENABLE + context_of(index) * reg::ENABLE_STRIDE + word)
}

/// Sets the priority of `source`; higher is more urgent, 0 is never.
pub fn set_priority(source: u32, priority: u32) {
    write32(register(reg::PRIORITY + u64::from(source) * 4), priority);
}

/// Whether CPU `index` gets `source`.
pub fn is_enabled(index: usize, source: u32) -> bool {
    read32(enable_word(index, source)) >> (source % 32) & 1 != 0
}

/// Lets CPU `index` get `source`.
pub fn enable(index: usize, source: u32) {
    let at = enable_word(index, source);
    write32(at, read32(at) | 1 << (source % 32));
}

/// Keeps `source` from CPU `index`.
pub fn disable(index: usize, source: u32) {
    let at = enable_word(index, source);
    write32(at, read32(at) & !(1 << (source % 32)));
}

/// Whether `source` is pending.
pub fn is_pending(source: u32) -> bool {
    let word = register(reg::PENDING + u64::from(source / 32) * 4);
    read32(word) >> (source % 32) & 1 != 0
}

/// Takes the most urgent pending source of this CPU; 0 is none.
pub fn claim() -> u32 {
    read32(context(cpu_index(), reg::CLAIM))
}

/// Ends what `claim` gave.
pub fn complete(source: u32) {
    write32(context(cpu_index(), reg::CLAIM), source);
}

/// Sets the threshold of this CPU: sources that are not more urgent are held back.
pub fn set_threshold(threshold: u32) {
    write32(context(cpu_index(), reg::THRESHOLD), threshold);
}

/// Lets this CPU get `source`, and has `handler` called with its number. A source has one handler for all CPUs.
pub fn on_source(source: u32, handler: fn(u32)) {
    HANDLERS[source as usize].store(handler as usize, Ordering::Relaxed);
    set_priority(source, 1);
    enable(cpu_index(), source);
}

/// Serves one pending source, if there is one.
pub(super) fn serve() {
    let source = claim();
    if source == 0 {
        return;
    }
    let handler = HANDLERS[source as usize % SOURCES].load(Ordering::Relaxed);
    if handler == 0 {
        panic!("interrupt source {source} without a handler");
    }
    // SAFETY: only `on_source` stores here, and it stores a `fn(u32)`.
    let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
    handler(source);
    complete(source);
}

/// Finds the controller and the context of each CPU.
pub(super) fn init(fdt: &fdt::Fdt) {
    let Some(node) = fdt.find_compatible(&["riscv,plic0", "sifive,plic-1.0.0"]) else {
        return;
    };
    let Some(region) = node.reg().and_then(|mut regions| regions.next()) else {
        panic!("interrupt controller without a region");
    };
    BASE.store(region.starting_address as u64, Ordering::Relaxed);
    let sources = node.property("riscv,ndev").and_then(|p| p.as_usize());
    LAST_SOURCE.store(sources.unwrap_or(0) as u32, Ordering::Relaxed);
    for (index, slot) in CONTEXTS.iter().enumerate() {
        let Some(phandle) = controller_of(fdt, hart_of(index)) else {
            continue;
        };
        let is_its = |context: &usize| {
            cells(&node, "interrupts-extended", context * 2) == Some(phandle)
                && cells(&node, "interrupts-extended", context * 2 + 1) == Some(SUPERVISOR)
        };
        let contexts = node
            .property("interrupts-extended")
            .map_or(0, |list| list.value.len() / 8);
        let own = (0..contexts).find(is_its);
        slot.store(own.map_or(NO_CONTEXT, |own| own as u64), Ordering::Relaxed);
    }
    init_cpu();
}

/// The handle of the interrupt controller inside a hart.
fn controller_of(fdt: &fdt::Fdt, hart: u64) -> Option<u32> {
    let cpu = fdt.cpus().find(|cpu| cpu.ids().first() as u64 == hart)?;
    let path = fdt.find_node("/cpus")?.children().find(|node| {
        node.name.starts_with("cpu@")
            && node.property("reg").and_then(|reg| reg.as_usize()) == Some(cpu.ids().first())
    })?;
    let controller = path
        .children()
        .find(|child| child.property("interrupt-controller").is_some())?;
    cells(&controller, "phandle", 0)
}

/// Brings up this CPU's context.
pub(super) fn init_cpu() {
    if context_of(cpu_index()) != NO_CONTEXT {
        set_threshold(0);
    }
}
