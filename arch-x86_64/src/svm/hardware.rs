//! The control block as the exit code sees it.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};

use super::vmcb::{Clean, EventInfo, Intercept1, IoInfo, VirtualInterrupt, Vmcb};
use core::cell::Cell;

use crate::{
    guest::hardware::{Event, Exit, Hardware, MemoryFault, PortAccess, Segment, SegmentName},
    msr::Register,
};

/// EFER.SVME: always on while a guest runs, never seen by it.
const SVME: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const CR0_PG: u64 = 1 << 31;
const FLAG_IF: u64 = 1 << 9;
/// A data segment after reset.
const RESET_DATA: Segment = Segment {
    selector: 0,
    attributes: 0x93,
    limit: 0xffff,
    base: 0,
};

/// Exit codes (AMD APM, volume 2, appendix C).
mod code {
    pub const EXCEPTION_FIRST: u64 = 0x40;
    pub const EXCEPTION_LAST: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const CR0_CHANGE: u64 = 0x65;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const PORT: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK: u64 = 0x7d;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const SKINIT: u64 = 0x86;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const NESTED_FAULT: u64 = 0x400;
    pub const CR_WRITE_FIRST: u64 = 0x10;
    pub const CR_WRITE_LAST: u64 = 0x1f;
}

impl Vmcb {
    fn port_access(&self) -> PortAccess {
        let info = tock_registers::LocalRegisterCopy::<u64, IoInfo::Register>::new(
            self.control.exit_info1,
        );
        PortAccess {
            port: info.read(IoInfo::PORT) as u16,
            size: info.read(IoInfo::SIZE) as u8,
            input: info.is_set(IoInfo::IN),
            string: info.is_set(IoInfo::STRING),
            repeat: info.is_set(IoInfo::REPEAT),
            next: Some(self.control.exit_info2),
        }
    }

    fn memory_fault(&self) -> MemoryFault {
        let error = self.control.exit_info1;
        MemoryFault {
            address: self.control.exit_info2,
            write: error & 1 << 1 != 0,
            fetch: error & 1 << 4 != 0,
            present: error & 1 != 0,
            walk: error & 1 << 33 != 0,
        }
    }

    /// The interrupt that the guest was given as a virtual one and has not taken. A request that is intercepted is none: it
    /// only asks for an exit.
    #[inline]
    fn offers(&self) -> Option<u8> {
        let interrupt = &self.control.interrupt;
        (interrupt.is_set(VirtualInterrupt::REQUEST)
            && !self.control.intercept1.contains(Intercept1::VINTR))
        .then(|| interrupt.read(VirtualInterrupt::VECTOR) as u8)
    }

    fn offer(&mut self, vector: u8) {
        self.control.interrupt.modify(
            VirtualInterrupt::REQUEST::SET
                + VirtualInterrupt::PRIORITY.val(15)
                + VirtualInterrupt::IGNORE_TPR::SET
                + VirtualInterrupt::VECTOR.val(vector.into()),
        );
        self.control
            .intercept1
            .remove(Intercept1::VINTR.union(Intercept1::IRET));
        self.changed(Clean::INTERRUPT.union(Clean::INTERCEPTS));
    }

    #[inline(never)]
    fn hidden_segment(&self, name: SegmentName) -> Segment {
        let [fs, gs] = &self.hidden().data_segments;
        if name == SegmentName::Fs { fs } else { gs }.get()
    }

    fn changed(&mut self, what: Clean) {
        self.control.clean.remove(what);
    }
}

impl Hardware for Vmcb {
    const LOWERS_TPR_UNSEEN: bool = true;

    #[inline(always)]
    fn exit(&self) -> Exit {
        match self.control.exit_code {
            code::VMMCALL => Exit::Hypercall,
            code::INTR | code::NMI | code::SMI | code::INIT => Exit::Interrupt,
            code::NESTED_FAULT => Exit::Memory(self.memory_fault()),
            code::VINTR | code::IRET => Exit::InterruptWindow,
            code::CPUID => Exit::Cpuid,
            code::MSR if self.control.exit_info1 == 0 => Exit::ReadMsr,
            code::MSR => Exit::WriteMsr,
            code::PORT => Exit::Port(self.port_access()),
            code::HLT => Exit::Halt,
            code::PAUSE => Exit::Pause,
            code::CR0_CHANGE | code::CR_WRITE_FIRST..=code::CR_WRITE_LAST => {
                Exit::ControlRegister(None)
            }
            code::XSETBV => Exit::SetXcr,
            code::INVD | code::WBINVD => Exit::FlushCaches,
            code::RDPMC => Exit::ReadCounter,
            code::INVLPGA
            | code::VMRUN
            | code::VMLOAD..=code::SKINIT
            | code::MONITOR..=code::MWAIT_ARMED => Exit::Undefined,
            code::TASK => Exit::TaskSwitch,
            code::SHUTDOWN => Exit::Shutdown,
            code @ code::EXCEPTION_FIRST..=code::EXCEPTION_LAST => Exit::Exception {
                vector: (code - code::EXCEPTION_FIRST) as u8,
                error: self.control.exit_info1 as u32,
            },
            other => Exit::Failed(other),
        }
    }

