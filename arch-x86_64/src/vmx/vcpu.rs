//! A vCPU in VMX's hands: its control structure, and the identifier of its translations.
//!
//! A control structure is on a CPU from the vCPU's load to its save, which clears it: no other CPU has to be asked for it.

use core::cell::{Cell, UnsafeCell};

use xenolith_core::{Hypervisor, VcpuRef, memory::Place};
use xenolith_hal::{CpuId, HostPhys, Mfn};

use super::{
    controls::Secondary,
    cpu::{self, Features, VmxCpu},
    enter, fields as f,
    hardware::State,
    instructions::{self, write},
    virtual_apic::{PageFrame, VirtualApic},
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
    svm::asid::Asid,
    vlapic::ApicPage,
};

/// The backend.
pub enum Vmx {}

/// What a vCPU keeps for VMX. The CPU that it is loaded on owns all of it.
pub struct VmxVcpu {
    frame: Mfn,
    /// The page of its local APIC, where the CPU can have that.
    apic: Option<PageFrame>,
    state: UnsafeCell<State>,
    asid: Cell<Asid>,
    /// The CPU that ran it last.
    cpu: Cell<Option<CpuId>>,
    /// The state of the second-level tables that its cached translations were made from.
    tables: Cell<u64>,
    pointer: Cell<u64>,
    launched: Cell<bool>,
    identifiers: bool,
}

/// Exceptions that are looked at: debug and alignment faults that a guest can turn into an endless loop of the CPU's own
/// (both are given back), and machine checks, which are the host's.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;

/// The EPT pointer: tables are cached write-back and have four levels. Accessed and dirty bits stay off: nothing reads
/// them, and with them each walk of the guest's tables would count as a write to those.
const fn pointer(root: Mfn) -> u64 {
    root.base().0 | 6 | 3 << 3
}

impl VmxVcpu {
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
        Direct::write(frame, 0, &features.revision.to_le_bytes()).ok()?;
        // SAFETY: the frame was just taken and is nobody else's.
        if !unsafe { instructions::vmclear(frame.base()) } {
            return None;
        }
        let apic = if features.has_apic {
            // SAFETY: the frame is taken here, and given back by nobody before the vCPU is gone.
            Some(unsafe { PageFrame::new(hv.memory.allocate(0, Place::ANY)?) })
        } else {
            None
        };
        let maps_of_msrs = [maps.msrs, maps.msrs_with_apic];
        let state = State::new(
            features,
            apic.map(|frame| VirtualApic::new(frame, maps_of_msrs)),
        );
        let new = Self {
            frame,
            apic,
            state: UnsafeCell::new(state),
            asid: Cell::new(Asid::NONE),
            cpu: Cell::new(None),
            tables: Cell::new(u64::MAX),
            pointer: Cell::new(0),
            launched: Cell::new(false),
            identifiers: features.has_identifiers(),
        };
        let ports = ports.unwrap_or(maps.ports);
        // SAFETY: nobody else has the vCPU yet.
        unsafe {
            new.with_current(|state| {
                write(f::PIN_CONTROLS, features.pin.bits());
                write(f::PRIMARY_CONTROLS, features.primary.bits());
                write(f::SECONDARY_CONTROLS, features.secondary.bits());
                write(f::EXIT_CONTROLS, features.exit.bits());
                write(f::ENTRY_CONTROLS, features.entry.bits());
                write(f::EXCEPTION_BITMAP, EXCEPTIONS);
                write(f::PAGE_FAULT_MASK, 0);
                write(f::PAGE_FAULT_MATCH, 0);
                write(f::CR3_TARGET_COUNT, 0);
                write(f::EXIT_STORE_COUNT, 0);
                write(f::EXIT_LOAD_COUNT, 0);
                write(f::ENTRY_LOAD_COUNT, 0);
                write(f::ENTRY_INSTRUCTION_LENGTH, 0);
                write(f::LINK_POINTER, u64::MAX);
                write(f::IO_BITMAP_A, ports.0);
                write(f::IO_BITMAP_B, ports.0 + 4096);
                write(f::MSR_BITMAP, maps.msrs.0);
                write(f::TSC_OFFSET, tsc_offset);
                state.write_fields();
                if features.secondary.contains(Secondary::PAUSE_LOOP) {
                    write(f::PAUSE_GAP, 128);
                    write(f::PAUSE_WINDOW, 4096);
                }
                state.reset();
            });
        }
        Some(new)
    }

    /// The frame of the control structure, to be given back when the vCPU is gone.
    #[must_use]
    pub fn frame(&self) -> Mfn {
        self.frame
    }

    /// The page of its local APIC, where the CPU can have that.
    #[must_use]
    pub fn apic_page(&self) -> Option<&ApicPage> {
        self.apic.as_ref().map(PageFrame::page)
    }

    /// How the vCPU's addresses translate.
    #[inline(always)]
    pub fn paging(&self) -> PagingState {
        // SAFETY: only the CPU that has the vCPU loaded asks, between exits.
        unsafe { (*self.state.get()).paging() }
    }

    /// Lends the state of a vCPU that is loaded nowhere.
    ///
    /// # Safety
    /// The vCPU is on no CPU, and nobody else touches it meanwhile. VMX is on.
    pub unsafe fn with_current<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let before = instructions::vmptrst();
        // SAFETY: the structure is clear, as `new` and every save leave it; the caller keeps others away. The one that was
        // current is on this CPU.
        unsafe {
            instructions::vmptrld(self.frame.base());
            let result = f(&mut *self.state.get());
            instructions::vmclear(self.frame.base());
            if let Some(before) = before {
                instructions::vmptrld(before);
            }
            result
        }
    }

    /// Sees to it that no old translation is used: after a move between CPUs, a change of the second-level tables or of
    /// the guest's paging, or when identifiers ran out.
    #[inline]
    fn refresh(&self, cpu: &VmxCpu, state: &mut State, tables: u64) {
        if cpu.asids.is_current(self.asid.get()) && self.tables.get() == tables && !state.stale {
            return;
        }
        self.renew(cpu, state, tables);
    }

    #[cold]
    fn renew(&self, cpu: &VmxCpu, state: &mut State, tables: u64) {
        if self.tables.replace(tables) != tables {
            cpu.drop_translations(self.pointer.get());
        }
        if state.stale || !cpu.asids.is_current(self.asid.get()) {
            state.stale = false;
            let (asid, flush) = cpu.asids.take();
            self.asid.set(asid);
            if self.identifiers {
                if flush {
                    instructions::invvpid_all();
                }
                write(f::VPID, asid.number as u16);
            }
        }
    }
}

