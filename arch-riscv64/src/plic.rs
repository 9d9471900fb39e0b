//! The machine's PLIC (RISC-V Platform-Level Interrupt Controller specification 1.0.0). One CPU takes all its interrupts.
//!
//! An interrupt of the hypervisor's own is completed when it was served. One that is passed on to a guest is completed when the
//! guest completes it at its own controller: until then the source stays away, whatever its level is.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Release},
};

use spin::Once;
use xenolith_core::{DomId, DomainRef, Hypervisor};
use xenolith_hal::{
    CpuId,
    sync::{Mutex, Rank},
};

use crate::{Riscv64, vplic::MOST_SOURCES};

const ENABLE: usize = 0x2000;
const ENABLE_STRIDE: usize = 0x80;
const CONTEXT: usize = 0x20_0000;
const CONTEXT_STRIDE: usize = 0x1000;
/// No machine has so many waiting at once.
const MOST_AT_ONCE: u32 = 1024;

/// The controller and the context of the CPU that serves it.
pub struct Plic {
    base: *mut u8,
    len: usize,
    context: usize,
    cpu: CpuId,
}

// SAFETY: the pointer is to device registers that stay mapped; every access is one volatile read or write of a word.
unsafe impl Send for Plic {}
// SAFETY: as above; enable words are changed under `CHANGES`.
unsafe impl Sync for Plic {}

static PLIC: Once<Plic> = Once::new();
static OWNER: Once<DomId> = Once::new();
/// Sources that were claimed and not completed, a bit each.
static IN_SERVICE: [AtomicU32; MOST_SOURCES as usize / 32] =
    [const { AtomicU32::new(0) }; MOST_SOURCES as usize / 32];
static CHANGES: Mutex<()> = Mutex::new(Rank::VcpuInterrupts, ());

/// What is done about a source that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It may come again.
    Complete,
    /// It waits for [`complete`].
    GuestCompletes,
    /// Nobody is there for it: it does not come again.
    Close,
}

impl Plic {
    /// # Safety
    /// `base` must map `len` bytes of the device's registers, as device memory, for ever, and nothing else may drive it.
    pub unsafe fn new(base: *mut u8, len: usize, context: usize, cpu: CpuId) -> Self {
        Self {
            base,
            len,
            context,
            cpu,
        }
    }

    fn word(&self, offset: usize) -> Option<*mut u32> {
        if offset.checked_add(4)? > self.len {
            return None;
        }
        // SAFETY: inside the registers, by the check and `new`'s contract.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    fn read(&self, offset: usize) -> u32 {
        // SAFETY: `word` gives addresses of registers only.
        self.word(offset)
            .map_or(0, |at| unsafe { at.read_volatile() })
    }

    fn write(&self, offset: usize, value: u32) {
        if let Some(at) = self.word(offset) {
            // SAFETY: as above.
            unsafe { at.write_volatile(value) }
        }
    }

    const fn claim(&self) -> usize {
        CONTEXT + self.context * CONTEXT_STRIDE + 4
    }

    fn open(&self, source: u32) {
        let _held = CHANGES.lock();
        let word = ENABLE + self.context * ENABLE_STRIDE + source as usize / 32 * 4;
        self.write(source as usize * 4, 1);
        self.write(word, self.read(word) | 1 << (source % 32));
    }

    fn close(&self, source: u32) {
        let _held = CHANGES.lock();
        let word = ENABLE + self.context * ENABLE_STRIDE + source as usize / 32 * 4;
        self.write(word, self.read(word) & !(1 << (source % 32)));
    }
}

/// Makes the controller known; once. Nothing is enabled yet.
pub fn init(plic: Plic) {
    let words = ENABLE + plic.context * ENABLE_STRIDE;
    for word in 0..MOST_SOURCES as usize / 32 {
        plic.write(words + word * 4, 0);
    }
    plic.write(plic.claim() - 4, 0);
    PLIC.call_once(|| plic);
}

/// Lets a source interrupt.
pub fn open(source: u32) {
    if let Some(plic) = PLIC.get() {
        plic.open(source);
    }
}

/// The domain gets what the hypervisor does not keep.
pub fn give_to(domain: DomId) {
    OWNER.call_once(|| domain);
}

/// The domain that gets what the hypervisor does not keep, while it is there.
pub fn owner(hv: &Hypervisor<Riscv64>) -> Option<DomainRef<Riscv64>> {
    hv.domains.get(*OWNER.get()?)
}

/// Serves what waits for this CPU.
pub fn serve(cpu: CpuId, mut serve: impl FnMut(u32) -> Then) {
    let Some(plic) = PLIC.get().filter(|plic| plic.cpu == cpu) else {
        return;
    };
    for _ in 0..MOST_AT_ONCE {
        let source = plic.read(plic.claim());
        if source == 0 {
            return;
        }
        // Before it is passed on: a guest may complete it at once.
        if let Some(word) = served(source) {
            word.fetch_or(bit(source), Release);
        }
        match serve(source) {
            Then::Complete => complete(source),
            Then::GuestCompletes => {}
            // A completion of what is not enabled would not count.
            Then::Close => {
                complete(source);
                plic.close(source);
            }
        }
    }
}

fn served(source: u32) -> Option<&'static AtomicU32> {
    IN_SERVICE.get(source as usize / 32)
}

const fn bit(source: u32) -> u32 {
    1 << (source % 32)
}

/// A source was served, here or by the guest that it was passed on to. Nothing happens unless it waits for that.
pub fn complete(source: u32) {
    let waits = |word: &AtomicU32| word.fetch_and(!bit(source), AcqRel) & bit(source) != 0;
    if let Some(plic) = PLIC.get()
        && served(source).is_some_and(waits)
    {
        plic.write(plic.claim(), source);
    }
}
