//! Domains: what one is made of, how it is found, and its life from building to gone.

pub mod life;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use xenolith_hal::{
    AtomicOp, Hal, Mfn, SharedInfoLayout,
    sync::{Mutex, Rank},
};

pub use life::{Destroyed, Life, LifeState, MachineAction};

use crate::{
    DomainRef, Vcpu,
    event::{DEFAULT_MAX_PORT, EventTable, PirqPorts},
    grant::GrantTable,
    memory::DomainMemory,
    sched::DomainSched,
};

use xenolith_abi::{Port, vm_assist::Assist};

pub use xenolith_abi::DomId;

/// How a domain's kernel sees memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestKind {
    /// A second level of translation makes a machine of its own for it.
    #[default]
    Translated,
    /// It knows the machine's frames, and the hypervisor checks its page tables. Only where [`Hal::PV`] says so.
    Paravirtual,
}

/// What a domain is made with.
#[derive(Clone, Copy, Debug)]
pub struct DomainConfig {
    /// Its number.
    pub id: DomId,
    /// How many vCPUs it has; all start down.
    pub vcpus: u16,
    /// Whether it may control the machine and other domains.
    pub privileged: bool,
    /// Most frames of memory that it may own.
    pub max_frames: u64,
    /// Whether guest frame n of its RAM is machine frame n.
    pub direct_map: bool,
    /// How its kernel sees memory.
    pub kind: GuestKind,
}

impl DomainConfig {
    /// The last event channel that the domain may have, where nobody says otherwise.
    fn default_max_port(&self) -> u32 {
        match self.privileged {
            true => u32::MAX,
            false => DEFAULT_MAX_PORT,
        }
    }
}

/// One domain.
pub struct Domain<H: Hal> {
    /// What it was made with.
    pub config: DomainConfig,
    /// The architecture's part.
    pub arch: H::Domain,
    /// Its second-level translation.
    pub p2m: H::P2m,
    /// Its vCPUs by number.
    pub vcpus: Box<[Vcpu<H>]>,
    /// What memory it owns and may own.
    pub memory: DomainMemory,
    /// Its event channels.
    pub events: EventTable<H>,
    /// The ports of its physical interrupts.
    pub pirqs: PirqPorts,
    /// Its grant table and what it has mapped of others'.
    pub grants: GrantTable<H>,
    /// The frame of its shared info.
    pub shared_info: Mfn,
    /// The same, known to be RAM: every event looks there.
    pub(crate) shared_frame: Option<H::Frame>,
    /// Its kernel is 32-bit code, and its shared info laid out for that.
    pub narrow: AtomicBool,
    /// The behaviours that it switched on by `vm_assist`, a bit for each number.
    pub assists: AtomicU64,
    /// Parameters that tools and guest exchange (`HVM_PARAM_*`).
    pub params: Mutex<[u64; 48]>,
    /// Its UUID.
    pub handle: Mutex<[u8; 16]>,
    /// What it printed on the console and did not end yet.
    pub console: crate::console::GuestConsole,
    /// What the scheduler knows of it.
    pub sched: DomainSched,
    /// Above zero, none of its vCPUs runs.
    pub pause_count: AtomicU32,
    /// Where it is in its life.
    pub life: Life,
}

impl<H: Hal> Domain<H> {
    /// Its number.
    pub fn id(&self) -> DomId {
        self.config.id
    }

    /// Whether it is paravirtual: its [`Domain::p2m`] says nothing then, and its frame numbers are the machine's.
    #[inline(always)]
    pub fn is_pv(&self) -> bool {
        H::PV && self.config.kind == GuestKind::Paravirtual
    }

    /// Whether it switched a behaviour on.
    #[inline(always)]
    pub fn assists(&self, which: Assist) -> bool {
        self.assists.load(Relaxed) & which.bit() != 0
    }

    /// Whether its shared info, and what else it is told without asking, has the form of 32-bit code.
    #[inline(always)]
    pub fn is_narrow(&self) -> bool {
        H::NARROW_CALLERS && self.narrow.load(Relaxed)
    }

    /// How many ports have a bit in its shared info.
    #[inline(always)]
    pub fn two_level_ports(&self) -> u32 {
        match self.is_narrow() {
            true => H::NARROW_SHARED_INFO.ports,
            false => H::SHARED_INFO.ports,
        }
    }

    /// Whether a port has a bit in its shared info.
    #[inline(always)]
    pub fn has_two_level_port(&self, port: Port) -> bool {
        const {
            assert!(!H::NARROW_CALLERS || H::NARROW_SHARED_INFO.ports <= H::SHARED_INFO.ports);
        }
        // Those that every form has bits for are told at one look.
        match H::NARROW_CALLERS && port.0 >= H::NARROW_SHARED_INFO.ports {
            true => port.0 < self.two_level_ports(),
            false => port.0 < H::SHARED_INFO.ports,
        }
    }

