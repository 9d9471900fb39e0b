//! The control structure as the exit code sees it.
//!
//! Its fields are reached by instructions, and only while it is the current one of the executing CPU: from the vCPU's load
//! to its save, or within [`super::vcpu::VmxVcpu::with_current`]. What no field holds (CR2, DR6, the registers of SYSCALL)
//! is in the CPU's own registers while the vCPU is loaded, since the hypervisor uses none of them, and here otherwise.

use core::arch::asm;

use x86_64::registers::{control::Cr2, model_specific::Msr};

use super::{
    controls::{OnEntry, Primary, Secondary},
    cpu::Features,
    event,
    exit::{self, Information, reason},
    fields as f,
    instructions::{read, write},
    segment,
    virtual_apic::VirtualApic,
};
use crate::{
    guest::{
        hardware::{Event, Exit, Hardware, Segment, SegmentName},
        paging::PagingState,
    },
    msr::Register,
    vlapic::VLapic,
};

const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR0_PE: u64 = 1;
/// Bits of CR0 that the guest changes without an exit.
const CR0_OWN: u64 = CR0_MP | CR0_EM | CR0_TS | CR0_WP | CR0_AM;
/// The same of CR4: TSD, DE, PGE. All else exits, VMXE among it, which the guest does not see.
const CR4_OWN: u64 = 1 << 2 | 1 << 3 | 1 << 7;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const FLAG_IF: u64 = 1 << 9;
const FLAG_AC: u64 = 1 << 18;

/// Interruptibility: shadows of STI and of loads of SS, and blocking of non-maskable interrupts.
const SHADOWS: u32 = 1 << 0 | 1 << 1;
const NMI_BLOCKED: u32 = 1 << 3;

/// A busy task of 32 or 64 bits, which long mode requires.
const BUSY_TASK: u16 = 0x8b;

/// An exit reason of our own: the CPU refused to enter, for the reason in the low bits.
const REFUSED: u32 = 1 << 30;

/// Registers of SYSCALL and SWAPGS, in the order of [`Kept::system_call`].
const SYSTEM_CALL: [u32; 5] = [
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
];

/// What no field holds.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    cr2: u64,
    dr6: u64,
    /// STAR, LSTAR, CSTAR, SFMASK, kernel GS base.
    system_call: [u64; 5],
}

/// A vCPU's state beside its control structure.
pub struct State {
    reason: u32,
    primary: Primary,
    secondary: Secondary,
    entry: OnEntry,
    /// What the CPU needs to have the local APIC, where it can.
    apic: Option<VirtualApic>,
    /// Bits of CR0 and CR4 that have to be on while the guest runs, whatever it sees.
    fixed: [u64; 2],
    efer: u64,
    cr8: u8,
    /// What the CPU cached of the guest's own translations must not be used any more.
    pub(super) stale: bool,
    loaded: bool,
    kept: Kept,
}

/// What the current control structure says about the last exit.
struct Current;

impl Information for Current {
    fn qualification(&self) -> u64 {
        read(f::QUALIFICATION)
    }

    fn event(&self) -> (u32, u32) {
        (read(f::EXIT_EVENT), read(f::EXIT_ERROR_CODE))
    }

    fn address(&self) -> u64 {
        read(f::GUEST_PHYSICAL_ADDRESS)
    }

    fn next(&self) -> u64 {
        read(f::GUEST_RIP).wrapping_add(read(f::INSTRUCTION_LENGTH).into())
    }
}

