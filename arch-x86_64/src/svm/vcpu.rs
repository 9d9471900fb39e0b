//! A vCPU in SVM's hands: its control block and address space identifier.

use core::cell::Cell;

use tock_registers::interfaces::Writeable;
use xenolith_core::{Hypervisor, VcpuRef, memory::Place};
use xenolith_hal::{CpuId, HostPhys, Mfn};

use super::{
    asid::Asid,
    cpu::{self, Features, SvmCpu},
    enter,
    vmcb::{Clean, Intercept1, Intercept2, Vmcb},
};
use crate::{
    X86_64,
    cpu::percpu::PerCpu,
    guest::{
        backend::Backend,
        hardware::Hardware,
        paging::PagingState,
        regs::GuestRegs,
        vcpu::{ArchVcpu, HwVcpu},
    },
    mm::hyp::Direct,
};

/// The backend.
pub enum Svm {}

/// What a vCPU keeps for SVM. The CPU that it is loaded on owns all of it.
pub struct SvmVcpu {
    frame: Mfn,
    asid: Cell<Asid>,
    /// The CPU that ran it last.
    cpu: Cell<Option<CpuId>>,
    /// The state of the second-level tables that its cached translations were made from.
    tables: Cell<u64>,
    clean_bits: bool,
}

/// Exceptions that are looked at: debug and alignment faults that a guest can turn into an endless loop of the CPU's own
/// (both are given back), and machine checks, which are the host's.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;
/// Writes to CR4.
const CONTROL_WRITES: u32 = 1 << (16 + 4);

impl SvmVcpu {
    /// A vCPU as after reset, with all that its guest may not do intercepted. `None` without memory.
    #[must_use]
    pub fn new(
        hv: &Hypervisor<X86_64>,
        features: &Features,
        tsc_offset: u64,
        ports: Option<HostPhys>,
    ) -> Option<Self> {
        let maps = cpu::shared_maps(hv)?;
        let frame = hv.memory.allocate(0, Place::ANY)?;
        Direct::zero(frame, 0);
        let new = Self {
            frame,
            asid: Cell::new(Asid::NONE),
            cpu: Cell::new(None),
            tables: Cell::new(u64::MAX),
            clean_bits: features.clean_bits,
        };
        // SAFETY: the frame was just taken and is nobody else's.
        let block = unsafe { &mut *new.block() };
        block.reset();
        let control = &mut block.control;
        control.cr = CONTROL_WRITES;
        control.exceptions = EXCEPTIONS;
        control.intercept1 = Intercept1::all()
            .difference(Intercept1::SMI)
            .difference(Intercept1::VINTR)
            .difference(Intercept1::IRET)
            .difference(Intercept1::PAUSE);
        control.intercept2 = Intercept2::all();
        if features.pause_filter {
            control.intercept1.insert(Intercept1::PAUSE);
            control.pause_filter = [128, 3000];
        }
        control.iopm = ports.unwrap_or(maps.ports).0;
        control.msrpm = maps.msrs.0;
        control.tsc_offset = tsc_offset;
        control.nested = 1;
        Some(new)
    }

    fn block(&self) -> *mut Vmcb {
        Direct::address(self.frame.base()) as *mut Vmcb
    }

    /// The frame of the control block, to be given back when the vCPU is gone.
    #[must_use]
    pub fn frame(&self) -> Mfn {
        self.frame
    }

    /// How the vCPU's addresses translate.
    #[inline(always)]
    pub fn paging(&self) -> PagingState {
        const AC: u64 = 1 << 18;
        // SAFETY: only the CPU that has the vCPU loaded asks, between exits.
        let save = unsafe { &(*self.block()).save };
        PagingState {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer,
            cpl: save.cpl,
            ac: save.rflags & AC != 0,
        }
    }

    /// Sees to it that no old translation is used: after a move between CPUs, a change of the second-level tables, or
    /// when identifiers ran out.
    #[inline]
    fn refresh(&self, cpu: &SvmCpu, block: &mut Vmcb, tables: u64) {
        if cpu.asids.is_current(self.asid.get()) && self.tables.get() == tables {
            return;
        }
        self.renew(cpu, block, tables);
    }

    #[cold]
    fn renew(&self, cpu: &SvmCpu, block: &mut Vmcb, tables: u64) {
        const FLUSH_ALL: u32 = 1;
        let (asid, flush) = cpu.asids.take();
        self.asid.set(asid);
        self.tables.set(tables);
        block.control.asid = asid.number;
        if flush {
            block.control.tlb_control = FLUSH_ALL;
        }
        block.control.clean.remove(Clean::ASID);
    }
}

#[inline(always)]
fn own(vcpu: &ArchVcpu) -> &SvmVcpu {
    match &vcpu.hw {
        HwVcpu::Svm(svm) => svm,
        HwVcpu::Vmx(_) | HwVcpu::Pv(_) => crate::cpu::fault::stop(),
    }
}

impl Backend for Svm {
    type Hw = Vmcb;

    #[inline(always)]
    fn hardware(vcpu: &ArchVcpu) -> *mut Vmcb {
        own(vcpu).block()
    }

    fn load(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>) {
        let svm = own(&vcpu.arch);
        // SAFETY: the scheduler gave the vCPU to this CPU alone.
        let block = unsafe { &mut *svm.block() };
        block.control.nested_cr3 = vcpu.domain().p2m.root().base().0;
        if svm.cpu.replace(Some(cpu.id)) != Some(cpu.id) {
            svm.asid.set(Asid::NONE);
            block.control.clean = Clean::empty();
            block.control.tsc_offset = vcpu.domain().arch.tsc_offset_on(cpu.id);
        }
        let Some(own_cpu) = cpu.svm.get() else { return };
        own_cpu.lend();
        // SAFETY: the block's hidden part is as `reset`, the setters of `Hardware` or the last save left it. This CPU needs
        // none of these registers until `rest`.
        unsafe { block.take(svm.frame.base()) }
    }

    fn save(_: &PerCpu, vcpu: &VcpuRef<X86_64>) {
        // SAFETY: the vCPU is loaded on this CPU and not running.
        unsafe { (*own(&vcpu.arch).block()).give_back() }
    }

    fn rest(cpu: &PerCpu) {
        if let Some(own_cpu) = cpu.svm.get() {
            own_cpu.take_back();
        }
    }

    #[inline(always)]
    unsafe fn enter(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>, regs: *mut GuestRegs) {
        let svm = own(&vcpu.arch);
        let Some(own_cpu) = cpu.svm.get() else { return };
        // SAFETY: the caller lends block and registers; the reference ends before the guest runs.
        unsafe {
            let block = &mut *svm.block();
            // Whoever changes the tables sees this CPU in the guest, or this CPU sees the change.
            let tables = cpu.begin_guest(vcpu.domain());
            svm.refresh(own_cpu, block, tables);
            block.save.rax = (*regs).rax;
        }
        // SAFETY: block and registers are this vCPU's; the block was filled by `new` and the setters of `Hardware`, its hidden
        // part is in the CPU since `load`; SVM is on since `own_cpu` exists.
        unsafe { enter::enter(regs, svm.frame.base()) };
        cpu.end_guest();
        // SAFETY: the guest has stopped: block and registers are the caller's again.
        unsafe {
            let block = &mut *svm.block();
            (*regs).rax = block.save.rax;
            block.control.event_inject.set(0);
            block.control.tlb_control = 0;
            if svm.clean_bits {
                block.control.clean = Clean::all();
            }
        }
    }
}