    fn instruction_length(&self) -> Option<u64> {
        // Zero where the CPU does not save it.
        (self.control.next_rip != 0)
            .then(|| self.control.next_rip.wrapping_sub(self.save.rip))
            .filter(|length| (1..=15).contains(length))
    }

    #[inline]
    fn rip(&self) -> u64 {
        self.save.rip
    }

    #[inline]
    fn set_rip(&mut self, value: u64) {
        self.save.rip = value;
    }

    fn rsp(&self) -> u64 {
        self.save.rsp
    }

    fn set_rsp(&mut self, value: u64) {
        self.save.rsp = value;
    }

    #[inline]
    fn rflags(&self) -> u64 {
        self.save.rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.save.rflags = value;
    }

    #[inline]
    fn cr0(&self) -> u64 {
        self.save.cr0
    }

    fn set_cr2(&mut self, value: u64) {
        self.save.cr2 = value;
        self.changed(Clean::CR2);
    }

    #[inline]
    fn cr3(&self) -> u64 {
        self.save.cr3
    }

    #[inline]
    fn cr4(&self) -> u64 {
        self.save.cr4
    }

    #[inline]
    fn efer(&self) -> u64 {
        self.save.efer & !SVME
    }

    fn set_cr0(&mut self, value: u64) {
        let paging = value & CR0_PG != 0;
        if paging && self.save.efer & EFER_LME != 0 {
            self.save.efer |= EFER_LMA;
        } else if !paging {
            self.save.efer &= !EFER_LMA;
        }
        self.save.cr0 = value;
        self.changed(Clean::CONTROL);
    }

    fn set_cr3(&mut self, value: u64) {
        self.save.cr3 = value;
        self.changed(Clean::CONTROL);
    }

    fn set_cr4(&mut self, value: u64) {
        self.save.cr4 = value;
        self.changed(Clean::CONTROL);
    }

    fn set_efer(&mut self, value: u64) {
        self.save.efer = value | SVME;
        self.changed(Clean::CONTROL);
    }

    fn flush(&mut self) {
        // Everything, since not every CPU can flush one identifier.
        self.control.tlb_control = 1;
    }

    #[inline]
    fn cpl(&self) -> u8 {
        self.save.cpl
    }

    #[inline(always)]
    fn segment(&self, name: SegmentName) -> Segment {
        match self.save.segments.get(name as usize) {
            Some(segment) => *segment,
            None => self.hidden_segment(name),
        }
    }

    fn set_segment(&mut self, name: SegmentName, value: Segment) {
        match (self.save.segments.get_mut(name as usize), name) {
            (Some(segment), _) => *segment = value,
            (None, name) => self.change_hidden(|save| {
                let [fs, gs] = &save.data_segments;
                if name == SegmentName::Fs { fs } else { gs }.set(value);
            }),
        }
        if name == SegmentName::Ss {
            self.save.cpl = (value.attributes >> 5 & 3) as u8;
        }
        self.changed(Clean::SEGMENTS);
    }

    fn set_task_register(&mut self, value: Segment) {
        self.change_hidden(|save| save.tr.set(value));
    }