fn dr6() -> u64 {
    let value;
    // SAFETY: reading a debug register changes nothing.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

fn set_dr6(value: u64) {
    // SAFETY: status bits only, and no breakpoint is on while the hypervisor runs.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
}

impl State {
    /// Of a control structure whose control words begin with these of the CPU's.
    pub(super) fn new(features: &Features, apic: Option<VirtualApic>) -> Self {
        Self {
            reason: 0,
            primary: features.primary,
            secondary: features.secondary,
            entry: features.entry,
            apic,
            fixed: features.fixed,
            efer: 0,
            cr8: 0,
            stale: false,
            loaded: false,
            kept: Kept::default(),
        }
    }

    /// Says which bits of CR0 and CR4 are the guest's own, and where its APIC's page is.
    pub(super) fn write_fields(&self) {
        if let Some(apic) = &self.apic {
            apic.write_fields();
        }
        write(f::CR0_MASK, !CR0_OWN);
        write(f::CR4_MASK, !CR4_OWN);
    }

    /// The vCPU runs on this CPU from now on.
    pub(super) fn load(&mut self) {
        self.loaded = true;
        // SAFETY: the hypervisor takes no page fault that it goes on after.
        unsafe {
            asm!("mov cr2, {}", in(reg) self.kept.cr2, options(nomem, nostack, preserves_flags))
        }
        set_dr6(self.kept.dr6);
        for (number, value) in SYSTEM_CALL.iter().zip(self.kept.system_call) {
            // SAFETY: the hypervisor uses neither SYSCALL nor SWAPGS; the values were checked, or the guest's own
            // instructions put them there.
            unsafe { Msr::new(*number).write(value) }
        }
    }

    /// It runs on it no more.
    pub(super) fn save(&mut self) {
        self.kept.cr2 = Cr2::read_raw();
        self.kept.dr6 = dr6();
        for (number, value) in SYSTEM_CALL.iter().zip(&mut self.kept.system_call) {
            // SAFETY: the registers exist in long mode.
            *value = unsafe { Msr::new(*number).read() };
        }
        self.loaded = false;
    }

    /// The guest has stopped.
    #[inline(always)]
    pub(super) fn stopped(&mut self) {
        self.reason = read(f::EXIT_REASON);
        if self.reason == reason::EXCEPTION {
            self.exception();
        }
    }

    /// The CPU refused to enter.
    #[cold]
    pub(super) fn refused(&mut self) {
        self.reason = REFUSED | read(f::INSTRUCTION_ERROR);
    }

    /// What has to be done at once behind an exit by an exception.
    #[cold]
    fn exception(&mut self) {
        const DEBUG: u32 = 1;
        const NMI: u32 = 2;
        match read(f::EXIT_EVENT) & 0xff {
            // The exit took it from the CPU, so the handler is called; its IRET opens for the next one.
            // SAFETY: the gate is that of the hypervisor's own handler.
            NMI => unsafe { asm!("int 2") },
            // An exit does not say in DR6 what it would have said.
            DEBUG => {
                const CAUSES: u64 = 0xf | 1 << 13 | 1 << 14;
                set_dr6(dr6() & !0xf | read(f::QUALIFICATION) & CAUSES);
            }
            _ => {}
        }
    }

    /// How the vCPU's addresses translate.
    #[inline(always)]
    pub(super) fn paging(&self) -> PagingState {
        PagingState {
            cr0: self.cr0(),
            cr3: self.cr3(),
            cr4: self.cr4(),
            efer: self.efer,
            cpl: self.cpl(),
            ac: self.rflags() & FLAG_AC != 0,
        }
    }

    fn set_primary(&mut self, what: Primary, on: bool) {
        if self.primary.contains(what) != on {
            self.primary.set(what, on);
            write(f::PRIMARY_CONTROLS, self.primary.bits());
        }
    }

    fn system_call(&self, index: usize) -> u64 {
        if self.loaded {
            // SAFETY: the registers exist in long mode.
            unsafe { Msr::new(SYSTEM_CALL[index]).read() }
        } else {
            self.kept.system_call[index]
        }
    }

    fn set_system_call(&mut self, index: usize, value: u64) {
        self.kept.system_call[index] = value;
        if self.loaded {
            // SAFETY: as in `load`.
            unsafe { Msr::new(SYSTEM_CALL[index]).write(value) }
        }
    }
}

impl Hardware for State {
    const LOWERS_TPR_UNSEEN: bool = false;

    #[inline(always)]
    fn exit(&self) -> Exit {
        exit::decode(self.reason, &Current)
    }

    #[inline]
    fn instruction_length(&self) -> Option<u64> {
        Some(read(f::INSTRUCTION_LENGTH).into())
    }

    #[inline]
    fn rip(&self) -> u64 {
        read(f::GUEST_RIP)
    }

    #[inline]
    fn set_rip(&mut self, value: u64) {
        write(f::GUEST_RIP, value);
    }

    fn rsp(&self) -> u64 {
        read(f::GUEST_RSP)
    }

    fn set_rsp(&mut self, value: u64) {
        write(f::GUEST_RSP, value);
    }

    #[inline]
    fn rflags(&self) -> u64 {
        read(f::GUEST_RFLAGS)
    }

    fn set_rflags(&mut self, value: u64) {
        write(f::GUEST_RFLAGS, value);
    }

    #[inline]
    fn cr0(&self) -> u64 {
        read(f::GUEST_CR0) & CR0_OWN | read(f::CR0_SHADOW) & !CR0_OWN
    }

    fn set_cr2(&mut self, value: u64) {
        self.kept.cr2 = value;
        if self.loaded {
            // SAFETY: as in `load`.
            unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
        }
    }

    #[inline]
    fn cr3(&self) -> u64 {
        read(f::GUEST_CR3)
    }

    #[inline]
    fn cr4(&self) -> u64 {
        read(f::GUEST_CR4) & CR4_OWN | read(f::CR4_SHADOW) & !CR4_OWN
    }

    #[inline]
    fn efer(&self) -> u64 {
        self.efer
    }

    fn set_cr0(&mut self, value: u64) {
        let paging = value & CR0_PG != 0;
        let long = paging && self.efer & EFER_LME != 0;
        if long && self.efer & EFER_LMA == 0 {
            let rights = segment::from_rights(read(f::GUEST_TR_RIGHTS));
            if rights & 0xf != BUSY_TASK & 0xf {
                // A task of 16 bits: VMX cannot have it here, and long mode has no use for it.
                write(f::GUEST_TR_RIGHTS, segment::to_rights(BUSY_TASK));
            }
        }
        self.set_efer(self.efer & !EFER_LMA | if long { EFER_LMA } else { 0 });
        write(f::CR0_SHADOW, value);
        let [fixed, _] = self.fixed;
        write(f::GUEST_CR0, value & !(CR0_CD | CR0_NW) | fixed);
    }

    fn set_cr3(&mut self, value: u64) {
        write(f::GUEST_CR3, value);
    }

    fn set_cr4(&mut self, value: u64) {
        let [_, fixed] = self.fixed;
        write(f::CR4_SHADOW, value);
        write(f::GUEST_CR4, value | fixed);
    }

    fn set_page_directory_pointers(&mut self, values: [u64; 4]) {
        for (field, value) in f::GUEST_PDPTES.into_iter().zip(values) {
            write(field, value);
        }
    }

    fn set_efer(&mut self, value: u64) {
        self.efer = value;
        write(f::GUEST_EFER, value);
        let long = value & EFER_LMA != 0;
        if self.entry.contains(OnEntry::LONG_MODE) != long {
            self.entry.set(OnEntry::LONG_MODE, long);
            write(f::ENTRY_CONTROLS, self.entry.bits());
        }
    }

    fn flush(&mut self) {
        self.stale = true;
    }

    #[inline]
    fn cpl(&self) -> u8 {
        (read(f::GUEST_RIGHTS.of(SegmentName::Ss)) >> 5 & 3) as u8
    }

    #[inline]
    fn segment(&self, name: SegmentName) -> Segment {
        Segment {
            selector: read(f::GUEST_SELECTOR.of(name)),
            attributes: segment::from_rights(read(f::GUEST_RIGHTS.of(name))),
            limit: read(f::GUEST_LIMIT.of(name)),
            base: read(f::GUEST_BASE.of(name)),
        }
    }

    fn set_segment(&mut self, name: SegmentName, value: Segment) {
        write(f::GUEST_SELECTOR.of(name), value.selector);
        write(
            f::GUEST_RIGHTS.of(name),
            segment::to_rights(value.attributes),
        );
        write(f::GUEST_LIMIT.of(name), value.limit);
        write(f::GUEST_BASE.of(name), value.base);
    }

    fn set_task_register(&mut self, value: Segment) {
        write(f::GUEST_TR_SELECTOR, value.selector);
        write(f::GUEST_TR_RIGHTS, segment::to_rights(value.attributes));
        write(f::GUEST_TR_LIMIT, value.limit);
        write(f::GUEST_TR_BASE, value.base);
    }

    fn is_64_bit(&self) -> bool {
        const LONG_CODE: u32 = 1 << 13;
        self.efer & EFER_LMA != 0 && read(f::GUEST_RIGHTS.of(SegmentName::Cs)) & LONG_CODE != 0
    }

    fn reset(&mut self) {
        use SegmentName::{Cs, Ds, Es, Fs, Gs, Ss};
        let segment = |selector, base, attributes| Segment {
            selector,
            attributes,
            limit: 0xffff,
            base,
        };
        for name in [Es, Ss, Ds, Fs, Gs] {
            self.set_segment(name, segment(0, 0, 0x93));
        }
        self.set_segment(Cs, segment(0xf000, 0xffff_0000, 0x9b));
        write(f::GUEST_GDTR_BASE, 0);
        write(f::GUEST_GDTR_LIMIT, 0xffff);
        write(f::GUEST_IDTR_BASE, 0);
        write(f::GUEST_IDTR_LIMIT, 0xffff);
        write(f::GUEST_LDTR_SELECTOR, 0);
        write(f::GUEST_LDTR_BASE, 0);
        write(f::GUEST_LDTR_LIMIT, 0xffff);
        write(f::GUEST_LDTR_RIGHTS, segment::to_rights(0x82));
        write(f::GUEST_TR_SELECTOR, 0);
        write(f::GUEST_TR_BASE, 0);
        write(f::GUEST_TR_LIMIT, 0xffff);
        write(f::GUEST_TR_RIGHTS, segment::to_rights(BUSY_TASK));
        self.set_efer(0);
        self.set_cr0(0x6000_0010);
        self.set_cr3(0);
        self.set_cr4(0);
        self.set_cr2(0);
        self.set_page_directory_pointers([0; 4]);
        self.kept.dr6 = 0xffff_0ff0;
        if self.loaded {
            set_dr6(self.kept.dr6);
        }
        write(f::GUEST_DR7, 0x400);
        write(f::GUEST_DEBUGCTL, 0);
        self.set_rflags(2);
        self.set_rip(0xfff0);
        self.set_rsp(0);
        for index in 0..SYSTEM_CALL.len() {
            self.set_system_call(index, 0);
        }
        write(f::GUEST_SYSENTER_CS, 0);
        write(f::GUEST_SYSENTER_ESP, 0);
        write(f::GUEST_SYSENTER_EIP, 0);
        write(f::GUEST_PAT, 0x0007_0406_0007_0406);
        write(f::GUEST_PENDING_DEBUG, 0);
        write(f::INTERRUPTIBILITY, 0);
        write(f::ACTIVITY, 0);
        write(f::ENTRY_EVENT, 0);
        self.set_primary(Primary::NMI_WINDOW, false);
        self.set_window(None);
        self.cr8 = 0;
        self.stale = true;
    }

    fn register(&self, which: Register) -> u64 {
        match which {
            Register::Efer => self.efer,
            Register::FsBase => read(f::GUEST_BASE.of(SegmentName::Fs)),
            Register::GsBase => read(f::GUEST_BASE.of(SegmentName::Gs)),
            Register::Star => self.system_call(0),
            Register::Lstar => self.system_call(1),
            Register::Cstar => self.system_call(2),
            Register::Sfmask => self.system_call(3),
            Register::KernelGsBase => self.system_call(4),
            Register::SysenterCs => read(f::GUEST_SYSENTER_CS).into(),
            Register::SysenterEsp => read(f::GUEST_SYSENTER_ESP),
            Register::SysenterEip => read(f::GUEST_SYSENTER_EIP),
            Register::Pat => read(f::GUEST_PAT),
            // CPUID does not offer the first; the vCPU keeps the other.
            Register::TscAux | Register::SpecCtrl => 0,
        }
    }

    fn set_register(&mut self, which: Register, value: u64) {
        match which {
            Register::Efer => self.set_efer(value),
            Register::FsBase => write(f::GUEST_BASE.of(SegmentName::Fs), value),
            Register::GsBase => write(f::GUEST_BASE.of(SegmentName::Gs), value),
            Register::Star => self.set_system_call(0, value),
            Register::Lstar => self.set_system_call(1, value),
            Register::Cstar => self.set_system_call(2, value),
            Register::Sfmask => self.set_system_call(3, value),
            Register::KernelGsBase => self.set_system_call(4, value),
            Register::SysenterCs => write(f::GUEST_SYSENTER_CS, value as u32),
            Register::SysenterEsp => write(f::GUEST_SYSENTER_ESP, value),
            Register::SysenterEip => write(f::GUEST_SYSENTER_EIP, value),
            Register::Pat => write(f::GUEST_PAT, value),
            Register::TscAux | Register::SpecCtrl => {}
        }
    }

    #[inline]
    fn end_shadow(&mut self) {
        let blocked = read(f::INTERRUPTIBILITY);
        if blocked & SHADOWS != 0 {
            write(f::INTERRUPTIBILITY, blocked & !SHADOWS);
        }
    }

    #[inline]
    fn interruptible(&self) -> bool {
        self.rflags() & FLAG_IF != 0 && read(f::INTERRUPTIBILITY) & SHADOWS == 0
    }

    #[inline]
    fn delivers(&self) -> bool {
        read(f::ENTRY_EVENT) & 1 << 31 != 0
    }

    fn inject(&mut self, event: Event) {
        if event == Event::Nmi && read(f::INTERRUPTIBILITY) & (SHADOWS | NMI_BLOCKED) != 0 {
            return self.set_primary(Primary::NMI_WINDOW, true);
        }
        let (info, error) = event::encode(event, read(f::GUEST_CR0) & CR0_PE != 0);
        write(f::ENTRY_ERROR_CODE, error);
        write(f::ENTRY_EVENT, info);
    }

    #[inline]
    fn take_interrupted(&mut self) -> Option<Event> {
        let info = read(f::INTERRUPTED_EVENT);
        if info & 1 << 31 == 0 && self.reason > reason::NMI_WINDOW {
            // The way of nearly all exits.
            if self.reason != reason::EPT_VIOLATION {
                return None;
            }
        }
        self.interrupted(info)
    }

    #[inline]
    fn set_window(&mut self, class: Option<u8>) {
        self.set_primary(Primary::INTERRUPT_WINDOW, class.is_some());
    }

    #[inline]
    fn cr8(&self) -> u8 {
        self.cr8
    }

    fn set_cr8(&mut self, class: u8) {
        self.cr8 = class & 15;
    }

    fn sync(&mut self, lapic: &VLapic) {
        if let Some(apic) = &self.apic
            && lapic.is_lent()
        {
            apic.take_back(lapic);
            self.cr8 = lapic.tpr();
        } else if self.cr8 != lapic.tpr() {
            lapic.set_tpr(self.cr8);
        }
    }

    #[inline(always)]
    fn takes(&self, lapic: &VLapic) -> bool {
        self.apic.is_some() && lapic.can_be_lent()
    }

    #[inline(always)]
    fn lend(&mut self, lapic: &VLapic, requested: bool) {
        let Some(apic) = &mut self.apic else { return };
        if !lapic.is_lent() {
            apic.lend(lapic, &mut self.primary, &mut self.secondary);
        } else if requested {
            apic.add(lapic);
        }
    }
}

impl State {
    #[inline(never)]
    fn interrupted(&mut self, info: u32) -> Option<Event> {
        if self.reason > 0xffff {
            // No entry took place: the fields are of some earlier exit.
            return None;
        }
        if self.reason == reason::NMI_WINDOW {
            self.set_primary(Primary::NMI_WINDOW, false);
            return Some(Event::Nmi);
        }
        let event = event::decode(info, read(f::INTERRUPTED_ERROR_CODE));
        let blocked = read(f::INTERRUPTIBILITY);
        if event == Some(Event::Nmi) {
            write(f::INTERRUPTIBILITY, blocked & !NMI_BLOCKED);
        } else if event.is_none() && exit::nmi_was_unblocked(self.reason, &Current) {
            write(f::INTERRUPTIBILITY, blocked | NMI_BLOCKED);
        }
        event
    }
}