#[inline(always)]
fn own(vcpu: &ArchVcpu) -> &VmxVcpu {
    match &vcpu.hw {
        HwVcpu::Vmx(vmx) => vmx,
        HwVcpu::Svm(_) | HwVcpu::Pv(_) => crate::cpu::fault::stop(),
    }
}

impl Backend for Vmx {
    type Hw = State;

    #[inline(always)]
    fn hardware(vcpu: &ArchVcpu) -> *mut State {
        own(vcpu).state.get()
    }

    fn load(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>) {
        let vmx = own(&vcpu.arch);
        let Some(own_cpu) = cpu.vmx.get() else { return };
        // SAFETY: the scheduler gave the vCPU to this CPU alone; its structure was cleared where it ran before.
        unsafe { instructions::vmptrld(vmx.frame.base()) };
        vmx.launched.set(false);
        if vmx.cpu.replace(Some(cpu.id)) != Some(cpu.id) {
            vmx.asid.set(Asid::NONE);
            vmx.tables.set(u64::MAX);
            vmx.pointer.set(pointer(vcpu.domain().p2m.root()));
            write(f::EPT_POINTER, vmx.pointer.get());
            write(f::TSC_OFFSET, vcpu.domain().arch.tsc_offset_on(cpu.id));
            own_cpu.write_host();
        }
        // SAFETY: as above.
        unsafe { (*vmx.state.get()).load() }
    }

    fn save(_: &PerCpu, vcpu: &VcpuRef<X86_64>) {
        let vmx = own(&vcpu.arch);
        // SAFETY: the vCPU is loaded on this CPU and not running.
        unsafe {
            let state = &mut *vmx.state.get();
            state.save();
            // Other CPUs ask what is deliverable from now on, and the next to run it may be one of them.
            state.sync(&vcpu.arch.lapic);
            instructions::vmclear(vmx.frame.base());
        }
    }

    #[inline(always)]
    unsafe fn enter(cpu: &PerCpu, vcpu: &VcpuRef<X86_64>, regs: *mut GuestRegs) {
        let vmx = own(&vcpu.arch);
        let Some(own_cpu) = cpu.vmx.get() else { return };
        // SAFETY: the caller lends state and registers; the reference ends before the guest runs.
        unsafe {
            // Whoever changes the tables sees this CPU in the guest, or this CPU sees the change.
            let tables = cpu.begin_guest(vcpu.domain());
            vmx.refresh(own_cpu, &mut *vmx.state.get(), tables);
        }
        // SAFETY: the vCPU's structure is the current one since `load`, filled by `new`, `load` and the setters of
        // `Hardware`; the registers are the vCPU's.
        let entered = unsafe { enter::enter(regs, vmx.launched.get()) };
        cpu.end_guest();
        // SAFETY: the guest has stopped: state and registers are the caller's again.
        let state = unsafe { &mut *vmx.state.get() };
        if entered {
            vmx.launched.set(true);
            state.stopped();
        } else {
            state.refused();
        }
    }
}
