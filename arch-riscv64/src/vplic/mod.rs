//! The interrupt controller that a domain sees: a PLIC (RISC-V Platform-Level Interrupt Controller specification 1.0.0) with
//! one context a vCPU, for its S-mode.
//!
//! Sources come by edges: [`VPlic::raise`] makes one pending until it is claimed. What a device of the machine signals by level
//! is passed on like that, and its own controller holds it back until the guest has completed it.
//!
//! Pure: whoever changes something is told of which contexts the line may have changed.

use alloc::{boxed::Box, vec, vec::Vec};

/// Bytes of its registers.
pub const SIZE: u64 = 0x60_0000;
/// Sources are below this on every such controller; 0 is none.
pub const MOST_SOURCES: u32 = 1024;
/// The highest priority.
const MOST_PRIORITY: u32 = 7;

const PENDING: u64 = 0x1000;
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;

/// A controller has no more contexts than this.
pub const MOST_CONTEXTS: usize = 32;

/// Contexts for which so many bytes of registers have room, and no more than there can be.
#[must_use]
pub const fn contexts(size: u64) -> u32 {
    let contexts = size.saturating_sub(CONTEXT) / CONTEXT_STRIDE;
    if contexts < MOST_CONTEXTS as u64 {
        contexts as u32
    } else {
        MOST_CONTEXTS as u32
    }
}

/// Contexts whose line may have changed, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched(pub u32);

impl Touched {
    /// No context.
    pub const NONE: Self = Self(0);

    /// One context.
    #[must_use]
    pub const fn one(context: usize) -> Self {
        Self(1 << (context % MOST_CONTEXTS))
    }

    /// All of these but one.
    #[must_use]
    pub const fn without(self, context: usize) -> Self {
        Self(self.0 & !Self::one(context).0)
    }

    /// Whether a context is among them.
    #[must_use]
    pub const fn has(self, context: usize) -> bool {
        self.0 & Self::one(context).0 != 0
    }
}

#[derive(Clone, Debug)]
struct Context {
    enabled: Box<[u32]>,
    threshold: u32,
}

/// Registers of one domain's controller.
#[derive(Clone, Debug)]
pub struct VPlic {
    priorities: Box<[u8]>,
    pending: Box<[u32]>,
    /// Claimed and not completed.
    claimed: Box<[u32]>,
    contexts: Box<[Context]>,
    /// Of each source, the contexts that have it enabled.
    routes: Box<[u32]>,
}

/// A register by its offset.
enum Register {
    Priority(u32),
    Pending(usize),
    Enable(usize, usize),
    Threshold(usize),
    Claim(usize),
}

impl VPlic {
    /// As after reset, for so many vCPUs, of which those beyond [`MOST_CONTEXTS`] get no interrupts; with sources below a number,
    /// which is rounded up to whole words.
    #[must_use]
    pub fn new(vcpus: usize, sources: u32) -> Self {
        let words = sources.clamp(1, MOST_SOURCES).div_ceil(32) as usize;
        let none = vec![0; words].into_boxed_slice();
        let context = Context {
            enabled: none.clone(),
            threshold: 0,
        };
        let contexts: Vec<Context> = vec![context; vcpus.min(MOST_CONTEXTS)];
        Self {
            priorities: vec![0; words * 32].into_boxed_slice(),
            pending: none.clone(),
            claimed: none,
            contexts: contexts.into_boxed_slice(),
            routes: vec![0; words * 32].into_boxed_slice(),
        }
    }

    fn sources(&self) -> u32 {
        self.priorities.len() as u32
    }

    /// Whether the line of a context is up.
    #[must_use]
    pub fn line(&self, context: usize) -> bool {
        let threshold = self.contexts.get(context).map_or(0, |c| c.threshold);
        self.best(context, threshold).is_some()
    }

    /// A source signals.
    pub fn raise(&mut self, source: u32) -> Touched {
        if source == 0 || source >= self.sources() {
            return Touched::NONE;
        }
        set(&mut self.pending, source, true);
        self.route(source)
    }

    /// The contexts that have a source enabled.
    fn route(&self, source: u32) -> Touched {
        let route = self.routes.get(source as usize);
        route.map_or(Touched::NONE, |route| Touched(*route))
    }

    /// A read of four bytes.
    #[inline(always)]
    pub fn read(&mut self, offset: u64) -> (u32, Touched) {
        let value = match self.register(offset) {
            Some(Register::Priority(source)) => {
                let priority = self.priorities.get(source as usize);
                priority.copied().unwrap_or(0).into()
            }
            Some(Register::Pending(word)) => self.pending.get(word).copied().unwrap_or(0),
            Some(Register::Enable(context, word)) => {
                let context = self.contexts.get(context);
                context
                    .and_then(|c| c.enabled.get(word).copied())
                    .unwrap_or(0)
            }
            Some(Register::Threshold(context)) => {
                self.contexts.get(context).map_or(0, |c| c.threshold)
            }
            Some(Register::Claim(context)) => return self.claim(context),
            None => 0,
        };
        (value, Touched::NONE)
    }