    fn reset(&mut self) {
        let segment = |selector, base, attributes| Segment {
            selector,
            attributes,
            limit: 0xffff,
            base,
        };
        let save = &mut self.save;
        save.segments = [RESET_DATA; 4];
        save.segments[SegmentName::Cs as usize] = segment(0xf000, 0xffff_0000, 0x9b);
        save.gdtr = segment(0, 0, 0);
        save.idtr = segment(0, 0, 0);
        save.cpl = 0;
        save.efer = SVME;
        (save.cr0, save.cr3, save.cr4, save.cr2) = (0x6000_0010, 0, 0, 0);
        (save.dr6, save.dr7) = (0xffff_0ff0, 0x400);
        (save.rflags, save.rip, save.rsp, save.rax) = (2, 0xfff0, 0, 0);
        save.pat = 0x0007_0406_0007_0406;
        save.debug_control = 0;
        self.control.interrupt_shadow = 0;
        self.control.event_inject.set(0);
        self.control.exit_int_info.set(0);
        self.control
            .interrupt
            .set(VirtualInterrupt::MASKING::SET.value);
        self.control.clean = Clean::empty();
        self.control.tlb_control = 1;
        self.change_hidden(|save| {
            save.data_segments = [const { Cell::new(RESET_DATA) }; 2];
            save.ldtr.set(segment(0, 0, 0x82));
            save.tr.set(segment(0, 0, 0x8b));
            let calls = [&save.star, &save.lstar, &save.cstar, &save.sfmask];
            let kernel = [
                &save.kernel_gs_base,
                &save.sysenter_cs,
                &save.sysenter_esp,
                &save.sysenter_eip,
            ];
            calls.iter().chain(&kernel).for_each(|word| word.set(0));
        });
    }

    fn register(&self, which: Register) -> u64 {
        match which {
            Register::Efer => self.efer(),
            Register::FsBase => self.segment(SegmentName::Fs).base,
            Register::GsBase => self.segment(SegmentName::Gs).base,
            Register::KernelGsBase => self.hidden().kernel_gs_base.get(),
            Register::Star => self.hidden().star.get(),
            Register::Lstar => self.hidden().lstar.get(),
            Register::Cstar => self.hidden().cstar.get(),
            Register::Sfmask => self.hidden().sfmask.get(),
            Register::SysenterCs => self.hidden().sysenter_cs.get(),
            Register::SysenterEsp => self.hidden().sysenter_esp.get(),
            Register::SysenterEip => self.hidden().sysenter_eip.get(),
            Register::Pat => self.save.pat,
            // CPUID does not offer the first; the vCPU keeps the other.
            Register::TscAux | Register::SpecCtrl => 0,
        }
    }

    fn set_register(&mut self, which: Register, value: u64) {
        let mut based = |name| {
            let segment = self.segment(name);
            self.set_segment(
                name,
                Segment {
                    base: value,
                    ..segment
                },
            );
        };
        match which {
            Register::Efer => self.set_efer(value),
            Register::FsBase => based(SegmentName::Fs),
            Register::GsBase => based(SegmentName::Gs),
            Register::KernelGsBase => self.change_hidden(|save| save.kernel_gs_base.set(value)),
            Register::Star => self.change_hidden(|save| save.star.set(value)),
            Register::Lstar => self.change_hidden(|save| save.lstar.set(value)),
            Register::Cstar => self.change_hidden(|save| save.cstar.set(value)),
            Register::Sfmask => self.change_hidden(|save| save.sfmask.set(value)),
            Register::SysenterCs => self.change_hidden(|save| save.sysenter_cs.set(value)),
            Register::SysenterEsp => self.change_hidden(|save| save.sysenter_esp.set(value)),
            Register::SysenterEip => self.change_hidden(|save| save.sysenter_eip.set(value)),
            Register::Pat => {
                self.save.pat = value;
                self.changed(Clean::NESTED);
            }
            Register::TscAux | Register::SpecCtrl => {}
        }
    }

    #[inline]
    fn end_shadow(&mut self) {
        self.control.interrupt_shadow = 0;
    }

    #[inline]
    fn interruptible(&self) -> bool {
        self.save.rflags & FLAG_IF != 0 && self.control.interrupt_shadow & 1 == 0
    }

    #[inline]
    fn delivers(&self) -> bool {
        self.control.event_inject.is_set(EventInfo::VALID) || self.offers().is_some()
    }

    fn inject(&mut self, event: Event) {
        let value = match event {
            // The CPU takes it before the guest's next instruction, and then it is gone from the block. QEMU 7.2 may
            // deliver an external interrupt of the other field a second time.
            Event::Interrupt(vector) => return self.offer(vector),
            Event::Nmi => EventInfo::VALID::SET + EventInfo::KIND::Nmi + EventInfo::VECTOR.val(2),
            Event::Exception { vector, error } => {
                EventInfo::VALID::SET
                    + EventInfo::KIND::Exception
                    + EventInfo::VECTOR.val(vector.into())
                    + EventInfo::HAS_ERROR.val(error.is_some().into())
                    + EventInfo::ERROR.val(error.unwrap_or(0).into())
            }
        };
        self.control.event_inject.write(value);
    }

