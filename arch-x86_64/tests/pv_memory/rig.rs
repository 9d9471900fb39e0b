//! A machine with paravirtual domains, and their hypercalls.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use xenolith_abi::x86_64::{MmuUpdate, MmuextOp};
use xenolith_arch_x86_64::pv::memory::{
    AddressSpace, Flush, IoAccess, Level, Machine, PageTables, Rights, Words, entry::*,
};
use xenolith_core::{
    DomId, Domain, DomainRef, Errno, Hypervisor, VcpuId, VcpuRef,
    domain::{Destroyed, DomainConfig, GuestKind},
    guest::Caller,
    hypercall::Outcome,
    memory::{FrameRecord, FrameState, Memory, Node, Place, RamBank},
};
use xenolith_hal::{CpuId, CpuMask, Gfn, GuestVirt, Hal, Mfn, P2m, P2mType, PAGE_SIZE};
use xenolith_sim::{Sim, SimDomain, SimVcpu};
use zerocopy::{Immutable, IntoBytes};

pub const RO: u64 = PRESENT | USER;
pub const RW: u64 = RO | WRITABLE;
/// Where hypercall arguments are: pages that are mapped beside the page tables.
pub const ARGS: u64 = 0x10_0000;
pub const SELF: u64 = 0x7ff0;
/// Marks the hypervisor's slots of a root.
pub const HYPERVISORS: u64 = 0x0bad_0000_0000 | PRESENT | WRITABLE;

pub struct SimMachine {
    pub sim: Sim,
    pub spaces: HashMap<(DomId, u16), AddressSpace>,
    pub devices: HashSet<(DomId, Mfn)>,
    pub read_only_devices: HashSet<Mfn>,
    pub shown: HashSet<Mfn>,
    pub may_cache: AtomicBool,
    pub cache_flushes: AtomicU64,
    pub loads: Mutex<Vec<(DomId, Mfn)>>,
    pub ldt: Mutex<Vec<(u64, u32)>>,
    pub root_changes: Mutex<Vec<(Mfn, usize)>>,
    pub flushed: Mutex<Vec<(Option<CpuMask>, Flush)>>,
}

impl Machine<Sim> for SimMachine {
    fn address_space<'a>(&'a self, vcpu: &'a VcpuRef<Sim>) -> &'a AddressSpace {
        &self.spaces[&(vcpu.domain().id(), vcpu.id.0)]
    }
    fn io(&self, domain: &Domain<Sim>, mfn: Mfn) -> IoAccess {
        if self.read_only_devices.contains(&mfn) {
            IoAccess::ReadOnly
        } else if self.devices.contains(&(domain.id(), mfn)) {
            IoAccess::ReadWrite
        } else {
            IoAccess::Refused
        }
    }
    fn no_address(&self) -> u64 {
        ADDRESS & !((1 << 46) - 1)
    }
    fn shows(&self, mfn: Mfn) -> bool {
        self.shown.contains(&mfn)
    }
    fn may_set_cache(&self, _: &Domain<Sim>) -> bool {
        self.may_cache.load(SeqCst)
    }
    fn fill_root(&self, _: &Domain<Sim>, _: Mfn, words: &Words) {
        for word in words.iter().skip(256).take(16) {
            word.store(HYPERVISORS, SeqCst);
        }
    }
    fn root_changed(&self, root: Mfn, slot: usize) {
        self.root_changes.lock().unwrap().push((root, slot));
    }
    fn load_root(&self, vcpu: &VcpuRef<Sim>, root: Mfn) {
        assert_eq!(self.address_space(vcpu).kernel(), Some(root));
        let domain = vcpu.domain().id();
        self.sim.tlbs().flush_domain(self.sim.cpu(), domain);
        self.loads.lock().unwrap().push((vcpu.domain().id(), root));
    }
    /// vCPU n of every domain runs on CPU n.
    fn cpus_of(&self, _: &Domain<Sim>, vcpu: usize) -> CpuMask {
        CpuMask::only(CpuId(vcpu as u16))
    }
    fn cpus_of_all(&self, domain: &Domain<Sim>) -> CpuMask {
        let mut all = CpuMask::EMPTY;
        for cpu in 0..domain.vcpus.len() {
            all.insert(CpuId(cpu as u16));
        }
        all
    }
    fn flush_here(&self, what: Flush) {
        self.sim.tlbs().flush(self.sim.cpu());
        self.flushed.lock().unwrap().push((None, what));
    }
    fn flush(&self, cpus: &CpuMask, what: Flush) {
        for cpu in cpus.iter() {
            self.sim.tlbs().flush(cpu);
        }
        self.flushed.lock().unwrap().push((Some(*cpus), what));
    }
    fn flush_domain(&self, domain: &Domain<Sim>, what: Flush) {
        let cpus = self.cpus_of_all(domain);
        for cpu in cpus.iter() {
            self.sim.tlbs().flush_domain(cpu, domain.id());
        }
        self.flushed.lock().unwrap().push((Some(cpus), what));
    }
    fn mixes_domains(&self) {
        self.sim.tlbs().mix();
    }
    fn flush_caches(&self, _: bool) {
        self.cache_flushes.fetch_add(1, SeqCst);
    }
    fn set_ldt(&self, _: &VcpuRef<Sim>, base: GuestVirt, entries: u32) -> Result<(), Errno> {
        self.ldt.lock().unwrap().push((base.0, entries));
        Ok(())
    }
}