    /// How its shared info is laid out.
    pub fn info_layout(&self) -> &'static SharedInfoLayout {
        if self.is_narrow() {
            const { &H::NARROW_SHARED_INFO }
        } else if self.is_pv() {
            const { &H::PV_SHARED_INFO }
        } else {
            const { &H::SHARED_INFO }
        }
    }

    /// Whether its guest masks events by a byte of its `vcpu_info`.
    #[inline(always)]
    pub fn has_upcall_mask(&self) -> bool {
        match self.is_pv() {
            true => H::PV_SHARED_INFO.vcpu.has_upcall_mask,
            false => H::SHARED_INFO.vcpu.has_upcall_mask,
        }
    }
}

const SHARDS: usize = 64;

type Shard<H> = spin::rwlock::RwLock<Vec<DomainRef<H>>, xenolith_hal::sync::Relax>;

/// Every domain by number. Sharded by number, so that look-ups of unrelated domains do not meet on one lock.
pub struct DomainTable<H: Hal> {
    shards: [Shard<H>; SHARDS],
}

impl<H: Hal> DomainTable<H> {
    /// No domain.
    pub fn new() -> Self {
        Self {
            shards: [const { Shard::new(Vec::new()) }; SHARDS],
        }
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "the index is reduced by the length"
    )]
    fn shard(&self, id: DomId) -> &Shard<H> {
        &self.shards[usize::from(id.0) % SHARDS]
    }

    /// The domain with this number.
    pub fn get(&self, id: DomId) -> Option<DomainRef<H>> {
        self.shard(id).read().iter().find(|d| d.id() == id).cloned()
    }

    /// Adds a domain; `Err` gives it back when the number is taken or no memory is left for the list.
    pub fn insert(&self, domain: DomainRef<H>) -> Result<(), DomainRef<H>> {
        let mut shard = self.shard(domain.id()).write();
        if shard.iter().any(|d| d.id() == domain.id()) || shard.try_reserve(1).is_err() {
            return Err(domain);
        }
        shard.push(domain);
        Ok(())
    }

    /// Takes a domain out of the table; it ends when its last reference goes.
    pub fn remove(&self, id: DomId) -> Option<DomainRef<H>> {
        let mut shard = self.shard(id).write();
        let at = shard.iter().position(|d| d.id() == id)?;
        Some(shard.swap_remove(at))
    }

    /// Calls `f` for each domain, in no particular order. Domains added or removed meanwhile may be missed.
    pub fn for_each(&self, mut f: impl FnMut(&DomainRef<H>)) {
        for shard in &self.shards {
            let mut at = 0;
            loop {
                let Some(domain) = shard.read().get(at).cloned() else {
                    break;
                };
                f(&domain);
                at += 1;
            }
        }
    }
}

impl<H: Hal> Default for DomainTable<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// Parts from which [`Domain::assemble`] makes a domain.
pub(crate) struct DomainParts<H: Hal> {
    /// The architecture's part.
    pub(crate) arch: H::Domain,
    /// Its second-level translation.
    pub(crate) p2m: H::P2m,
    /// Its vCPUs, all down.
    pub(crate) vcpus: Box<[Vcpu<H>]>,
    /// A zeroed frame for the shared info.
    pub(crate) shared_info: Mfn,
    /// The same as a frame of RAM.
    pub(crate) shared_frame: Option<H::Frame>,
    /// The account, on which tables and shared info stand already.
    pub(crate) memory: DomainMemory,
}

impl<H: Hal> Domain<H> {
    /// Sets bits of an aligned 64-bit word of its shared-info page, where the architecture has a part of its own.
    pub fn set_shared_bits(&self, hal: &H, offset: usize, bits: u64) {
        if let Some(page) = self.shared_frame {
            let _ = hal.word64(page, offset, AtomicOp::Or(bits));
        }
    }
}

impl<H: Hal> Domain<H> {
    /// Puts a domain together; it is not in the domain table yet. [`crate::Hypervisor::create_domain`] is the way to
    /// make one.
    pub(crate) fn assemble(config: DomainConfig, parts: DomainParts<H>) -> Arc<Self> {
        Arc::new(Self {
            config,
            arch: parts.arch,
            p2m: parts.p2m,
            vcpus: parts.vcpus,
            memory: parts.memory,
            events: EventTable::new(config.default_max_port()),
            pirqs: PirqPorts::new(),
            grants: GrantTable::new(),
            shared_info: parts.shared_info,
            shared_frame: parts.shared_frame,
            narrow: AtomicBool::new(false),
            assists: AtomicU64::new(0),
            params: Mutex::new(Rank::Domain, [0; 48]),
            handle: Mutex::new(Rank::Domain, [0; 16]),
            console: crate::console::GuestConsole::new(),
            sched: DomainSched::default(),
            pause_count: AtomicU32::new(0),
            life: Life::new(),
        })
    }
}