    #[inline]
    fn take_interrupted(&mut self) -> Option<Event> {
        if !self.control.exit_int_info.is_set(EventInfo::VALID) {
            // What was offered and not taken stays offered.
            return None;
        }
        let info = self.control.exit_int_info.extract();
        self.control.exit_int_info.set(0);
        let vector = info.read(EventInfo::VECTOR) as u8;
        match info.read_as_enum(EventInfo::KIND) {
            Some(EventInfo::KIND::Value::External) => Some(Event::Interrupt(vector)),
            Some(EventInfo::KIND::Value::Nmi) => Some(Event::Nmi),
            Some(EventInfo::KIND::Value::Exception) => {
                let error = info.read(EventInfo::ERROR) as u32;
                let error = info.is_set(EventInfo::HAS_ERROR).then_some(error);
                Some(Event::Exception { vector, error })
            }
            // A software interrupt: RIP still points to its instruction, which runs again.
            _ => None,
        }
    }

    #[inline]
    fn set_window(&mut self, class: Option<u8>) {
        let ways = Intercept1::VINTR.union(Intercept1::IRET);
        if class.is_none() && !self.control.intercept1.intersects(ways) {
            return;
        }
        if self.offers().is_some() {
            // An open guest takes what is offered before its next instruction, and the end of the handler asks for what waits
            // behind it. (The other field would be the second way to deliver, but for QEMU: see `inject`.) If the guest has
            // closed itself meanwhile, as the handler of an exception does, what waits is looked at after another exit.
            let soon = self.interruptible() && !self.control.event_inject.is_set(EventInfo::VALID);
            let intercepts = &mut self.control.intercept1;
            intercepts.set(Intercept1::IRET, class.is_some() && soon);
            self.changed(Clean::INTERCEPTS);
            return;
        }
        let control = &mut self.control;
        control.intercept1.remove(Intercept1::IRET);
        control.intercept1.set(Intercept1::VINTR, class.is_some());
        control.interrupt.modify(
            VirtualInterrupt::REQUEST.val(class.is_some().into())
                + VirtualInterrupt::PRIORITY.val(class.unwrap_or(0).into())
                + VirtualInterrupt::IGNORE_TPR::CLEAR,
        );
        self.changed(Clean::INTERRUPT.union(Clean::INTERCEPTS));
    }

    #[inline]
    fn cr8(&self) -> u8 {
        self.control.interrupt.read(VirtualInterrupt::TPR) as u8 & 15
    }

    fn set_cr8(&mut self, class: u8) {
        let tpr = VirtualInterrupt::TPR.val(class.into());
        self.control.interrupt.modify(tpr);
        self.changed(Clean::INTERRUPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a guest that is open for interrupts.
    fn open() -> Vmcb {
        // SAFETY: numbers only, for which zero is a value.
        let mut block: Vmcb = unsafe { core::mem::zeroed() };
        block.save.rflags = FLAG_IF;
        block
    }

    fn intercepts(block: &Vmcb) -> (bool, bool) {
        let set = block.control.intercept1;
        (
            set.contains(Intercept1::VINTR),
            set.contains(Intercept1::IRET),
        )
    }

    fn take_what_is_offered(block: &mut Vmcb) {
        let interrupt = &block.control.interrupt;
        interrupt.modify(VirtualInterrupt::REQUEST::CLEAR);
        block.save.rflags = 0;
    }

    #[test]
    fn an_interrupt_that_waits_behind_another_is_asked_for_when_its_handler_ends() {
        let mut block = open();
        block.inject(Event::Interrupt(0x25));
        block.set_window(Some(15));
        assert!(!block.control.event_inject.is_set(EventInfo::VALID));
        assert_eq!(block.offers(), Some(0x25));
        assert_eq!(intercepts(&block), (false, true));
        take_what_is_offered(&mut block);
        block.set_window(Some(15));
        assert_eq!(intercepts(&block), (true, false));
        block.inject(Event::Interrupt(0x31));
        assert_eq!(block.offers(), Some(0x31));
        assert_eq!(intercepts(&block), (false, false));
    }

    #[test]
    fn a_closed_guest_is_not_stopped_at_the_end_of_the_handler_that_it_is_in() {
        let mut block = open();
        block.inject(Event::Interrupt(0x25));
        block.save.rflags = 0;
        block.set_window(Some(15));
        assert_eq!(block.offers(), Some(0x25));
        assert_eq!(intercepts(&block), (false, false));
    }

    #[test]
    fn nobody_waits_any_more() {
        let mut block = open();
        block.inject(Event::Interrupt(0x25));
        block.set_window(Some(15));
        block.set_window(None);
        assert_eq!(block.offers(), Some(0x25));
        assert_eq!(intercepts(&block), (false, false));
    }
}