pub struct Rig {
    pub hv: Hypervisor<Sim>,
    pub machine: SimMachine,
    pub domains: Vec<DomainRef<Sim>>,
}

/// A frame of a device.
pub const DEVICE: Mfn = Mfn(0xf_ee00);
/// One that may only be read.
pub const READ_ONLY_DEVICE: Mfn = Mfn(0xf_ec00);

impl Rig {
    /// Domain 0, privileged, and domains 1 and 2, each with two vCPUs.
    pub fn new() -> Self {
        Self::on(Sim::small())
    }

    /// The same on a machine.
    pub fn on(sim: Sim) -> Self {
        let banks: Vec<_> = sim
            .banks()
            .into_iter()
            .map(|(first, frames)| RamBank {
                first,
                records: Box::leak((0..frames).map(|_| FrameRecord::new()).collect()),
                node: Node(0),
            })
            .collect();
        let memory = Memory::new(&banks).unwrap();
        for bank in &banks {
            // The last frames stay the machine's.
            memory.release_at_boot(bank.first, bank.records.len() as u64 - 16);
        }
        let hv = Hypervisor::new(sim.clone(), memory);
        let spaces = (0..3)
            .flat_map(|dom| (0..4).map(move |vcpu| ((DomId(dom), vcpu), AddressSpace::new())))
            .collect();
        let machine = SimMachine {
            sim,
            spaces,
            devices: [(DomId(0), DEVICE), (DomId(1), DEVICE)].into(),
            read_only_devices: [READ_ONLY_DEVICE].into(),
            shown: HashSet::new(),
            may_cache: AtomicBool::new(false),
            cache_flushes: AtomicU64::new(0),
            loads: Mutex::default(),
            ldt: Mutex::default(),
            root_changes: Mutex::default(),
            flushed: Mutex::default(),
        };
        let mut rig = Self {
            hv,
            machine,
            domains: Vec::new(),
        };
        for id in 0..3 {
            rig.domains.push(rig.domain(id, GuestKind::Paravirtual));
        }
        rig
    }

    /// The same with a domain 3 that is translated.
    pub fn with_translated() -> Self {
        let mut rig = Self::new();
        rig.domains.push(rig.domain(3, GuestKind::Translated));
        rig
    }

    fn domain(&self, id: u16, kind: GuestKind) -> DomainRef<Sim> {
        let config = DomainConfig {
            id: DomId(id),
            vcpus: 4,
            privileged: id == 0,
            max_frames: 1024,
            direct_map: false,
            kind,
        };
        let vcpus = (0..config.vcpus).map(|_| SimVcpu::default()).collect();
        let hv = &self.hv;
        let domain = hv
            .create_domain(config, SimDomain::default(), vcpus, |_| {
                Ok(hv.hal.new_linear())
            })
            .unwrap();
        // A page of arguments for each vCPU.
        for page in 0..4 {
            let mfn = hv.allocate_for(&domain, 0, Place::ANY).unwrap();
            let at = Gfn((ARGS >> 12) + page);
            let tables = hv.tables(&domain);
            domain.p2m.map(at, mfn, 1, P2mType::RamRw, &tables).unwrap();
        }
        hv.domain_built(&domain);
        domain
    }