    /// A write of four bytes. The source that it completed, if any.
    #[inline(always)]
    pub fn write(&mut self, offset: u64, value: u32) -> (Option<u32>, Touched) {
        match self.register(offset) {
            Some(Register::Priority(source)) => {
                if let Some(priority) = self.priorities.get_mut(source as usize) {
                    *priority = (value & MOST_PRIORITY) as u8;
                }
                (None, self.route(source))
            }
            Some(Register::Enable(context, word)) => {
                self.enable(context, word, value);
                (None, Touched::one(context))
            }
            Some(Register::Threshold(context)) => {
                if let Some(context) = self.contexts.get_mut(context) {
                    context.threshold = value & MOST_PRIORITY;
                }
                (None, Touched::one(context))
            }
            Some(Register::Claim(context)) => self.complete(context, value),
            Some(Register::Pending(_)) | None => (None, Touched::NONE),
        }
    }

    /// Writes one of a context's enable words.
    fn enable(&mut self, context: usize, word: usize, value: u32) {
        // Source 0 does not exist.
        let exist = if word == 0 { !1 } else { !0 };
        let registers = self.contexts.get_mut(context);
        let Some(enabled) = registers.and_then(|c| c.enabled.get_mut(word)) else {
            return;
        };
        let mut changed = (*enabled ^ value) & exist;
        *enabled = value & exist;
        while changed != 0 {
            let source = word * 32 + changed.trailing_zeros() as usize;
            changed &= changed - 1;
            if let Some(route) = self.routes.get_mut(source) {
                *route ^= Touched::one(context).0;
            }
        }
    }

    fn register(&self, offset: u64) -> Option<Register> {
        if !offset.is_multiple_of(4) {
            return None;
        }
        if offset < PENDING {
            let source = (offset / 4) as u32;
            return (source != 0 && source < self.sources()).then_some(Register::Priority(source));
        }
        if offset < ENABLE {
            let word = ((offset - PENDING) / 4) as usize;
            return (word < self.pending.len()).then_some(Register::Pending(word));
        }
        let (context, register) = if offset < CONTEXT {
            let at = offset - ENABLE;
            let word = (at % ENABLE_STRIDE / 4) as usize;
            let context = (at / ENABLE_STRIDE) as usize;
            if word >= self.pending.len() {
                return None;
            }
            (context, Register::Enable(context, word))
        } else {
            let at = offset - CONTEXT;
            let context = (at / CONTEXT_STRIDE) as usize;
            match at % CONTEXT_STRIDE {
                0 => (context, Register::Threshold(context)),
                4 => (context, Register::Claim(context)),
                _ => return None,
            }
        };
        (context < self.contexts.len()).then_some(register)
    }

    /// The source with the highest priority above one that waits for a context, the lowest number among equals.
    fn best(&self, context: usize, mut above: u32) -> Option<u32> {
        let context = self.contexts.get(context)?;
        let mut best = None;
        let held = self.claimed.iter().zip(&context.enabled);
        let words = self.pending.iter().zip(held).zip(0u32..);
        for ((pending, (claimed, enabled)), word) in words {
            let mut waiting = pending & enabled & !claimed;
            while waiting != 0 {
                let source = word * 32 + waiting.trailing_zeros();
                waiting &= waiting - 1;
                let priority = self.priorities.get(source as usize);
                let priority = priority.copied().map_or(0, u32::from);
                if priority > above {
                    above = priority;
                    best = Some(source);
                }
            }
        }
        best
    }

    fn claim(&mut self, context: usize) -> (u32, Touched) {
        // The threshold holds the line down, and is none for claims.
        let Some(source) = self.best(context, 0) else {
            return (0, Touched::NONE);
        };
        set(&mut self.pending, source, false);
        set(&mut self.claimed, source, true);
        (source, self.route(source))
    }

    /// A completion counts only where the context has the source enabled.
    fn complete(&mut self, context: usize, source: u32) -> (Option<u32>, Touched) {
        let enabled = self
            .contexts
            .get(context)
            .is_some_and(|c| is_set(&c.enabled, source));
        if !enabled || !is_set(&self.claimed, source) {
            return (None, Touched::NONE);
        }
        set(&mut self.claimed, source, false);
        (Some(source), self.route(source))
    }
}

fn is_set(bits: &[u32], source: u32) -> bool {
    let word = bits.get(source as usize / 32);
    word.is_some_and(|word| word >> (source % 32) & 1 != 0)
}

fn set(bits: &mut [u32], source: u32, on: bool) {
    if let Some(word) = bits.get_mut(source as usize / 32) {
        let bit = 1 << (source % 32);
        *word = if on { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests;