    pub fn tables(&self) -> PageTables<'_, Sim, SimMachine> {
        PageTables {
            hv: &self.hv,
            machine: &self.machine,
        }
    }

    pub fn rights(&self, dom: u16) -> Rights<'_, Sim> {
        self.tables().own_rights(&self.domains[usize::from(dom)])
    }

    pub fn vcpu(&self, dom: u16, vcpu: u16) -> VcpuRef<Sim> {
        VcpuRef::new(&self.domains[usize::from(dom)], VcpuId(vcpu)).unwrap()
    }

    pub fn space(&self, dom: u16, vcpu: u16) -> &AddressSpace {
        &self.machine.spaces[&(DomId(dom), vcpu)]
    }

    /// A new frame of a domain.
    pub fn frame(&self, dom: u16) -> Mfn {
        let domain = &self.domains[usize::from(dom)];
        self.hv.allocate_for(domain, 0, Place::ANY).unwrap()
    }

    pub fn record(&self, mfn: Mfn) -> &'static FrameRecord {
        self.hv.memory.record(mfn).unwrap()
    }

    pub fn state(&self, mfn: Mfn) -> FrameState {
        self.record(mfn).state()
    }

    /// Writes an entry as a guest does to memory that is no table yet.
    pub fn set(&self, table: Mfn, slot: usize, value: u64) {
        self.hv.hal.table(table).unwrap()[slot].store(value, SeqCst);
    }

    pub fn get(&self, table: Mfn, slot: usize) -> u64 {
        self.hv.hal.table(table).unwrap()[slot].load(SeqCst)
    }

    /// A frame with these entries.
    pub fn table(&self, dom: u16, entries: &[(usize, Mfn, u64)]) -> Mfn {
        let table = self.frame(dom);
        for (slot, mfn, flags) in entries {
            self.set(table, *slot, mfn.base().0 | flags);
        }
        table
    }

    /// A tree of one table each level with one page, and the frames from the root down.
    pub fn tree(&self, dom: u16, flags: u64) -> [Mfn; 5] {
        let page = self.frame(dom);
        let l1 = self.table(dom, &[(0, page, flags)]);
        let l2 = self.table(dom, &[(0, l1, RW)]);
        let l3 = self.table(dom, &[(0, l2, RW)]);
        let l4 = self.table(dom, &[(0, l3, RW)]);
        [l4, l3, l2, l1, page]
    }

    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, dom: u16, vcpu: u16, value: &T) -> u64 {
        let at = ARGS + u64::from(vcpu) * PAGE_SIZE as u64;
        let vcpu = self.vcpu(dom, vcpu);
        let caller = Caller {
            hv: &self.hv,
            vcpu: &vcpu,
        };
        caller.write_bytes(GuestVirt(at), value.as_bytes()).unwrap();
        at
    }

    /// One hypercall, as often as the guest is told to ask again.
    pub fn call(&self, dom: u16, vcpu: u16, nr: u64, mut args: [u64; 5]) -> Result<i64, Errno> {
        loop {
            match self.call_once(dom, vcpu, nr, args) {
                Outcome::Done(result) if result >= 0 => return Ok(result),
                Outcome::Done(result) => {
                    return Err(Errno::from_number(result.unsigned_abs() as u32).unwrap());
                }
                Outcome::Again(again) => args = again,
            }
        }
    }

    pub fn call_once(&self, dom: u16, vcpu: u16, nr: u64, args: [u64; 5]) -> Outcome {
        let vcpu_ref = self.vcpu(dom, vcpu);
        let caller = Caller {
            hv: &self.hv,
            vcpu: &vcpu_ref,
        };
        let tables = self.tables();
        self.machine.sim.run_as(CpuId(vcpu), || match nr {
            1 => tables.mmu_update(caller, args),
            14 => tables.update_va_mapping(caller, args),
            22 => tables.update_va_mapping_otherdomain(caller, args),
            26 => tables.mmuext_op(caller, args),
            _ => unreachable!(),
        })
    }

    pub fn updates(&self, dom: u16, list: &[(u64, u64)], foreign: u64) -> Result<i64, Errno> {
        let list: Vec<_> = list
            .iter()
            .map(|(ptr, val)| MmuUpdate {
                ptr: *ptr,
                val: *val,
            })
            .collect();
        let at = self.put(dom, 0, list.as_slice());
        self.call(dom, 0, 1, [at, list.len() as u64, 0, foreign, 0])
    }

    /// `mmu_update` of one entry.
    pub fn update(&self, dom: u16, table: Mfn, slot: usize, value: u64) -> Result<i64, Errno> {
        self.updates(dom, &[(table.base().0 + slot as u64 * 8, value)], SELF)
    }

    pub fn ext_of(
        &self,
        dom: u16,
        cmd: u32,
        arg1: u64,
        arg2: u64,
        foreign: u64,
    ) -> Result<i64, Errno> {
        let op = MmuextOp {
            cmd,
            arg1,
            arg2,
            ..MmuextOp::default()
        };
        let at = self.put(dom, 0, &op);
        self.call(dom, 0, 26, [at, 1, 0, foreign, 0])
    }

    pub fn ext(&self, dom: u16, cmd: u32, arg1: u64, arg2: u64) -> Result<i64, Errno> {
        self.ext_of(dom, cmd, arg1, arg2, SELF)
    }

    pub fn pin(&self, dom: u16, level: Level, mfn: Mfn) -> Result<i64, Errno> {
        self.ext(dom, level as u32 - 1, mfn.0, 0)
    }

    pub fn unpin(&self, dom: u16, mfn: Mfn) -> Result<i64, Errno> {
        self.ext(dom, 4, mfn.0, 0)
    }

    pub fn new_root(&self, dom: u16, mfn: Mfn) -> Result<i64, Errno> {
        self.ext(dom, 5, mfn.0, 0)
    }

    /// Ends a domain.
    pub fn destroy(&self, dom: u16) {
        let domain = &self.domains[usize::from(dom)];
        let at = AtomicU64::new(0);
        let mut turns = 0;
        while !self.tables().release_domain(domain, &at) {
            turns += 1;
            assert!(turns < 1_000_000, "the release does not end");
            self.quiet();
        }
        while self.hv.destroy(domain) != Destroyed::Yes {
            turns += 1;
            assert!(turns < 1_000_000, "the destruction does not end");
        }
    }

    /// Takes a waiting interrupt away from every CPU.
    pub fn quiet(&self) {
        for cpu in 0..4 {
            self.machine.sim.cpu_record(CpuId(cpu)).clear_interrupt();
        }
    }
}

/// An entry.
pub fn to(mfn: Mfn, flags: u64) -> u64 {
    mfn.base().0 | flags
}
